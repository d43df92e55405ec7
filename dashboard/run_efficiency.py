"""How well a run used what its devices can do: MFU, HFU, and its place under the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.charts import show
from dashboard.plain import lines, plain
from profiler.errors import UsageError
from profiler.report.charts import roofline_chart
from profiler.report.facts import at_least, hfu_text, mfu_text, roofline_text
from profiler.report.quantity import UNKNOWN, format_quantity

_HEIGHT = 260


def utilization(summary: Mapping[str, Any]) -> None:
    """Facts beside the roofline; nothing for a run whose FLOPs are unknown."""
    efficiency = summary["efficiency"]
    if efficiency["flops_per_s"] is None:
        return
    st.subheader("Compute")
    rows = efficiency_rows(summary)
    try:
        chart = roofline_chart(efficiency)
    except UsageError:  # which of its numbers is missing stands in the rows
        lines(rows)
    else:
        left, right = st.columns([2, 3])
        with left:
            lines(rows)
        with right.container(border=True, height="stretch", gap="xsmall"):
            show(chart, key="run_roofline", height=_HEIGHT)
    for name, text in origin_rows(efficiency).items():
        st.caption(plain(f"{name}: {text}"))


def efficiency_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    """Speed, MFU, HFU and what the run is bound by; where they are not known, why: each reason once."""
    efficiency, notes = summary["efficiency"], summary["notes"]
    rows = {
        "FLOP/s": at_least(summary, format_quantity(efficiency["flops_per_s"], "FLOP/s")),
        "MFU": _or_why(at_least(summary, mfu_text(efficiency)), notes, "efficiency.mfu"),
        "HFU": _or_why(at_least(summary, _hfu(efficiency)), notes, "efficiency.hfu"),
        "Bound by": _or_why(roofline_text(efficiency), notes, "efficiency.roofline.bound"),
    }
    names: dict[str, list[str]] = {}
    for name, text in rows.items():
        names.setdefault(text, []).append(name)
    return {", ".join(of): text for text, of in names.items()}


def origin_rows(efficiency: Mapping[str, Any]) -> dict[str, str]:
    """Where these numbers come from, as far as that is known."""
    over = efficiency["flops_counted_over_given"]
    rows = {
        "FLOPs come from": efficiency["flops_source"] or UNKNOWN,
        "FLOPs count": efficiency["flops_convention"] or UNKNOWN,
        "FLOPs counted over given": UNKNOWN if over is None else f"{over:.3g}",
        "Memory traffic": _traffic(efficiency["roofline"]),
    }
    return {name: text for name, text in rows.items() if text != UNKNOWN}


def _hfu(efficiency: Mapping[str, Any]) -> str:
    """HFU as it is; where nothing was computed twice it is the MFU."""
    if efficiency["hfu"] is None:
        return UNKNOWN
    text = hfu_text(efficiency)
    return (
        text if text != UNKNOWN else f"{format_quantity(efficiency['hfu'], 'fraction')}, nothing recomputed"
    )


def _traffic(place: Mapping[str, Any]) -> str:
    if place["bytes_per_s"] is None:
        return UNKNOWN
    return f"{format_quantity(place['bytes_per_s'], 'B/s')}, {place['bytes_source']}"


def _or_why(text: str, notes: Mapping[str, str], key: str) -> str:
    return f"unknown: {notes[key]}" if text == UNKNOWN and key in notes else text
