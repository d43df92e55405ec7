"""Energy of windows of time from the readings of one cumulative counter, with its error bar.

Only the instants at which the counter changed are used, with straight lines between them. So windows
telescope: contiguous windows add up to the counter's own difference. A naive difference reads 0 J for most
10-ms steps of a counter that moves every 100 ms.

Error bar of a window (half-widths, combined in quadrature):
    gain    the meter's relative uncertainty x energy; it does not average out
    edge    at each end, straight line against true course: (P_max - P_min) x (change spacing) / 4, and, for a
            counter that moves in steps, the instant of a change, which lies within the shorter of a sampling and
            an update period before the reading that showed it: P x that period / 2
    gap     (P_max - P_min) x gap / 2 for each stretch that was long without readings, but whose joules the
            counter told afterwards; P_max x gap where nothing told them: a reset, before the first reading or
            after the last, and where the counter stood still at either end
P_min and P_max are those that the run's own readings showed, or, if these are few, 0 and the device's most.
Not counted here: aliasing of part-time sensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

SLOPE_POINTS = 5
"""Changes over which the power beyond the first or last change is taken."""

FEW_POWERS = 5
"""With fewer stretches between changes, the powers seen say little of those that were not."""

GAP_FACTOR = 5.0
"""A stretch this many times longer than usual between two readings is a gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of a window, with half-width and the share of the window that the readings cover."""

    energy_j: float
    plus_minus_j: float
    coverage: float


class EnergyCurve:
    """Cumulative energy of one device over time, to be asked for windows.

    Args:
        readings: Rows of one device with `time_s` and `energy_j`, any order.
        meter: The fields of `Meter` as stored: `update_period_s`, `relative_uncertainty`, `power_max_w`.
    """

    def __init__(self, readings: pl.DataFrame, meter: Mapping[str, Any]) -> None:
        known = readings.select("time_s", "energy_j").drop_nulls().unique("time_s").sort("time_s")
        self._meter = meter
        self._read_s: Seconds = known["time_s"].to_numpy().astype(np.float64)
        read_j, self._fell = _without_resets(self._read_s, known["energy_j"].to_numpy().astype(np.float64))
        self._time_s, self._energy_j = _changes(self._read_s, read_j, meter["update_period_s"])
        self._spacing_s = float(np.median(np.diff(self._time_s))) if len(self._time_s) > 1 else 0.0
        self._sampling_s = float(np.median(np.diff(self._read_s))) if len(self._read_s) > 1 else 0.0
        power = self.power_w()
        self._power_mean_w = float(np.mean(power)) if len(power) else 0.0
        self._power_max_w, self._power_span_w = _power_range(power, meter.get("power_max_w"))
        self._knots = self._with_ends(read_j) if self.known else (self._time_s, self._energy_j)

    @property
    def known(self) -> bool:
        """Whether the counter changed at least twice, so that a straight line can be drawn."""
        return len(self._time_s) > 1 and bool(self._energy_j[-1] > self._energy_j[0])

    def power_w(self) -> Seconds:
        """Mean power in watts between consecutive changes of the counter."""
        return np.diff(self._energy_j) / np.diff(self._time_s)

    def changes(self) -> tuple[Seconds, Seconds]:
        """Instants in seconds and cumulative joules at which the counter changed."""
        return self._time_s, self._energy_j

    def at(self, time_s: Seconds) -> Seconds:
        """Cumulative joules at given instants; beyond the first and last change, the nearest line goes on."""
        knot_s, knot_j = self._knots
        inside = np.interp(time_s, knot_s, knot_j)
        before = np.minimum(time_s - knot_s[0], 0.0) * self._slope(slice(None, SLOPE_POINTS))
        after = np.maximum(time_s - knot_s[-1], 0.0) * self._slope(slice(-SLOPE_POINTS, None))
        return np.asarray(inside + before + after, dtype=np.float64)

    def windows(self, windows: Sequence[tuple[float, float]]) -> Energy | None:
        """Energy of the union of disjoint windows; None if the counter moved less than twice."""
        if not self.known or not windows:
            return None
        edges = np.asarray(windows, dtype=np.float64)
        energy_j = float(np.sum(self.at(edges[:, 1]) - self.at(edges[:, 0])))
        bridged_s, lost_s = (sum(gaps) for gaps in zip(*(self._gaps_s(*w) for w in windows), strict=True))
        length_s = float(np.sum(edges[:, 1] - edges[:, 0]))
        gain = float(self._meter["relative_uncertainty"]) * energy_j
        gap = self._power_span_w * bridged_s / 2.0 + self._power_max_w * lost_s
        bar = float(np.sqrt(gain**2 + 2 * len(windows) * self._edge_j() ** 2 + gap**2))
        coverage = 1.0 - (bridged_s + lost_s) / length_s if length_s > 0.0 else 1.0
        return Energy(energy_j=energy_j, plus_minus_j=bar, coverage=max(coverage, 0.0))

    def _slope(self, part: slice) -> float:
        time_s, energy_j = self._time_s[part], self._energy_j[part]
        return float((energy_j[-1] - energy_j[0]) / (time_s[-1] - time_s[0]))

    def _with_ends(self, read_j: Seconds) -> tuple[Seconds, Seconds]:
        """The changes, and the lines beyond them up to the first and last reading, within what these allow.

        A counter that was read without a change has used less than one change's joules since the last.
        """
        first_s = min(self._read_s[0], self._time_s[0])
        line_j = self._slope(slice(None, SLOPE_POINTS)) * (self._time_s[0] - first_s)
        last_s = max(self._read_s[-1], self._time_s[-1])
        late_s = min(last_s - self._time_s[-1], self._spacing_s)
        start_j = max(self._energy_j[0] - line_j, read_j[0])
        end_j = self._energy_j[-1] + self._slope(slice(-SLOPE_POINTS, None)) * late_s
        return (
            np.concatenate([[first_s], self._time_s, [last_s]]),
            np.concatenate([[start_j], self._energy_j, [end_j]]),
        )

    def _edge_j(self) -> float:
        line = self._power_span_w * self._spacing_s / 4.0
        jitter = self._power_mean_w * min(self._sampling_s, self._meter["update_period_s"] or 0.0) / 2.0
        return line + jitter

    def _gaps_s(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Seconds of a window without readings: those whose joules were told afterwards, and those never told."""
        if end_s <= start_s:
            return 0.0, 0.0
        usual_s = max(self._sampling_s, 1e-9) * GAP_FACTOR
        still_s = max(self._sampling_s, self._spacing_s) * GAP_FACTOR
        live = np.flatnonzero(
            (self._read_s >= self._time_s[0] - still_s) & (self._read_s <= self._time_s[-1] + still_s)
        )
        read_s = self._read_s[live]
        points = np.concatenate([[min(start_s, read_s[0])], read_s, [max(end_s, read_s[-1])]])
        left, right = points[:-1], points[1:]
        long = (right - left) > usual_s
        untold = np.concatenate([[long[0]], self._fell[live[:-1]], [long[-1]]])
        overlap = np.clip(np.minimum(right, end_s) - np.maximum(left, start_s), 0.0, None)
        return float(np.sum(overlap[long & ~untold])), float(np.sum(overlap[untold]))


