"""The experiments of a runs folder: runs of one workload, settings and criterion together, their verdict and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import streamlit as st

from dashboard.data import run_verdict
from dashboard.kinds import kind_name
from dashboard.tables import cell, draw_table, energy_cell
from profiler.metrics.phenomena import over_seeds, spent

MOST_RUNS = 300
"""Of which verdicts are read; a verdict takes some ten milliseconds."""

_text, _number = st.column_config.TextColumn, st.column_config.NumberColumn
_COLUMNS = {
    "experiment": _text("Experiment", width=280, pinned=True),
    "verdict": _text("Verdict", width=100),
    "seeds": _text("Shown in", width=120, help="Seeds that showed it, of those that were run."),
    "energy": _number("Energy", width=130, help="Of all its runs, evaluations and all. ~ is an estimate."),
    "duration": _number("Time", width=110),
    "emissions": _number("CO2e", width=100, help="Known once a grid is: choose a country to the left."),
    "criterion": _text("Criterion", width=400),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An experiment.

    Attributes:
        label: What it is called, unique.
        together: From `over_seeds`.
        found: The `phenomenon` of each run, by its name.
        seeds: What each run is called.
        cost: From `spent`.
    """

    label: str
    together: Mapping[str, Any]
    found: Mapping[str, Mapping[str, Any]]
    seeds: Mapping[str, str]
    cost: Mapping[str, Any]


def experiments(overview: pl.DataFrame) -> list[Listed]:
    """The experiments among runs, the newest first, and those that only tried the path last.

    Args:
        overview: Of all runs, newest first.
    """
    known = overview.filter(pl.col("outcome").is_not_null())
    if len(known) > MOST_RUNS:
        st.caption(f"The newest {MOST_RUNS} of {len(known)} runs of experiments are looked at.")
        known = known.head(MOST_RUNS)
    rows = {row["run_id"]: row for row in known.reverse().iter_rows(named=True)}
    verdicts = {name: found for name in rows if (found := run_verdict(name)) is not None}
    groups = list(reversed(over_seeds(list(verdicts.values()))))
    groups.sort(key=lambda group: group["preset"] == "smoke")
    return [
        Listed(
            label=label,
            together=group,
            found={name: verdicts[name][2] for name in _by_seed(group, rows)},
            seeds={name: _seed(rows[name]) for name in group["runs"]},
            cost=spent([rows[name] for name in group["runs"]]),
        )
        for label, group in zip(_labels(groups), groups, strict=True)
    ]


def table(listed: Sequence[Listed]) -> int | None:
    """Draw the experiments; gives the row that was clicked."""
    event = draw_table(
        [_row(one) for one in listed],
        _COLUMNS,
        key="phenomena_table",
        on_select="rerun",
        selection_mode=["single-row", "single-cell"],
    )
    selection = getattr(event, "selection", None) or {"rows": [], "cells": []}
    rows: list[int] = [*selection["rows"], *(row for row, _ in selection["cells"])]
    return rows[0] if rows and rows[0] < len(listed) else None


def _row(one: Listed) -> dict[str, Any]:
    group, cost = one.together, one.cost
    return {
        "experiment": one.label,
        "verdict": group["outcome"],
        "seeds": f"{group['shown']} of {len(group['runs'])}",
        "energy": energy_cell(cost["energy_j"], "J", cost["source"], cost["plus_minus_j"]),
        "duration": cell(cost["duration_s"], "s"),
        "emissions": energy_cell(cost["emissions_g"], "g", cost["source"]),
        "criterion": group["criterion"],
    }


def _by_seed(group: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(group["runs"], key=lambda name: (rows[name]["seed"] is None, rows[name]["seed"], name))


def _seed(row: Mapping[str, Any]) -> str:
    return str(row["run_id"]) if row["seed"] is None else f"seed {row['seed']}"


def _labels(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Workload and preset; where several have the same, what differs, or else a number."""
    kinds = [kind_name((group["workload"], group["preset"])) for group in groups]
    labels: list[str] = []
    for kind, group in zip(kinds, groups, strict=True):
        alike = [other for other, name in zip(groups, kinds, strict=True) if name == kind]
        label = ", ".join([kind, *_differing(group, alike)])
        again = sum(known == label or known.startswith(f"{label}, earlier") for known in labels)
        labels.append(f"{label}, earlier ({again})" if again else label)
    return labels


def _differing(group: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> list[str]:
    settings: Mapping[str, Any] = group["settings"]
    return [
        f"{key}={value}"
        for key, value in settings.items()
        if any(other["settings"].get(key) != value for other in alike)
    ]
