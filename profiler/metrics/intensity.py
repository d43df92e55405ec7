"""The carbon intensity that a run's energy met: one number, or a series weighted by the energy of each interval.

A series is anchored at the wall clock that each process noted when its own clock stood at 0. The energy of an
interval is a window of the energy curve like any other, so intervals add up to the run's energy, and cutting one in
two changes nothing. Mean power times mean intensity would be wrong where a run is hungry at night and idle by day.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiler.carbon.factors import CarbonFactors, IntensityKind, national_intensity
from profiler.carbon.series import IntensitySeries, Interval, Span, have_spread, utc
from profiler.metrics.devices import DeviceCurve, Windows, fit_windows
from profiler.store.process import StoredProcess
from profiler.words import counted

_NOT_GIVEN = "no country is assumed: give --country or --carbon-intensity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """gCO2e/kWh of the run's energy; `low` and `high` are the same where the source states no spread."""

    g_per_kwh: float
    low: float
    high: float
    has_spread: bool
    kind: IntensityKind | None
    source: str


def intensity_over(
    factors: CarbonFactors,
    energy_j: float | None,
    curves: Sequence[DeviceCurve],
    windows: Callable[[StoredProcess], Windows],
) -> tuple[Intensity | None, str | None]:
    """The intensity, or None and why it is unknown.

    Args:
        factors: Country, intensity or series.
        energy_j: Of the curves over the windows; None if unknown.
        curves: The devices whose energy meets the grid.
        windows: The part of each process's time that is meant.
    """
    if factors.series is not None:
        return _of_series(factors.series, factors.intensity_kind, energy_j, curves, windows)
    if factors.intensity_g_per_kwh is not None:
        return _constant(factors.intensity_g_per_kwh, factors.intensity_kind, "given"), None
    if factors.country is not None:
        return _constant(*_national(factors.country)), None
    return None, _NOT_GIVEN


def _national(country: str) -> tuple[float, IntensityKind, str]:
    value, source = national_intensity(country)
    return value, "average", source


def _constant(value: float, kind: IntensityKind | None, source: str) -> Intensity:
    return Intensity(g_per_kwh=value, low=value, high=value, has_spread=False, kind=kind, source=source)


def _of_series(
    series: IntensitySeries,
    kind: IntensityKind | None,
    energy_j: float | None,
    curves: Sequence[DeviceCurve],
    windows: Callable[[StoredProcess], Windows],
) -> tuple[Intensity | None, str | None]:
    spans = wall_spans([curve.process for curve in curves], windows)
    if energy_j is None or not spans:
        return (
            None,
            "nothing is known of when the run used energy, so no interval of the series can be chosen",
        )
    holes = series.uncovered(spans)
    if holes:
        return None, _why_uncovered(series, holes)
    rows = series.within(spans)
    weights = joules_by_interval(rows, curves, windows)
    if not weights.sum() > 0.0:  # no energy, or none that can be divided: by time
        weights = np.array([_overlap_s(row, spans) for row in rows])
    mean, low, high = (
        float(np.average([row[column] for row in rows], weights=weights)) for column in (2, 3, 4)
    )
    source = f"{series.source}: " + (
        "one interval" if len(rows) == 1 else f"{len(rows)} intervals, weighted by the energy in each"
    )
    return Intensity(
        g_per_kwh=mean, low=low, high=high, has_spread=have_spread(rows), kind=kind, source=source
    ), None


def joules_by_interval(
    rows: Sequence[Interval],
    curves: Sequence[DeviceCurve],
    windows: Callable[[StoredProcess], Windows],
) -> NDArray[np.float64]:
    """Joules of the curves, within the windows, in each interval of a series, shape (rows,)."""
    starts, ends = (np.array([row[column] for row in rows], dtype=np.float64) for column in (0, 1))
    joules = np.zeros(len(rows))
    for curve in curves:
        offset_s = float(curve.process.facts.clock["wall_unix_s"])
        for start_s, end_s in windows(curve.process):
            edges = [np.clip(instants - offset_s, start_s, end_s) for instants in (starts, ends)]
            joules += curve.curve.at(edges[1]) - curve.curve.at(edges[0])
    return joules


def wall_spans(
    processes: Sequence[StoredProcess], windows: Callable[[StoredProcess], Windows] = fit_windows
) -> list[Span]:
    """The windows of all processes in Unix seconds."""
    return [span for process in processes for span in _on_wall(process, windows)]


def _on_wall(process: StoredProcess, windows: Callable[[StoredProcess], Windows]) -> list[Span]:
    offset_s = float(process.facts.clock["wall_unix_s"])
    return [(start + offset_s, end + offset_s) for start, end in windows(process)]


def _overlap_s(row: Interval, spans: Sequence[Span]) -> float:
    return sum(max(min(row.end_s, end) - max(row.start_s, start), 0.0) for start, end in spans)


def _why_uncovered(series: IntensitySeries, holes: Sequence[Span]) -> str:
    if series.missing is not None:
        return series.missing
    first = f"{utc(holes[0][0])} to {utc(holes[0][1])}"
    more = f", nor {counted(len(holes) - 1, 'more stretch', 'more stretches')}" if len(holes) > 1 else ""
    return (
        f"the carbon series {series.source} does not cover {first} of the run{more}, and no intensity is made up."
        " Give a series that does, with --carbon-series"
    )
