"""Emissions, water, embodied carbon, cost and SCI of a run with their sources, and other tools' numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import streamlit as st

from dashboard.plain import lines, plain
from profiler.report.carbon_rows import carbon_rows, marked, second_opinion_rows
from profiler.report.quantity import UNKNOWN, format_quantity

_COMPONENTS = {"cpu": "CPU", "gpu": "GPU", "ram": "memory"}


def footprint(summary: Mapping[str, Any]) -> None:
    """What is known of grams, litres and money; nothing where no factor is."""
    carbon, headline = summary["carbon"], summary["energy"]["headline"]
    rows = carbon_rows(carbon, headline)
    if not rows and not summary["second_opinions"]:
        return
    st.subheader("Emissions, water, cost")
    if rows:
        lines(_titled(rows) | {"PUE": f"{carbon['pue']:.2f} ({carbon['pue_source']})"})
    opinions(summary["second_opinions"])


def opinions(found: Sequence[Mapping[str, Any]]) -> None:
    """Other tools' own estimates beside ours over the same seconds; in words, and by component as a table."""
    if not found:
        return
    st.markdown("**A second opinion**")
    for name, text in second_opinion_rows(found).items():
        st.caption(plain(f"{name} {text}"))
    rows = [opinion_row(opinion, part) for opinion in found for part in opinion["components"]]
    st.table(pl.DataFrame([{name: plain(text) for name, text in row.items()} for row in rows]))


def opinion_row(opinion: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, str]:
    """One component by another tool and by us."""
    ours, difference = part["our_energy_j"], part["difference"]
    return {
        "Tool": f"{opinion['tool']} {opinion['version']}",
        "Of": _COMPONENTS.get(part["component"], part["component"]),
        "Theirs": format_quantity(part["energy_j"], "J"),
        "Ours": UNKNOWN if ours is None else marked(format_quantity(ours, "J"), opinion["our_energy_source"]),
        "Difference": "–" if difference is None else f"{100 * difference:+.0f} %",
    }


def _titled(rows: Mapping[str, str]) -> dict[str, str]:
    return {name[0].upper() + name[1:]: text for name, text in rows.items()}
