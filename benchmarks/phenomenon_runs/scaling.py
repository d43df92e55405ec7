"""The verdict of lm's sweep: does the loss fall with size and with data, beyond the error bars?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

LEAST = 3
"""Sizes and token budgets that a sweep must have."""

CRITERION = (
    f"of at least {LEAST} sizes N and {LEAST} token budgets D, all trained: between neighbours, N at the same D and D"
    " at the same N, the validation loss never rises by more than their error bars together (root of the sum of"
    " squares); and from the smallest to the largest it falls by more than that, in every row and every column"
)


@dataclass(frozen=True, slots=True)
class Loss:
    """A validation loss with its half-width."""

    value: float
    bar: float

    def falls_to(self, other: Loss) -> float:
        """How many error bars it falls by; negative where it rises."""
        return (self.value - other.value) / (math.hypot(self.bar, other.bar) or 1e-12)


def judge(points: pl.DataFrame) -> dict[str, Any]:
    """The verdict of points of `profiler.metrics.points.scale_points`, with the figures it was held against."""
    cells = {
        (row["params"], row["budget_tokens"]): Loss(row["loss"], row["loss_plus_minus"] or 0.0)
        for row in points.drop_nulls(["params", "budget_tokens", "loss"]).iter_rows(named=True)
    }
    sizes, budgets = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    figures: dict[str, Any] = {"sizes": len(sizes), "token budgets": len(budgets), "points": len(cells)}
    missing = len(sizes) * len(budgets) - len(cells)
    if len(sizes) < LEAST or len(budgets) < LEAST or missing:
        few = f"{len(sizes)} sizes and {len(budgets)} token budgets with {missing} points missing are too few to judge"
        return {"outcome": "can't tell", "reason": few, "figures": figures}
    lines = [[cells[size, budget] for size in sizes] for budget in budgets]
    lines += [[cells[size, budget] for budget in budgets] for size in sizes]
    least = min(_neighbours(lines))
    whole = min(line[0].falls_to(line[-1]) for line in lines)
    figures["least fall between neighbours (error bars)"] = least
    figures["least fall from the first to the last (error bars)"] = whole
    shown = least >= -1.0 and whole > 1.0
    reason = (
        "the loss falls with size at every budget, and with data at every size"
        if shown
        else f"not: between neighbours the loss falls by {least:.2g} error bars at least, over a whole row or column by"
        f" {whole:.2g}"
    )
    return {"outcome": "shown" if shown else "not shown", "reason": reason, "figures": figures}


def _neighbours(lines: Sequence[Sequence[Loss]]) -> Iterator[float]:
    for line in lines:
        for before, after in itertools.pairwise(line):
            yield before.falls_to(after)
