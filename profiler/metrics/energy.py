"""Energy of windows of time from the readings of one cumulative counter, with its error bar.

Only the instants at which the counter changed are used, with straight lines between them. So windows
telescope: contiguous windows add up to the counter's own difference. A naive difference reads 0 J for most
10-ms steps of a counter that moves every 100 ms.

Error bar of a window (half-widths, combined in quadrature):
    gain    the meter's relative uncertainty x energy; it does not average out
    edge    at each end, straight line against true course: (P_max - P_min) x (change spacing) / 4, and, for a
            counter that moves in steps, the instant of a change is known to half a sampling period: P x period / 2
    gap     (P_max - P_min) x gap / 2 for each stretch in which the counter was silent for long, or was reset
P_min and P_max are those that the run's own readings showed. Not counted here: aliasing of part-time sensors.
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
        meter: The fields of `Meter` as stored: `update_period_s`, `relative_uncertainty`.
    """

    def __init__(self, readings: pl.DataFrame, meter: Mapping[str, Any]) -> None:
        known = readings.select("time_s", "energy_j").drop_nulls().unique("time_s").sort("time_s")
        self._meter = meter
        self._read_s: Seconds = known["time_s"].to_numpy().astype(np.float64)
        energy_j, fell = _without_resets(self._read_s, known["energy_j"].to_numpy().astype(np.float64))
        self._fell = fell
        self._time_s, self._energy_j = _changes(
            self._read_s, energy_j, stepwise=bool(meter["update_period_s"])
        )
        self._spacing_s = float(np.median(np.diff(self._time_s))) if len(self._time_s) > 1 else 0.0
        self._sampling_s = float(np.median(np.diff(self._read_s))) if len(self._read_s) > 1 else 0.0
        power = self.power_w()
        self._power_span_w = float(np.ptp(power)) if len(power) else 0.0
        self._power_mean_w = float(np.mean(power)) if len(power) else 0.0

    @property
    def known(self) -> bool:
        """Whether the counter moved at least twice, so that a straight line can be drawn."""
        return len(self._time_s) > 1

    def power_w(self) -> Seconds:
        """Mean power in watts between consecutive changes of the counter."""
        return np.diff(self._energy_j) / np.diff(self._time_s)

    def changes(self) -> tuple[Seconds, Seconds]:
        """Instants in seconds and cumulative joules at which the counter changed."""
        return self._time_s, self._energy_j

    def at(self, time_s: Seconds) -> Seconds:
        """Cumulative joules at given instants; beyond the first and last change, the nearest line goes on."""
        inside = np.interp(time_s, self._time_s, self._energy_j)
        before = np.minimum(time_s - self._time_s[0], 0.0) * self._slope(slice(None, SLOPE_POINTS))
        after = np.maximum(time_s - self._time_s[-1], 0.0) * self._slope(slice(-SLOPE_POINTS, None))
        return np.asarray(inside + before + after, dtype=np.float64)

    def windows(self, windows: Sequence[tuple[float, float]]) -> Energy | None:
        """Energy of the union of disjoint windows; None if the counter moved less than twice."""
        if not self.known or not windows:
            return None
        edges = np.asarray(windows, dtype=np.float64)
        energy_j = float(np.sum(self.at(edges[:, 1]) - self.at(edges[:, 0])))
        gap_s = sum(self._gap_s(start, end) for start, end in windows)
        length_s = float(np.sum(edges[:, 1] - edges[:, 0]))
        gain = float(self._meter["relative_uncertainty"]) * energy_j
        gap = self._power_span_w * gap_s / 2.0
        bar = float(np.sqrt(gain**2 + 2 * len(windows) * self._edge_j() ** 2 + gap**2))
        coverage = 1.0 - gap_s / length_s if length_s > 0.0 else 1.0
        return Energy(energy_j=energy_j, plus_minus_j=bar, coverage=max(coverage, 0.0))

    def _slope(self, part: slice) -> float:
        time_s, energy_j = self._time_s[part], self._energy_j[part]
        return float((energy_j[-1] - energy_j[0]) / (time_s[-1] - time_s[0]))

    def _edge_j(self) -> float:
        line = self._power_span_w * self._spacing_s / 4.0
        jitter = self._power_mean_w * self._sampling_s / 2.0 if self._meter["update_period_s"] else 0.0
        return line + jitter

    def _gap_s(self, start_s: float, end_s: float) -> float:
        """Seconds of a window that lie in stretches without readings."""
        if end_s <= start_s:
            return 0.0
        usual = max(self._sampling_s, 1e-9) * GAP_FACTOR
        points = np.concatenate(
            [[min(start_s, self._read_s[0])], self._read_s, [max(end_s, self._read_s[-1])]]
        )
        left, right = points[:-1], points[1:]
        fell = np.concatenate([[False], self._fell, [False]])
        silent = ((right - left) > usual) | fell
        overlap = np.minimum(right, end_s) - np.maximum(left, start_s)
        return float(np.sum(np.clip(overlap, 0.0, None)[silent]))


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


def _changes(read_s: Seconds, energy_j: Seconds, *, stepwise: bool) -> tuple[Seconds, Seconds]:
    """When the counter changed, and to what. A stepwise one changed somewhere between two readings: half way.

    The first reading of a stepwise counter is no change; it is kept only if nothing else could carry a line.
    """
    if not stepwise:
        return read_s, energy_j
    moved = np.flatnonzero(np.diff(energy_j) > 0.0) + 1
    if len(moved) < 2:
        moved = np.concatenate([[0], moved]).astype(np.intp) if len(read_s) else moved
        return read_s[moved], energy_j[moved]
    return (read_s[moved] + read_s[moved - 1]) / 2.0, energy_j[moved]
