"""How far all runs are: a bar for each that goes on and one for the whole, or a line a run where nobody watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from profiler.report.quantity import format_quantity

GUESS_S = 120.0
"""A run that nobody has timed."""


@final
class Board:
    """Progress with an estimate of the end.

    Args:
        expected_s: Seconds that each run that is still to be made took before; others are guessed.
        at_once: How many of them go on at the same time, at most.
    """

    def __init__(self, expected_s: Mapping[str, float | None], at_once: int) -> None:
        self._left_s = {label: seconds or GUESS_S for label, seconds in expected_s.items()}
        self._whole_s, self._at_once = sum(self._left_s.values()) or 1.0, at_once
        self._began_s: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
        self._bars = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self._all = self._bars.add_task("all runs", total=self._whole_s, detail="")

    def __enter__(self) -> Board:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    @property
    def eta_s(self) -> float:
        """Seconds until everything is done, if runs take what they took before."""
        return sum(self._left_s.values()) / self._at_once

    def begin(self, label: str) -> None:
        """A run begins."""
        with self._lock:
            self._began_s[label] = time.monotonic()
            self._tasks[label] = self._bars.add_task(label, total=1.0, detail="starting")
        if not self.console.is_terminal:
            self.say(f"{label}: begins; about {format_quantity(self.eta_s, 's')} are left")

    def show(self, label: str, line: Mapping[str, Any]) -> None:
        """A run says how far it is."""
        share = min(line["step"] / max(line["steps"], 1), 1.0)
        with self._lock:
            if share > 0.05:
                took_s = time.monotonic() - self._began_s[label]
                self._left_s[label] = took_s * (1.0 - share) / share
            done = f"step {line['step']}/{line['steps']}  loss {line['loss']:.3f}"
            self._bars.update(self._tasks[label], completed=share, detail=done)
            self._update()

    def end(self, label: str) -> None:
        """A run has ended, somehow."""
        with self._lock:
            self._left_s[label] = 0.0
            self._bars.remove_task(self._tasks[label])
            self._update()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, highlight=False, markup=False)

    def _update(self) -> None:
        done_s = max(self._whole_s - sum(self._left_s.values()), 0.0)
        self._bars.update(self._all, completed=done_s, detail=f"ETA {format_quantity(self.eta_s, 's')}")
