"""How well a run used what its devices can do: MFU, HFU, and its place under the roofline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.charts import draw
from dashboard.plain import plain
from profiler.report.charts import roofline_chart
from profiler.report.facts import hfu_text, mfu_text, roofline_text
from profiler.report.quantity import UNKNOWN, format_quantity

_HEIGHT = 260


def utilization(summary: Mapping[str, Any]) -> None:
    """Facts beside the roofline; nothing for a run whose FLOPs are unknown."""
    efficiency, notes = summary["efficiency"], summary["notes"]
    if efficiency["flops_per_s"] is None:
        return
    st.subheader("Compute")
    left, right = st.columns([2, 3])
    with left.container(border=True, height="stretch", gap="xsmall"):
        lines(efficiency_rows(efficiency, notes))
    with right:
        why = notes.get("efficiency.roofline.intensity_flops_per_byte") or notes.get(
            "efficiency.roofline.ridge_flops_per_byte"
        )
        draw(lambda: roofline_chart(efficiency, why), key="run_roofline", height=_HEIGHT)


def lines(rows: Mapping[str, str]) -> None:
    """Names and texts, one a line."""
    for name, text in rows.items():
        st.markdown(f":gray[{plain(name)}]  \n{plain(text)}")


def efficiency_rows(efficiency: Mapping[str, Any], notes: Mapping[str, str]) -> dict[str, str]:
    """What is known; MFU, HFU and the roofline say why where they are not."""
    over = efficiency["flops_counted_over_given"]
    rows = {
        "MFU": _or_why(mfu_text(efficiency), notes, "efficiency.mfu"),
        "HFU": _or_why(_hfu(efficiency), notes, "efficiency.hfu"),
        "Roofline": _or_why(roofline_text(efficiency), notes, "efficiency.roofline.bound"),
        "FLOP/s": format_quantity(efficiency["flops_per_s"], "FLOP/s"),
        "FLOPs come from": efficiency["flops_source"] or UNKNOWN,
        "FLOPs count": efficiency["flops_convention"] or UNKNOWN,
        "Counted over given": UNKNOWN if over is None else f"{over:.3g}",
        "Traffic": _traffic(efficiency["roofline"]),
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
