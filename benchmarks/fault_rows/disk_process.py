"""Recording processes for the rows of a failing disk, each beside a twin whose disk is well."""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MOST_HOOK_US = 100.0
ENOUGH_TO_JUDGE_TIME = 3
"""A single trial, as in make test, may have met a busy machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A recording process, where it is told to stop, and what it logged before it recorded."""

    process: subprocess.Popen[str]
    stop: Path
    early: list[str] = field(default_factory=list)

    def opened(self) -> None:
        """Wait until it records; a warning may come before."""
        assert self.process.stderr is not None
        while (line := self.process.stderr.readline()) != "open\n":
            assert line, "it ended before it recorded"
            self.early.append(line)

    def end(self) -> tuple[dict[str, Any], str]:
        """What it told, and its log."""
        self.stop.touch()
        out, log = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, log
        return json.loads(out), "".join(self.early) + log


def victim(runs_dir: Path, stop: Path, *more: str, **environment: str) -> Victim:
    """Start one."""
    words = [sys.executable, str(HERE / "disk_victim.py"), str(runs_dir), str(stop), *more]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    return Victim(process=process, stop=stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Microseconds a step that hooks took, at the same time with and without the fault; a number a trial."""

    faulty: list[dict[str, float]] = field(default_factory=list)
    well: list[dict[str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def beside_a_twin(self, folder: Path) -> Iterator[None]:
        """Have a twin record meanwhile."""
        twin = victim(folder / "twin", folder / "stop-twin")
        twin.opened()
        try:
            yield
        finally:
            self.well.append(twin.end()[0]["hook_us"])

    def too_slow(self) -> str | None:
        """Whether the p99 is beyond its line, though there were trials enough to tell."""
        p99_us = _median(self.faulty, "p99")
        judged = len(self.well) >= ENOUGH_TO_JUDGE_TIME
        return f"hooks took {p99_us:.0f} us (p99)" if judged and p99_us > MOST_HOOK_US else None

    def __str__(self) -> str:
        p99, well_p99 = (_median(hooks, "p99") for hooks in (self.faulty, self.well))
        longest, well_longest = (
            max((one["longest"] for one in hooks), default=math.nan) for hooks in (self.faulty, self.well)
        )
        return (
            f"hook p99 {p99:.0f} us, longest {longest / 1e3:.1f} ms (without the fault {well_p99:.0f} us, "
            f"{well_longest / 1e3:.1f} ms; ratio of the p99s {p99 / well_p99:.2f})"
        )


def _median(hooks: list[dict[str, float]], name: str) -> float:
    return statistics.median(one[name] for one in hooks) if hooks else math.nan
