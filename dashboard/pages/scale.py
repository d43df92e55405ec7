"""Efficiency against scale: any quantity of the points against size, tokens, compute or joules."""

from __future__ import annotations

import polars as pl
import streamlit as st

from dashboard.data import points_table, stored_runs
from dashboard.plain import plain
from dashboard.sidebar import factors
from profiler.errors import UsageError
from profiler.report.charts import AXES, X_AXES, Y_AXES, scale_chart

_CHART_HEIGHT = 460


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
    with st.container(border=True):
        try:
            chart = scale_chart(shown, x, y).properties(height=_CHART_HEIGHT)
        except UsageError as error:
            st.info(plain(str(error)))
        else:
            st.altair_chart(chart, key="scale_chart")
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
    first = dict.fromkeys(["params", "budget_tokens", "seed", x, y])
    order = [*first, *(name for name in points.columns if name not in first)]
    st.dataframe(points, hide_index=True, column_order=order, placeholder="unknown", key="scale_points")
    st.download_button(
        "Download as CSV",
        points.write_csv(),
        file_name="joulescale-points.csv",
        mime="text/csv",
        icon=":material/download:",
    )


main()
