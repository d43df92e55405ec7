"""The `energy` part of a summary: every device with its joules, source, coverage and faults, and the sums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from profiler.metrics.cross_check import CrossCheck, cross_check
from profiler.metrics.devices import DeviceCurve, Total, fit_windows, joined, same_devices, total
from profiler.metrics.energy import Energy
from profiler.metrics.idle import idle_baseline, why_no_idle
from profiler.store.node import node_of
from profiler.store.process import StoredProcess
from profiler.words import counted

SOURCES = ("counter", "integrated", "module_scope", "shared_gpu", "parent_of_mig", "estimated")
"""How joules were got, best first. The worst of a sum's parts is the sum's."""

DAMAGED = "files that it rests on are damaged or unreadable, and a sum with a hole is no sum"

NEVER_MOVED = "its counter was read less than twice, or never moved"


def energy_summary(
    processes: Sequence[StoredProcess], curves: Sequence[DeviceCurve], *, whole: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """The `energy` dictionary of a summary, and what a reader of it must know, by note.

    Args:
        processes: Of one run.
        curves: Of their devices.
        whole: False where files are damaged that these joules rest on: their sums are then not the run's.
    """
    blind = _blind_hosts(processes, curves)
    rows, notes = [], dict[str, str]()
    told = {id(curve): _told(curve, _co_tenants(processes, curve)) for curve in curves}
    for group in same_devices(curves):
        rows.append(_component(group, [told[id(curve)] for curve in group]))
        label = f"energy.components {_named_once(group[0], curves)}"
        for curve in group:
            of = f"attempt {curve.process.facts.attempt}: " if len(group) > 1 else ""
            sentences = told[id(curve)].sentences
            notes |= {f"{label} {topic}".rstrip(): of + sentence for topic, sentence in sentences.items()}
    measured = total(curves, fit_windows, estimated=False) if whole and not blind else None
    estimated = total(curves, fit_windows, estimated=True) if whole else None
    idle = idle_baseline(curves, measured.energy_j if measured else None)
    if idle is None:
        notes["energy.idle"] = why_no_idle(curves)
    if blind:
        notes["energy.measured_j"] = (
            f"no sensor could be read on {', '.join(blind)}, only elsewhere, and a sum with a hole is no sum"
        )
    if not whole:
        notes["energy.measured_j"] = notes["energy.estimated_j"] = DAMAGED
    words = [row["source"] for row in rows if row["source"] != "estimated"]
    energy = {
        "headline": "measured" if any(not c.estimated for c in curves) else "estimated",
        **_named(measured, "measured"),
        **_named(estimated, "estimated"),
        "measured_at_least_j": _at_least(rows),
        "measured_source": max(words, key=SOURCES.index) if words else None,
        "idle": idle,
        "components": rows,
    }
    return energy, notes


def _named_once(curve: DeviceCurve, curves: Sequence[DeviceCurve]) -> str:
    """A device's name; with its host where another host has one of the same name, as all have a `package-0`."""
    device, host = curve.meter["device"], curve.process.facts.host
    hosts = {c.process.facts.host for c in curves if c.meter["device"] == device}
    return f"{device} on {host}" if len(hosts) > 1 else str(device)


def _blind_hosts(processes: Sequence[StoredProcess], curves: Sequence[DeviceCurve]) -> list[str]:
    """Hosts on which nothing was measured, if something was on others."""
    seeing = {node_of(curve.process.facts) for curve in curves if not curve.estimated}
    blind = [p.facts.host for p in processes if node_of(p.facts) not in seeing]
    return list(dict.fromkeys(blind)) if seeing else []


def _named(amount: Total | None, kind: str) -> dict[str, float | None]:
    return {
        f"{kind}_j": amount.energy_j if amount else None,
        f"{kind}_plus_minus_j": amount.plus_minus_j if amount else None,
    }


