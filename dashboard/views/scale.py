"""Efficiency against scale: any quantity of the points against size, tokens, compute or joules."""

from __future__ import annotations

from functools import partial

import polars as pl
import streamlit as st

from dashboard.charts import draw
from dashboard.data import points_table, stored_runs
from dashboard.sidebar import factors
from profiler.report.charts import AXES, X_AXES, Y_AXES, scale_chart

_CHART_HEIGHT = 460
_FORMATS = {
    "params": "compact",
    "tokens": "compact",
    "model_flops": "scientific",
    "flops_per_s": "scientific",
    "energy_per_token_j": "scientific",
    "mfu": "percent",
    "memory_bytes": "bytes",
    "loss": "%.3f",
}
_COLUMNS = {
    "run_id": st.column_config.TextColumn("Run"),
    "budget_tokens": st.column_config.NumberColumn("Token budget", format="compact"),
    "seed": st.column_config.NumberColumn("Seed"),
    "energy_source": st.column_config.TextColumn("Energy is"),
    **{
        name: st.column_config.NumberColumn(axis.full_title, format=_FORMATS.get(name, "%.4g"))
        for name, axis in AXES.items()
    },
}


def main() -> None:
    """Draw the page."""
    st.title("Scale")
    stored_runs()
    points = points_table(factors())
    if points.is_empty():
        st.info("No run has trained a step yet, so there are no points. Come back when one has.")
        return
    x, y = _axes()
    shown = _filtered(points)
    draw(partial(scale_chart, shown, x, y), key="scale_chart", height=_CHART_HEIGHT)
    _table(shown, x, y)


def _axes() -> tuple[str, str]:
    left, right = st.columns(2)
    x = left.selectbox("Across", X_AXES, format_func=_title, key="scale_x")
    y = right.selectbox(
        "Up", Y_AXES, index=Y_AXES.index("energy_per_token_j"), format_func=_title, key="scale_y"
    )
    return x, y


def _title(name: str) -> str:
    return AXES[name].full_title


def _filtered(points: pl.DataFrame) -> pl.DataFrame:
    """The points of one workload and preset, and of the chosen seeds."""
    columns = st.columns(3)
    shown = points
    for column, name in zip(columns, ("workload", "preset"), strict=False):
        choices = shown[name].fill_null("unknown").value_counts(sort=True)[name].to_list()
        choice = column.selectbox(name.capitalize(), choices, key=f"scale_{name}")
        shown = shown.filter(pl.col(name).fill_null("unknown") == choice)
    seeds = shown["seed"].drop_nulls().unique().sort().to_list()
    chosen = columns[2].multiselect("Seeds", seeds, placeholder="All seeds", key="scale_seeds")
    return shown.filter(pl.col("seed").is_in(chosen)) if chosen else shown


def _table(points: pl.DataFrame, x: str, y: str) -> None:
    st.subheader("Points")
    order = dict.fromkeys(["run_id", "params", "budget_tokens", "seed", x, y, "energy_source", *AXES])
    st.dataframe(
        points,
        hide_index=True,
        column_order=[name for name in order if name in points.columns],
        column_config=_COLUMNS,
        placeholder="unknown",
        key="scale_points",
    )
    st.caption("The file holds every column, uncertainties too, in SI units.")
    st.download_button(
        "Download as CSV",
        points.write_csv(),
        file_name="joulescale-points.csv",
        mime="text/csv",
        icon=":material/download:",
    )


main()
