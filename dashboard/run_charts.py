"""What happened over time, and where time and joules went by phase, as charts on a run's page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.charts import draw_row, show
from dashboard.data import run_gauges, run_length_s, run_power, run_steps
from dashboard.plain import plain
from profiler.errors import UsageError
from profiler.report.charts import (
    loss_chart,
    memory_chart,
    phase_panel,
    power_chart,
    throughput_chart,
    utilization_chart,
)
from profiler.store.run import StoredRun

_HEIGHT = 240


def over_time(run: StoredRun) -> list[str]:
    """Charts over time, two a row, an odd last one as wide as both; gives the reasons of those that cannot be drawn.

    Each is drawn as soon as its row is full: what the later ones need takes seconds to read of a long run.
    """
    name, workload, end_s = run.run_id, run.manifest.workload, run_length_s(run.run_id)
    charts: list[tuple[str, Callable[[], Any]]] = [
        ("power", lambda: power_chart(run_power(name), end_s=end_s)),
        ("loss", lambda: loss_chart(run_steps(name), workload, end_s=end_s)),
        ("throughput", lambda: throughput_chart(run_steps(name), end_s=end_s)),
        ("memory", lambda: memory_chart(run_steps(name), run_gauges(name), end_s=end_s)),
        ("utilization", lambda: utilization_chart(run_gauges(name), end_s=end_s)),
    ]
    row: dict[str, Any] = {}
    reasons: list[str] = []
    st.subheader("Over time")
    for key, draw in charts:
        try:
            row[f"run_{key}"] = draw()
        except UsageError as error:
            reasons.append(str(error))
        if len(row) == 2:
            draw_row(row, height=_HEIGHT)
            row = {}
    if row:
        draw_row(row, height=_HEIGHT)
    return reasons


def by_phase(summary: Mapping[str, Any]) -> None:
    """Time and energy by phase, side by side."""
    phases: Sequence[Mapping[str, Any]] = summary["phases"]
    st.subheader("By phase")
    if summary["world_size"] > 1:
        st.caption("Time of rank 0, and energy of its devices only.")
    try:
        panels = [phase_panel(phases, column) for column in ("duration_s", "energy_j")]
    except UsageError as error:
        st.info(plain(str(error)))
        return
    for column, panel, name in zip(st.columns(2), panels, ("time", "energy"), strict=True):
        with column.container(border=True, height="stretch", gap="xsmall"):
            show(panel, key=f"phases_{name}")
