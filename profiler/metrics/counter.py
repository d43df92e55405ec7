"""What the readings of one cumulative counter say of its course: when it changed, and where it cannot be believed.

A counter that moves in steps changed after the reading before, and no earlier than an update period ago: half way is
assumed, and how wide that interval is is kept. A call that took long widens it: what it told is of some moment of it.
The sampler begins with a close look, which tells the period.

Rows with NaN or negative joules are left out, and are a gap. A fall (driver reload, clock going backwards) and a rise
that no device could draw are bridged at the power around them, and what was used meanwhile counts as never told. A
counter that stands still while power readings, or its own course before and after, say that the device works is frozen:
its joules of that time count as never told, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from profiler.words import counted

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

GAP_FACTOR = 5.0 + 1e-6  # a whole number of periods is not to be on either side by rounding
"""A stretch this many times longer than usual between two readings, or two changes, is suspect."""

IMPOSSIBLE = 3.0
"""A rise of more than this many times what the device can draw is no energy."""

MOST_FALLS = 3
"""A driver may be reloaded; what falls more often is in disorder, and no counter."""

FROZEN = 0.5
"""A counter that stands still is frozen if it tells less than this share of the power that is otherwise known."""

CLOSE_LOOK = 0.15
"""Readings closer than this share of the stated period show when the counter changes."""

FEW_PERIODS = 2

SLOPE_POINTS = 5
"""Changes over which the power beyond the first or last change is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Knots of a counter's course in time, and of the stretches between them what is known of each.

    Attributes:
        time_s: Instants of the knots: the first reading, every change, the last reading.
        energy_j: Cumulative joules there.
        late_s: Width of the interval in which the knot may lie; 0 where it is exact.
        bridged: Stretches in which readings are missing; the counter told their joules afterwards.
        untold: Stretches whose joules nothing told.
        changes: Which knots are changes.
        read_s, read_j: All readings that can be believed, with falls and impossible rises bridged.
        took_s: How long each of these took.
        period_s: Seconds between updates, as the close look saw them; None if the counter follows continuously.
    """

    time_s: Floats
    energy_j: Floats
    late_s: Floats
    bridged: Flags
    untold: Flags
    changes: slice
    read_s: Floats
    read_j: Floats
    took_s: Floats
    period_s: float | None


def course_of(
    readings: pl.DataFrame, meter: Mapping[str, Any], asleep: Sequence[tuple[float, float]] = ()
) -> tuple[Course | None, tuple[str, ...]]:
    """The course that rows with `time_s`, `energy_j` and, maybe, more tell, and a sentence for every fault.

    Args:
        readings: Rows of one device, any order; `power_w` and `took_s` are used if they are there.
        meter: The fields of `Meter` as stored: `update_period_s`, `power_max_w`.
        asleep: Seconds between which the machine slept; what the counter did meanwhile is not believed.

    Returns:
        No course if it changed less than twice, or fell so often that it is no counter.
    """
    known, faults = _believable(readings)
    read_s = known["time_s"].to_numpy().astype(np.float64)
    told_j = known["energy_j"].to_numpy().astype(np.float64)
    took_s = known["took_s"].to_numpy().astype(np.float64)
    across = _across(read_s, asleep)
    read_j, broken, more = _without_jumps(read_s, told_j, meter, across)
    moved = _changed_at(read_j, meter["update_period_s"])
    period_s = _period(read_s, moved, meter["update_period_s"])
    faults += more
    if len(moved) < 2 or read_j[-1] <= read_j[0] or _falls(told_j, across) > MOST_FALLS:
        return None, tuple(faults)
    took_s = _possible(took_s, np.diff(read_s))
    latest_s, late_s = latest_and_width(read_s, took_s, moved, period_s)
    time_s = latest_s - late_s / 2.0
    usual_s = _usual_gap(read_s, meter["update_period_s"])
    spacing_s = max(float(np.median(np.diff(time_s))), usual_s)
    knot_s, knot_j, knot_late_s = _with_ends(read_s, read_j, time_s, read_j[moved], late_s, spacing_s)
    bridged = _touched(knot_s, read_s, np.diff(read_s) > GAP_FACTOR * usual_s)
    frozen = _frozen(knot_s, knot_j, bridged, power_of(readings), spacing_s)
    if frozen.any():
        faults.append(_frozen_sentence(np.diff(knot_s)[frozen], power_of(readings)))
    untold = frozen | _touched(knot_s, read_s, broken)
    if meter.get("source") == "integrated":  # nothing counted while nobody looked
        untold |= bridged
    first = len(knot_s) - len(moved) - (knot_s[-1] > time_s[-1])
    course = Course(
        time_s=knot_s,
        energy_j=knot_j,
        late_s=knot_late_s,
        bridged=bridged & ~untold,
        untold=untold,
        changes=slice(first, first + len(moved)),
        read_s=read_s,
        read_j=read_j,
        took_s=took_s,
        period_s=period_s,
    )
    return course, tuple(faults)


def _believable(readings: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Rows by time whose joules can be a counter's; of several at one instant, the most."""
    took_s = pl.col("took_s").fill_null(0.0) if "took_s" in readings.columns else pl.lit(0.0).alias("took_s")
    known = readings.select("time_s", "energy_j", took_s).drop_nulls()
    fine = known.filter(pl.all_horizontal(pl.all().is_finite(), pl.col("energy_j", "took_s") >= 0.0))
    bad = len(known) - len(fine)
    were = counted(bad, "reading of its counter was", "readings of its counter were")
    faults = [f"{were} negative or not finite, and left out"] if bad else []
    return fine.sort("time_s", "energy_j").unique("time_s", keep="last", maintain_order=True), faults


