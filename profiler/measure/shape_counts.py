"""Model FLOPs are counted once for each shape of batch, and scaled to all others of that shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from profiler.measure.compiled import CompiledCount, watched_modules, why_hidden
from profiler.measure.flops import COMPILED, Count, Counted, FlopCount, compiled_graphs
from profiler.measure.guard import Guard

MAX_SHAPES = 16
"""Shapes of batches for which FLOPs are counted; each costs one slow step."""

COUNTED = "counted on the first microbatch of each shape, scaled by its {basis}"
REPLAYED = "counted on tensors without data, on uncompiled copies of the compiled modules, scaled by {basis}"
NO_FORMULA = "no operator with a known FLOP formula ran. Pass model_flops="
NO_BASIS = "neither samples nor tokens of a batch are known, so a count cannot be scaled. Pass model_flops="
NO_BACKWARD = "a batch went without a backward pass, so its FLOPs are not known. Pass model_flops="
TOO_MANY_SHAPES = (
    f"batches have more than {MAX_SHAPES} shapes, and FLOPs are counted for no more. Pass model_flops="
)

Tail = torch.Size | None
"""The shape of one sample: what FLOPs depend on beside how many there are."""


class Basis(NamedTuple):
    """What FLOPs are proportional to: a number of tokens or of samples."""

    name: str
    amount: int


class _Unit(NamedTuple):
    """What one token or sample takes, as counted over a number of backward passes."""

    basis: str
    per_unit: Counted
    passes: int


class ShapeCounts:
    """Counts the first microbatch of each shape.

    Args:
        module: The model that is trained.
        guard: Switches the counting off if it cannot even begin.

    Attributes:
        why_not: The last reason for which something could not be counted, or None.
    """

    def __init__(self, module: torch.nn.Module, guard: Guard) -> None:
        self._guard = guard
        self._watched = watched_modules(module)
        self.why_not = why_hidden(module)
        self._countable = self.why_not is None
        self._units: dict[Tail, _Unit] = {}
        self._count: Count | None = None
        self._leaving: Count | None = None
        self._key: tuple[Tail, Basis] | None = None
        self._passes = 0

    @property
    def source(self) -> str | None:
        """How FLOPs were counted; None while they were not."""
        bases = " and ".join(sorted({unit.basis for unit in self._units.values()}))
        return (REPLAYED if self._watched else COUNTED).format(basis=bases) if bases else None

    def __contains__(self, tail: Tail) -> bool:
        """Whether this shape has been counted."""
        return tail in self._units

    def forget(self) -> None:
        """Other parameters are trained now: what was counted holds no more."""
        self._units = {}

    def begin(self, tail: Tail, basis: Basis | None) -> None:
        """A microbatch begins; count it if its like never were."""
        if self._count or self._leaving:
            self.end()
        self._passes = 0
        if self._countable and tail not in self._units:
            self._guard.call("beginning to count FLOPs", self._start, tail, basis)

    def _start(self, tail: Tail, basis: Basis | None) -> None:
        if basis is None:
            self.why_not = NO_BASIS
        elif len(self._units) >= MAX_SHAPES:
            self.why_not = TOO_MANY_SHAPES
        else:
            self._key = (tail, basis)
            self._count = CompiledCount(self._watched) if self._watched else FlopCount()
            self._count.start()

    def begin_backward(self) -> None:
        """A backward pass begins."""
        self._passes += 1
        if self._count:
            self._count.begin_backward()

    def end_backward(self) -> None:
        """A backward pass is done; the microbatch need not be."""
        if self._count:
            self._count.end_backward()

    def end(self) -> None:
        """The backward pass is done, or the batch was left."""
        if self._leaving and self._leaving.stop():
            self._leaving = None
        if self._count is None or self._key is None:
            return
        count, self._count = self._count, None
        if not count.stop():
            self._leaving = count  # the user's own mode lies above it: it does nothing, and goes when it can
        if self._passes:
            self._keep(count.counted(), *self._key)

    @property
    def passes(self) -> int:
        """Backward passes of the microbatch that began last."""
        return self._passes

    def again(self, passes: int) -> None:
        """A microbatch of a shape that has been counted came and went, with so many backward passes."""
        self._passes = passes

    @property
    def exhausted(self) -> bool:
        """Whether nothing will be counted any more."""
        return not self._countable

    def of(self, tail: Tail, basis: Basis | None) -> Counted | None:
        """What the microbatch that began last did, if that is known."""
        unit = self._units.get(tail)
        if unit is None or basis is None or basis.name != unit.basis:
            return None
        if not self._passes:
            self.why_not = NO_BACKWARD
            return None
        return _scaled(unit.per_unit, basis.amount * self._passes / unit.passes)

    def _keep(self, counted: Counted, tail: Tail, basis: Basis) -> None:
        hidden = COMPILED if compiled_graphs() and not self._watched else None
        failed = counted.failed or hidden or (None if counted.model_flops else NO_FORMULA)
        if failed is None:
            self._units[tail] = _Unit(basis.name, _scaled(counted, 1 / basis.amount), self._passes)
        else:
            self.why_not, self._countable, self._units = failed, False, {}


def _scaled(counted: Counted, by: float) -> Counted:
    known = counted.operator_bytes
    return Counted(
        counted.model_flops * by, counted.executed_flops * by, None if known is None else known * by
    )


def disagreement(counted_over_given: float, tolerance: float = 0.01) -> Mapping[str, str]:
    """A note if a count and a formula are further apart than the tolerance."""
    if abs(counted_over_given - 1.0) <= tolerance:
        return {}
    cause = (
        "the formula counts more than runs, or a kernel escaped the count"
        if counted_over_given < 1.0
        else "the formula leaves something out, or counts attention in half"
    )
    return {
        "flops_check": f"FLOPs as counted are {counted_over_given:.4g} of what model_flops= gives: {cause}"
    }
