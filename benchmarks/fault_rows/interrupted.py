"""F3 and F4: the user's signals and exceptions, with us as without us, and everything up to the end stored."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_rows.row import Fault, Outcome
from fault_rows.zygote import Ended, zygote
from profiler import open_run, summarize
from profiler.store.runs import scan_runs

TASKS = "fault_rows.interrupted_trials"
SENT = {
    "SIGTERM": signal.SIGTERM,
    "Ctrl-C": signal.SIGINT,
    "own handler": signal.SIGUSR2,
    "SIGUSR1": signal.SIGUSR1,
    "sys.exit": None,
}
STEPS = 120
ERRORS = (
    "ValueError with a cause",
    "torch.OutOfMemoryError",
    "MemoryError",
    "SystemExit",
    "RecursionError",
    "UnreadableError",
    "UsersPanic",
    "StopIteration",
    "KeyboardInterrupt",
)
PLACES = (
    "training_step",
    "backward",
    "optimizer",
    "before us",
    "after us",
    "loader",
    "worker",
    "validation",
    "setup",
    "checkpoint",
    "end of the fit",
)
MOST_REFERENCES = 5
SCONTROL = '#!/bin/sh\necho "$@" >> "$SCONTROL_CALLS"\n'


def signals(trials: int, folder: Path) -> Outcome:
    """Each signal at random instants, with the monitor and without."""
    failures, lost, waited_s = [], 0, 0.0
    draw = random.Random(4)
    for number in range(trials):
        fault = list(SENT)[number % len(SENT)]
        after, later_s = draw.randint(3, STEPS // 2), draw.uniform(0.0, 0.02)
        own = folder / f"{number}"
        without = _reference(own / "without", fault, after, later_s)
        found, took_s = _one(own / "with", fault, after, later_s, with_us=True)
        missing, wrong = _compare(own, fault, found, without)
        lost, waited_s = max(lost, missing), max(waited_s, took_s)
        if wrong:
            failures.append(f"{fault} after batch {after}: {'; '.join(wrong)}")
    worst = f"{lost} steps lost, {waited_s:.1f} s from the signal to the end"
    return Outcome(trials=trials, passed=trials - len(failures), worst=worst, failures=tuple(failures))


def _reference(folder: Path, fault: str, after: int, later_s: float) -> Ended:
    """A fit without us, in which no library made another exception of the handler's, as `inspect` does if it is hit."""
    for _ in range(MOST_REFERENCES):
        shutil.rmtree(folder, ignore_errors=True)
        ended, _ = _one(folder, fault, after, later_s, with_us=False)
        raised = json.loads((folder / "ended.json").read_text())["raised"]
        if not (raised and raised["cause"]):
            return ended
    return ended


def _one(folder: Path, fault: str, after: int, later_s: float, *, with_us: bool) -> tuple[Ended, float]:
    arguments = {"folder": str(folder), "fault": fault, "with_us": with_us, "steps": STEPS}
    child = zygote().start(f"{TASKS}:train_until_signal", folder, arguments, _environment(folder, fault))
    number = SENT[fault]
    if number is not None:
        _wait_for(folder / "batches", after)
        time.sleep(later_s)
        child.send(number)
    start_s = time.monotonic()
    return child.wait(60.0), time.monotonic() - start_s


def _wait_for(batches: Path, number: int) -> None:
    until_s = time.monotonic() + 60.0
    while not (batches.exists() and batches.read_text().count("\n") >= number):
        assert time.monotonic() < until_s, "the fit did not begin"
        time.sleep(0.005)


def _environment(folder: Path, fault: str) -> dict[str, str]:
    """For the requeue: a job of one task, and a `scontrol` that writes down what it is told."""
    if fault != "SIGUSR1":
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    scontrol = folder / "scontrol"
    scontrol.write_text(SCONTROL)
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}
    place = {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**job, **place, "PATH": path, "SCONTROL_CALLS": str(folder / "scontrol_calls")}


