"""Energy of windows of time from the readings of one cumulative counter, with its error bar.

Only the instants at which the counter changed are used, with straight lines between them. So windows
telescope: contiguous windows add up to the counter's own difference. A naive difference reads 0 J for most
10-ms steps of a counter that moves every 100 ms.

Error bar of a window, for 95 of 100 windows: U² = gain² + edge² + gap² + alias², with
    gain    the meter's relative uncertainty x energy; it does not average out
    edge    of the stretch between two changes in which an end of the window lies, two terms in quadrature. Line: the
            power inside the stretch is not known; if the window covers the share u of it, the worst case is
            D u (1 - u) x its seconds, where D is how much power varies thereabouts. Late: the instant of a change is
            known to an interval only, between two readings and within the calls that told them; the window's weight
            on that change x the power there x the interval
    gap     the same line term, with the span of all powers, for a stretch in which readings are missing but whose
            joules the counter told afterwards (nothing if the window holds it whole); the most power x seconds where
            nothing told them: a reset, a frozen counter, before the first reading, after the last
    alias   of a part-time sensor and a periodic load: given by the caller (`metrics.aliasing`)
The two factors were found over random traces played to a fake NVML library: `make bench-accuracy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from profiler.metrics.counter import SLOPE_POINTS, Course, Floats, course_of, power_of

LATE = 0.57
"""Half-width for 95 % of an instant spread evenly over an interval, in units of that interval's width."""

LINE = 0.6
"""Share of the worst case of the line term; windows of 10 and 100 ms are then covered without a gain to help them."""

NEAR = 2
"""Stretches to either side in which power is taken to vary as much as in between."""

FEW_POWERS = 5
"""With fewer stretches between changes, the powers seen say little of those that were not."""

SOME_POWERS = 20
"""With fewer, the neighbours of a stretch say little of how much power varies in it; all of them count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of a window, with half-width and the share of the window that the readings cover.

    `at_least_j` is what the counter itself told, less its error: without what was filled in where nothing told it.
    """

    energy_j: float
    plus_minus_j: float
    coverage: float
    at_least_j: float

    @property
    def is_knowledge(self) -> bool:
        """Whether the bar is no wider than the value; otherwise only `at_least_j` can be stated."""
        return self.plus_minus_j <= self.energy_j


