"""Sparse parity with a chain of thought: which of a question's bits count is secret; the chain is their running parity.

A question is a number, which a model is told in bits; "=" asks for the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

EQUALS = 2
"""The token "="; 0 and 1 are themselves."""
HELD_OUT = 37
"""Questions whose number it divides are for judging only: 1 in 37."""


@dataclass(frozen=True, slots=True)
class Task:
    """A secret choice of positions.

    Attributes:
        bits: Length of a question.
        secret: Positions whose parity is asked for, int64; their order is that of the chain.
    """

    bits: int
    secret: Tensor

    def draw(self, count: int, generator: torch.Generator, *, held_out: bool) -> Tensor:
        """Questions, int64 of shape (count,): of those held out, or of the others."""
        if held_out:
            return HELD_OUT * torch.randint(2**self.bits // HELD_OUT, (count,), generator=generator)
        numbers = torch.randint(2**self.bits, (count,), generator=generator)
        return torch.where(numbers % HELD_OUT == 0, numbers ^ 1, numbers)

    def told(self, numbers: Tensor) -> Tensor:
        """The bits of questions, int64 of shape (count, bits)."""
        return numbers[:, None] >> torch.arange(self.bits, device=numbers.device) & 1

    def chain(self, told: Tensor) -> Tensor:
        """The parity of the first 2, 3, .. secret bits, of shape (count, secret bits - 1); the last is the answer."""
        return told[:, self.secret].cumsum(dim=1)[:, 1:] % 2

    def prompt(self, told: Tensor, removed: int) -> tuple[Tensor, Tensor]:
        """A question and "=", and their places: "=" stands where the last removed token of the chain stood."""
        places = torch.arange(self.bits + 1, device=told.device)
        places[-1] += removed
        return torch.cat((told, torch.full_like(told[:, :1], EQUALS)), dim=1), places


def make_task(bits: int, parity_bits: int, *, seed: int, device: torch.device) -> Task:
    """The seed chooses the secret."""
    order = torch.randperm(bits, generator=torch.Generator().manual_seed(seed))
    return Task(bits, order[:parity_bits].to(device))


def examples(task: Task, numbers: Tensor, removed: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a model reads, its places, and what it should write after "=" and each token that follows."""
    told = task.told(numbers)
    prompt, places = task.prompt(told, removed)
    chain = task.chain(told)[:, removed:]
    after = places[-1] + torch.arange(1, chain.shape[1], device=places.device)
    return torch.cat((prompt, chain[:, :-1]), dim=1), torch.cat((places, after)), chain
