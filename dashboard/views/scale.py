"""Efficiency against scale: any quantity of the points against size, tokens, compute or joules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl
import streamlit as st

from dashboard.charts import draw
from dashboard.data import points_table, stored_runs
from dashboard.kinds import kind_name, largest_kind, of_kind
from dashboard.limits import searched, thinned
from dashboard.plain import plain
from dashboard.sidebar import factors
from dashboard.tables import Shown, cell, draw_table, energy_cell, loss_cell
from profiler.report.axes import Axis
from profiler.report.charts import AXES, X_AXES, Y_AXES, scale_chart
from profiler.report.facts import PLUS_MINUS
from profiler.report.tables import ESTIMATED, damaged_sentence

_CHART_HEIGHT = 460
_WIDTHS = {"energy_j": 130, "loss": 130, "energy_per_token_j": 160, "tokens_per_j": 150, "mfu": 80}
_SHORT = {"params": "Size", "tokens": "Tokens", "mfu": "MFU", "model_flops": "Compute"}

_COLUMNS = {
    "run_id": st.column_config.TextColumn("Run", width=190, pinned=True),
    "budget_tokens": st.column_config.NumberColumn("Token budget", width=105),
    "seed": st.column_config.NumberColumn("Seed", width=60),
    "loss_kind": st.column_config.TextColumn("Loss is", width=90),
    **{
        name: st.column_config.NumberColumn(_SHORT.get(name, axis.short), width=_WIDTHS.get(name, 120))
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
    draw(partial(scale_chart, thinned(shown), x, y), key="scale_chart", height=_CHART_HEIGHT)
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
    """The points of one kind of training, and of the chosen seeds."""
    left, right = st.columns(2)
    first = largest_kind(points)
    others = points.select("workload", "preset").unique().sort("workload", "preset", nulls_last=True).rows()
    kinds = [first, *(kind for kind in others if kind != first)]
    chosen_kind = left.selectbox("Trainings", kinds, format_func=kind_name, key="scale_kind")
    shown = of_kind(points, *chosen_kind)
    seeds = shown["seed"].drop_nulls().unique().sort().to_list()
    chosen = right.multiselect("Seeds", seeds, placeholder="All seeds", key="scale_seeds")
    return shown.filter(pl.col("seed").is_in(chosen)) if chosen else shown


def _table(points: pl.DataFrame, x: str, y: str) -> None:
    st.subheader("Points")
    order = dict.fromkeys(["run_id", "params", "budget_tokens", "seed", x, y, "loss", "loss_kind", *AXES])
    shown = searched(points, ("run_id",), "points", "scale_find")
    rows = [_row(row) for row in shown.iter_rows(named=True)]
    draw_table(rows, {name: _COLUMNS[name] for name in order}, key="scale_points")
    estimated = "estimated" in points["energy_source"].drop_nulls().to_list()
    lines = [ESTIMATED if estimated else None, *PLUS_MINUS.values(), damaged_sentence(points)]
    st.caption(plain(". ".join(line for line in lines if line)))
    st.caption("The file holds every column, uncertainties too, in SI units.")
    st.download_button(
        "Download as CSV",
        points.write_csv(),
        file_name="joulescale-points.csv",
        mime="text/csv",
        icon=":material/download:",
    )


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """One point's cells."""
    return {
        "run_id": row["run_id"],
        "budget_tokens": cell(row["budget_tokens"], "tokens", bare=True),
        "seed": cell(row["seed"], ""),
        "loss_kind": row["loss_kind"] if row["loss"] is not None else None,
        **{name: _quantity(row, axis) for name, axis in AXES.items()},
        "loss": loss_cell(row["loss"], row["loss_plus_minus"]),
    }


def _quantity(row: Mapping[str, Any], axis: Axis) -> Shown | None:
    plus_minus = row[axis.plus_minus] if axis.plus_minus else None
    unit = "g" if axis.name == "emissions_g" else axis.unit
    if axis.from_energy:
        return energy_cell(row[axis.name], unit, row["energy_source"], plus_minus)
    return cell(row[axis.name], unit, plus_minus, bare=unit in ("params", "tokens"))


main()