def _power_range(power_w: Seconds, most_w: float | None) -> tuple[float, float]:
    """The most power in watts that the device may have drawn, and how far below that it may have been."""
    if not len(power_w):
        return 0.0, 0.0
    highest_w = float(np.max(power_w))
    if len(power_w) >= FEW_POWERS:
        return highest_w, highest_w - float(np.min(power_w))
    highest_w = max(highest_w, most_w or 0.0)
    return highest_w, highest_w


def _without_resets(time_s: Seconds, energy_j: Seconds) -> tuple[Seconds, NDArray[np.bool_]]:
    """The counter with falls (driver reload) bridged, and which of its steps were falls.

    What was used across a fall is unknown; it is bridged at the power of the steps around it, and counts as a gap.
    """
    steps, seconds = np.diff(energy_j), np.diff(time_s)
    fell = steps < 0.0
    if fell.any() and not fell.all():
        middle_s = time_s[1:] - seconds / 2.0
        steps[fell] = np.interp(middle_s[fell], middle_s[~fell], (steps / seconds)[~fell]) * seconds[fell]
    return np.concatenate([energy_j[:1], energy_j[:1] + np.cumsum(np.clip(steps, 0.0, None))]), fell


def _changes(read_s: Seconds, energy_j: Seconds, update_period_s: float | None) -> tuple[Seconds, Seconds]:
    """When the counter changed, and to what.

    One that moves in steps did so after the reading before, and no earlier than an update period ago: half way.
    Its first reading is no change. One that follows continuously changed whenever it was read.
    """
    if not update_period_s:
        return read_s, energy_j
    moved = np.flatnonzero(np.diff(energy_j) > 0.0) + 1
    late_s = np.minimum(read_s[moved] - read_s[moved - 1], update_period_s) / 2.0
    return read_s[moved] - late_s, energy_j[moved]
