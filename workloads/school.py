"""A teacher and its students: trained alike, judged by the same sequences, asked to write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workloads.byte_lm import check_finite, cross_entropy, make_model, sequence_losses, train, write
from workloads.corpus import Corpus, windows_at
from workloads.lesson import Lesson
from workloads.transformer import Transformer
from workloads.transformer_config import num_all_params
from workloads.trial import Arm, Trial
from workloads.verdict import Windows

if TYPE_CHECKING:
    from workloads.distillation import DistillationSettings


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of one kind of training, once from each of its first weights.

    Attributes:
        name: Of its arm.
        model: The first of them, after its training.
        losses: Nats a token at the best evaluation, float64 of shape (first weights, validation sequences).
        windows: The time in which the first trained.
    """

    name: str
    model: Transformer
    losses: Tensor
    windows: Windows

    @property
    def loss(self) -> float:
        """Mean over first weights and validation sequences, in nats a token."""
        return float(self.losses.mean())


BatchAt = Callable[[int], tuple[Tensor, Any]]


@dataclass(frozen=True, slots=True)
class School:
    """Trains models on a corpus; all are judged by the same validation sequences."""

    trial: Trial
    corpus: Corpus
    validation: Sequence[tuple[Tensor, Tensor]]

    @property
    def settings(self) -> DistillationSettings:
        """The trial's."""
        settings: DistillationSettings = self.trial.settings
        return settings

    def teacher(self, batch_at: BatchAt) -> Trained:
        """Train the teacher."""
        return self._train("teacher", "teacher", batch_at, cross_entropy, times=1)

    def students(
        self, name: str, batch_at: BatchAt, loss_of: Callable[[Tensor, Any], Tensor] = cross_entropy
    ) -> Trained:
        """Train a student from each of its first weights, as one arm of this name."""
        return self._train(name, "student", batch_at, loss_of, times=self.settings.students)

    def _train(
        self,
        name: str,
        who: str,
        batch_at: BatchAt,
        loss_of: Callable[[Tensor, Any], Tensor],
        *,
        times: int,
    ) -> Trained:
        config = self.settings.config(who, self.corpus.vocab_size)
        best, models, windows = [], [], list[Windows]()
        with self.trial.arm(name, params=num_all_params(config), first_weights=times) as arm:
            for number in range(times):
                models.append(make_model(config, self.trial, number))
                best.append(self._train_one(arm, models[-1], who, batch_at, loss_of))
                windows.append(arm.windows)
        trained = Trained(name, models[0], torch.stack(best), windows[0])
        check_finite(f"The loss of {name!r}", trained.loss, f"{who}_lr")
        return trained

    def _train_one(
        self,
        arm: Arm,
        model: Transformer,
        who: str,
        batch_at: BatchAt,
        loss_of: Callable[[Tensor, Any], Tensor],
    ) -> Tensor:
        """Its losses on the validation sequences at its best evaluation."""
        recipe, best = self.settings.recipe(who), None
        for step in train(self.trial, arm, model, batch_at, loss_of, recipe):
            is_due = who == "student" and step % self.settings.eval_every == 0
            if is_due or step == recipe.steps:
                with self.trial.apart():
                    losses = sequence_losses(model, self.validation)
                best = losses if best is None or losses.mean() < best.mean() else best
        assert best is not None
        return best

    def batches(self, corpus: Corpus, *, seed: int) -> BatchAt:
        """Batches of a corpus by step."""
        settings, device = self.settings, self.trial.device

        def at(step: int) -> tuple[Tensor, Tensor]:
            inputs, targets = corpus.train_batch(
                step, batch_size=settings.batch_size, seq_len=settings.seq_len, seed=seed
            )
            return inputs.to(device), targets.to(device)

        return at

    def soft_batches(self, lesson: Lesson) -> BatchAt:
        """Batches of a lesson by step: the sequences of `batches` of its text."""
        size, count = self.settings.batch_size, len(lesson.tokens)
        return lambda step: lesson.soft_batch(
            windows_at(step, batch_size=size, num_windows=count, seed=self.trial.seed),
            self.corpus.bos,
            self.trial.device,
        )

    def meter_queries(self, model: Transformer, queries: int) -> Windows:
        """The time that a model takes to write so many sequences."""
        generator = torch.Generator(self.trial.device).manual_seed(self.trial.seed)
        with self.trial.apart() as window:
            for first in range(0, queries, self.settings.query_batch):
                streams = min(self.settings.query_batch, queries - first)
                for _ in write(
                    model,
                    streams=streams,
                    length=self.settings.seq_len,
                    bos=self.corpus.bos,
                    generator=generator,
                ):
                    pass
        return window


def open_school(trial: Trial, corpus: Corpus) -> School:
    """Set validation sequences of the text aside."""
    settings: DistillationSettings = trial.settings
    batches = corpus.validation_batches(
        num_sequences=settings.validation_sequences, batch_size=64, seq_len=settings.seq_len
    )
    return School(trial, corpus, [(x.to(trial.device), y.to(trial.device)) for x, y in batches])
