"""All runs: how loss and energy spread over scale, and a table from which to open one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl
import streamlit as st

from dashboard.charts import draw
from dashboard.data import overview_table, points_table, stored_runs
from dashboard.kinds import largest_kind, of_kind
from dashboard.limits import searched, thinned
from dashboard.plain import plain
from dashboard.sidebar import factors
from dashboard.tables import bounded_shown, cell, draw_table, energy_cell, loss_cell, moment
from profiler.report.charts import scale_chart
from profiler.report.facts import (
    FAILED,
    INTERRUPTED,
    LOST,
    NO_MANIFEST,
    PARTIAL,
    PLUS_MINUS,
    energy_per,
    status_word,
    work_unit,
)
from profiler.report.tables import ESTIMATED, damaged_sentence, status_cell
from profiler.words import counted

_CHART_HEIGHT = 300

_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
_COLUMNS = {
    "run": _text("Run", width=178, pinned=True),
    "status": _text(
        "Status",
        width=92,
        help=f"lost: {LOST}. interrupted: {INTERRUPTED}. failed: {FAILED}. partial: {PARTIAL}."
        f" damaged: files of it cannot be read, or {NO_MANIFEST}.",
    ),
    "kind": _text("Workload", width=86),
    "params": _number("Size", width=60, help="Parameters."),
    "tokens": _number("Tokens", width=66),
    "loss": _number("Train loss", width=82, help="Of the last step; of lm in nats a token."),
    "energy": _number(
        "Energy", width=120, help="Measured where a sensor gave joules, else the estimate (~)."
    ),
    "energy_per": _number(
        "Energy per", width=124, help="Of a token, or of a sample where tokens are not counted."
    ),
    "mfu": _number("MFU", width=60),
    "duration": _number("Time", width=78),
    "emissions": _number("CO2e", width=90),
    "throughput": _number("Throughput", width=125, help="All ranks together, time inside steps only."),
    "seed": _number("Seed", width=60),
    "created_at": st.column_config.DatetimeColumn("Started (UTC)", format="YYYY-MM-DD HH:mm", width=140),
}
_IF_LONG = {
    "run": _COLUMNS["run"],
    "status": _text("Status", width=200, help=_COLUMNS["status"]["help"]),
    **{name: column for name, column in _COLUMNS.items() if name not in ("run", "status", "kind")},
    "kind": _COLUMNS["kind"],
}
"""`failed: RuntimeError, partial` needs room, so the workload goes last."""


def main() -> None:
    """Draw the page."""
    st.title("Runs")
    stored_runs()
    table = overview_table(factors())
    _headline(table)
    _charts(points_table(factors()))
    _table(table)


def _headline(table: pl.DataFrame) -> None:
    statuses = Counter(status_word(*row) for row in table.select("status", "ended").iter_rows()).most_common()
    st.caption(
        f"{counted(len(table), 'run')}: "
        + ", ".join(f"{count} {plain(status)}" for status, count in statuses)
    )


def _charts(points: pl.DataFrame) -> None:
    """Two looks at the most trained workload and preset: what loss costs, and what a token costs."""
    kept = thinned(of_kind(points, *largest_kind(points)))
    for column, (x, y) in zip(
        st.columns(2), (("energy_j", "loss"), ("params", "energy_per_token_j")), strict=True
    ):
        with column:
            draw(partial(scale_chart, kept, x, y), key=f"overview_{y}", height=_CHART_HEIGHT)


def _table(table: pl.DataFrame) -> None:
    st.subheader("All runs")
    st.caption("Click a run to open it.")
    table = searched(
        table, ("run_id", "workload", "preset", "status", "ended"), "runs, the newest,", "runs_find"
    )
    event = draw_table(
        [_row(row) for row in table.iter_rows(named=True)],
        _IF_LONG if (table["damaged"] | table["partial"] | table["ended"].is_not_null()).any() else _COLUMNS,
        key="runs_table",
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
    )
    estimated = "estimated" in table["energy_source"].drop_nulls().to_list()
    missing = f"partial: {PARTIAL}" if table["partial"].any() else None
    lines = [ESTIMATED if estimated else None, PLUS_MINUS["energy"], missing, damaged_sentence(table)]
    st.caption(plain(". ".join(line for line in lines if line)))
    row = _chosen(event)
    if row is not None:
        st.switch_page("views/run.py", query_params={"run": table["run_id"][row]})


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One run's cells."""
    source = row["energy_source"] or "measured"
    unit = work_unit(row)
    bounded = partial(bounded_shown, row)
    return {
        "run": row["run_id"],
        "status": status_cell(row),
        "kind": "/".join(filter(None, (row["workload"], row["preset"]))) or None,
        "params": cell(row["params"], "params", bare=True),
        "tokens": bounded(cell(row["tokens"], "tokens", bare=True)),
        "loss": loss_cell(row["loss"]),
        "energy": bounded(energy_cell(row[f"{source}_j"], "J", source, row[f"{source}_plus_minus_j"])),
        "energy_per": energy_cell(*energy_per(row, unit), source),
        "mfu": bounded(cell(row["mfu"], "fraction")),
        "emissions": bounded(energy_cell(row["emissions_g"], "g", source)),
        "throughput": bounded(cell(row[f"{unit}_per_s"], f"{unit}/s")),
        "duration": cell(row["duration_s"], "s"),
        "seed": cell(row["seed"], ""),
        "created_at": moment(row["created_at"]),
    }


def _chosen(event: object) -> int | None:
    """The row that was clicked, at its mark or in any cell."""
    selection = getattr(event, "selection", None)
    if not selection:
        return None
    rows: list[int] = [*selection["rows"], *(row for row, _ in selection["cells"])]
    return rows[0] if rows else None


main()
