"""Checkpoints of a workload's own training: in its run's folder, a few at a time, whole or not there at all."""

from __future__ import annotations

import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
from torch.utils.data import Sampler

from profiler.store.files import write_whole

FOLDER = "checkpoints"
KEPT = 2
"""The newest, and the one before it, in case somebody's disk spoilt the newest."""


class Checkpoints:
    """Writes a checkpoint when the last is long enough ago; a disk that refuses costs the checkpoint, not the training.

    Args:
        folder: The run's folder, once it is known; None: nothing is recorded, and nothing written.
        every_s: Seconds from one to the next.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Callable[[], Path | None],
        *,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._every_s, self._clock = folder, every_s, clock
        self._last_s = clock()

    def start(self) -> None:
        """Count from now."""
        self._last_s = self._clock()

    @property
    def due(self) -> bool:
        """Whether it is time for one."""
        return self._folder() is not None and self._clock() - self._last_s >= self._every_s

    def write(self, trainer: L.Trainer) -> None:
        """Write one, and remove those that are too old."""
        run_dir = self._folder()
        assert run_dir is not None
        folder = run_dir / FOLDER
        try:
            folder.mkdir(exist_ok=True)
            write_whole(folder / f"step-{trainer.global_step:010d}.ckpt", trainer.save_checkpoint)
            for old in _all(run_dir)[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            sys.stderr.write(f"joulescale: no checkpoint at step {trainer.global_step}: {error}\n")
        self._last_s = self._clock()


class StepsFrom(Sampler[int]):
    """The steps from where a training stands to the last; its length is that of all, by which Lightning counts."""

    def __init__(self, first: Callable[[], int], steps: int) -> None:
        self._first, self._steps = first, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._first(), self._steps))

    def __len__(self) -> int:
        return self._steps


def last_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; None if there is none. A damaged one is named and passed over."""
    for path in reversed(_all(run_dir)):
        if zipfile.is_zipfile(path):
            return path
        sys.stderr.write(f"joulescale: the checkpoint {path} is damaged, so an earlier one is taken\n")
    return None


def remove_checkpoints(run_dir: Path) -> None:
    """Remove all checkpoints of a run."""
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)


def _all(run_dir: Path) -> list[Path]:
    return sorted((run_dir / FOLDER).glob("step-*.ckpt"))
