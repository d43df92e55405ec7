"""Another tool's own estimate of the same run, beside ours over the same seconds. The two are never mixed.

Energy is compared over the components that both count: codecarbon adds watts for memory by a model, we count memory
where it has a sensor. Emissions are compared as each tool prints them. A difference is theirs / ours - 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from profiler.carbon.factors import CarbonFactors
from profiler.metrics.carbon import Use, carbon, use_of
from profiler.metrics.devices import DeviceCurve, windows_on
from profiler.store.process import StoredProcess

_OURS: Mapping[str, tuple[str, ...]] = {"cpu": ("cpu",), "gpu": ("gpu", "module"), "ram": ("dram",)}
"""Which of our components each of theirs stands for."""


def second_opinions(
    processes: Sequence[StoredProcess], curves: Sequence[DeviceCurve], factors: CarbonFactors
) -> list[dict[str, Any]]:
    """What other tools said of the run, one entry for each process that had one running."""
    found = []
    for process in processes:
        for mark in process.marks.filter(pl.col("kind") == "second_opinion").iter_rows(named=True):
            if mark["end_s"] is not None:
                found.append(_compare(process, mark, curves, factors))
    return found


def _compare(
    process: StoredProcess, mark: Mapping[str, Any], curves: Sequence[DeviceCurve], factors: CarbonFactors
) -> dict[str, Any]:
    theirs = json.loads(mark["note"])
    windows = windows_on([(float(mark["start_s"]), float(mark["end_s"]))], process)
    on_host = [c for c in curves if c.process.facts.host == process.facts.host]
    ours = use_of(on_host, windows)
    emissions, _ = carbon(factors, ours)
    components = [_component(name, joules, ours) for name, joules in theirs["components"].items()]
    both = [c for c in components if c["our_energy_j"] is not None]
    return {
        "tool": theirs["tool"],
        "version": theirs["version"],
        "host": process.facts.host,
        "duration_s": mark["end_s"] - mark["start_s"],
        "energy_j": theirs["energy_j"],
        "our_energy_j": ours.energy_j,
        "our_energy_source": ours.source,
        "components": components,
        "energy_difference": _difference(sum(c["energy_j"] for c in both), ours.energy_j if both else None),
        "country": theirs["country"],
        "emissions_g": theirs["emissions_g"],
        "our_emissions_g": emissions["emissions_g"],
        "emissions_difference": _difference(theirs["emissions_g"], emissions["emissions_g"]),
    }


def _component(name: str, joules: float, ours: Use) -> dict[str, Any]:
    """Theirs against those of our devices that are of the same kind and in our headline."""
    same = use_of([c for c in ours.counted if c.meter["component"] in _OURS.get(name, (name,))], ours.windows)
    return {
        "component": name,
        "energy_j": joules,
        "our_energy_j": same.energy_j,
        "difference": _difference(joules, same.energy_j),
    }


def _difference(theirs: float | None, ours: float | None) -> float | None:
    return None if theirs is None or not ours else theirs / ours - 1.0
