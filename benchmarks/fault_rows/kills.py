"""F1: kill -9 at random instants: at most a second is lost, nothing is there twice, nothing before is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fault_rows.row import Fault, Outcome
from profiler.store.runs import open_run

MOST_LOST_S = 1.0
FITS_SHARE = 0.1
"""Of the trials, so many are real Lightning fits; the others record through a `Session` without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kill:
    """What the victim told before it was killed.

    Attributes:
        killed_s: When, on the kernel's monotonic clock.
        told: The steps that it had ended, each with that clock.
    """

    name: str
    killed_s: float
    told: tuple[tuple[int, float], ...]


def kill_at_random(trials: int, folder: Path) -> Outcome:
    """Kill so many recording processes, and hold what is left against what they said that they had recorded."""
    fits = round(FITS_SHARE * trials)
    kills = [*_kill("session", trials - fits, folder), *(_kill("fit", fits, folder) if fits else ())]
    losses, failures, journals = [], [], 0
    for kill in kills:
        lost_s, failure, had_journal = _lost(folder, kill)
        losses.append(lost_s)
        journals += had_journal
        if failure or lost_s > MOST_LOST_S:
            failures.append(f"{kill.name}: {failure or f'{lost_s:.2f} s lost'}")
    if not journals:
        failures.append("no victim left a journal: none was killed while it recorded")
    worst = (
        f"{max(losses):.2f} s lost (median {sorted(losses)[len(losses) // 2]:.2f} s), {fits} fits among them"
    )
    return Outcome(trials=trials, passed=trials - len(failures), worst=worst, failures=tuple(failures))


def _kill(kind: str, count: int, folder: Path) -> list[_Kill]:
    """Have a process of its own fork and kill so many victims: the libraries are loaded once."""
    words = [sys.executable, str(Path(__file__).with_name("victims.py")), kind, str(folder), str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=1800)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return [_Kill(name=t["name"], killed_s=t["killed_s"], told=tuple(map(tuple, t["told"]))) for t in told]


def _lost(folder: Path, kill: _Kill) -> tuple[float, str | None, bool]:
    """Seconds that were lost, what else is wrong, and whether there is a journal to recover from."""
    if not kill.told:
        return 0.0, "it was killed before its first step", False
    run = open_run(folder, kill.name)
    if run.status != "lost" or run.damaged:
        return 0.0, f"its status is {run.status}; {run.damaged}", False
    process = run.processes[0]
    stored = process.steps["step"].to_list()
    if stored != list(range(1, len(stored) + 1)):
        return 0.0, f"steps are missing or twice: {stored[:5]} ... {stored[-5:]}", False
    times = dict(kill.told)
    first_lost_s = times.get(len(stored) + 1, kill.killed_s)
    readings = process.readings["time_s"] + process.facts.clock["monotonic_s"]
    if readings.len() != readings.n_unique():
        return 0.0, "a reading is there twice", False
    last_reading_s = readings.max() if readings.len() else kill.told[0][1]
    lost_s = max(kill.killed_s - first_lost_s, kill.killed_s - float(last_reading_s) - 0.1)  # type: ignore[arg-type]
    return lost_s, None, bool(run.unfinished)


ROWS = (
    Fault(
        id="F1",
        fault="kill -9 at random instants",
        pass_line="<= 1 s lost, 0 duplicates, 0 gaps before the loss",
        run=kill_at_random,
        trials=100,
        quick=4,
    ),
)
