"""Workload `grokking`: a model knows its training set by heart, and long afterwards finds the rule. What did that cost?

A one-layer transformer is shown part of the table of a modular operation, "a b =" -> c, and is judged on the rest. For
hundreds of steps it is perfect on what it saw and at chance on what it did not; then, with nothing new, it generalises.

Power et al. 2022 (arXiv 2201.02177), with the model of Nanda et al. 2023 (arXiv 2301.05217: no norm, ReLU, the whole
training set in each step), made small. Ways to bring it on: Grokfast (Lee et al. 2024, arXiv 2405.20233), which
amplifies slow gradients; StableMax with gradients perpendicular to the weights (Prieto et al. 2025, arXiv 2501.04697),
which needs no weight decay; a small norm of the weights from the start (Liu et al. 2022, Omnigrok, arXiv 2210.01117).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.experiment import CommonSettings, Experiment
from workloads.learning_rate import set_rate
from workloads.settings_checks import check_choice, check_not_negative, check_positive
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, model_flops_per_sequence, num_params
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Verdict, judged

Operation = Literal["subtract", "divide", "add", "multiply"]
Method = Literal["plain", "grokfast", "stablemax", "small-norm"]
COMMUTATIVE = ("add", "multiply")

MEMORISED, GENERALISED, AT_CHANCE = 0.99, 0.95, 0.30
HOLD = 3
"""Evaluations in a row that must be above `GENERALISED`: a slingshot passes through it and falls back."""
LEAST_DELAY = 100
LEAST_PAIRS = 20

CRITERION = (
    f"train accuracy reaches {MEMORISED} at step t_mem, when validation accuracy is at most {AT_CHANCE:.2f}; validation"
    f" accuracy reaches {GENERALISED} for {HOLD} evaluations in a row, first at step t_gen; t_gen - t_mem is at least"
    f" {LEAST_DELAY} steps and at least t_mem"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrokkingSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        modulus: A prime: the table has modulus^2 entries.
        operation: What is learnt.
        split: Whether (a, b) and (b, a) may be on different sides of the split ("ordered"), or go together
            ("unordered"), as they must where they have the same answer.
        train_fraction: Share of the table that is trained on.
        method: How it is trained.
        d_model: Width.
        n_layer: Blocks.
        head_dim: Width of a head.
        lr: Of AdamW, with betas 0.9 and 0.98.
        weight_decay: Decoupled; 0 with stablemax.
        init_scale: All initial weights are multiplied by it; "small-norm" halves it.
        warmup_steps: Steps in which the rate rises from zero.
        max_steps: Where to give up; the cost is then a lower bound.
        eval_every: Steps from one evaluation to the next: how finely t_mem and t_gen are known.
        grokfast_alpha: Momentum of the slow gradient.
        grokfast_lambda: How much of it is added.
    """

    modulus: int = 53
    operation: Operation = "subtract"
    split: Literal["ordered", "unordered"] = "ordered"
    train_fraction: float = 0.6
    method: Method = "plain"
    d_model: int = 64
    n_layer: int = 1
    head_dim: int = 16
    lr: float = 3e-3
    weight_decay: float = 1.5
    init_scale: float = 1.0
    warmup_steps: int = 10
    max_steps: int = 3000
    eval_every: int = 20
    grokfast_alpha: float = 0.98
    grokfast_lambda: float = 2.0

    def __post_init__(self) -> None:
        check_positive(self, "modulus", "lr", "init_scale", "max_steps", "eval_every")
        check_not_negative(self, "weight_decay", "warmup_steps", "grokfast_lambda")
        check_choice(self, operation=Operation, method=Method, split=Literal["ordered", "unordered"])
        self._check_table()
        self._check_length()
        if not 0.0 <= self.grokfast_alpha < 1.0:
            raise InvalidValueError(
                f"grokfast_alpha = {self.grokfast_alpha} is no momentum. Give 0 or more and less than 1, such as 0.98."
            )
        self.config()

    def _check_table(self) -> None:
        if any(self.modulus % n == 0 for n in range(2, math.isqrt(self.modulus) + 1)) or self.modulus < 5:
            raise InvalidValueError(
                f"modulus = {self.modulus} is not a prime from 5 on: not every pair can be divided, or the answer is"
                " guessed too often. Give a prime, such as 53."
            )
        smaller_part = min(self.train_fraction, 1 - self.train_fraction) * self.modulus**2
        if smaller_part < LEAST_PAIRS:
            raise InvalidValueError(
                f"train_fraction = {self.train_fraction} of {self.modulus**2} pairs leaves too few to train on, or"
                f" too few to judge by: fewer than {LEAST_PAIRS}. Give a number between 0 and 1, such as 0.6."
            )
        if self.operation in COMMUTATIVE and self.split == "ordered":
            raise InvalidValueError(
                f"operation = {self.operation!r} gives (a, b) and (b, a) the same answer, so a split of ordered pairs"
                " leaks: half of the validation pairs are in the training set the other way round, and accuracy on"
                " them is no generalisation. Give --set split=unordered, or operation=subtract."
            )

    def _check_length(self) -> None:
        if self.eval_every > LEAST_DELAY:
            raise InvalidValueError(
                f"eval_every = {self.eval_every} is longer than the delay of {LEAST_DELAY} steps that is asked for,"
                f" so it could not be seen. Give {LEAST_DELAY} or less."
            )
        least = LEAST_DELAY + HOLD * self.eval_every
        if self.max_steps < least:
            raise InvalidValueError(
                f"max_steps = {self.max_steps} ends before a delay of {LEAST_DELAY} steps and {HOLD} evaluations could"
                f" be seen. Give {least} or more; the cpu preset has 3000."
            )

    def config(self) -> TransformerConfig:
        """The model's shape: three tokens in, the answer read at the third."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=3,
            vocab_size=self.modulus + 1,
            positions="learned",
            activation="relu",
            is_normed=False,
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Pairs with the token "=", int64 of shape (pairs, 3), and their answers, of shape (pairs,)."""

    pairs: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def to(self, device: torch.device) -> Table:
        """The same on a device."""
        return Table(self.pairs.to(device), self.answers.to(device))


