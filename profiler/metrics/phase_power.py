"""How the joules of steps divide among their phases, where the counter is slower than the phases.

Between two changes of the counter it told E_i joules, and phase p took t_ip seconds: E_i = sum over p of P_p t_ip
with P >= 0, by least squares over all changes. What tells the phases apart is the beat between the counter's period and
the steps', steps of different length, waits, and pauses.

The half-width of a share (95 %) is made of three parts, in quadrature:
    sampling    a bootstrap over blocks of time
    timing      what changes if all changes came half of their uncertainty earlier or later
    shape       1.5 times what changes if each phase may draw twice as many powers, one after the other
Of the true shares of scripted runs (steps of 15 ms to 2 s, counters of 10 to 100 ms), 99 % lie inside; with the first
part alone it was 76 % (`benchmarks/phase_energy.py`). The gain of the meter is not in it.

Refused with the reason, for all phases or for one: too few changes or too short a time; phases that never vary against
each other; steps that keep pace with a counter whose ticks are not known.

Not counted: a counter that tells late what was used (its delay moves joules to the phase after).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from profiler.metrics.counter_ticks import LONGEST_S, Readings, Ticks, ticks_by_beat, ticks_by_reading
from profiler.metrics.phase_clock import PhaseClock
from profiler.records import STEP_PHASES
from profiler.words import counted

Table = NDArray[np.float64]

FEW_CHANGES = 100
"""Changes of the counter below which nothing is divided."""

BLOCKS = 30
LEAST_BLOCK_S = 2.0
FEW_BLOCKS = 12
"""Stretches of time that are drawn with replacement: 30, but none under 2 s; fewer than 12 tell no interval."""

MOST_INFLATION = 1e4
"""By how much phases that go together may inflate each other's variance (the variance inflation factor)."""

PACE = 0.5
"""How far steps may keep pace with a counter whose ticks are not known: 0 not at all, 1 for ever."""

BEAT_GAIN = 0.5
"""Ticks found by their beat are taken if they leave less than this of what readings alone leave unexplained."""

LONG_STEP = 10.0
"""A step of so many periods of the counter tells the course of power inside its phases, too."""

ALIKE = "it never varied against the other phases between two changes of the counter: the steps are too alike"
NO_JOULES = "in some part of the run the counter told no joules of the steps at all"
IN_PACE = (
    "the steps keep pace with the counter's updates, and the instants of these are not known well enough"
)

_RESAMPLES = 400
_SHAPE = 1.5
_SMEAR_S = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Shares of the steps' energy by phase, adding up to 1, and their half-widths; or why a phase has none."""

    share: Mapping[str, float]
    half_width: Mapping[str, float]
    refused: Mapping[str, str]


def divide(
    clock_of: Callable[[int], PhaseClock], readings: Readings, phases: Sequence[str] = STEP_PHASES
) -> Division:
    """Divide the energy of steps among their phases.

    Args:
        clock_of: Makes the clock of the process whose device was read, with so many parts a phase.
        readings: Of its counter inside the fit.
        phases: Those that took time.

    Returns:
        Shares of all phases, also of those refused, or of none if nothing can be divided.
    """
    try:
        return _divided(clock_of, readings, phases)
    except _Refusal as refusal:
        return Division(share={}, half_width={}, refused=dict.fromkeys(phases, str(refusal)))


class _Refusal(Exception):
    """Why nothing can be divided."""


