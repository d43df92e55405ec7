"""One point of a sweep in a process of its own, and the progress that it reports through a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PROGRESS_FD_VARIABLE = "JOULESCALE_PROGRESS_FD"


class PointFailed(Exception):
    """The process of a point ended badly; the message is the last that it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting and seed of a sweep.

    Attributes:
        settings: The workload's settings dataclass, complete.
        texts: What differs from the preset, as given on a command line.
        label: For people.
        options: Further options of `joulescale run`, as on its command line.
        resume: Name of a run of this point that did not finish.
    """

    workload: str
    preset: str
    seed: int
    settings: Any
    texts: Mapping[str, str]
    label: str
    options: Sequence[str] = ()
    resume: str | None = None

    def command(self, runs_dir: Path) -> list[str]:
        """The command line that trains it."""
        words = [sys.executable, "-m", "profiler.cli.main", "run", self.workload, "--json"]
        words += ["--runs-dir", str(runs_dir)]
        if self.resume is not None:
            return [*words, "--resume", self.resume, *self.options]
        words += ["--preset", self.preset, "--seed", str(self.seed)]
        for key, text in self.texts.items():
            words += ["--set", f"{key}={text}"]
        return [*words, *self.options]


class SweepProgress:
    """One bar over all points that still have to run, with an ETA from their relative costs.

    Args:
        costs: Relative cost by label.
    """

    def __init__(self, costs: Mapping[str, float]) -> None:
        self._costs, self._total = dict(costs), sum(costs.values()) or 1.0
        self._done, self._started_s = 0.0, time.monotonic()
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"))
        self._bar = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = self._bar.add_task("sweep", total=1.0, detail="starting")

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, label: str, line: Mapping[str, Any]) -> None:
        """Move the bar by what a process said of itself."""
        part = line["step"] / max(line["steps"], 1) * self._costs[label]
        share = (self._done + part) / self._total
        elapsed_s = time.monotonic() - self._started_s
        eta = f"ETA {elapsed_s * (1.0 - share) / share:,.0f} s" if share > 0.01 else "ETA ..."
        done = f"step {line['step']}/{line['steps']}  loss {line['loss']:.3f}"
        detail = f"{done}  {line['tokens_per_s']:,.0f} tok/s  {eta}"
        self._bar.update(self._task, completed=share, description=label, detail=detail)

    def say(self, label: str, result: Mapping[str, Any]) -> None:
        """One line for a point that is done."""
        self._done += self._costs.get(label, 0.0)
        self._console.print(f"{label}: {result['status']}", highlight=False, markup=False)


def run_point(point: Point, runs_dir: Path, progress: SweepProgress) -> str:
    """Train one point and return its run's name.

    Raises:
        PointFailed: The process ended with another status than 0.
    """
    read_end, write_end = os.pipe()
    environment = {**os.environ, PROGRESS_FD_VARIABLE: str(write_end)}
    process = subprocess.Popen(
        point.command(runs_dir),
        env=environment,
        pass_fds=[write_end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    listener = threading.Thread(target=_listen, args=(read_end, point.label, progress), daemon=True)
    listener.start()
    try:
        output, errors = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode != 0:
        raise PointFailed(_last_words(errors, process.returncode))
    return str(json.loads(output)["run_id"])


def _listen(descriptor: int, label: str, progress: SweepProgress) -> None:
    with os.fdopen(descriptor) as lines:
        for line in lines:
            progress.show(label, json.loads(line))


def _last_words(errors: str, status: int) -> str:
    lines = [line for line in errors.splitlines() if line.strip()]
    return (lines[-1] if lines else "it said nothing").removeprefix(
        "joulescale: "
    ) + f" (exit status {status})"