def make_tables(settings: GrokkingSettings, seed: int) -> tuple[Table, Table]:
    """The training and the validation part of the operation's table, split by the seed."""
    p = settings.modulus
    a, b = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    a, b = a.flatten(), b.flatten()
    if settings.operation == "divide":
        a, b = a[b != 0], b[b != 0]
    pairs = torch.stack((a, b, torch.full_like(a, p)), dim=1)
    whole = Table(pairs, _answers(settings.operation, a, b, p))
    key = a * p + b if settings.split == "ordered" else torch.minimum(a, b) * p + torch.maximum(a, b)
    generator = torch.Generator().manual_seed(seed)
    is_train = (torch.rand(p * p, generator=generator) < settings.train_fraction)[key]
    return (
        Table(whole.pairs[is_train], whole.answers[is_train]),
        Table(whole.pairs[~is_train], whole.answers[~is_train]),
    )


def _answers(operation: Operation, a: Tensor, b: Tensor, p: int) -> Tensor:
    if operation == "divide":
        inverse = torch.tensor([pow(n, -1, p) if n else 0 for n in range(p)])
        return a * inverse[b] % p
    return {"subtract": a - b, "add": a + b, "multiply": a * b}[operation] % p


def make_model(settings: GrokkingSettings) -> Transformer:
    """The model with weights of Nanda et al.: all of them normal with variance 1 / d_model, the MLP's output too."""
    model = Transformer(settings.config())
    scale = settings.init_scale * (0.5 if settings.method == "small-norm" else 1.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=scale / settings.d_model**0.5)
    return model


def stablemax_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """Cross-entropy under StableMax, in nats: s(x) = x + 1 above zero and 1 / (1 - x) below, normalised.

    In float64: softmax of large logits rounds the smaller ones away, and with them the gradient.

    Source: Prieto et al. 2025 (arXiv 2501.04697), section 4.
    """
    x = logits.double()
    s = torch.where(x >= 0, x + 1, 1 / (1 - x))
    return F.nll_loss((s / s.sum(dim=-1, keepdim=True)).log(), answers)


@torch.no_grad()
def make_perpendicular(weights: Sequence[Tensor]) -> None:
    """Take from each gradient what only scales its weights, and keep its length.

    Source: Prieto et al. 2025, section 5.
    """
    for w in weights:
        if w.grad is not None:
            g = w.grad
            turned = g - (g * w).sum() / w.square().sum().clamp_min(1e-30) * w
            w.grad = turned * (g.norm() / turned.norm().clamp_min(1e-30))