def _divided(clock_of: Callable[[int], PhaseClock], readings: Readings, phases: Sequence[str]) -> Division:
    _check_length(readings)
    parts = 1 if clock_of(1).step_s < LONG_STEP * (readings.period_s or 0.0) else 2
    clock = clock_of(parts)
    ticks = _ticks(clock, readings)
    fit = _Fit(clock, ticks, phases)
    whole = fit if parts == 1 else _Fit(clock_of(1), ticks, phases)
    refused = {phase: ALIKE for phase in phases if whole.inflation(phase) > MOST_INFLATION}
    timing = np.max([np.abs(fit.shifted(by) - fit.share) for by in (-0.5, 0.5)], axis=0)
    share, sampling = fit.share, _sampling(fit)
    del clock, fit, whole  # of a day they hold hundreds of megabytes, and the next one more
    shape = _SHAPE * (_Fit(clock_of(2 * parts), ticks, phases).share - share)
    half_width = np.sqrt(sampling**2 + timing**2 + shape**2)
    return Division(
        share=dict(zip(phases, share.tolist(), strict=True)),
        half_width=dict(zip(phases, half_width.tolist(), strict=True)),
        refused=refused,
    )


def _check_length(readings: Readings) -> None:
    changes = int(np.count_nonzero(readings.changed()))
    if changes < FEW_CHANGES:
        raise _Refusal(
            f"the counter changed {counted(changes, 'time')}, and it takes {FEW_CHANGES} to tell phases apart"
        )
    covered_s, least_s = float(np.ptp(readings.time_s)), FEW_BLOCKS * LEAST_BLOCK_S
    if covered_s < least_s:
        raise _Refusal(
            f"the counter was read for {covered_s:.0f} s, and it takes {least_s:.0f} s to tell phases apart"
        )


def _ticks(clock: PhaseClock, readings: Readings) -> Ticks:
    """Those found by their beat, if they explain the energies much better; else by the readings alone."""
    by_reading = ticks_by_reading(readings)
    plain = _design(clock, by_reading)
    powers = _powers(*plain.normal_equations())
    by_beat = ticks_by_beat(readings, lambda time_s: clock.at(time_s) @ powers)
    if by_beat is not None and len(by_beat.latest_s) > len(by_reading.latest_s) / 2:
        found = _design(clock, by_beat)
        if found.misfit_w() < BEAT_GAIN * plain.misfit_w():
            return by_beat
    if readings.period_s and clock.pace(readings.period_s, readings.time_s) > PACE:
        raise _Refusal(IN_PACE)
    return by_reading


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """Between consecutive changes of the counter: the share of time of each column, and the mean power in watts."""

    share: Table
    power_w: Table
    end_s: Table

    def normal_equations(self, rows: NDArray[np.bool_] | slice = slice(None)) -> tuple[Table, Table]:
        """X'X and X'y over some rows."""
        share, power_w = self.share[rows], self.power_w[rows]
        return share.T @ share, share.T @ power_w

    def misfit_w(self) -> float:
        """Root mean square of what constant powers leave unexplained."""
        left = self.share @ _powers(*self.normal_equations()) - self.power_w
        return float(np.sqrt(np.mean(left**2)))


def _design(clock: PhaseClock, ticks: Ticks) -> _Design:
    """Seconds are means over when each change may have been: errors are then Berkson's, and bias nothing."""
    points = int(np.clip(np.ceil(np.max(ticks.width_s, initial=0.0) / _SMEAR_S), 1, 25))
    back = (np.arange(points) + 0.5) / points
    passed = np.mean([clock.at(ticks.latest_s - part * ticks.width_s) for part in back], axis=0)
    seconds, energy_j = np.diff(passed, axis=0), np.diff(ticks.energy_j)
    length_s = seconds.sum(axis=1)
    usual_s = float(np.median(length_s)) if len(length_s) else 0.0
    kept = (np.diff(ticks.block) == 0) & (length_s > usual_s / 4.0) & (length_s < LONGEST_S)
    return _Design(
        share=seconds[kept] / length_s[kept, None],
        power_w=energy_j[kept] / length_s[kept],
        end_s=ticks.latest_s[1:][kept],
    )