def _possible(took_s: Floats, gap_s: Floats) -> Floats:
    """What calls took, at most what they can have: none of them begins before the one before it has ended."""
    room_s = np.minimum(np.append(gap_s, gap_s[-1]), np.append(gap_s[0], gap_s))
    return np.asarray(np.minimum(took_s, 1.999 * room_s), dtype=np.float64)


def _across(time_s: Floats, asleep: Sequence[tuple[float, float]]) -> Flags:
    """Which steps between readings go across a sleep."""
    across = np.zeros(max(len(time_s) - 1, 0), dtype=np.bool_)
    for start_s, end_s in asleep:
        across |= (time_s[:-1] < end_s) & (time_s[1:] > start_s)
    return across


def _without_jumps(
    time_s: Floats, energy_j: Floats, meter: Mapping[str, Any], asleep: Flags
) -> tuple[Floats, Flags, list[str]]:
    """The counter with its falls, impossible rises and sleeps bridged at the power around; which steps these were."""
    steps, seconds = np.diff(energy_j), np.diff(time_s)
    fell = steps < 0.0
    leapt = np.zeros_like(fell)
    if meter.get("power_max_w") and meter.get("source", "counter") == "counter":
        waited_s = time_s[1:] - _last_change_s(time_s, steps) + (meter["update_period_s"] or 0.0)
        leapt = steps > IMPOSSIBLE * meter["power_max_w"] * waited_s
    broken = fell | leapt | asleep
    fell, leapt = fell & ~asleep, leapt & ~asleep
    if broken.any():
        middle_s, sound = time_s[1:] - seconds / 2.0, ~broken
        around_w = (
            np.interp(middle_s[broken], middle_s[sound], (steps / seconds)[sound]) if sound.any() else 0.0
        )
        steps[broken] = around_w * seconds[broken]
    falls, leaps = (counted(int(flags.sum()), "time") for flags in (fell, leapt))
    faults = [f"its counter fell {falls} (reset, or time going backwards)"] if fell.any() else []
    faults += [f"its counter rose {leaps} by more than can be drawn"] if leapt.any() else []
    return np.concatenate([energy_j[:1], energy_j[:1] + np.cumsum(steps)]), broken, faults


def _falls(told_j: Floats, across: Flags) -> int:
    return int(np.count_nonzero((np.diff(told_j) < 0.0) & ~across))


def _last_change_s(time_s: Floats, steps: Floats) -> Floats:
    """For each step, the instant at which the counter had last changed before it: it may catch up."""
    changed = np.concatenate([[True], steps[:-1] != 0.0])
    return time_s[np.maximum.accumulate(np.where(changed, np.arange(len(steps)), 0))]


def _changed_at(read_j: Floats, update_period_s: float | None) -> NDArray[np.intp]:
    """The readings that showed a change; a counter that follows continuously changed whenever it was read."""
    if not update_period_s:
        return np.arange(len(read_j))
    return np.flatnonzero(np.diff(read_j) > 0.0) + 1


def _period(read_s: Floats, moved: NDArray[np.intp], stated_s: float | None) -> float | None:
    """The update period where readings were close enough to see one change after the other, at most the stated one."""
    if not stated_s:
        return stated_s
    close = read_s[moved] - read_s[moved - 1] < CLOSE_LOOK * stated_s
    seen_s = np.diff(read_s[moved])[close[1:] & close[:-1]]
    return min(stated_s, float(np.median(seen_s))) if len(seen_s) >= FEW_PERIODS else stated_s