class EnergyCurve:
    """Cumulative energy of one device over time, to be asked for windows.

    Args:
        readings: Rows of one device with `time_s`, `energy_j` and, maybe, `power_w`, any order.
        meter: The fields of `Meter` as stored: `update_period_s`, `relative_uncertainty`, `power_max_w`.
        asleep: Seconds between which the machine slept.

    Attributes:
        faults: A sentence for everything that was wrong with the readings.
    """

    def __init__(
        self, readings: pl.DataFrame, meter: Mapping[str, Any], asleep: Sequence[tuple[float, float]] = ()
    ) -> None:
        self._meter = meter
        self._course, self.faults = course_of(readings, meter, asleep)
        if self._course is not None:
            self._seconds: Floats = np.diff(self._course.time_s)
            self._watts: Floats = np.diff(self._course.energy_j) / self._seconds
            self._power_max_w, span_w = _power_range(self._watts, meter.get("power_max_w"))
            near_w = _varies(self._course.time_s, self._watts, readings)
            few = len(self._watts) < SOME_POWERS
            self._varies_w = np.where(self._course.bridged | few, span_w, np.minimum(near_w, span_w))

    @property
    def course(self) -> Course | None:
        """What the readings say of the counter; None if it changed less than twice."""
        return self._course

    @property
    def known(self) -> bool:
        """Whether the counter changed at least twice, so that a straight line can be drawn."""
        return self._course is not None

    def power_w(self) -> Floats:
        """Mean power in watts between consecutive changes of the counter."""
        time_s, energy_j = self.changes()
        return np.diff(energy_j) / np.diff(time_s)

    def changes(self) -> tuple[Floats, Floats]:
        """Instants in seconds and cumulative joules at which the counter changed."""
        if self._course is None:
            return np.empty(0), np.empty(0)
        return self._course.time_s[self._course.changes], self._course.energy_j[self._course.changes]

    def at(self, time_s: Floats) -> Floats:
        """Cumulative joules at given instants; beyond the first and last reading, the nearest line goes on."""
        assert self._course is not None
        knot_s, knot_j = self._course.time_s, self._course.energy_j
        changed_s, changed_j = self.changes()
        first, last = slice(None, SLOPE_POINTS), slice(-SLOPE_POINTS, None)
        before = np.minimum(time_s - knot_s[0], 0.0) * _slope(changed_s[first], changed_j[first])
        after = np.maximum(time_s - knot_s[-1], 0.0) * _slope(changed_s[last], changed_j[last])
        return np.asarray(np.interp(time_s, knot_s, knot_j) + before + after, dtype=np.float64)

    def windows(self, windows: Sequence[tuple[float, float]], alias_j: float = 0.0) -> Energy | None:
        """Energy of the union of disjoint windows; None if the counter moved less than twice.

        Args:
            windows: Start and end in seconds of each.
            alias_j: Half-width of what aliasing may have done to them.
        """
        if self._course is None or not windows:
            return None
        start_s, end_s = np.asarray(windows, dtype=np.float64).T
        energy_j = float(np.sum(self.at(end_s) - self.at(start_s)))
        length_s = float(np.sum(end_s - start_s))
        covered_s = self._covered_s(start_s, end_s)
        untold_s = length_s - float(np.sum(covered_s[~self._course.untold]))
        gap_j = self._power_max_w * untold_s
        gain = float(self._meter["relative_uncertainty"])
        known_j = float(np.hypot(self._edge_j(start_s, end_s, covered_s), alias_j))
        told_j = float(np.sum(covered_s * np.where(self._course.untold, 0.0, self._watts)))
        missing_s = untold_s + float(np.sum(covered_s[self._course.bridged]))
        return Energy(
            energy_j=energy_j,
            plus_minus_j=float(np.sqrt((gain * energy_j) ** 2 + known_j**2 + gap_j**2)),
            coverage=round(float(np.clip(1.0 - missing_s / length_s, 0.0, 1.0)), 9)
            if length_s > 0.0
            else 1.0,
            at_least_j=max(told_j - float(np.hypot(gain * told_j, known_j)), 0.0),
        )

    def _covered_s(self, start_s: Floats, end_s: Floats) -> Floats:
        """Seconds of each stretch that the windows cover."""
        assert self._course is not None
        knot_s = self._course.time_s
        covered_s = np.zeros(len(self._seconds))
        for start, end in zip(start_s, end_s, strict=True):
            first, last = np.searchsorted(knot_s, (start, end))
            part = slice(max(int(first) - 1, 0), int(last))
            overlap = np.minimum(knot_s[1:][part], end) - np.maximum(knot_s[:-1][part], start)
            covered_s[part] += np.clip(overlap, 0.0, None)
        return covered_s

    def _edge_j(self, start_s: Floats, end_s: Floats, covered_s: Floats) -> float:
        """Half-width from what is not known of the course between changes, and of the instants of these."""
        assert self._course is not None
        share = covered_s / self._seconds
        open_end = np.ones(len(share), dtype=np.bool_)
        open_end[self._course.changes.start : self._course.changes.stop - 1] = False
        form = np.where(open_end, share, share * (1.0 - share) * np.where(self._course.bridged, 1.0, LINE))
        line_j = np.where(self._course.untold, 0.0, form * self._varies_w * self._seconds)
        weight = self._weights(end_s) - self._weights(start_s)
        padded = np.concatenate([self._watts[:1], self._watts, self._watts[-1:]])
        late_j = LATE * weight * self._course.late_s * (padded[:-1] + padded[1:]) / 2.0
        # Readings that drift slowly past the updates find neighbouring changes late by as much.
        alike = np.maximum(late_j[:-1] * late_j[1:], 0.0)
        return float(np.sqrt(np.sum(line_j**2) + np.sum(late_j**2) + 2.0 * np.sum(alike)))

    def _weights(self, time_s: Floats) -> Floats:
        """How much of each knot's joules straight lines give to the curve at these instants, all together."""
        assert self._course is not None
        knot_s = self._course.time_s
        weight = np.zeros(len(knot_s))
        left = np.clip(np.searchsorted(knot_s, time_s) - 1, 0, len(knot_s) - 2)
        share = np.clip((time_s - knot_s[left]) / self._seconds[left], 0.0, 1.0)
        np.add.at(weight, left, 1.0 - share)
        np.add.at(weight, left + 1, share)
        return weight


def _slope(time_s: Floats, energy_j: Floats) -> float:
    return float((energy_j[-1] - energy_j[0]) / (time_s[-1] - time_s[0]))


def _power_range(watts: Floats, most_w: float | None) -> tuple[float, float]:
    """The most power in watts that the device may have drawn, and how far below what was seen it may have been."""
    seen_w = float(np.max(watts))
    highest_w = max(seen_w, most_w or 0.0)
    return highest_w, highest_w if len(watts) < FEW_POWERS else seen_w - float(np.min(watts))


def _varies(knot_s: Floats, watts: Floats, readings: pl.DataFrame) -> Floats:
    """How far apart powers lie, in watts, around each stretch: those between changes, and those that were read."""
    low, high = watts.copy(), watts.copy()
    time_s, power_w = power_of(readings)
    inside = (time_s >= knot_s[0]) & (time_s <= knot_s[-1])
    stretch = np.clip(np.searchsorted(knot_s, time_s[inside]) - 1, 0, len(watts) - 1)
    np.minimum.at(low, stretch, power_w[inside])
    np.maximum.at(high, stretch, power_w[inside])
    return _rolling(high, np.maximum) - _rolling(low, np.minimum)


def _rolling(values: Floats, better: np.ufunc) -> Floats:
    """The extreme of each value and its `NEAR` neighbours to either side."""
    padded = np.pad(values, NEAR, mode="edge")
    shifted = [padded[i : i + len(values)] for i in range(2 * NEAR + 1)]
    return np.asarray(better.reduce(shifted), dtype=np.float64)