def _at_least(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """What the measured devices used at least: a sum of lower bounds needs not all of them."""
    known = [
        row["at_least_j"] for row in rows if row["source"] != "estimated" and row["at_least_j"] is not None
    ]
    return sum(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What one process's readings of a device say beside its joules, asked for while they are in memory."""

    co_tenants: int | None
    check: CrossCheck | None
    sentences: Mapping[str, str]


def _told(curve: DeviceCurve, co_tenants: int | None) -> _Told:
    found = curve.energy(fit_windows(curve.process))
    check = cross_check(curve.curve, curve.readings, fit_windows(curve.process)) if _has_both(curve) else None
    return _Told(co_tenants=co_tenants, check=check, sentences=_sentences(curve, found, check, co_tenants))


def _component(curves: Sequence[DeviceCurve], told: Sequence[_Told]) -> dict[str, Any]:
    """One device, over all attempts in which it was read; the last of them says where it is."""
    found, last = joined(curves, fit_windows), curves[-1]
    stated = found if found is not None and found.is_knowledge else None
    words = [_source_word(curve.meter, of.co_tenants) for curve, of in zip(curves, told, strict=True)]
    checks = [of.check.ratio for of in told if of.check]
    return {
        "component": last.meter["component"],
        "device": last.meter["device"],
        "name": last.meter["name"],
        "host": last.process.facts.host,
        "rank": last.process.facts.rank,
        "energy_j": stated.energy_j if stated else None,
        "plus_minus_j": stated.plus_minus_j if stated else None,
        "at_least_j": found.at_least_j if found else None,
        "source": max(words, key=SOURCES.index),
        "coverage": found.coverage if found else None,
        "aliased": any(curve.aliasing is not None for curve in curves),
        "co_tenants": max((of.co_tenants for of in told if of.co_tenants is not None), default=None),
        "counter_over_integrated": checks[-1] if checks else None,
        "uncertainty_source": last.meter["uncertainty_source"],
    }


def _sentences(
    curve: DeviceCurve, found: Energy | None, check: CrossCheck | None, co_tenants: int | None
) -> dict[str, str]:
    """What a reader of a device's joules must know, by topic; the empty topic says why they are null."""
    sentences = {}
    if found is None:
        sentences[""] = _why_unknown(curve)
    elif not found.is_knowledge:
        sentences[""] = (
            f"its energy would be {found.energy_j:.4g} ± {found.plus_minus_j:.4g} J, which is no knowledge: its "
            f"counter told {100 * found.coverage:.3g} % of the time. It used at least {found.at_least_j:.4g} J"
        )
    if curve.curve.faults:
        sentences["counter"] = "; ".join(curve.curve.faults)
    if curve.aliasing:
        sentences["aliasing"] = curve.aliasing.sentence()
    if check and (warning := check.warning()):
        sentences["cross-check"] = warning
    if co_tenants:
        sentences["shared"] = (
            f"up to {counted(co_tenants, 'other process was', 'other processes were')} on this GPU; their joules are"
            " part of its energy"
        )
    if curve.meter.get("notes"):
        sentences["scope"] = " ".join(curve.meter["notes"])
    return sentences


def _why_unknown(curve: DeviceCurve) -> str:
    if curve.curve.faults:
        return "its readings make no counter"
    powers = curve.readings["power_w"].drop_nulls().to_numpy()
    mean_w = float(powers.mean()) if len(powers) else 0.0
    return f"{NEVER_MOVED}, while its power readings averaged {mean_w:.4g} W" if mean_w > 0.0 else NEVER_MOVED


def _has_both(curve: DeviceCurve) -> bool:
    return curve.meter["source"] == "counter" and curve.meter["component"] in ("gpu", "module")


def _source_word(meter: Mapping[str, Any], co_tenants: int | None) -> str:
    """The worst of what is true of a meter."""
    scope = {"module": "module_scope", "parent_of_mig": "parent_of_mig"}.get(meter.get("scope", "device"))
    words: list[str | None] = [meter["source"], scope, "shared_gpu" if co_tenants else None]
    return max((word for word in words if word), key=SOURCES.index)


def _co_tenants(processes: Sequence[StoredProcess], curve: DeviceCurve) -> int | None:
    """The most other processes seen on a GPU by whichever process of its host looked; None if nobody looked.

    Ranks of this run that share it are none of the others.
    """
    seen = [
        int(note.get("processes") or 0)
        for process in processes
        if process.facts.host == curve.process.facts.host
        for note in map(json.loads, process.marks.filter(pl.col("kind") == "co_tenants")["note"])
        if note.get("device") == curve.meter["device"]
    ]
    siblings = [
        p
        for p in processes
        if p.facts.attempt == curve.process.facts.attempt
        and any(meter["device"] == curve.meter["device"] for meter in p.facts.meters)
    ]
    return max((max(count - len(siblings) + 1, 0) for count in seen), default=None)
