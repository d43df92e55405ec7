"""What the hooks of one training step leave for each other, and for the next step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from profiler.measure.deferred import Scalar
from profiler.measure.recorder import Clock, Note, Noted, Recorder, Work
from profiler.measure.work import WorkCounter
from profiler.records import Phase

NEVER_SEEN, NO_SHAPE = torch.Size((-1,)), torch.Size((-2,))
"""Shapes of no batch, so that the next is looked at: since it is the first of an epoch, or as none is known."""


def _nothing(noted: Noted) -> None:
    """Outside of a fit, and after a fault of ours, nothing is noted."""


class OpenStep:
    """The step that is under way. Its slots are all that the hooks of every step touch: that they are few is speed.

    Args:
        number: Of the last step that ended.
        recorder: Takes what is noted; None takes nothing.

    Attributes:
        note: Takes an instant: its phase and time, and what ended there (`profiler.measure.recorder.Note`).
        now: Monotonic seconds.
        cpu: CPU seconds of the process; None while they are not read.
        look_s: When the recorder wants to look after itself.
        later: What a loss must go through before it is noted, or None.
        between: The phase after a batch, until the next is asked for.
        counter: Who must hear of this microbatch, since its work is not known yet; else None.
        kind: The type of batches whose first element is their first tensor (list, tuple); None of others.
        shape: Of the first tensor of batches whose work is known.
        work: What the microbatch does in one backward pass, once that is known.
        passes: Backward passes of this microbatch.
        updated: Whether an optimizer ran: the step then ends with this microbatch.
        number: Of the last step that ended.
        log_at: The step at whose end logged metrics are read.
        divided_by: What the training divides the loss of a microbatch by.
    """

    __slots__ = (
        "between",
        "counter",
        "cpu",
        "divided_by",
        "kind",
        "later",
        "log_at",
        "look_s",
        "note",
        "now",
        "number",
        "passes",
        "shape",
        "updated",
        "work",
    )

    def __init__(self, number: int = 0, recorder: Recorder | None = None) -> None:
        self.note: Note = _nothing
        self.now: Clock = time.monotonic
        self.cpu: Clock | None = None
        self.look_s = math.inf
        self.later: Callable[[object], Scalar] | None = None
        if recorder is not None:
            self.note, self.now, self.later = recorder.note, recorder.clock, recorder.later
            self.cpu, self.look_s = recorder.look(self.now())
        self.between: Phase = "data"
        self.counter: WorkCounter | None = None
        self.kind: type | None = None
        self.shape: torch.Size | None = NEVER_SEEN
        self.work = Work()
        self.passes = 0
        self.updated = False
        self.number = number
        self.log_at = -1
        self.divided_by = 1


def loss_in(outputs: Any) -> Any:
    """The loss in what a training step gave; without its graph, which would live on with it."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, torch.Tensor):
        return None
    return loss.detach() if loss.requires_grad else loss


def loss_divisor(trainer: Any) -> int:
    """What Lightning divides the loss of each microbatch by; the last step of an epoch may have fewer."""
    automatic = trainer.lightning_module.automatic_optimization
    return trainer.accumulate_grad_batches if automatic else 1
