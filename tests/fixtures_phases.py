"""Scripted runs whose phases draw known powers, as a counter that moves in steps and is read at 10 Hz tells them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from profiler.metrics.counter_ticks import Readings
from profiler.metrics.phase_clock import PhaseClock
from profiler.records import STEP_PHASES

ORDER = ("other", "data", "forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a scripted training runs.

    Attributes:
        step_s: Median length of a step.
        period_s: Of the counter; its true period is off by up to 0.2 %.
        step_jitter: Relative deviation of the length of steps, and of each phase on top.
        read_jitter_s: Of the readings, which come a little late every time.
        tick_jitter_s: Of the counter's changes.
        noise: Relative deviation of each phase's power from time to time.
        drift: Relative half-range of a slow wave of all powers.
        within: By how much a phase's first half draws less or more than its second.
        stalls: Share of steps that wait for data.
        pause_every_s: Between validations with a checkpoint; 0 for none.
    """

    step_s: float
    period_s: float
    duration_s: float
    step_jitter: float = 0.02
    read_jitter_s: float = 0.001
    tick_jitter_s: float = 0.0
    noise: float = 0.03
    drift: float = 0.0
    within: float = 0.0
    stalls: float = 0.0
    pause_every_s: float = 0.0

    @classmethod
    def drawn(cls, random: np.random.Generator, **given: float) -> Course:
        """Any of the trainings that the regression claims to divide."""
        fields = {
            "step_s": float(np.exp(random.uniform(np.log(0.015), np.log(2.0)))),
            "period_s": float(random.choice([0.01, 0.02, 0.05, 0.1])),
            "duration_s": float(random.uniform(60.0, 300.0)),
            "step_jitter": float(random.choice([0.005, 0.02, 0.1])),
            "read_jitter_s": float(random.choice([1e-4, 1e-3, 5e-3])),
            "noise": float(random.choice([0.0, 0.03, 0.1])),
            "drift": float(random.choice([0.0, 0.05])),
            "stalls": float(random.choice([0.0, 0.02])),
            "pause_every_s": float(random.choice([0.0, 30.0])),
        }
        return cls(**{**fields, **given})


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was recorded of a course, and the joules that each phase truly used."""

    steps: pl.DataFrame
    pauses: dict[str, list[tuple[float, float]]]
    readings: Readings
    joules: dict[str, float]

    def clock(self, parts: int) -> PhaseClock:
        return PhaseClock(self.steps, self.pauses, parts)

    def shares(self) -> dict[str, float]:
        whole = sum(self.joules[phase] for phase in STEP_PHASES)
        return {phase: self.joules[phase] / whole for phase in STEP_PHASES}


def trace(course: Course, random: np.random.Generator) -> Trace:
    """One run of a course."""
    watts = {
        **dict(zip(ORDER, random.uniform([80, 60, 150, 150, 150], [400, 200, 700, 700, 700]), strict=True)),
        "validation": random.uniform(200.0, 600.0),
        "checkpoint": random.uniform(60.0, 150.0),
        "rest": 80.0,
    }
    pieces, rows, pauses = _pieces(course, random)
    names = np.asarray([name for name, _ in pieces])
    length_s = np.asarray([seconds for _, seconds in pieces])
    end_s = np.cumsum(length_s)
    wave = 1.0 + course.drift * np.sin(
        2 * np.pi * end_s / random.uniform(60.0, 1200.0) + random.uniform(0.0, 6.0)
    )
    power_w = (
        np.asarray([watts[name] for name in names])
        * wave
        * np.exp(course.noise * random.normal(size=len(names)))
    )
    lean = {name: course.within * random.choice([-1.0, 1.0]) for name in watts}
    leans = np.asarray([lean[name] for name in names])
    halves_j = np.stack([power_w * (1.0 - leans), power_w * (1.0 + leans)], axis=1).ravel() * np.repeat(
        length_s / 2, 2
    )
    knot_s = np.concatenate([[0.0], np.cumsum(np.repeat(length_s / 2, 2))])
    knot_j = np.concatenate([[0.0], np.cumsum(halves_j)])
    joules = {name: float(np.sum((power_w * length_s)[names == name])) for name in watts}
    readings = _readings(course, random, knot_s, knot_j)
    return Trace(steps=pl.DataFrame(rows), pauses=pauses, readings=readings, joules=joules)


def _pieces(
    course: Course, random: np.random.Generator
) -> tuple[list[tuple[str, float]], list[dict[str, float]], dict[str, list[tuple[float, float]]]]:
    """Stretches of one phase in order, from time 0; rows of the steps; windows of the pauses."""
    parts = dict(zip(ORDER, random.dirichlet([1, 2, 8, 16, 4]), strict=True))
    pieces, rows, now_s, next_pause_s = [("rest", 1.0)], [], 1.0, course.pause_every_s
    pauses: dict[str, list[tuple[float, float]]] = {"validation": [], "checkpoint": []}
    while now_s < course.duration_s:
        step_s = course.step_s * np.exp(course.step_jitter * random.normal())
        taken = {
            name: part * step_s * np.exp(course.step_jitter * random.normal()) for name, part in parts.items()
        }
        if course.stalls and random.random() < course.stalls:
            taken["data"] += random.exponential(3 * course.step_s)
        pieces += taken.items()
        row = {"start_s": now_s, "duration_s": sum(taken.values())}
        rows.append(row | {f"{name}_s": seconds for name, seconds in taken.items()})
        now_s += sum(taken.values())
        if course.pause_every_s and now_s > next_pause_s:
            for name, least_s, most_s in (("validation", 1.0, 4.0), ("checkpoint", 0.2, 1.0)):
                length_s = random.uniform(least_s, most_s)
                pieces.append((name, length_s))
                pauses[name].append((now_s, now_s + length_s))
                now_s += length_s
            next_pause_s = now_s + course.pause_every_s
    return [*pieces, ("rest", 1.0)], rows, pauses


def _readings(
    course: Course, random: np.random.Generator, knot_s: NDArray[np.float64], knot_j: NDArray[np.float64]
) -> Readings:
    period_s = course.period_s * (1.0 + random.uniform(-2e-3, 2e-3))
    tick_s = random.uniform(0.0, period_s) + period_s * np.arange(int(knot_s[-1] / period_s) - 1)
    tick_s = np.sort(tick_s + course.tick_jitter_s * random.normal(size=len(tick_s)))
    late_s = 3e-4 + course.read_jitter_s * np.abs(random.normal(size=int(knot_s[-1] / 0.1)))
    read_s = np.cumsum(0.1 + late_s)
    read_s = read_s[(read_s > tick_s[0]) & (read_s < knot_s[-1])]
    seen_s = tick_s[np.searchsorted(tick_s, read_s, side="right") - 1]
    energy_j = np.round(np.interp(seen_s, knot_s, knot_j), 3)  # millijoules, as NVML counts
    return Readings(time_s=read_s, took_s=np.zeros(len(read_s)), energy_j=energy_j, period_s=course.period_s)
