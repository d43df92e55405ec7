"""Where the time and the joules of a run went, by phase.

An estimate from CPU time is exact by phase, because CPU seconds were cut at the same instants as wall seconds.
A measured counter is slower than most phases: a phase that fills the share f of a step of T seconds is given f of the
step's energy, which is wrong by at most f (1 - f) T P_max: its error bar. A bar wider than the value is no
knowledge: the energy is then null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from profiler.metrics.devices import DeviceCurve, fit_windows
from profiler.records import RUN_PHASES, STEP_PHASES
from profiler.store.runs import StoredProcess

WHOLE_STEP = "training steps"
"""The steps as a whole, where the phases inside them could not be timed."""

REST = "outside steps"
"""Set-up, loader workers, evaluation by the user's own code: what no phase claims."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseShare:
    """One phase of a run: wall seconds, joules, half-width in joules, and how the joules were got."""

    phase: str
    duration_s: float
    energy_j: float | None = None
    plus_minus_j: float | None = None
    source: str | None = None


def phase_shares(processes: Sequence[StoredProcess], curves: Sequence[DeviceCurve]) -> list[PhaseShare]:
    """Every phase that took time, longest first; durations are those of rank 0, energies of its devices."""
    leaders = [p for p in processes if p.facts.rank == 0]
    own = [c for c in curves if c.process.facts.rank == 0]
    seconds = _seconds(leaders)
    run_s = sum(end - start for p in leaders for start, end in fit_windows(p))
    seconds[REST] = max(run_s - sum(seconds.values()), 0.0)
    took = {phase: duration for phase, duration in seconds.items() if duration > 0.0}
    measured = [c for c in own if not c.estimated]
    if measured:
        shares = [_measured_share(phase, duration, measured) for phase, duration in took.items()]
    else:
        shares = _estimated_shares(took, own)
    return sorted(shares, key=lambda s: -s.duration_s)


def _seconds(leaders: Sequence[StoredProcess]) -> dict[str, float]:
    steps = pl.concat([p.steps for p in leaders]) if leaders else pl.DataFrame({"duration_s": [0.0]})
    timed = "forward_s" in steps.columns and steps["forward_s"].null_count() == 0 and len(steps) > 0
    inside = {phase: f"{phase}_s" for phase in STEP_PHASES} if timed else {WHOLE_STEP: "duration_s"}
    seconds = {phase: float(steps[column].sum()) for phase, column in inside.items()}
    for phase in RUN_PHASES:
        seconds[phase] = sum(end - start for p in leaders for start, end in _windows(p, phase))
    return seconds


def _estimated_shares(took: Mapping[str, float], curves: Sequence[DeviceCurve]) -> list[PhaseShare]:
    """By CPU seconds; what is left of the process tree's own total is `REST`."""
    known = [c for c in curves if c.meter["joules_per_cpu_s"] and c.curve.known]
    if not known or WHOLE_STEP in took:
        return [PhaseShare(phase=phase, duration_s=duration) for phase, duration in took.items()]
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
            )
        )
    return shares


def _joules_by_phase(curve: DeviceCurve) -> dict[str, float]:
    """Estimated joules of one process by phase, never more together than the counter saw of the whole fit."""
    process, joules_per_s = curve.process, float(curve.meter["joules_per_cpu_s"])
    joules: dict[str, float] = {
        phase: joules_per_s * float(process.steps[f"{phase}_cpu_s"].sum()) for phase in STEP_PHASES
    }
    for phase in RUN_PHASES:
        notes = _marks(process, phase)["note"]
        joules[phase] = joules_per_s * sum(float(json.loads(note).get("cpu_s") or 0.0) for note in notes)
    claimed = sum(joules.values())
    found = curve.curve.windows(fit_windows(process))
    whole = found.energy_j if found else 0.0
    kept = min(1.0, whole / claimed) if claimed > 0.0 else 1.0
    return {**{phase: energy * kept for phase, energy in joules.items()}, REST: max(whole - claimed, 0.0)}


def _measured_share(phase: str, duration_s: float, curves: Sequence[DeviceCurve]) -> PhaseShare:
    """By interpolation between changes of the counters; null where the error bar is wider than the value."""
    pairs = [_phase_energy(c, phase) for c in curves if c.curve.known]
    if not pairs or len(pairs) < len(curves):
        return PhaseShare(phase=phase, duration_s=duration_s)
    energy_j, bar = (sum(column) for column in zip(*pairs, strict=True))
    if bar > energy_j:
        return PhaseShare(phase=phase, duration_s=duration_s)
    return PhaseShare(
        phase=phase, duration_s=duration_s, energy_j=energy_j, plus_minus_j=bar, source="measured"
    )


def _phase_energy(curve: DeviceCurve, phase: str) -> tuple[float, float]:
    process = curve.process
    if phase in RUN_PHASES:
        found = curve.curve.windows(_windows(process, phase))
        return (found.energy_j, found.plus_minus_j) if found else (0.0, 0.0)
    if phase != REST:
        return _share_of_steps(curve, "duration_s" if phase == WHOLE_STEP else f"{phase}_s")
    whole = curve.curve.windows(fit_windows(process))
    claimed = [_share_of_steps(curve, "duration_s"), *(_phase_energy(curve, other) for other in RUN_PHASES)]
    total_j, total_bar = (whole.energy_j, whole.plus_minus_j) if whole else (0.0, 0.0)
    return max(total_j - sum(e for e, _ in claimed), 0.0), total_bar + sum(bar for _, bar in claimed)


def _share_of_steps(curve: DeviceCurve, column: str) -> tuple[float, float]:
    steps = curve.process.steps.drop_nulls(["start_s", "duration_s", column]).filter(
        pl.col("duration_s") > 0.0
    )
    duration_s = steps["duration_s"].to_numpy()
    share = np.clip(steps[column].to_numpy() / duration_s, 0.0, 1.0)
    energy_j = float(np.sum(share * _step_energy_j(curve, steps)))
    power_max_w = curve.meter["power_max_w"] or float(np.max(curve.curve.power_w()))
    mixing = float(np.sum(share * (1.0 - share) * duration_s)) * power_max_w
    return energy_j, float(np.hypot(mixing, curve.meter["relative_uncertainty"] * energy_j))


def _step_energy_j(curve: DeviceCurve, steps: pl.DataFrame) -> NDArray[np.float64]:
    """Joules of each step, without those of a validation or checkpoint between its microbatches."""
    start_s = steps["start_s"].to_numpy()
    end_s = start_s + steps["duration_s"].to_numpy()
    paused_j = np.zeros(len(steps))
    pauses = sorted(pause for phase in RUN_PHASES for pause in _windows(curve.process, phase))
    for pause_s in pauses:
        inside = (start_s <= pause_s[0]) & (pause_s[0] < end_s - 1e-9)
        end_s = end_s + inside * (pause_s[1] - pause_s[0])
        paused_j += inside * float(np.diff(curve.curve.at(np.asarray(pause_s)))[0])
    return curve.curve.at(end_s) - curve.curve.at(start_s) - paused_j


def _marks(process: StoredProcess, kind: str) -> pl.DataFrame:
    return process.marks.filter(pl.col("kind") == kind).drop_nulls("end_s")


def _windows(process: StoredProcess, kind: str) -> list[tuple[float, float]]:
    return [(float(s), float(e)) for s, e in _marks(process, kind).select("start_s", "end_s").iter_rows()]
