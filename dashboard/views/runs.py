"""All runs: how loss and energy spread over scale, and a table from which to open one."""

from __future__ import annotations

from functools import partial

import polars as pl
import streamlit as st

from dashboard.charts import draw
from dashboard.data import overview_table, points_table, stored_runs
from dashboard.plain import plain
from dashboard.sidebar import factors
from profiler.report.charts import scale_chart
from profiler.report.quantity import format_quantity

_CHART_HEIGHT = 300

_COLUMNS = {
    "run_id": st.column_config.TextColumn("Run", width="medium", pinned=True),
    "status": st.column_config.TextColumn("Status", width="small"),
    "workload": st.column_config.TextColumn("Workload", width="small"),
    "preset": st.column_config.TextColumn("Preset", width="small"),
    "seed": st.column_config.NumberColumn("Seed", width="small"),
    "params": st.column_config.NumberColumn("Parameters", format="compact"),
    "tokens": st.column_config.NumberColumn("Tokens", format="compact"),
    "loss": st.column_config.NumberColumn("Loss", format="%.3f", help="Of the last step, nats/token."),
    "energy": st.column_config.TextColumn(
        "Energy", help="Measured where a sensor gave joules, else the estimate."
    ),
    "energy_source": st.column_config.TextColumn("Energy is", width="small"),
    "energy_per_token": st.column_config.TextColumn("Energy per token"),
    "tokens_per_s": st.column_config.NumberColumn("Tokens/s", format="compact"),
    "mfu": st.column_config.NumberColumn("MFU", format="percent"),
    "emissions": st.column_config.TextColumn("Emissions"),
    "duration": st.column_config.TextColumn("Time"),
    "created_at": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm"),
}


def main() -> None:
    """Draw the page."""
    st.title("Runs")
    stored_runs()
    table = overview_table(factors())
    _headline(table)
    _charts(points_table(factors()))
    _table(table)


def _headline(table: pl.DataFrame) -> None:
    statuses = table["status"].value_counts(sort=True).iter_rows()
    st.caption(f"{len(table)} runs: " + ", ".join(f"{count} {plain(status)}" for status, count in statuses))


def _charts(points: pl.DataFrame) -> None:
    """Two looks at the most trained workload and preset: what loss costs, and what a token costs."""
    kind = points.group_by("workload", "preset").len().sort("len", "workload", "preset", descending=True)
    shown = points.join(kind.head(1), on=["workload", "preset"], nulls_equal=True)
    for column, (x, y) in zip(
        st.columns(2), (("energy_j", "loss"), ("params", "energy_per_token_j")), strict=True
    ):
        with column:
            draw(partial(scale_chart, shown, x, y), key=f"overview_{y}", height=_CHART_HEIGHT)


def _table(table: pl.DataFrame) -> None:
    st.subheader("All runs")
    st.caption("Click a run to open it.")
    shown = table.select(
        *(_COLUMNS.keys() & set(table.columns)),
        pl.struct(pl.all()).map_elements(_energy, return_dtype=pl.String).alias("energy"),
        _text("energy_per_token_j", "J/token").alias("energy_per_token"),
        _text("emissions_g", "g").alias("emissions"),
        _text("duration_s", "s").alias("duration"),
    ).with_columns(pl.col("created_at").str.to_datetime(strict=False, time_zone="UTC"))
    event = st.dataframe(
        shown,
        hide_index=True,
        column_order=list(_COLUMNS),
        column_config=_COLUMNS,
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
        placeholder="unknown",
        key="runs_table",
    )
    row = _chosen(event)
    if row is not None:
        st.switch_page("views/run.py", query_params={"run": table["run_id"][row]})


def _chosen(event: object) -> int | None:
    """The row that was clicked, at its mark or in any cell."""
    selection = getattr(event, "selection", None)
    if not selection:
        return None
    rows: list[int] = [*selection["rows"], *(row for row, _ in selection["cells"])]
    return rows[0] if rows else None


def _energy(row: dict[str, float | str | None]) -> str:
    kind = row["energy_source"]
    if kind is None:
        return format_quantity(None, "J")
    return format_quantity(row[f"{kind}_j"], "J", row[f"{kind}_plus_minus_j"])  # type: ignore[arg-type]


def _text(column: str, unit: str) -> pl.Expr:
    return pl.struct(column).map_elements(
        lambda row: format_quantity(row[column], unit), return_dtype=pl.String
    )


main()
