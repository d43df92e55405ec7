"""How much work a microbatch is: samples, tokens and FLOPs, each found out, given, or null with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import Any

import torch

from profiler.errors import InvalidValueError
from profiler.measure.batch import count_samples, count_tokens, first_shape, has_embedding
from profiler.measure.flop_formulas import CONVENTION
from profiler.measure.flops import Counted
from profiler.measure.guard import Guard
from profiler.measure.recorder import Work
from profiler.measure.shape_counts import Basis, ShapeCounts, Tail, disagreement

WHOLE = 0.99
"""Share of a formula's FLOPs that a count must find to be the whole of what ran."""

MISSED = "the count misses a part of what the formula says, so what ran in all is not known"
FUSED = "the model is compiled: how much of its operators' traffic fusion leaves is not known"


class WorkCounter:
    """Counts the work of each microbatch of one model.

    FLOPs are counted even where the user gives them: the executed ones are in no formula, and the two check each other.

    Args:
        module: The model that is trained.
        notes: Takes a sentence for each quantity: how it was got, or why it is unknown.
        guard: Switches off what fails; a function given by the user may fail too.
        tokens: Tokens in a batch, if the user knows better.
        samples: Samples in a batch, likewise.
        model_flops: FLOPs of a batch's forward and backward pass, likewise.

    Attributes:
        counted_over_given: Counted model FLOPs over the user's, of the first microbatch for which both are known.
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
        self._counts = ShapeCounts(module, guard)
        self._batch_size: int | None = None
        self._trainable = -1
        self._shape: torch.Size | None = None
        self._tail: Tail = None
        self._basis: Basis | None = None
        self._seen: tuple[Tail, int | None, int | None, float | None] | None = None
        self._last: tuple[int, Work] | None = None
        self._samples: int | None = None
        self._tokens: int | None = None
        self._given_flops: float | None = None
        self._once_unknown: set[str] = set()
        self.counted_over_given: float | None = None
        self._explain()

    @property
    def flops_source(self) -> str | None:
        """How model FLOPs were got; None while they are unknown."""
        return "given" if self._given["model_flops"] else self._counts.source

    @property
    def flops_convention(self) -> str | None:
        """What the counted model FLOPs count; None while they are unknown, or the user's own."""
        return None if self._given["model_flops"] or self._counts.source is None else CONVENTION

    def expect(self, batch_size: int | None) -> None:
        """What the loader says a full batch is: the first batch of a training is one."""
        self._batch_size = batch_size

    def begin_epoch(self) -> None:
        """Forget the counts if other parameters are trained than before."""
        self.end_count()
        trainable = sum(parameter.requires_grad for parameter in self._module.parameters())
        if trainable != self._trainable:
            self._trainable, self._shape, self._tail = trainable, None, None
            self._counts.forget()

    def begin(self, batch: Any) -> None:
        """Look at a microbatch before its forward pass, and count its FLOPs if its like never were.

        A batch whose first tensor has the shape of the last one's is as large: it is not looked at again.
        """
        shape = first_shape(batch)
        if self._any_given or shape is None or shape != self._shape or self._tail not in self._counts:
            if shape != self._shape:
                self._shape, self._tail = shape, None if shape is None else shape[1:]
            self._look_at(batch)
        self._counts.begin(self._tail, self._basis)

    def begin_backward(self) -> None:
        """A backward pass begins."""
        self._counts.begin_backward()

    def end_backward(self) -> None:
        """A backward pass is done; in manual optimization the microbatch need not be."""
        self._counts.end_backward()

    def end_count(self) -> None:
        """Stop counting FLOPs: the backward pass is done, or the batch was left."""
        self._counts.end()

    def work(self) -> Work:
        """What the microbatch that began last did; the same as the last one, if that was as large."""
        if self._last is None or self._last[0] != self._counts.passes:
            self._last = (self._counts.passes, self._work())
        return self._last[1]

    def steady(self) -> tuple[torch.Size, Work] | None:
        """What a microbatch with one backward pass does if its first tensor has this shape; it need not be looked at.

        None if each must be: a user's function is to be asked, or the last one's FLOPs are not known yet.
        """
        if self._any_given or self._shape is None or self._counts.passes != 1:
            return None
        known = self._tail in self._counts or self._counts.exhausted
        return (self._shape, self.work()) if known else None

    def again(self, passes: int) -> Work:
        """What a microbatch that was not looked at did in so many backward passes; it was as large as the last one."""
        self._counts.again(passes)
        return self.work()

    def _work(self) -> Work:
        counted = self._counts.of(self._tail, self._basis)
        if counted is None:
            self._explain()
            return Work(self._samples, self._tokens, self._given_flops)
        if counted.operator_bytes is None:
            self._notes["operator_bytes"] = FUSED
        if not self._given["model_flops"]:
            return Work(self._samples, self._tokens, *counted[:3])
        self._compare(counted)
        whole = counted if (self.counted_over_given or 0.0) >= WHOLE else None
        return Work(
            self._samples,
            self._tokens,
            self._given_flops,
            whole and whole.executed_flops,
            whole and whole.operator_bytes,
        )

    def _look_at(self, batch: Any) -> None:
        self._samples = self._number("samples", batch, lambda: count_samples(batch, self._batch_size))
        self._tokens = self._number("tokens", batch, lambda: count_tokens(batch, embeds=self._embeds))
        self._batch_size = None  # only the first batch is sure to be a full one
        if self._given["model_flops"]:
            self._given_flops = self._guard.call("model_flops", self._ask, "model_flops", batch)
        seen = (self._tail, self._samples, self._tokens, self._given_flops)
        if seen != self._seen or self._tail not in self._counts:
            self._seen, self._last, self._basis = seen, None, self._find_basis()

    def _find_basis(self) -> Basis | None:
        """Tokens, else samples. Neither known: the next batch may differ."""
        if self._tokens:
            return Basis("tokens", self._tokens)
        return Basis("samples", self._samples) if self._samples else None

    def _compare(self, counted: Counted) -> None:
        """Once, hold the count against what the user gives."""
        if self.counted_over_given is not None or not self._given_flops:
            return
        self.counted_over_given = counted.model_flops / self._given_flops
        self._notes.update(disagreement(self.counted_over_given))
        if self.counted_over_given < WHOLE:
            self._notes["executed_flops"] = self._notes["operator_bytes"] = MISSED

    def _explain(self) -> None:
        """Note why FLOPs are not counted, under the names of what is unknown for it."""
        if self._counts.why_not is None:
            return
        self._notes["executed_flops"] = self._notes["operator_bytes"] = self._counts.why_not
        if not self._given["model_flops"]:
            self._notes["model_flops"] = self._counts.why_not

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