def _compare(own: Path, fault: str, found: Ended, without: Ended) -> tuple[int, list[str]]:
    """Steps that were done and not stored, and what is not as it is without us."""
    wrong = []
    if found.status != without.status:
        wrong.append(f"exit status {found.status}, not {without.status}: {found.stderr[-300:]}")
    for word in ("Traceback", "Fatal Python error"):
        if found.stderr.count(word) != without.stderr.count(word):
            wrong.append(f"{found.stderr.count(word)} times {word!r}, not {without.stderr.count(word)}")
    ended = [json.loads((own / name / "ended.json").read_text()) for name in ("with", "without")]
    with_us, reference = (_without_lines(e) for e in ended)
    if with_us != reference:
        wrong.append(f"{with_us}, not {reference}")
    if fault == "SIGUSR1":
        calls = [own / name / "scontrol_calls" for name in ("with", "without")]
        if [c.read_text() for c in calls] != ["requeue 7\n"] * 2 or not list(own.glob("with/hpc_ckpt_*")):
            wrong.append("the job was not requeued")
    summary = summarize(open_run(own / "with" / "runs", "latest"))
    done = len((own / "with" / "batches").read_text().splitlines())
    expected = "finished" if fault == "SIGUSR1" else "interrupted"
    if summary["status"] != expected:
        wrong.append(f"status {summary['status']}")
    if expected == "interrupted" and "ended" not in summary["notes"]:
        wrong.append("no reason for the end")
    if not done <= summary["steps"] <= done + 1:
        wrong.append(f"{summary['steps']} steps stored of {done}")
    return max(done - summary["steps"], 0), wrong


def _without_lines(ended: dict[str, Any]) -> dict[str, Any]:
    """A signal comes at another line each time: kinds and arguments are compared, not the path."""
    raised = ended["raised"]
    kinds = raised and {key: raised[key] for key in ("kind", "args", "cause", "suppressed")}
    return {**ended, "raised": kinds}


def exceptions(trials: int, folder: Path) -> Outcome:
    """Each kind of exception at each place in a fit."""
    every = [(place, error) for error in ERRORS for place in PLACES]
    step = (
        7 if trials < len(every) else 1
    )  # 7 and 99 have no common divisor: few trials, many kinds and places
    chosen = [every[number * step % len(every)] for number in range(trials)]
    child = zygote().start(f"{TASKS}:raise_in_fits", folder, {"folder": str(folder), "trials": chosen})
    ended = child.wait(900.0)
    told = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    failures = [
        f"{t['error']} in {t['place']}: {'; '.join(wrong)}" for t in told if (wrong := _differences(t))
    ]
    if len(told) < trials:
        failures.append(f"the process ended with {ended.status}: {ended.stderr[-300:]}")
    kinds = len({(t["place"], t["error"]) for t in told})
    return Outcome(
        trials=trials,
        passed=max(len(told) - len(failures), 0),
        worst=f"{kinds} kinds at places, {len(failures)} differ",
        failures=tuple(failures),
    )


def _differences(told: dict[str, Any]) -> Sequence[str]:
    found, without = told["found"], told["without"]
    if told["place"] == "worker" and told["error"] in ("SystemExit", "UsersPanic", "KeyboardInterrupt"):
        found, without = (
            found is not None,
            True,
        )  # the worker dies, and what the loader says of it is a matter of chance
    wrong = [] if found == without else [f"{found}, not {without}"]
    if without is None and told["error"] != "StopIteration":  # with which Lightning ends an epoch
        wrong.append("nothing was raised")
    if told["place"] == "setup":
        return wrong  # before the record is opened
    done = without is None or told["place"] == "end of the fit"
    runs = [run.status for run in scan_runs(Path(told["runs"]))]
    return wrong if runs == ["finished" if done else "interrupted"] else [*wrong, f"status {runs}"]


ROWS = (
    Fault(
        id="F3",
        fault="SIGTERM, Ctrl-C, SIGUSR1 with a requeue, a signal handler that raises, sys.exit in a step",
        pass_line="handlers, exit status and exception as without us; every step stored, why it ended is said",
        run=signals,
        trials=30,
        quick=1,
    ),
    Fault(
        id="F4",
        fault="9 kinds of exception (out of memory, no Exception, unreadable) at 11 places of a fit",
        pass_line="kind, arguments, cause, context and path of the user's exception as without us; status interrupted",
        run=exceptions,
        trials=99,
        quick=6,
    ),
)
