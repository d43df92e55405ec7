"""Every device of a run: its joules, how they were got, how much of the run they cover, and what is odd about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import streamlit as st

from dashboard.plain import plain
from profiler.report.facts import SOURCES
from profiler.report.quantity import format_quantity


def by_device(summary: Mapping[str, Any]) -> None:
    """The table of devices, and the idle baseline beneath it."""
    energy = summary["energy"]
    if not energy["components"]:
        return
    st.subheader("By device")
    rows = [device_row(part, summary) for part in energy["components"]]
    known = [name for name in rows[0] if any(row[name] for row in rows)]
    st.table(pl.DataFrame([{name: plain(row[name] or "–") for name in known} for row in rows]))
    if energy["idle"]:
        st.caption(plain(idle_text(energy["idle"])))


def device_row(part: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, str]:
    """One device's cells; an empty text where there is nothing to say."""
    several = summary["world_size"] > 1
    return {
        "Device": part["name"] or part["device"],
        "Of": f"{part['component']}, rank {part['rank']}" if several else part["component"],
        "Energy": _energy(part),
        "Got how": SOURCES.get(part["source"], part["source"]),
        "Covered": format_quantity(part["coverage"], "fraction"),
        "Counter / power": f"{part['counter_over_integrated']:.2f}"
        if part["counter_over_integrated"]
        else "",
        "To know": ". ".join(_flags(part, summary["notes"])),
        "Error bar from": part["uncertainty_source"] or "",
    }


def idle_text(idle: Mapping[str, Any]) -> str:
    """The idle baseline in a sentence."""
    watts = format_quantity(idle["power_w"], "W", idle["plus_minus_w"])
    joules = format_quantity(idle["energy_j"], "J")
    share = f", {format_quantity(idle['share'], 'fraction')} of what was measured" if idle["share"] else ""
    return f"Idle, before the training: {watts}. Over the training that comes to {joules}{share}. It is not subtracted."


def _energy(part: Mapping[str, Any]) -> str:
    if part["energy_j"] is None and part["at_least_j"] is not None:
        return f"at least {format_quantity(part['at_least_j'], 'J')}"
    return format_quantity(part["energy_j"], "J", part["plus_minus_j"])


def _flags(part: Mapping[str, Any], notes: Mapping[str, str]) -> list[str]:
    """What was noted of this device: aliasing, other processes, its scope, a counter that disagrees with its power."""
    label = f"energy.components {part['device']}"
    return [why.rstrip(".") for key, why in notes.items() if key == label or key.startswith(f"{label} ")]
