"""Where the time and the joules of a run went, by phase.

An estimate from CPU time is exact by phase, because CPU seconds were cut at the same instants as wall seconds.
A measured counter is slower than most phases: see `measured_phases`. A bar wider than the value is no knowledge: the
energy is then null, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from profiler.metrics.devices import DeviceCurve, fit_windows
from profiler.metrics.measured_phases import UNREADABLE, PhaseEnergy, device_phases, timed, windows_of
from profiler.metrics.phase_clock import REST, WHOLE_STEP
from profiler.records import RUN_PHASES, STEP_PHASES
from profiler.store.process import StoredProcess

__all__ = ["REST", "WHOLE_STEP", "PhaseShare", "phase_shares"]

WIDE = "its error bar is wider than its value"
UNTIMED = "the CPU time of steps was not cut by phase: the phases are a GPU's, or were not timed"
_TIMES = ("duration_s", *(f"{phase}_s" for phase in STEP_PHASES))
NO_SENSOR = "no energy sensor could be read, and nothing was estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseShare:
    """One phase of a run: wall seconds, joules, half-width in joules, how the joules were got, or why they are unknown.

    `source` is estimated or measured; `method` is "cpu time", "windows" (of the counter's curve), "regression" (over
    many of its changes) or "bound" (by time, with the worst case as half-width).
    """

    phase: str
    duration_s: float
    energy_j: float | None = None
    plus_minus_j: float | None = None
    source: str | None = None
    method: str | None = None
    reason: str | None = None


def phase_shares(processes: Sequence[StoredProcess], curves: Sequence[DeviceCurve]) -> list[PhaseShare]:
    """Every phase that took time, longest first; durations are those of rank 0, energies of its devices."""
    leaders = [p for p in processes if p.facts.rank == 0]
    own = [c for c in curves if c.process.facts.rank == 0]
    seconds = _seconds(leaders)
    run_s = sum(end - start for p in leaders for start, end in fit_windows(p))
    seconds[REST] = max(run_s - sum(seconds.values()), 0.0)
    took = {phase: duration for phase, duration in seconds.items() if duration > 0.0}
    measured = [c for c in own if not c.estimated]
    shares = _measured_shares(took, measured) if measured else _estimated_shares(took, own)
    return sorted(shares, key=lambda s: -s.duration_s)


def _seconds(leaders: Sequence[StoredProcess]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for steps in (p.columns("steps", *_TIMES).drop_nulls("duration_s") for p in leaders):
        divided = steps.filter(timed(steps))
        for phase in STEP_PHASES:
            seconds[phase] = seconds.get(phase, 0.0) + float(divided[f"{phase}_s"].sum())
        whole_s = float(steps.filter(~timed(steps))["duration_s"].sum())
        seconds[WHOLE_STEP] = seconds.get(WHOLE_STEP, 0.0) + whole_s
    for pause in RUN_PHASES:
        seconds[pause] = sum(end - start for p in leaders for start, end in windows_of(p, pause))
    return seconds


def _estimated_shares(took: Mapping[str, float], curves: Sequence[DeviceCurve]) -> list[PhaseShare]:
    """By CPU seconds; what is left of the process tree's own total is `REST`."""
    known = [c for c in curves if c.meter["joules_per_cpu_s"] and c.curve.known]
    untimed = any(_null_count(c.process, "forward_cpu_s") for c in known)
    if not known or untimed:
        reason = UNTIMED if known else NO_SENSOR
        return [PhaseShare(phase=phase, duration_s=s, reason=reason) for phase, s in took.items()]
    joules = [_joules_by_phase(c) for c in known]
    share = max(c.meter["relative_uncertainty"] for c in known)
    shares = []
    for phase, duration_s in took.items():
        energy_j = sum(of_curve[phase] for of_curve in joules)
        shares.append(
            PhaseShare(
                phase=phase,
                duration_s=duration_s,
                energy_j=energy_j,
                plus_minus_j=share * energy_j,
                source="estimated",
                method="cpu time",
            )
        )
    return shares


def _null_count(process: StoredProcess, column: str) -> int:
    return process.columns("steps", column)[column].null_count()


def _joules_by_phase(curve: DeviceCurve) -> dict[str, float]:
    """Estimated joules of one process by phase, never more together than the counter saw of the whole fit."""
    process, joules_per_s = curve.process, float(curve.meter["joules_per_cpu_s"])
    cpu_s = process.columns("steps", *(f"{phase}_cpu_s" for phase in STEP_PHASES)).sum().row(0, named=True)
    joules: dict[str, float] = {phase: joules_per_s * float(cpu_s[f"{phase}_cpu_s"]) for phase in STEP_PHASES}
    for phase in RUN_PHASES:
        notes = process.marks.filter(pl.col("kind") == phase).drop_nulls("end_s")["note"]
        joules[phase] = joules_per_s * sum(float(json.loads(note).get("cpu_s") or 0.0) for note in notes)
    claimed = sum(joules.values())
    found = curve.curve.windows(fit_windows(process))
    whole = found.energy_j if found else 0.0
    kept = min(1.0, whole / claimed) if claimed > 0.0 else 1.0
    return {**{phase: energy * kept for phase, energy in joules.items()}, REST: max(whole - claimed, 0.0)}


def _measured_shares(took: Mapping[str, float], devices: Sequence[DeviceCurve]) -> list[PhaseShare]:
    """Sums over the devices; half-widths are added, since like devices may err alike."""
    unreadable = [device for device in devices if not device.curve.known]
    if unreadable:
        reason = UNREADABLE.format(device=unreadable[0].meter["device"])
        return [PhaseShare(phase=p, duration_s=s, reason=reason) for p, s in took.items()]
    found = [device_phases(device) for device in devices if fit_windows(device.process)]
    return [_sum(phase, s, [of[phase] for of in found if phase in of]) for phase, s in took.items()]


def _sum(phase: str, duration_s: float, parts: Sequence[PhaseEnergy]) -> PhaseShare:
    """A bar wider than the value is no knowledge."""
    energy_j, bar_j = sum(p.energy_j for p in parts), sum(p.plus_minus_j for p in parts)
    if not parts or bar_j > energy_j:
        reason = next((p.reason for p in parts if p.reason), WIDE)
        return PhaseShare(phase=phase, duration_s=duration_s, reason=reason)
    return PhaseShare(
        phase=phase,
        duration_s=duration_s,
        energy_j=energy_j,
        plus_minus_j=bar_j,
        source="measured",
        method=max(parts, key=lambda part: part.plus_minus_j).method,
    )
