"""How much work a microbatch is: samples, tokens and model FLOPs, each found out, given, or null with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import torch

from profiler.errors import InvalidValueError
from profiler.measure.batch import count_samples, count_tokens, first_shape, has_embedding
from profiler.measure.flops import FlopCount, uncountable
from profiler.measure.guard import Guard
from profiler.measure.recorder import Work

FLOPS_COUNTED = (
    "counted on the first microbatch of each shape, scaled by its {basis}; causal attention in full, no"
    " element-wise work, no recomputation"
)

NO_FORMULA = "no operator with a known FLOP formula ran. Pass model_flops="
NO_BASIS = "neither samples nor tokens of a batch are known, so a count cannot be scaled. Pass model_flops="
NO_BACKWARD = "a batch went without a backward pass, so its FLOPs are not known. Pass model_flops="
MAX_SHAPES = 16
"""Shapes of batches for which FLOPs are counted; each costs one slow step."""

TOO_MANY_SHAPES = (
    f"batches have more than {MAX_SHAPES} shapes, and FLOPs are counted for no more. Pass model_flops="
)


class _Unit(NamedTuple):
    """FLOPs for one token or sample, as counted over a number of backward passes."""

    basis: str
    flops: float
    passes: int


class WorkCounter:
    """Counts the work of each microbatch of one model.

    Args:
        module: The model that is trained.
        notes: Takes a sentence for each quantity: how it was got, or why it is unknown.
        guard: Switches off what fails; a function given by the user may fail too.
        tokens: Tokens in a batch, if the user knows better.
        samples: Samples in a batch, likewise.
        model_flops: FLOPs of a batch's forward and backward pass, likewise.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        notes: MutableMapping[str, str],
        guard: Guard,
        tokens: Callable[[Any], int] | None = None,
        samples: Callable[[Any], int] | None = None,
        model_flops: Callable[[Any], float] | None = None,
    ) -> None:
        self._module, self._notes, self._guard = module, notes, guard
        self._given = {"tokens": tokens, "samples": samples, "model_flops": model_flops}
        self._any_given = any(self._given.values())
        self._embeds = has_embedding(module)
        why_not = None if model_flops else uncountable(module)
        if why_not:
            notes["model_flops"] = why_not
        self._countable = not model_flops and why_not is None
        self._batch_size: int | None = None
        self._trainable = -1
        self._count: FlopCount | None = None
        self._leaving: FlopCount | None = None
        self._units: dict[torch.Size | None, _Unit] = {}
        self._shape: torch.Size | None = None
        self._samples: int | None = None
        self._tokens: int | None = None
        self._given_flops: float | None = None
        self._passes = 0
        self._once_unknown: set[str] = set()

    @property
    def flops_source(self) -> str | None:
        """How model FLOPs were got; None while they are unknown."""
        if self._given["model_flops"]:
            return "given"
        bases = {unit.basis for unit in self._units.values()}
        return FLOPS_COUNTED.format(basis=" and ".join(sorted(bases))) if bases else None

    def expect(self, batch_size: int | None) -> None:
        """What the loader says a full batch is: evidence for which dimension counts samples."""
        self._batch_size = batch_size

    def begin_epoch(self) -> None:
        """Forget the counts if other parameters are trained than before."""
        self.end_count()
        trainable = sum(parameter.requires_grad for parameter in self._module.parameters())
        if trainable != self._trainable:
            self._units, self._shape, self._trainable = {}, None, trainable

    def begin(self, batch: Any) -> None:
        """Look at a microbatch before its forward pass, and count its FLOPs if its like never were.

        A batch whose first tensor has the shape of the last one's is as large: it is not looked at again.
        """
        self._passes = 0
        if self._count or self._leaving:
            self.end_count()
        shape = None if self._any_given else first_shape(batch)
        if shape is None or shape != self._shape or not self._units:
            self._shape = shape
            self._look_at(batch)

    def begin_backward(self) -> None:
        """A backward pass begins."""
        self._passes += 1
        if self._count:
            self._count.in_backward = True

    def end_count(self) -> None:
        """Stop counting FLOPs: the backward pass is done, or the batch was left."""
        if self._leaving and self._leaving.stop():
            self._leaving = None
        if self._count is None:
            return
        count, self._count = self._count, None
        if not count.stop():
            self._leaving = count  # the user's own mode lies above it: it does nothing, and goes when it can
        if self._passes:
            self._keep(count)

    def work(self) -> Work:
        """What the microbatch that began last did."""
        return Work(self._samples, self._tokens, self._flops())

    def _look_at(self, batch: Any) -> None:
        self._samples = self._number("samples", batch, lambda: count_samples(batch, self._batch_size))
        self._tokens = self._number("tokens", batch, lambda: count_tokens(batch, embeds=self._embeds))
        self._batch_size = None  # only the first batch is sure to be a full one
        if self._given["model_flops"]:
            self._given_flops = self._guard.call("model_flops", self._ask, "model_flops", batch)
        elif self._countable and self._tail() not in self._units:
            self._start_count()

    def _start_count(self) -> None:
        if not self._basis():
            self._notes["model_flops"] = NO_BASIS
        elif len(self._units) >= MAX_SHAPES:
            self._notes["model_flops"] = TOO_MANY_SHAPES
        else:
            self._count = FlopCount()
            self._guard.call("model_flops", self._count.start)

    def _keep(self, count: FlopCount) -> None:
        basis = self._basis()
        if count.failed or not count.flops or not basis:
            self._notes["model_flops"] = count.failed or (NO_FORMULA if basis else NO_BASIS)
            self._countable = False
            self._units = {}
        else:
            self._units[self._tail()] = _Unit(basis[0], count.flops / basis[1], self._passes)

    def _flops(self) -> float | None:
        if self._given["model_flops"]:
            return self._given_flops
        unit, basis = self._units.get(self._tail()), self._basis()
        if unit is None or basis is None or basis[0] != unit.basis:
            return None
        if not self._passes:
            self._notes["model_flops"] = NO_BACKWARD
            return None
        return unit.flops * basis[1] * self._passes / unit.passes

    def _tail(self) -> torch.Size | None:
        """The shape of one sample: what FLOPs depend on beside how many there are."""
        return None if self._shape is None else self._shape[1:]

    def _basis(self) -> tuple[str, int] | None:
        """What FLOPs are proportional to: tokens, else samples. Neither known: the next batch may differ."""
        if self._tokens:
            return "tokens", self._tokens
        return ("samples", self._samples) if self._samples else None

    def _number(self, what: str, batch: Any, find: Callable[[], tuple[int | None, str]]) -> int | None:
        if self._given[what] is not None:
            number = self._guard.call(what, self._ask, what, batch)
            return None if number is None else int(number)
        found = self._guard.call(what, find)
        if found is None:
            return None
        if what not in self._once_unknown:  # a sum with one unknown is unknown: its reason stays
            self._notes[what] = found[1]
        if found[0] is None:
            self._once_unknown.add(what)
        return found[0]

    def _ask(self, what: str, batch: Any) -> float:
        """What the user's own function says, if it can be a number of anything."""
        function = self._given[what]
        assert function is not None
        number = float(function(batch))
        if not (math.isfinite(number) and number >= 0.0):
            raise InvalidValueError(f"{what}= gave {number!r} for a batch, which is no number of {what}")
        return number
