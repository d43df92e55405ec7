"""When an energy counter changed, as well as its readings tell.

A reading that shows a new value says only that the counter changed after the reading before. Taken half way, that
instant errs by tens of milliseconds, and a regression on phases that last as long is drawn towards equal powers
(errors in variables). Two things mend that:

* most counters change at a fixed period: their beat against the readings tells the ticks to a millisecond or so.
  Readings so close to a tick that their side of it is not known are left out;
* what remains unknown is stated as a width, over which whoever uses the instants averages. True instants then
  scatter about the assumed ones, not the other way round (Berkson's error), which biases nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from profiler.metrics.counter import latest_and_width

Seconds = NDArray[np.float64]
Rows = NDArray[np.int64]

BLOCK_S = 30.0
"""A tick is taken to keep its period and phase this long."""

MOST_BLOCKS = 60
"""Of a longer recording, as many blocks in pairs spread evenly over it."""

LONGEST_S = 5.0
"""Changes further apart than this are no neighbours: the counter, or its reader, was away."""

LEAST_PERIOD_S = 0.03
"""A faster counter needs no search: its readings alone tell its changes well enough."""

PERIOD_TOLERANCE = 0.02
"""How far the true period may be from the one that the meter states."""

_BINS = 100
_FEW_GAPS = 30
_SEARCHED_BLOCKS = 4

_MIN_LOG_LIKELIHOOD = 30.0
"""Beat against no beat: well above the best of 10^5 beats tried where there is none (ln 10^5 = 12)."""

_RIVAL = 6.0
_RIVAL_BINS = 5
"""A period whose log-likelihood is within 6 of the best's, and whose ticks part from it by 5 bins, is a rival."""

_SEAM = 0.05
"""Of a period: the most by which the ticks of neighbouring blocks may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """All readings of a counter in order of time, without falls; `period_s` None: it follows continuously.

    `took_s` is how long each took: what it told is of some moment of it.
    `breaks_s` are instants across which what the counter told cannot be believed: a reset, a frozen counter.
    """

    time_s: Seconds
    energy_j: Seconds
    took_s: Seconds
    period_s: float | None
    breaks_s: Seconds = field(default_factory=lambda: np.empty(0))

    def blocks(self) -> Rows:
        """The block of each reading, in order of time, none of them across a break; -1 for those left out."""
        number: Rows = ((self.time_s - self.time_s[0]) // BLOCK_S).astype(np.int64)
        count = int(number[-1]) + 1
        whole = number + count * np.searchsorted(self.breaks_s, self.time_s)
        if count <= MOST_BLOCKS:
            return whole
        first = np.unique(np.linspace(0, count - 2, MOST_BLOCKS // 2).astype(np.int64))
        return np.where(np.isin(number, first) | np.isin(number - 1, first), whole, -1)

    def changed(self) -> NDArray[np.bool_]:
        """Which readings show another value than the one before."""
        return np.concatenate([[False], np.diff(self.energy_j) > 0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Changes of a counter: each happened within the `width_s` before `latest_s`, anywhere in it alike.

    `energy_j` is the counter behind each; `block` the number of the stretch of time that it is in.
    """

    latest_s: Seconds
    width_s: Seconds
    energy_j: Seconds
    block: Rows


def ticks_by_reading(readings: Readings) -> Ticks:
    """Each change somewhere between two readings, at most one period before the second."""
    block = readings.blocks()
    kept = np.flatnonzero(readings.changed() & (block >= 0))
    latest_s, width_s = latest_and_width(readings.time_s, readings.took_s, kept, readings.period_s)
    return Ticks(
        latest_s=latest_s,
        width_s=width_s,
        energy_j=readings.energy_j[kept],
        block=block[kept],
    )


