"""What the microbatches of a step that is not yet over did together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch

from profiler.measure.recorder import Work


class StepSoFar:
    """Work and loss of the microbatches since the last optimizer update.

    Attributes:
        work: Of all of them; None before the first.
        updated: Whether an optimizer ran in the last of them: the step then ends with it.
    """

    __slots__ = ("_loss", "_losses", "updated", "work")

    def __init__(self) -> None:
        self.work: Work | None = None
        self.updated = False
        self._loss: Any = None
        self._losses = 0

    def add(self, work: Work, outputs: Any) -> None:
        """Add a microbatch: its work, and what the training step returned of it."""
        self.work = work if self.work is None else self.work.plus(work)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            loss = loss.detach() if loss.requires_grad else loss
            self._loss = loss if self._loss is None else self._loss + loss
            self._losses += 1

    def mean_loss(self, trainer: pl.Trainer) -> Any:
        """Over microbatches. Lightning has divided each by the number of a full step; the last step may be shorter."""
        module = trainer.lightning_module
        divided_by = trainer.accumulate_grad_batches if module.automatic_optimization else 1
        if self._loss is None or divided_by == self._losses:
            return self._loss
        return self._loss * (divided_by / self._losses)
