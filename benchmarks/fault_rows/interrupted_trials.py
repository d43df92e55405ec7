"""Children of rows F3 and F4: a fit that is ended by a signal, or by an exception, with the monitor or without."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, Dataset

from fault_rows.edge_fit import Model, data, quiet_trainer
from profiler import EfficiencyMonitor


class TimeUpError(Exception):
    """What a user's own handler of a signal raises."""


def _time_up(number: int, frame: FrameType | None) -> None:
    raise TimeUpError(number)


class Counts(L.Callback):
    """Counts the batches that are done, where another process can see them."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "batches").open("w", buffering=1)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self._file.write(f"{trainer.global_step}\n")


class Slow(Model):
    """Each step takes a while; the `exits`-th calls `sys.exit(3)`."""

    exits = -1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.004)
        if batch_idx == self.exits:
            sys.exit(3)
        return super().training_step(batch, batch_idx)


def train_until_signal(folder: str, fault: str, with_us: bool, steps: int) -> None:
    """A script that somebody sends a signal; how its fit ended goes to `ended.json`, as the script itself sees it."""
    own = Path(folder)
    model = Slow()
    if fault == "own handler":
        signal.signal(signal.SIGTERM, _time_up)
        signal.signal(signal.SIGUSR2, _time_up)
    if fault == "sys.exit":
        model.exits = steps // 2
    if fault == "SIGTERM after the fit began":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = _handlers()
    plugins = [SLURMEnvironment(requeue_signal=signal.SIGUSR1)] if fault == "SIGUSR1" else []
    monitor = [EfficiencyMonitor(own / "runs", summary=False)] if with_us else []
    trainer = quiet_trainer(
        callbacks=[*monitor, Counts(own)],
        max_epochs=-1,
        max_steps=steps,
        plugins=plugins,
        enable_checkpointing=False,
        default_root_dir=own,
    )
    raised: BaseException | None = None
    try:
        trainer.fit(model, DataLoader(data(steps * 4), 4))
    except BaseException as error:
        raised = error
        raise
    finally:
        told = {"raised": raised and described(raised), "handlers": before == _handlers()}
        told["ignored"] = (
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        )  # Lightning's own doing after a Ctrl-C
        (own / "ended.json").write_text(json.dumps(told))


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in sorted(signal.valid_signals()) if number != signal.SIGINT]


def described(error: BaseException | None) -> Any:
    """All of an exception that another one could differ in: kind, arguments, what it came of, and its path."""
    if error is None:
        return None
    path = [
        f"{Path(frame.filename).name}:{frame.name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if f"{os.sep}profiler{os.sep}integrations" not in frame.filename
        and "contextlib" not in frame.filename
    ]
    return {
        "kind": type(error).__qualname__,
        "args": repr(getattr(error, "args", None)),
        "cause": described(error.__cause__),
        "context": described(error.__context__),
        "suppressed": error.__suppress_context__,
        "path": path,
    }


class UnreadableError(Exception):
    """An exception whose words cannot be read."""

    def __str__(self) -> str:
        raise ZeroDivisionError


class UsersPanic(BaseException):
    """No `Exception`, and the user's."""


def _chained() -> BaseException:
    error = ValueError("of the user", 7)
    error.__cause__ = KeyError("its cause")
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "ValueError with a cause": _chained,
    "torch.OutOfMemoryError": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "MemoryError": MemoryError,
    "SystemExit": lambda: SystemExit(3),
    "RecursionError": lambda: RecursionError("the user's"),
    "UnreadableError": UnreadableError,
    "UsersPanic": lambda: UsersPanic("no Exception"),
    "StopIteration": lambda: StopIteration(1),
    "KeyboardInterrupt": KeyboardInterrupt,
}


class Breaks(Model):
    """Raises at its place in the third batch."""

    place, error = "", ""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self._maybe("training_step", batch_idx)
        return super().training_step(batch, batch_idx)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self._maybe("optimizer", self.trainer.global_step)

    def on_after_backward(self) -> None:
        self._maybe("backward", self.trainer.global_step)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self._maybe("validation", 2)
        super().validation_step(batch, batch_idx)

    def setup(self, stage: str) -> None:
        self._maybe("setup", 2)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._maybe("checkpoint", 2)

    def on_fit_end(self) -> None:
        self._maybe("end of the fit", 2)

    def _maybe(self, place: str, batch: int) -> None:
        if place == self.place and batch == 2:
            raise ERRORS[self.error]()


class BreaksBetween(L.Callback):
    """Raises between batches, listed before the monitor or after it."""

    def __init__(self, error: str) -> None:
        self._error = error

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index == 2:
            raise ERRORS[self._error]()


class BreaksLoading(Dataset[Any]):
    """Raises in the third batch, in the training's process or in a worker."""

    def __init__(self, error: str) -> None:
        self._error, self._rows = error, data(48)

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        if index >= 16 * 2:
            raise ERRORS[self._error]()
        return self._rows[index]


class Saves(L.Callback):
    """Saves after the third batch."""

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "saved.ckpt")


def raise_in_fits(folder: str, trials: list[tuple[str, str]]) -> None:
    """One line for each: what the user sees of the exception with us and without, and what was stored."""
    for number, (place, error) in enumerate(trials):
        own = Path(folder) / f"{number}"
        monitor = EfficiencyMonitor(own / "runs", summary=False)
        found, without = _raised(own, place, error, [monitor]), _raised(own, place, error, [])
        told = {"place": place, "error": error, "found": found, "without": without}
        print(json.dumps({**told, "runs": str(own / "runs")}), flush=True)


def _raised(folder: Path, place: str, error: str, ours: list[Any]) -> Any:
    L.seed_everything(3, verbose=False)
    model = Breaks()
    model.place, model.error = place, error
    callbacks = [
        *([BreaksBetween(error)] if place == "before us" else []),
        *ours,
        *([BreaksBetween(error)] if place == "after us" else []),
        *([Saves()] if place == "checkpoint" else []),
    ]
    trainer = quiet_trainer(callbacks=callbacks, enable_checkpointing=False, default_root_dir=folder)
    rows = BreaksLoading(error) if place in ("loader", "worker") else data()
    kept = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(model, DataLoader(rows, 16, num_workers=int(place == "worker")), DataLoader(data(16), 16))
    except BaseException as raised:  # noqa: BLE001 - what the row compares
        return described(raised)
    finally:
        signal.signal(signal.SIGINT, kept)
    return None
