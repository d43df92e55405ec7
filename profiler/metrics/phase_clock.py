"""How many seconds of each phase had passed at any instant of one process's run.

A step's row tells how long each of its phases took, not when: they are laid out in the order in which a training
goes through them, microbatch by microbatch, all microbatches of a step alike. Validations and checkpoints lie where
their marks say; a step that one of them interrupts goes on behind it. What is left is `REST`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from profiler.records import RUN_PHASES, STEP_PHASES, StepPhase

Seconds = NDArray[np.float64]

WHOLE_STEP = "training steps"
"""The steps as a whole, where the phases inside them could not be timed."""

REST = "outside steps"
"""Set-up, loader workers, evaluation by the user's own code: what no phase claims."""

_HARMONICS = 6

_EACH_MICROBATCH: tuple[StepPhase, ...] = ("other", "data", "forward", "backward")


class PhaseClock:
    """Seconds by phase, cumulative.

    Args:
        steps: The steps of one process.
        pauses: Disjoint (start, end) in seconds of each of `RUN_PHASES`.
        parts: Into how many parts of equal length each phase of a step is cut.

    Attributes:
        columns: The phase of each column of every table, `parts` for each phase of a step.
        step_s: Median seconds from one step's start to the next; 0 without two steps.
    """

    def __init__(
        self, steps: pl.DataFrame, pauses: Mapping[str, Sequence[tuple[float, float]]], parts: int = 1
    ) -> None:
        self.columns: tuple[str, ...] = (
            *(phase for phase in STEP_PHASES for _ in range(parts)),
            *(WHOLE_STEP, *RUN_PHASES, REST),
        )
        self._parts = parts
        self._pauses = {
            phase: np.asarray(sorted(windows), dtype=np.float64).reshape(-1, 2)
            for phase, windows in pauses.items()
        }
        known = steps.drop_nulls(["start_s", "duration_s"]).filter(pl.col("duration_s") > 0.0)
        self._step_starts_s = np.sort(known["start_s"].to_numpy())
        between_s = np.diff(self._step_starts_s)
        self.step_s = float(np.median(between_s)) if len(between_s) else 0.0
        timed = pl.all_horizontal(pl.col(f"{phase}_s").is_not_null() for phase in STEP_PHASES)
        pieces = [self._pieces(part) for part in (known.filter(timed), known.filter(~timed)) if len(part)]
        start_s, length_s, column = (
            (np.concatenate(part) for part in zip(*pieces, strict=True))
            if pieces
            else (np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int8))
        )
        # pieces of no length go first: rounding could put them into the midst of others
        order = np.flatnonzero(length_s > 0.0)
        order = order[np.argsort(start_s[order], kind="stable")]
        self._start_s, self._length_s, self._column = start_s[order], length_s[order], column[order]

    def at(self, time_s: Seconds) -> Seconds:
        """Seconds of each phase up to each instant.

        Args:
            time_s: Any shape.

        Returns:
            One axis more than `time_s`; only differences between instants mean anything.
        """
        passed = np.zeros((*time_s.shape, len(self.columns)))
        for phase in RUN_PHASES:
            passed[..., self.columns.index(phase)] = self._paused_s(time_s, phase)
        if len(self._start_s):
            self._add_steps(passed, time_s - passed.sum(axis=-1))
        passed[..., -1] = time_s - passed.sum(axis=-1)
        return passed

    @property
    def totals_s(self) -> Seconds:
        """Seconds of each column over all steps; pauses and the rest have none."""
        return np.bincount(self._column, self._length_s, len(self.columns)).astype(np.float64)

    def pace(self, period_s: float, time_s: Seconds) -> float:
        """How far the steps keep pace with something periodic: 0 not at all, 1 for ever.

        The mean resultant length of the steps' phase at multiples of the period, at the strongest of the first
        harmonics: 1 as well where the step is a small multiple or fraction of the period.
        """
        starts_s = self._step_starts_s
        tick_s = np.arange(time_s[0], time_s[-1], period_s)
        tick_s = tick_s[(tick_s >= starts_s[0]) & (tick_s < starts_s[-1])] if len(starts_s) else tick_s[:0]
        if not len(tick_s):
            return 1.0
        turns = np.interp(tick_s, starts_s, np.arange(len(starts_s)))
        return max(float(np.abs(np.mean(np.exp(2j * np.pi * h * turns)))) for h in range(1, _HARMONICS + 1))

    def _add_steps(self, passed: Seconds, busy_s: Seconds) -> None:
        """Fill the columns of the steps' phases; `busy_s` is time without the pauses before it."""
        piece = np.searchsorted(self._start_s, busy_s, side="right") - 1
        begun = np.maximum(piece, 0)
        into_s = np.where(piece < 0, 0.0, np.minimum(busy_s - self._start_s[begun], self._length_s[begun]))
        for column in np.unique(self._column):
            before_s = np.zeros(len(self._length_s) + 1)
            np.cumsum(np.where(self._column == column, self._length_s, 0.0), out=before_s[1:])
            passed[..., column] = before_s[begun] + np.where(self._column[begun] == column, into_s, 0.0)

    def _paused_s(self, time_s: Seconds, phase: str) -> Seconds:
        windows = self._pauses.get(phase, np.zeros((0, 2)))
        if not len(windows):
            return np.zeros_like(time_s)
        ends = np.cumsum(windows[:, 1] - windows[:, 0])
        knots = np.stack([ends - (windows[:, 1] - windows[:, 0]), ends], axis=1).ravel()
        return np.asarray(np.interp(time_s, windows.ravel(), knots), dtype=np.float64)

    def _pieces(self, steps: pl.DataFrame) -> tuple[Seconds, Seconds, NDArray[np.int8]]:
        """Start in time without pauses, length and column of every stretch of one phase."""
        start_s = steps["start_s"].to_numpy()
        start_s = start_s - sum(self._paused_s(start_s, phase) for phase in RUN_PHASES)
        if steps["forward_s"].null_count():
            whole = np.full(len(steps), self.columns.index(WHOLE_STEP), dtype=np.int8)
            return start_s, steps["duration_s"].to_numpy(), whole
        found = [self._laid_out(start_s[rows], steps[rows], count) for count, rows in _by_microbatches(steps)]
        start, length, column = (np.concatenate(part) for part in zip(*found, strict=True))
        return start, length, column

    def _laid_out(
        self, start_s: Seconds, steps: pl.DataFrame, microbatches: int
    ) -> tuple[Seconds, Seconds, NDArray[np.int8]]:
        order = (*_EACH_MICROBATCH * microbatches, "optimizer")
        pieces = dict.fromkeys(_EACH_MICROBATCH, self._parts * microbatches) | {"optimizer": self._parts}
        length_s = np.stack([steps[f"{phase}_s"].to_numpy() / pieces[phase] for phase in order], axis=1)
        length_s = np.repeat(length_s, self._parts, axis=1)
        begin_s = np.cumsum(np.column_stack([start_s, length_s]), axis=1)[:, :-1]
        column = [self.columns.index(phase) + part for phase in order for part in range(self._parts)]
        return begin_s.ravel(), length_s.ravel(), np.tile(np.array(column, dtype=np.int8), len(steps))


def _by_microbatches(steps: pl.DataFrame) -> list[tuple[int, NDArray[np.int64]]]:
    """Row numbers of the steps of each number of microbatches; one, where it was not recorded."""
    if "num_microbatches" not in steps.columns:
        return [(1, np.arange(len(steps)))]
    counts = steps["num_microbatches"].fill_null(1).clip(1).to_numpy()
    return [(int(count), np.flatnonzero(counts == count)) for count in np.unique(counts)]