class _Fit:
    """Powers by column over all changes, and the shares of the phases that follow.

    Attributes:
        share: Of each phase, adding up to 1.
        grams, moments: X'X and X'y of each block of time.
    """

    def __init__(self, clock: PhaseClock, ticks: Ticks, phases: Sequence[str]) -> None:
        self._clock, self._ticks = clock, ticks
        design = _design(clock, ticks)
        self._seconds = clock.totals_s * [[column == phase for column in clock.columns] for phase in phases]
        self._names = clock.columns
        blocks = _blocks(design.end_s)
        self.grams, self.moments = (
            np.stack(tables)
            for tables in zip(*(design.normal_equations(rows) for rows in blocks), strict=True)
        )
        self.share = self.shares(self.grams.sum(axis=0), self.moments.sum(axis=0))

    def shares(self, gram: Table, moment: Table) -> Table:
        """Of each phase, from normal equations."""
        energy_j = self._seconds @ _powers(gram, moment)
        if not energy_j.sum() > 0.0:
            raise _Refusal(NO_JOULES)
        return np.asarray(energy_j / energy_j.sum(), dtype=np.float64)

    def shifted(self, by: float) -> Table:
        """Shares if all changes came later by a part of their uncertainty."""
        ticks = replace(self._ticks, latest_s=self._ticks.latest_s + by * self._ticks.width_s)
        return self.shares(*_design(self._clock, ticks).normal_equations())

    def inflation(self, phase: str) -> float:
        """The variance inflation factor of a phase against all others, without a constant."""
        return max(float(f) for f, name in zip(self._inflations, self._names, strict=True) if name == phase)

    @cached_property
    def _inflations(self) -> Table:
        gram = self.grams.sum(axis=0)
        there = np.flatnonzero(np.diag(gram) > 0.0)
        scale = np.sqrt(np.diag(gram)[there])
        values, vectors = np.linalg.eigh(gram[np.ix_(there, there)] / np.outer(scale, scale))
        found = np.zeros(len(gram))
        found[there] = (vectors**2 / np.maximum(values, 1e-15)).sum(axis=1)
        return found


def _blocks(time_s: Table) -> list[NDArray[np.bool_]]:
    """Rows of each of about `BLOCKS` stretches of time."""
    covered_s = float(time_s[-1] - time_s[0])
    block = ((time_s - time_s[0]) / max(covered_s / BLOCKS, LEAST_BLOCK_S)).astype(np.int64)
    numbers = np.unique(block)
    if len(numbers) < FEW_BLOCKS - 1:  # the ends of what was read may hold no change
        raise _Refusal(f"the counter told changes in {len(numbers)} of {BLOCKS} parts of the run only")
    return [block == number for number in numbers]


def _powers(gram: Table, moment: Table) -> Table:
    """Watts by column, none negative: non-negative least squares from the normal equations."""
    from scipy.optimize import nnls  # 0.2 s to import, and only measured runs with phases need it

    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    values = np.maximum(values, 1e-12 * values[-1])
    root = np.sqrt(values)[:, None] * vectors.T
    solution, _ = nnls(root, (vectors.T @ (moment / scale)) / np.sqrt(values))
    return np.asarray(np.where(np.diag(gram) > 0.0, solution / scale, 0.0), dtype=np.float64)


def _sampling(fit: _Fit) -> Table:
    """Half-widths from blocks drawn with replacement; few blocks make Student's t wide."""
    from scipy.stats import t

    blocks = len(fit.grams)
    random = np.random.default_rng(0)
    counts = random.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=_RESAMPLES)
    drawn = zip(np.tensordot(counts, fit.grams, 1), counts @ fit.moments, strict=True)
    draws = np.stack([fit.shares(gram, moment) for gram, moment in drawn])
    columns = int(np.count_nonzero(np.diag(fit.grams.sum(axis=0))))
    freedom = max(blocks - columns, 3)
    deviation = np.sqrt(np.mean((draws - fit.share) ** 2, axis=0) * blocks / freedom)
    return np.asarray(float(t.ppf(0.975, freedom)) * deviation, dtype=np.float64)
