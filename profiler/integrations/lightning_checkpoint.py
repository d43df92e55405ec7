"""The time of writing a checkpoint: Lightning has a hook before the file is written and none after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

import lightning.pytorch as pl

from profiler.records import Phase

BookPhase = Callable[[Phase], AbstractContextManager[None]]


def time_checkpoints(trainer: pl.Trainer, phase: BookPhase) -> Callable[[], None]:
    """Book the time of `trainer.save_checkpoint` as the phase `checkpoint`; what is returned undoes it."""
    own = trainer.__dict__.get("save_checkpoint")  # somebody else's wrapper, perhaps
    timed = _TimedSave(phase, trainer, trainer.save_checkpoint)

    def unwrap() -> None:
        if trainer.__dict__.get("save_checkpoint") is not timed:
            return  # wrapped again since: what lies above us is not ours to take away
        del trainer.__dict__["save_checkpoint"]
        if own is not None:
            trainer.__dict__["save_checkpoint"] = own

    trainer.save_checkpoint = timed  # type: ignore[method-assign]
    return unwrap


class _TimedSave:
    """`trainer.save_checkpoint` with its time booked; a copied trainer gets its own."""

    def __init__(self, phase: BookPhase, trainer: pl.Trainer, original: Callable[..., Any]) -> None:
        self._phase, self._trainer, self._original = phase, trainer, original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Save."""
        with self._phase("checkpoint"):
            return self._original(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied or pickled with its trainer, it is the trainer's plain method again."""
        return MethodType, (type(self._trainer).save_checkpoint, self._trainer)
