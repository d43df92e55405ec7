"""How far a training is: a bar for a person at a terminal, or JSON lines for the command that started it.

The lines go to the file descriptor named by JOULESCALE_PROGRESS_FD, at most two a second, so that a sweep
can draw one estimate over all its runs. Reading the loss makes the host wait for a GPU; twice a second is
rare enough to cost nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

FD_VARIABLE = "JOULESCALE_PROGRESS_FD"
INTERVAL_S = 0.5


class Display(Protocol):
    """Where progress is shown."""

    def show(self, *, step: int, steps: int, loss: float, tokens_per_s: float) -> None:
        """Show that `step` of `steps` are done."""
        ...

    def close(self) -> None:
        """Leave the place as it was found."""
        ...


class JsonLines:
    """One JSON object a line, written to a file descriptor that the reader owns."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def show(self, *, step: int, steps: int, loss: float, tokens_per_s: float) -> None:
        """Write one line; a reader that has gone away is no reason to stop training."""
        line = json.dumps(
            {"step": step, "steps": steps, "loss": round(loss, 4), "tokens_per_s": round(tokens_per_s, 1)}
        )
        try:
            os.write(self._descriptor, line.encode() + b"\n")
        except OSError:
            self._descriptor = -1  # from now on each write fails at once, whoever gets the old number

    def close(self) -> None:
        """Leave the descriptor open: it is not ours."""


class TerminalBar:
    """A bar on stderr, so that stdout stays free for results."""

    def __init__(self) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tok/s  ETA"),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("training", total=None, loss=float("nan"), rate=0.0)
        self._bar.start()

    def show(self, *, step: int, steps: int, loss: float, tokens_per_s: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, total=steps, loss=loss, rate=tokens_per_s)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()


class ProgressCallback(L.Callback):
    """Tells a display how far the fit is, at most twice a second and once at the end."""

    def __init__(
        self,
        display: Display,
        *,
        steps: int,
        tokens_per_step: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._display = display
        self._steps = steps
        self._tokens_per_step = tokens_per_step
        self._clock = clock
        self._shown_step = 0
        self._shown_s = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._shown_s, self._shown_step = self._clock(), trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show this step, unless one was shown just now."""
        step, now_s = batch_idx + 1, self._clock()
        if now_s - self._shown_s < INTERVAL_S and step < self._steps:
            return
        rate = (step - self._shown_step) * self._tokens_per_step / max(now_s - self._shown_s, 1e-9)
        self._display.show(step=step, steps=self._steps, loss=float(outputs["loss"]), tokens_per_s=rate)
        self._shown_step, self._shown_s = step, now_s

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the display, after a failure too."""
        self._display.close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the display before the error is printed over it."""
        self._display.close()


def choose_display() -> Display | None:
    """Where this process should show progress, or None if nobody is watching."""
    descriptor = os.environ.get(FD_VARIABLE, "")
    if descriptor.isdigit():
        return JsonLines(int(descriptor))
    return TerminalBar() if sys.stderr.isatty() else None
