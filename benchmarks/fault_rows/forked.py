"""F11: fork, spawn, deepcopy and pickle in the middle of a fit: nobody hangs, and one process writes."""

from __future__ import annotations

from pathlib import Path

from fault_rows.row import Fault, Outcome
from fault_rows.zygote import zygote
from profiler.store.run import StoredRun
from profiler.store.runs import scan_runs

WRITERS = {
    "fork with locks held": [1],
    "workers that fork": [1],
    "deepcopy and pickle": [1, 1],
    "script ends before the fit": [1],
    "pool": [1],
    "workers that spawn": [1],
    "workers by forkserver": [1],
    "ddp_spawn": [2],
}
"""Way to the processes that wrote, for each of its runs."""


def run(trials: int, folder: Path) -> Outcome:
    """Each way in a process of its own."""
    failures = []
    for number in range(trials):
        way = list(WRITERS)[number % len(WRITERS)]
        own = folder / f"{number}"
        ended = (
            zygote().start("fault_rows.forked_trials:run", own, {"folder": str(own), "way": way}).wait(150.0)
        )
        wrong = [] if ended.status == 0 else [f"exit status {ended.status}: {ended.stderr[-600:]}"]
        wrong += [f"{ended.stderr[-600:]}"] if "Fatal" in ended.stderr or "Traceback" in ended.stderr else []
        runs = scan_runs(own / "runs") if (own / "runs").exists() else []
        if sorted(len(found.processes) for found in runs) != WRITERS[way]:
            wrong.append(f"{[len(found.processes) for found in runs]} processes wrote, not {WRITERS[way]}")
        wrong += [fault for found in runs for fault in _faults(found, way)]
        if wrong:
            failures.append(f"{way}: {'; '.join(wrong)}")
    worst = f"{len(failures)} of {trials} hung, failed or wrote twice"
    return Outcome(trials=trials, passed=trials - len(failures), worst=worst, failures=tuple(failures))


def _faults(found: StoredRun, way: str) -> list[str]:
    expected = "interrupted" if way.startswith("script ends") else "finished"
    wrong = [] if found.status == expected else [f"status {found.status}"]
    for process in found.processes:
        steps = process.steps["step"].to_list()
        if steps != list(range(1, len(steps) + 1)) or not steps:
            wrong.append(f"steps {steps}")
        notes = [note for note in process.marks["note"].to_list() if "the child" in note]
        wrong += [f"a child's {notes[0]}"] if notes else []
    return wrong


ROWS = (
    Fault(
        id="F11",
        fault="fork with our locks held, workers and pools, ddp_spawn, deepcopy, pickle, a script that ends early",
        pass_line="no child hangs, one writer a process, every step once, exit status 0",
        run=run,
        trials=24,
        quick=2,
    ),
)
