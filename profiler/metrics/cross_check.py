"""A GPU's energy counter against its own power readings, integrated over the same time: two views of one thing.

They can disagree (187 J against 327 J for one window, zeus#181). Neither is then known to be right, so both are said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from profiler.metrics.counter import GAP_FACTOR
from profiler.metrics.energy import EnergyCurve

FEW_READINGS = 100
"""Power varies between two readings; over fewer than these the integral says too little."""

MOST_OFF = 0.10

_COLUMNS = (("power_w", "instantaneous"), ("average_power_w", "averaged"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """Joules of the same seconds by the counter and by integrating `kind` power readings."""

    counter_j: float
    integrated_j: float
    kind: str

    @property
    def ratio(self) -> float:
        """Counter over integral."""
        return self.counter_j / self.integrated_j

    def warning(self) -> str | None:
        """A sentence if they disagree."""
        if abs(self.ratio - 1.0) <= MOST_OFF:
            return None
        return (
            f"WARNING: its counter and its power readings disagree: {self.counter_j:.4g} J by the counter, "
            f"{self.integrated_j:.4g} J by integrating {self.kind} power over the same time (ratio "
            f"{self.ratio:.2f}). Neither is known to be right"
        )


def cross_check(
    curve: EnergyCurve, readings: pl.DataFrame, windows: Sequence[tuple[float, float]]
) -> CrossCheck | None:
    """Both sums over the part of the windows between power readings that follow each other closely.

    Args:
        curve: The counter's.
        readings: Rows of the same device.
        windows: Start and end in seconds of each.

    Returns:
        None where there are too few power readings, or the counter is not known.
    """
    if not curve.known:
        return None
    for column, kind in _COLUMNS:
        known = readings.select("time_s", column).drop_nulls().filter(pl.col(column).is_finite())
        inside = [known.filter(pl.col("time_s").is_between(*window)).sort("time_s") for window in windows]
        if sum(len(frame) for frame in inside) < FEW_READINGS:
            continue
        sums = np.sum([_both(curve, frame) for frame in inside if len(frame) > 1], axis=0)
        if sums[1] > 0.0:
            return CrossCheck(counter_j=float(sums[0]), integrated_j=float(sums[1]), kind=kind)
    return None


def _both(curve: EnergyCurve, power: pl.DataFrame) -> tuple[float, float]:
    """Joules by the counter and by the trapezoid rule, without stretches in which no power was read."""
    time_s, watts = power.to_numpy().T
    seconds = np.diff(time_s)
    close = seconds <= GAP_FACTOR * np.median(seconds)
    joules = (watts[1:] + watts[:-1]) / 2.0 * seconds
    return float(np.sum(np.diff(curve.at(time_s))[close])), float(np.sum(joules[close]))