def ticks_by_beat(readings: Readings, expected_j: Callable[[Seconds], Seconds]) -> Ticks | None:
    """Changes at the ticks of a periodic counter; None where no beat is seen.

    Args:
        readings: Of a counter with a period.
        expected_j: About what the device had used up to given instants; only differences over a period or more matter.
    """
    if readings.period_s is None or readings.period_s < LEAST_PERIOD_S:
        return None
    block = readings.blocks()
    stretches = _stretches(readings, block, _told_s(readings, readings.period_s, expected_j))
    period_s = _common_period(stretches[:: -(-len(stretches) // _SEARCHED_BLOCKS) or 1], readings.period_s)
    if period_s is None:
        return None
    latest_s, width_s = readings.time_s.copy(), np.zeros(len(block))
    kept = np.zeros(len(block), dtype=bool)
    beats = _agreeing([_beat_of(stretch, period_s) for stretch in stretches], stretches)
    for beat, rows in ((b, s.rows) for b, s in zip(beats, stretches, strict=True) if b is not None):
        age_s = (readings.time_s[rows] - beat.tick_s) % beat.period_s
        unsure_s = (beat.width_s + readings.took_s[rows]) / 2.0 + beat.period_s / _BINS
        kept[rows] = (age_s > unsure_s) & (age_s < beat.period_s - unsure_s)
        latest_s[rows] -= age_s - beat.width_s / 2.0
        width_s[rows] = beat.width_s
    kept &= readings.changed()
    return Ticks(
        latest_s=latest_s[kept], width_s=width_s[kept], energy_j=readings.energy_j[kept], block=block[kept]
    )


def _told_s(readings: Readings, period_s: float, expected_j: Callable[[Seconds], Seconds]) -> Seconds:
    """Energy between each reading and the one before, as seconds at the power that is expected there.

    How old a reading is, is not known yet: the power expected is the mean over all ages.
    """
    ages_s = period_s * (np.arange(8) + 0.5) / 8
    expected = np.mean([expected_j(readings.time_s - age_s) for age_s in ages_s], axis=0)
    power_w = np.diff(expected) / np.diff(readings.time_s)
    told_s = np.diff(readings.energy_j) / np.maximum(power_w, 1e-3 * np.mean(power_w) + 1e-9)
    return np.concatenate([[0.0], told_s])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Pairs of consecutive readings of one block: when the first was, seconds between them, and told by them."""

    rows: Rows
    origin_s: float
    since_s: Seconds
    gap_s: Seconds
    told_s: Seconds


def _stretches(readings: Readings, block: Rows, told_s: Seconds) -> list[_Stretch]:
    """Of every block with enough pairs that are close together."""
    found = []
    for number in np.unique(block[block >= 0]):
        rows = np.flatnonzero(block == number)
        time_s = readings.time_s[rows]
        gap_s, told = np.diff(time_s), told_s[rows[1:]]
        close = (gap_s < LONGEST_S / 5.0) & (told < LONGEST_S / 5.0)
        if np.count_nonzero(close) >= _FEW_GAPS:
            since_s = time_s[:-1][close] - time_s[0]
            stretch = _Stretch(
                rows=rows, origin_s=float(time_s[0]), since_s=since_s, gap_s=gap_s[close], told_s=told[close]
            )
            found.append(stretch)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beat:
    """Ticks at `tick_s` + n x `period_s`; `tick_s` is known to `width_s`."""

    tick_s: float
    period_s: float
    width_s: float

    def apart(self, other: _Beat, time_s: float) -> float:
        """By how much of a period the ticks of two beats differ at an instant."""
        turns = (time_s - self.tick_s) / self.period_s - (time_s - other.tick_s) / other.period_s
        return abs(turns - round(turns))


def _common_period(stretches: Sequence[_Stretch], period_s: float) -> float | None:
    """The period under which ticks explain all stretches best; None where others do nearly as well."""
    if not stretches:
        return None
    periods = _periods(period_s, PERIOD_TOLERANCE)
    misfit = np.asarray([sum(float(np.min(_misfit(s, float(p)))) for s in stretches) for p in periods])
    noise = float(np.min(misfit)) / sum(len(s.gap_s) for s in stretches) + 1e-12
    likely = periods[misfit - np.min(misfit) < 2.0 * _RIVAL * noise]
    drift_s = float(np.ptp(likely)) / period_s * BLOCK_S
    return float(periods[int(np.argmin(misfit))]) if drift_s <= _RIVAL_BINS / _BINS * period_s else None


def _periods(middle_s: float, spread: float) -> Seconds:
    """Candidates so close that the ticks of the best drift by less than a bin over a block."""
    step = middle_s / BLOCK_S / _BINS
    return middle_s * np.arange(1.0 - spread, 1.0 + spread + step / 2.0, step)


def _beat_of(stretch: _Stretch, period_s: float) -> _Beat | None:
    """The ticks of one block; None where they explain hardly more than any others would."""
    candidates = [(float(p), _misfit(stretch, float(p))) for p in _periods(period_s, 5e-5)]
    found_s, profile = min(candidates, key=lambda candidate: float(np.min(candidate[1])))
    noise = float(np.min(profile)) / len(stretch.gap_s) + 1e-12
    if float(np.mean(profile) - np.min(profile)) / (2.0 * noise) < _MIN_LOG_LIKELIHOOD:
        return None
    likely = np.flatnonzero(profile - np.min(profile) < 4.0 * noise)
    turn = np.angle(np.mean(np.exp(2j * np.pi * (likely + 0.5) / _BINS))) / (2.0 * np.pi)
    width = min(len(likely) + 1, _BINS) / _BINS
    return _Beat(tick_s=stretch.origin_s + float(turn) * found_s, period_s=found_s, width_s=width * found_s)


def _agreeing(beats: Sequence[_Beat | None], stretches: Sequence[_Stretch]) -> list[_Beat | None]:
    """Beats whose ticks go on in the next block or came from the one before: a wrong period shows at the seams."""
    seams = [
        a is not None and b is not None and a.apart(b, later.origin_s) <= _SEAM
        for (a, b), later in zip(pairwise(beats), stretches[1:], strict=True)
    ]
    sides = zip(beats, [False, *seams], [*seams, False], strict=True)
    return [beat if before or after else None for beat, before, after in sides]


def _misfit(stretch: _Stretch, period_s: float) -> Seconds:
    """Sum of squares in s² of what is told less the periods of the ticks, for ticks at each of `_BINS` phases.

    Between two readings lie n or n + 1 ticks: n + 1 for phases within an arc, whose gain is added up by its two ends.
    """
    fewest = np.floor(stretch.gap_s / period_s)
    gain = -2.0 * period_s * (stretch.told_s - period_s * (fewest + 0.5))
    begin = (stretch.since_s / period_s % 1.0) * _BINS
    end = begin + (stretch.gap_s / period_s - fewest) * _BINS
    first, last = begin.astype(np.int64), end.astype(np.int64)
    arcs = np.cumsum(np.bincount(first, gain, 2 * _BINS + 1) - np.bincount(last, gain, 2 * _BINS + 1))
    base = float(np.sum((stretch.told_s - period_s * fewest) ** 2))
    return np.asarray(base + arcs[:_BINS] + arcs[_BINS : 2 * _BINS], dtype=np.float64)
