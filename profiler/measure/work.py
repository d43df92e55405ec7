"""How much work a microbatch is: samples, tokens and model FLOPs, each found out, given, or null with its reason."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch

from profiler.measure.batch import count_samples, count_tokens, first_shape, has_embedding
from profiler.measure.flops import FlopCount, uncountable
from profiler.measure.guard import Guard
from profiler.measure.recorder import Work

FLOPS_COUNTED = (
    "counted on the first microbatch, scaled by its {basis}; causal attention in full, no element-wise work"
)

NO_FORMULA = "no operator with a known FLOP formula ran. Pass model_flops="
NO_BASIS = "neither samples nor tokens of a batch are known, so a count cannot be scaled. Pass model_flops="


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
        self._notes, self._guard = notes, guard
        self._given = {"tokens": tokens, "samples": samples, "model_flops": model_flops}
        self._embeds = has_embedding(module)
        self._why_not = None if model_flops else uncountable(module)
        self._count: FlopCount | None = None if model_flops or self._why_not else FlopCount()
        self._flops_per_unit: tuple[str, float] | None = None
        self._samples: int | None = None
        self._tokens: int | None = None
        self._given_flops: float | None = None
        self._shape: torch.Size | None = None
        self._work: Work | None = None
        self._once_unknown: set[str] = set()
        if self._why_not:
            notes["model_flops"] = self._why_not

    @property
    def flops_source(self) -> str | None:
        """How model FLOPs were got; None while they are unknown."""
        if self._given["model_flops"]:
            return "given"
        return FLOPS_COUNTED.format(basis=self._flops_per_unit[0]) if self._flops_per_unit else None

    @property
    def counting(self) -> bool:
        """Whether FLOPs are still to be counted."""
        return self._count is not None

    def begin(self, batch: Any) -> None:
        """Look at a microbatch before its forward pass, and count FLOPs if they never were.

        A batch whose first tensor has the shape of the last one's is as large: it is not looked at again.
        """
        shape = None if any(self._given.values()) else first_shape(batch)
        if shape is not None and shape == self._shape and not self.counting:
            return
        self._shape, self._work = shape, None
        self._samples = self._number("samples", batch, lambda: count_samples(batch))
        self._tokens = self._number("tokens", batch, lambda: count_tokens(batch, embeds=self._embeds))
        if self._given["model_flops"]:
            self._given_flops = self._guard.call("model_flops", self._given["model_flops"], batch)
        elif self._count and self._basis():
            self._guard.call("model_flops", self._count.start)

    def end_count(self) -> None:
        """Stop counting FLOPs: the backward pass is done."""
        if self._count is None:
            return
        count, self._count = self._count, None
        count.stop()
        self._work = None
        basis = self._basis()
        if count.failed or not count.flops or not basis:
            nothing = NO_FORMULA if basis else NO_BASIS
            self._notes["model_flops"] = count.failed or nothing
        else:
            self._flops_per_unit = (basis[0], count.flops / basis[1])

    def work(self) -> Work:
        """What the microbatch that began last does."""
        if self._work is None:
            self._work = Work(self._samples, self._tokens, self._flops())
        return self._work

    def _flops(self) -> float | None:
        basis = self._basis()
        if self._given["model_flops"]:
            return self._given_flops
        if self._flops_per_unit is None or basis is None or basis[0] != self._flops_per_unit[0]:
            return None
        return self._flops_per_unit[1] * basis[1]

    def _basis(self) -> tuple[str, int] | None:
        """What FLOPs are proportional to: tokens, else samples. Neither known: the next batch may differ."""
        if self._tokens:
            return "tokens", self._tokens
        return ("samples", self._samples) if self._samples else None

    def _number(self, what: str, batch: Any, find: Callable[[], tuple[int | None, str]]) -> int | None:
        given = self._given[what]
        if given is not None:
            return self._guard.call(what, lambda: int(given(batch)))
        found = self._guard.call(what, find)
        if found is None:
            return None
        if what not in self._once_unknown:  # a sum with one unknown is unknown: its reason stays
            self._notes[what] = found[1]
        if found[0] is None:
            self._once_unknown.add(what)
        return found[0]