class SlowGradients:
    """Grokfast: adds to each gradient its moving average, times lambda.

    Source: Lee et al. 2024 (arXiv 2405.20233), algorithm 1 (Grokfast-EMA).
    """

    def __init__(self, weights: Sequence[Tensor], alpha: float, factor: float) -> None:
        self._weights, self._alpha, self._factor = weights, alpha, factor
        self._slow: list[Tensor] = []

    def amplify(self) -> None:
        """Change the gradients in place."""
        gradients = [w.grad for w in self._weights if w.grad is not None]
        if not self._slow:
            self._slow = [g.clone() for g in gradients]
        for slow, g in zip(self._slow, gradients, strict=True):
            slow.mul_(self._alpha).add_(g, alpha=1 - self._alpha)
            g.add_(slow, alpha=self._factor)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracies after a number of steps."""

    step: int
    train: float
    validation: float


def find_grok(curve: Sequence[Evaluation]) -> tuple[Evaluation | None, Evaluation | None]:
    """The evaluations at which the training set is known by heart, and at which the rule is found; None: never."""
    memorised = next((e for e in curve if e.train >= MEMORISED), None)
    runs = (curve[i : i + HOLD] for i in range(len(curve) - HOLD + 1))
    found = next((run[0] for run in runs if all(e.validation >= GENERALISED for e in run)), None)
    return memorised, found


def judge(curve: Sequence[Evaluation], windows_until: dict[int, list[tuple[float, float]]]) -> Verdict:
    """Hold a curve against the criterion.

    Args:
        curve: Evaluations by step.
        windows_until: The time that was trained until each of them.
    """
    memorised, found = find_grok(curve)
    last = curve[-1].step
    delay = found.step - memorised.step if memorised and found else None
    checks = {
        f"the training set was known by heart (by step {memorised.step if memorised else last})": memorised
        is not None,
        f"validation was at chance by then (at most {AT_CHANCE:.2f})": memorised is not None
        and memorised.validation <= AT_CHANCE,
        f"it generalised (by step {found.step if found else last})": found is not None,
        f"the delay was at least {LEAST_DELAY} steps and t_mem": delay is not None
        and memorised is not None
        and delay >= max(LEAST_DELAY, memorised.step),
    }
    figures = {
        "t_mem (step)": memorised.step if memorised else None,
        "t_gen (step)": found.step if found else None,
        "delay (steps)": delay,
        "validation accuracy at t_mem": memorised.validation if memorised else None,
        "validation accuracy at the end": curve[-1].validation,
    }
    costs = {
        "joules to grok": Cost(windows=windows_until[found.step if found else last], is_bound=found is None)
    }
    if memorised:
        costs["joules to memorise"] = Cost(windows=windows_until[memorised.step])
    return judged(checks, figures, costs)


def answer(trial: Trial) -> Verdict:
    """Train until the rule is found or the steps are spent."""
    settings: GrokkingSettings = trial.settings
    train, validation = (table.to(trial.device) for table in make_tables(settings, trial.seed))
    model = make_model(settings).to(trial.device)
    curve: list[Evaluation] = []
    windows: dict[int, list[tuple[float, float]]] = {}
    with trial.arm(settings.method, params=num_params(settings.config())) as arm:
        for step in _train(trial, arm, model, train):
            if step % settings.eval_every and step < settings.max_steps:
                continue
            windows[step] = arm.windows
            with trial.apart():
                curve.append(Evaluation(step, accuracy(model, train), accuracy(model, validation)))
            trial.point("accuracy", step=step, train=curve[-1].train, validation=curve[-1].validation)
            if find_grok(curve)[1] is not None:
                break
    return judge(curve, windows)


def _train(trial: Trial, arm: Arm, model: Transformer, train: Table) -> Iterator[int]:
    """Train, and yield the number of updates after each."""
    settings: GrokkingSettings = trial.settings
    weights, stable = list(model.parameters()), settings.method == "stablemax"
    decay = 0.0 if stable else settings.weight_decay
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    flops = len(train) * model_flops_per_sequence(settings.config(), 3, 1)
    change = gradient_change(settings, weights)
    for step in arm.steps(settings.max_steps):
        set_rate(optimizer, settings.lr * min(1.0, (step + 1) / max(settings.warmup_steps, 1)))
        with trial.forward():
            logits = model(train.pairs, last=1)[:, 0]
            loss = (stablemax_loss if stable else F.cross_entropy)(logits, train.answers)
        arm.learn(
            loss,
            optimizer,
            before_update=change,
            samples=len(train),
            tokens=3 * len(train),
            model_flops=flops,
        )
        yield step + 1


def gradient_change(settings: GrokkingSettings, weights: Sequence[Tensor]) -> Callable[[], None] | None:
    """What the method does to gradients before each update."""
    if settings.method == "grokfast":
        return SlowGradients(weights, settings.grokfast_alpha, settings.grokfast_lambda).amplify
    return partial(make_perpendicular, weights) if settings.method == "stablemax" else None


def accuracy(model: Transformer, table: Table) -> float:
    """Share of a table's answers that the model gives."""
    return float((model(table.pairs, last=1)[:, 0].argmax(dim=-1) == table.answers).double().mean())


PRESETS = {
    "smoke": GrokkingSettings(modulus=11, d_model=16, max_steps=160, threads=1),
    "cpu": GrokkingSettings(threads=1),
    "gpu": GrokkingSettings(
        modulus=113,
        d_model=128,
        head_dim=32,
        train_fraction=0.3,
        lr=1e-3,
        weight_decay=1.0,
        max_steps=40_000,
        eval_every=100,
        accelerator="cuda",
    ),
}

WORKLOAD = Experiment(
    name="grokking",
    summary="Modular arithmetic: memorised first, understood much later; joules from one to the other.",
    criterion=CRITERION,
    source="arXiv 2201.02177",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: int(settings.max_steps),
    flops_formula="pairs x 6 x matrix products at the last position, and keys and values at all three",
    params=lambda settings: num_params(settings.config()),
    seeds=5,
    shown_in=3,
)
