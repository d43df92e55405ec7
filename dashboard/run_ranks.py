"""The ranks of a run: how each stands, how long its steps took, and how long it waited for slower ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.plain import plain
from dashboard.tables import cell, draw_table
from profiler.report.ranks import MOST_ROWS, RankRow, rank_rows, slowest_text

_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
_COLUMNS = {
    "who": _text("Rank", width=80, pinned=True),
    "host": _text("Host", width=140),
    "status": _text("Status", width=110),
    "steps": _number("Steps", width=75),
    "p50": _number("Step p50", width=95),
    "p95": _number("Step p95", width=95),
    "waited": _number("Waited", width=85, help="For slower ranks, at least, as a share of its step time."),
    "slowest": _number("Slowest in", width=95, help="Share of the steps in which the others waited for it."),
}


def missing_ranks(summary: Mapping[str, Any]) -> None:
    """Which ranks are missing, and why; nothing if none is."""
    partial = summary["partial"]
    if partial:
        missing = f"{len(partial['ranks_missing'])} of {partial['world_size']} ranks"
        st.warning(
            plain(f"This run is partial. Its numbers lack {missing}, in whole or in part: {partial['why']}.")
        )


def by_rank(summary: Mapping[str, Any]) -> None:
    """The table of ranks, or of hosts where there are many; nothing for a run of one rank."""
    found = rank_rows(summary)
    if not found:
        return
    st.subheader("By rank")
    if len(summary["ranks"]) > MOST_ROWS:
        st.caption(
            "One row a host: median of the ranks' medians, their highest p95, the mean of their waits."
        )
    draw_table([_row(row) for row in found], _COLUMNS, key="run_ranks")
    if slowest := slowest_text(summary):
        st.caption(plain(f"{slowest[0].upper()}{slowest[1:]}."))


def _row(row: RankRow) -> dict[str, Any]:
    return {
        "who": row.who,
        "host": row.host,
        "status": row.status,
        "steps": cell(row.steps, ""),
        "p50": cell(row.step_s_p50, "s"),
        "p95": cell(row.step_s_p95, "s"),
        "waited": cell(row.wait_share, "fraction"),
        "slowest": cell(row.slowest_in, "fraction"),
    }