def latest_and_width(
    read_s: Floats, took_s: Floats, moved: NDArray[np.intp], update_period_s: float | None
) -> tuple[Floats, Floats]:
    """When the counter changed at the latest, and how wide the interval is in which it may have."""
    begun_s, ended_s = read_s - took_s / 2.0, read_s + took_s / 2.0
    if not update_period_s:
        return ended_s[moved], took_s[moved]
    return ended_s[moved], ended_s[moved] - np.maximum(begun_s[moved - 1], begun_s[moved] - update_period_s)


def _usual_gap(read_s: Floats, stated_s: float | None) -> float:
    """Seconds between two readings as a rule, those of the close look aside."""
    gaps_s = np.diff(read_s)
    wide_s = gaps_s[gaps_s >= CLOSE_LOOK * (stated_s or 0.0)]
    return float(np.median(wide_s if len(wide_s) else gaps_s))


def _with_ends(
    read_s: Floats, read_j: Floats, time_s: Floats, energy_j: Floats, late_s: Floats, spacing_s: float
) -> tuple[Floats, Floats, Floats]:
    """The changes, and the lines beyond them up to the first and last reading, within what these allow.

    A counter that was read without a change has used less than one change's joules since the last.
    """
    before_s, after_s = time_s[0] - read_s[0], read_s[-1] - time_s[-1]
    knots = [(time_s, energy_j, late_s)]
    if before_s > 0.0:
        line_j = _slope(time_s, energy_j, slice(None, SLOPE_POINTS)) * before_s
        start_j = max(energy_j[0] - line_j, read_j[0])
        knots.insert(0, (read_s[:1], np.array([start_j]), late_s[:1]))
    if after_s > 0.0:
        line_j = _slope(time_s, energy_j, slice(-SLOPE_POINTS, None)) * min(after_s, spacing_s)
        knots.append((read_s[-1:], np.array([energy_j[-1] + line_j]), late_s[-1:]))
    seconds, joules, widths = (np.concatenate(column) for column in zip(*knots, strict=True))
    return seconds, joules, widths


def _slope(time_s: Floats, energy_j: Floats, part: slice) -> float:
    return float((energy_j[part][-1] - energy_j[part][0]) / (time_s[part][-1] - time_s[part][0]))


def _touched(knot_s: Floats, read_s: Floats, suspect: Flags) -> Flags:
    """Which stretches between knots hold the middle of a suspect step between readings."""
    touched = np.zeros(len(knot_s) - 1, dtype=np.bool_)
    middle_s = (read_s[:-1] + read_s[1:])[suspect] / 2.0
    touched[np.clip(np.searchsorted(knot_s, middle_s) - 1, 0, len(touched) - 1)] = True
    return touched


def _frozen(
    knot_s: Floats, knot_j: Floats, bridged: Flags, power: tuple[Floats, Floats], spacing_s: float
) -> Flags:
    """Stretches in which the counter was read, stood still far longer than usual, and tells too little."""
    seconds, watts = np.diff(knot_s), np.diff(knot_j) / np.diff(knot_s)
    still = (seconds > GAP_FACTOR * spacing_s) & ~bridged
    if not still.any():
        return still
    usual_w = float(np.min(watts[~still])) if not still.all() else 0.0
    for stretch in np.flatnonzero(still):
        expected_w = _mean_power(power, knot_s[stretch], knot_s[stretch + 1]) or usual_w
        still[stretch] = watts[stretch] < FROZEN * expected_w
    return still


def power_of(readings: pl.DataFrame) -> tuple[Floats, Floats]:
    """Instants and watts of the power readings that can be believed; none if the rows have no such column."""
    if "power_w" not in readings.columns:
        return np.empty(0), np.empty(0)
    believable = pl.col("power_w").is_finite() & (pl.col("power_w") >= 0.0)
    known = readings.select("time_s", "power_w").drop_nulls().filter(believable).sort("time_s")
    return known["time_s"].to_numpy().astype(np.float64), known["power_w"].to_numpy().astype(np.float64)


def _mean_power(power: tuple[Floats, Floats], start_s: float, end_s: float) -> float | None:
    first, last = np.searchsorted(power[0], (start_s, end_s))
    return float(np.mean(power[1][first:last])) if last > first else None


def _frozen_sentence(seconds: Floats, power: tuple[Floats, Floats]) -> str:
    said = "power readings" if len(power[0]) else "its course before and after"
    return (
        f"its counter stood still for {np.sum(seconds):.3g} s in which {said} say that the device drew power"
    )
