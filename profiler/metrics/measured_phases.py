"""The joules of each phase of one process on one device that has a sensor.

Validations, checkpoints and what lies outside steps are windows of the counter's curve. A step's phases are mostly
shorter than the counter's period: the energy of the steps, which the curve knows well, is divided by regression
(`phase_power`); or by time, which for a phase that fills the share f of steps of T seconds is wrong by at most
f (1 - f) T P_max. The narrower error bar is kept. What a device's phases are given adds up to what it used in the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from profiler.metrics.counter_ticks import Readings
from profiler.metrics.devices import DeviceCurve, Windows, fit_windows
from profiler.metrics.phase_clock import REST, WHOLE_STEP, PhaseClock
from profiler.metrics.phase_power import Division, divide
from profiler.records import RUN_PHASES, STEP_PHASES
from profiler.store.process import StoredProcess

Method = Literal["windows", "regression", "bound"]

INTEGRATED = "its energy is added up from power read now and then, which tells nothing of what lay between two readings"
ALIASED = "the steps nearly keep the sensor's pace: if it looks at part of the time only, it may miss the same phases"
_STEPS = ("start_s", "duration_s", "num_microbatches", *(f"{phase}_s" for phase in STEP_PHASES))
UNREADABLE = "the counter of {device} was read less than twice, or never moved"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnergy:
    """Joules of one phase on one device, half-width in joules, how they were got, and why not by regression."""

    energy_j: float
    plus_minus_j: float
    method: Method
    reason: str | None = None


def device_phases(device: DeviceCurve) -> dict[str, PhaseEnergy]:
    """Every phase in which this process spent time, with what the device used meanwhile; its curve must be known."""
    whole = _windows_energy(device, fit_windows(device.process))
    pauses: dict[str, Windows] = {phase: windows_of(device.process, phase) for phase in RUN_PHASES}
    paused = {phase: _windows_energy(device, windows) for phase, windows in pauses.items() if windows}
    steps = _steps_energy(device)
    steps_j = sum(energy.energy_j for energy in steps.values())
    rest = PhaseEnergy(
        energy_j=max(whole.energy_j - steps_j - sum(energy.energy_j for energy in paused.values()), 0.0),
        plus_minus_j=whole.plus_minus_j
        + sum(energy.plus_minus_j for energy in paused.values())
        + float(device.meter["relative_uncertainty"]) * steps_j,
        method="windows",
    )
    return {**steps, **paused, REST: rest}


def windows_of(process: StoredProcess, kind: str) -> list[tuple[float, float]]:
    """Start and end in seconds of the marks of one kind that have an end."""
    marks = process.marks.filter(pl.col("kind") == kind).drop_nulls("end_s")
    return [(float(start), float(end)) for start, end in marks.select("start_s", "end_s").iter_rows()]


def timed(steps: pl.DataFrame) -> pl.Expr:
    """Which steps have their time by phase."""
    return pl.all_horizontal(pl.col(f"{phase}_s").is_not_null() for phase in STEP_PHASES)


def _windows_energy(device: DeviceCurve, windows: Sequence[tuple[float, float]]) -> PhaseEnergy:
    found = device.energy(windows)
    if found is None:
        return PhaseEnergy(energy_j=0.0, plus_minus_j=0.0, method="windows")
    return PhaseEnergy(energy_j=found.energy_j, plus_minus_j=found.plus_minus_j, method="windows")


def _steps_energy(device: DeviceCurve) -> dict[str, PhaseEnergy]:
    """Of the phases of the timed steps, and of the other steps as a whole."""
    steps = device.process.columns("steps", *_STEPS).drop_nulls(["start_s", "duration_s"])
    steps = steps.filter(pl.col("duration_s") > 0.0)
    divisible, whole = steps.filter(timed(steps)), steps.filter(~timed(steps))
    energies = _divided(device, divisible) if len(divisible) else {}
    if len(whole):
        energy_j = float(np.sum(_step_energy_j(device, whole)))
        bar = float(device.meter["relative_uncertainty"]) * energy_j
        energies[WHOLE_STEP] = PhaseEnergy(energy_j=energy_j, plus_minus_j=bar, method="windows")
    return energies


def _divided(device: DeviceCurve, steps: pl.DataFrame) -> dict[str, PhaseEnergy]:
    """The energy of timed steps by phase: a share each, by regression, or by time if nothing could be divided."""
    phases = [phase for phase in STEP_PHASES if float(steps[f"{phase}_s"].sum()) > 0.0]
    energy_j, duration_s = _step_energy_j(device, steps), steps["duration_s"].to_numpy()
    power_max_w = device.meter["power_max_w"] or float(np.max(device.curve.power_w()))
    aliased = device.aliasing.share(float(np.sum(duration_s))) if device.aliasing else 0.0
    division = _division(device, phases)
    found: dict[str, PhaseEnergy] = {}
    for phase in phases:
        part = np.clip(steps[f"{phase}_s"].to_numpy() / duration_s, 0.0, 1.0)
        by_time_j = float(np.sum(part * energy_j))
        value_j = division.share[phase] * float(np.sum(energy_j)) if division.share else by_time_j
        bound_j = float(np.sum(part * (1.0 - part) * duration_s)) * power_max_w + abs(by_time_j - value_j)
        refused = phase in division.refused
        regression_j = np.inf if refused else division.half_width[phase] * float(np.sum(energy_j))
        gain_j = float(np.hypot(device.meter["relative_uncertainty"], aliased)) * value_j
        found[phase] = PhaseEnergy(
            energy_j=value_j,
            plus_minus_j=float(np.hypot(min(bound_j, regression_j), gain_j)),
            method="regression" if regression_j < bound_j else "bound",
            reason=division.refused.get(phase),
        )
    return found


def _division(device: DeviceCurve, phases: Sequence[str]) -> Division:
    if device.meter["source"] != "counter":
        return Division(share={}, half_width={}, refused=dict.fromkeys(phases, INTEGRATED))
    if device.aliasing:
        return Division(share={}, half_width={}, refused=dict.fromkeys(phases, ALIASED))
    process, course = device.process, device.curve.course
    assert course is not None
    ((start_s, end_s),) = fit_windows(process)
    inside = (course.read_s >= start_s) & (course.read_s <= end_s)
    readings = Readings(
        time_s=course.read_s[inside],
        energy_j=course.read_j[inside],
        took_s=course.took_s[inside],
        period_s=course.period_s,
        breaks_s=((course.time_s[:-1] + course.time_s[1:]) / 2.0)[course.untold],
    )
    pauses: dict[str, Windows] = {phase: windows_of(process, phase) for phase in RUN_PHASES}
    steps = process.columns("steps", *_STEPS)
    return divide(lambda parts: PhaseClock(steps, pauses, parts), readings, phases)


def _step_energy_j(device: DeviceCurve, steps: pl.DataFrame) -> NDArray[np.float64]:
    """Joules of each step, without those of a validation or checkpoint between its microbatches."""
    start_s = steps["start_s"].to_numpy()
    end_s = start_s + steps["duration_s"].to_numpy()
    paused_j = np.zeros(len(steps))
    for pause_s in sorted(pause for phase in RUN_PHASES for pause in windows_of(device.process, phase)):
        inside = (start_s <= pause_s[0]) & (pause_s[0] < end_s - 1e-9)
        end_s = end_s + inside * (pause_s[1] - pause_s[0])
        paused_j += inside * float(np.diff(device.curve.at(np.asarray(pause_s)))[0])
    return device.curve.at(end_s) - device.curve.at(start_s) - paused_j
