"""A language model that is part of an experiment: trained as an arm, judged on sequences, asked to write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.corpus import Corpus, load_corpus
from workloads.kv_cache import KeyValueCache
from workloads.learning_rate import set_rate, trapezoid
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, model_flops_per_sequence
from workloads.trial import Arm, Trial

Precision = Literal["32", "bf16"]
Labels = TypeVar("Labels")
Batches = Sequence[tuple[Tensor, Tensor]]
"""Inputs and targets, each int64 of shape (batch, time)."""

COOLDOWN = 0.3
SEEDS_APART = 1_000_003
"""Between first weights of one trial: no other trial's seed is met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a language model is trained: AdamW, constant rate, the last 30 % of steps down to zero.

    Attributes:
        steps: Updates.
        batch_size: Sequences in each.
        lr: Peak rate.
        warmup_steps: Steps in which it rises from zero.
        weight_decay: Decoupled.
        precision: "bf16" computes forward passes under autocast.
    """

    steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 30
    weight_decay: float = 0.1
    precision: Precision = "32"


def load_bytes(path: str | None, *, seq_len: int) -> Corpus:
    """A text, as `load_corpus` reads it.

    Raises:
        InvalidValueError: It is no text but tokens.
    """
    corpus = load_corpus(path, seq_len=seq_len)
    if corpus.num_ids != 256:
        raise InvalidValueError(
            f"{corpus.description} holds tokens of {corpus.num_ids} kinds, and this workload reads text as bytes. Give"
            " a text with '--set data=PATH', or leave data out."
        )
    return corpus


def set_aside(
    corpus: Corpus, sizes: Sequence[int], *, seq_len: int, device: torch.device, batch_size: int = 16
) -> list[Batches]:
    """Parts of the validation text that have no sequence in common, each from all over it: the same for every seed.

    Args:
        corpus: Whose.
        sizes: Sequences of each part.
        seq_len: Tokens of each sequence.
        device: Where they are wanted.
        batch_size: Sequences of a batch, at most.

    Raises:
        InvalidValueError: The text is too short.
    """
    wanted = sum(sizes)
    one_by_one = corpus.validation_batches(num_sequences=wanted, batch_size=1, seq_len=seq_len)
    sequences = [(inputs.to(device), targets.to(device)) for inputs, targets in one_by_one]
    if len(sequences) < wanted:
        raise InvalidValueError(
            f"{corpus.description} has {len(sequences)} sequences of {seq_len} to judge by, and {wanted} are asked for."
            " Give a longer text with '--set data=PATH', or ask for fewer."
        )
    order = torch.randperm(wanted, generator=torch.Generator().manual_seed(0)).tolist()
    parts = [order[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return [
        [
            _joined([sequences[i] for i in part[first : first + batch_size]])
            for first in range(0, len(part), batch_size)
        ]
        for part in parts
    ]


def _joined(sequences: Batches) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in sequences]), torch.cat([y for _, y in sequences])


def check_finite(what: str, value: float, rate: str) -> None:
    """Refuse to go on from a training that diverged.

    Raises:
        InvalidValueError: The value is not finite; `rate` is the setting to lower.
    """
    if not math.isfinite(value):
        raise InvalidValueError(
            f"{what} is {value}: its training diverged, and nothing that follows from it would mean anything. Give a"
            f" smaller {rate}."
        )


def make_model(config: TransformerConfig, trial: Trial, number: int = 0) -> Transformer:
    """A fresh model; one shape has the same weights for each number in one trial, so that trainings are pairs."""
    torch.manual_seed(trial.seed + SEEDS_APART * number)
    return Transformer(config).to(trial.device)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats a token, of logits (batch, time, ids) and targets (batch, time)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def train(
    trial: Trial,
    arm: Arm,
    model: Transformer,
    batch_at: Callable[[int], tuple[Tensor, Labels]],
    loss_of: Callable[[Tensor, Labels], Tensor],
    recipe: Recipe,
) -> Iterator[int]:
    """Train, and yield the number of updates after each.

    Args:
        trial: Where it is recorded.
        arm: What is charged with it.
        model: Changed in place.
        batch_at: Inputs, int64 of shape (batch, time), and labels, on the trial's device, by step.
        loss_of: The loss, given float32 logits and labels.
        recipe: How.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    for step in arm.steps(recipe.steps):
        factor = trapezoid(step, recipe.steps, warmup=recipe.warmup_steps, cooldown=COOLDOWN)
        set_rate(optimizer, recipe.lr * factor)
        with trial.run.phase("data"):
            inputs, labels = batch_at(step)
        with trial.forward():
            with torch.autocast(trial.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                logits = model(inputs)
            loss = loss_of(logits.float(), labels)
        arm.learn(
            loss,
            optimizer,
            clip=1.0,
            samples=len(inputs),
            tokens=inputs.numel(),
            model_flops=len(inputs) * model_flops_per_sequence(model.config, inputs.shape[1]),
        )
        yield step + 1


@torch.no_grad()
def sequence_losses(model: Transformer, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Loss of each sequence in nats a token, float64 of shape (sequences,)."""
    losses = []
    for inputs, targets in batches:
        logits = model(inputs).float()
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        losses.append(each.view_as(targets).double().mean(dim=1))
    return torch.cat(losses).cpu()


@torch.no_grad()
def write(
    model: Transformer, *, streams: int, length: int, bos: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Let a model write from the beginning of a sequence, each token drawn as the model has it (temperature 1).

    Args:
        model: The writer.
        streams: Sequences side by side.
        length: Tokens of each, at most the model's seq_len.
        bos: The id that begins a sequence; it is never drawn.
        generator: Of random numbers, on the model's device.

    Yields:
        For each token the probabilities of all ids, float32 (streams, ids), and those drawn, int64 (streams, 1).
    """
    cache = KeyValueCache(model.config.n_layer)
    token = torch.full((streams, 1), bos, device=generator.device)
    for _ in range(length):
        logits = model(token, cache=cache, last=1)[:, 0].float()
        logits[:, bos] = -torch.inf
        probabilities = logits.softmax(dim=-1)
        token = torch.multinomial(probabilities, 1, generator=generator)
        yield probabilities, token
