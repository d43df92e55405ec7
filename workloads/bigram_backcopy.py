"""Bigram-Backcopy: text by a bigram law, in which a trigger copies the token before it. The law is known exactly.

Source: Guo et al. 2024 (arXiv 2410.13835), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Task:
    """Bigram-Backcopy: after a trigger comes the token before it; after all else, what a bigram law says.

    Attributes:
        laws: Probability of each token after each, of shape (ids, ids); the last id begins a sequence.
        triggers: Ids below this are triggers.
    """

    laws: Tensor
    triggers: int

    def sample(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Texts, int64 of shape (count, length), that start with the id of the beginning."""
        sums = self.laws.cumsum(dim=1)
        tokens = torch.full((count, length), len(self.laws) - 1)
        for t in range(1, length):
            now = tokens[:, t - 1]
            drawn = torch.searchsorted(sums[now], torch.rand(count, 1, generator=generator)).squeeze(1)
            tokens[:, t] = torch.where(now < self.triggers, tokens[:, max(t - 2, 0)], drawn)
        return tokens

    def law(self, tokens: Tensor) -> Tensor:
        """The true probabilities of what comes after each token, of shape (batch, time, ids)."""
        before = F.one_hot(tokens.roll(1, dims=1), len(self.laws)).to(self.laws)
        return torch.where(
            (tokens < self.triggers).unsqueeze(-1), before, self.laws.to(tokens.device)[tokens]
        )


def excess(law: Tensor, logits: Tensor) -> Tensor:
    """By how many nats the loss is above the text's entropy, at each token: KL(law || model), over all draws."""
    return (torch.xlogy(law, law) - law * logits.log_softmax(dim=-1)).sum(dim=-1)


def entropy(law: Tensor) -> float:
    """Mean entropy of the text in nats a token: no model has a lower loss."""
    return float(-torch.xlogy(law, law).sum(dim=-1).mean())


def make_task(*, vocabulary: int, triggers: int, trigger_share: float, seed: int) -> Task:
    """A law by the seed: half of it Zipf's over all tokens, half Zipf's in an order of each token's own.

    Args:
        vocabulary: Tokens, triggers included; one id more begins a sequence.
        triggers: How many of them are triggers.
        trigger_share: Probability of a trigger after any token.
        seed: Of the law.
    """
    generator = torch.Generator().manual_seed(seed)
    words = vocabulary - triggers
    zipf = torch.arange(1, words + 1, dtype=torch.float32) ** -1.5
    orders = torch.stack([torch.randperm(words, generator=generator) for _ in range(vocabulary + 2)])
    ranked = (zipf / zipf.sum())[orders]
    laws = torch.zeros(vocabulary + 1, vocabulary + 1)
    laws[:, triggers:-1] = 0.5 * ranked[-1] + 0.5 * ranked[:-1]
    laws[:-1] *= 1 - trigger_share
    laws[:-1, :triggers] = trigger_share / triggers  # none after the beginning
    return Task(laws, triggers)
