"""What students read: real text, and what a teacher writes with what it thought meanwhile, hard and soft labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workloads.byte_lm import write
from workloads.corpus import Corpus, windows_at
from workloads.transformer import Transformer


def real_text(corpus: Corpus, num_bytes: int, *, seq_len: int, seed: int) -> Corpus:
    """A corpus of which only so much is there to train on: windows from all over it."""
    count = len(corpus.train) // seq_len
    chosen = windows_at(0, batch_size=num_bytes // seq_len, num_windows=count, seed=seed)
    return with_text(corpus, [corpus.train[each * seq_len : (each + 1) * seq_len] for each in chosen])


def with_text(corpus: Corpus, windows: Sequence[npt.NDArray[Any]]) -> Corpus:
    """A corpus with other text to train on."""
    text = np.empty(sum(map(len, windows)), dtype=corpus.train.dtype)
    return dataclasses.replace(corpus, train=np.concatenate(windows, out=text, casting="unsafe"))


@dataclass(frozen=True, slots=True)
class SoftLabels:
    """The most probable ids of each token, and their probabilities: both of shape (sequences, time, top)."""

    ids: Tensor
    probabilities: Tensor


def soft_cross_entropy(logits: Tensor, labels: SoftLabels) -> Tensor:
    """Cross-entropy to the labels' probabilities, in nats a token: KL divergence and a constant."""
    chosen = logits.log_softmax(dim=-1).gather(-1, labels.ids)
    return -(labels.probabilities * chosen).sum(dim=-1).mean()


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a teacher wrote, (sequences, time), and what it thought of each token; ids int16, probabilities float16."""

    tokens: Tensor
    labels: SoftLabels

    def soft_batch(self, rows: Sequence[int], bos: int, device: torch.device) -> tuple[Tensor, SoftLabels]:
        """Inputs, each beginning with `bos`, and labels of some sequences."""
        index = torch.tensor(rows)
        inputs = self.tokens[index].roll(1, dims=1)
        inputs[:, 0] = bos
        ids, probabilities = self.labels.ids[index].long(), self.labels.probabilities[index].float()
        return inputs.to(device), SoftLabels(ids.to(device), probabilities.to(device))


def make_lesson(
    teacher: Transformer, *, sequences: int, at_once: int, length: int, top: int, bos: int, seed: int
) -> Lesson:
    """Have the teacher write.

    Args:
        teacher: Writes at temperature 1.
        sequences: How many.
        at_once: How many side by side.
        length: Tokens of each.
        top: How many of the most probable ids a soft label keeps; their probabilities add up to 1.
        bos: The id that begins a sequence.
        seed: Of what is drawn.
    """
    device = next(teacher.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    written = []
    for first in range(0, sequences, at_once):
        streams = min(at_once, sequences - first)
        tokens, ids, shares = [], [], []
        for probabilities, token in write(
            teacher, streams=streams, length=length, bos=bos, generator=generator
        ):
            best = probabilities.topk(min(top, probabilities.shape[-1]))
            tokens.append(token.cpu())
            ids.append(best.indices.to(torch.int16).cpu())
            shares.append((best.values / best.values.sum(dim=-1, keepdim=True)).half().cpu())
        written.append((torch.cat(tokens, dim=1), torch.stack(ids, dim=1), torch.stack(shares, dim=1)))
    whole = [torch.cat(parts) for parts in zip(*written, strict=True)]
    return Lesson(whole[0], SoftLabels(whole[1], whole[2]))
