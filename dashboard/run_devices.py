"""Every device of a run: its joules, how they were got, how much of the run they cover, and what is odd about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.plain import plain
from dashboard.tables import cell, draw_table, energy_cell
from profiler.report.facts import SOURCES
from profiler.report.quantity import format_quantity

_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
_COLUMNS = {
    "device": _text("Device", width=290, pinned=True),
    "of": _text("Of", width=110),
    "energy": _number("Energy", width=130, help="With half its error bar. ~ is an estimate."),
    "at_least": _number("At least", width=100, help="What it used at least, where its energy is not known."),
    "source": _text("Got how"),
    "coverage": _number("Covered", width=80, help="Share of the training that its readings cover."),
    "ratio": _number(
        "Counter / power",
        width=120,
        help="Its counter's energy over its power added up. More than 10 % off 1 is suspicious.",
    ),
}

_KINDS = {"gpu": "GPUs", "cpu": "CPUs", "dram": "memory", "module": "modules", "node": "nodes"}


def by_device(summary: Mapping[str, Any]) -> None:
    """The table of devices; beneath it what is odd about any, and the idle baseline."""
    energy, parts = summary["energy"], summary["energy"]["components"]
    if not parts:
        return
    st.subheader("By device")
    names = device_names(parts)
    rows = [_row(part, name, summary) for part, name in zip(parts, names, strict=True)]
    draw_table(rows, _COLUMNS, key="run_devices")
    for sentence in error_bars(parts):
        st.caption(plain(sentence))
    for part, name in zip(parts, names, strict=True):
        for sentence in flags(part, summary["notes"]):
            st.caption(plain(f"{name}: {sentence}"))
    if energy["idle"]:
        st.caption(plain(idle_text(energy["idle"])))


def device_names(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The devices' names; namesakes with the end of their ids, or, if these are the same, with their host and rank."""
    names = [part["name"] or part["device"] for part in parts]
    longer = [
        f"{name} …{part['device'][-6:]}" if names.count(name) > 1 else name
        for name, part in zip(names, parts, strict=True)
    ]
    return [
        f"{name}, {part['host']}, rank {part['rank']}" if longer.count(long) > 1 else long
        for name, long, part in zip(names, longer, parts, strict=True)
    ]


def error_bars(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the error bars come from, each source once with the kinds of devices that it is of."""
    kinds: dict[str, list[str]] = {}
    for part in parts:
        if part["uncertainty_source"]:
            kinds.setdefault(part["uncertainty_source"], []).append(part["component"])
    return [
        f"Error bar of {', '.join(dict.fromkeys(_KINDS.get(kind, kind) for kind in of))}: {source}"
        for source, of in kinds.items()
    ]


def flags(part: Mapping[str, Any], notes: Mapping[str, str]) -> list[str]:
    """What was noted of a device: aliasing, other processes, its scope, a counter that disagrees with its power."""
    label = f"energy.components {part['device']}"
    own = f"{label} on {part['host']}"
    if any(key == own or key.startswith(f"{own} ") for key in notes):
        label = own
    return [
        why
        for key, why in notes.items()
        if key == label or (key.startswith(f"{label} ") and not key.startswith(f"{label} on "))
    ]


def idle_text(idle: Mapping[str, Any]) -> str:
    """The idle baseline in a sentence."""
    watts = format_quantity(idle["power_w"], "W", idle["plus_minus_w"])
    joules = format_quantity(idle["energy_j"], "J")
    share = f", {format_quantity(idle['share'], 'fraction')} of what was measured" if idle["share"] else ""
    return f"Idle, before the training: {watts}. Over the training that comes to {joules}{share}. It is not subtracted."


def _row(part: Mapping[str, Any], name: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    of_rank = f", rank {part['rank']}" if summary["world_size"] > 1 else ""
    return {
        "device": name,
        "of": part["component"] + of_rank,
        "energy": energy_cell(part["energy_j"], "J", part["source"], part["plus_minus_j"]),
        "at_least": cell(part["at_least_j"], "J") if part["energy_j"] is None else None,
        "source": SOURCES.get(part["source"], part["source"]),
        "coverage": cell(part["coverage"], "fraction"),
        "ratio": cell(part["counter_over_integrated"], ""),
    }
