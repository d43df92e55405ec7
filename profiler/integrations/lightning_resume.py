"""Where a training goes on, written into Lightning's checkpoints and read from them.

It stands in the checkpoint under a key of our own, as plain text and numbers, so that loading with `weights_only=True`
works. `Callback.state_dict` would do as well, but Lightning refuses two callbacks of one class that have a state, and
warns when a checkpoint is used without the callback.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from profiler.errors import InvalidValueError
from profiler.measure.attempt import ResumePoint
from profiler.store.folder import check_run_name
from profiler.store.manifest import MANIFEST_NAME

KEY = "joulescale"


def write_point(checkpoint: dict[str, Any], point: ResumePoint) -> None:
    """Add a run's place to a checkpoint; several monitors add theirs."""
    checkpoint.setdefault(KEY, {})[point.run_id] = {"attempt": point.attempt, "step": point.step}


def read_point(checkpoint: Mapping[str, Any], runs_dir: Path) -> ResumePoint | None:
    """The place in a checkpoint: that of a run in this folder, or else of any; None if there is none."""
    points = [_point(run_id, told) for run_id, told in dict(checkpoint.get(KEY) or {}).items()]
    here = [point for point in points if (runs_dir / point.run_id / MANIFEST_NAME).exists()]
    return next(iter([*here, *points]), None)


def _point(run_id: Any, told: Any) -> ResumePoint:
    try:
        return ResumePoint(
            run_id=check_run_name(run_id), attempt=int(told["attempt"]), step=int(told["step"])
        )
    except (KeyError, TypeError, ValueError):
        raise InvalidValueError(
            f"The checkpoint holds {str(told)[:50]!r} as its place in a joulescale run, which is none, so the training"
            " is recorded as a new run."
        ) from None


def steps_since(trainer: pl.Trainer, module: pl.LightningModule, global_step: int) -> int | None:
    """Optimizer updates since Lightning's count was `global_step`; None where it does not count updates one by one.

    A checkpoint may be written between an update and the hook in which we count it: from a signal handler, say.
    """
    if not module.automatic_optimization or len(trainer.optimizers) != 1:
        return None
    return int(trainer.global_step) - global_step


def is_fitting(trainer: pl.Trainer) -> bool:
    """Whether a checkpoint is read to be trained on, and not only to be looked at."""
    return trainer.state.fn == TrainerFn.FITTING
