"""F12 and F13: a training that is killed and goes on is one run; trainings that start at once never are.

Every fault is a real one: Lightning fits in processes of their own, killed with -9 at random, or told by SIGUSR1 to
requeue as SLURM does (with a `scontrol` of ours that only writes down what it is asked). What really happened is what
the processes themselves wrote down after every step.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from fault_rows.row import Fault, Outcome
from profiler.metrics.kept import kept_steps
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.store.run import StoredRun
from profiler.store.runs import scan_runs

PROGRAM = Path(__file__).parent / "programs" / "resumed_fit.py"
WORKLOAD = Path(__file__).parent / "programs" / "resumed_workload.py"
STEPS = 120
LOST_S = 1.0
"""What a kill -9 may lose of the rows."""

SHORT_S = 1.0
"""The joules of an attempt that was killed sooner may be known too badly to be stated: their bar is wider than they."""

_JOB = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One step that a process did, by its own word."""

    pid: int
    step: int
    time_s: float
    cpu_s: float


class Fits:
    """The process that forks fits; each is asked for by the fields of `Asked`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._truth = folder, folder / "truth"
        folder.mkdir()
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)], env=environment, text=True, cwd=folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._line()

    def __enter__(self) -> Fits:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(self, *asked: dict[str, Any]) -> list[int]:
        """Fork fits; their numbers."""
        assert self._process.stdin is not None
        common = {"folder": str(self.folder), "truth": str(self._truth), "steps": STEPS}
        self._process.stdin.write(json.dumps([{**common, **fit} for fit in asked]) + "\n")
        self._process.stdin.flush()
        return [int(number) for number in self._line().split()]

    def wait(self) -> list[int]:
        """Exit statuses of the fits that were started last."""
        return [int(status) for status in self._line().split()]

    def truth(self) -> list[Done]:
        """Every step that was done."""
        lines = self._truth.read_text().splitlines() if self._truth.exists() else []
        rows = [line.split() for line in lines]
        return [Done(pid=int(p), step=int(n), time_s=float(t), cpu_s=float(c)) for p, n, t, c in rows]

    def reach(self, pid: int, step: int) -> None:
        """Wait until a fit has done a step."""
        while not any(done.pid == pid and done.step >= step for done in self.truth()):
            time.sleep(0.005)
            if self._process.poll() is not None:
                raise RuntimeError("the process that forks fits has ended")

    def _line(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.strip() == "ready" or line.replace("-", "").replace(" ", "").strip().isdigit():
                return line
        raise RuntimeError("the process that forks fits has ended")


def resumed(trials: int, folder: Path) -> Outcome:
    """F12."""
    return _tried(trials, folder, (_killed_twice, _requeued, _workload))


def at_once(trials: int, folder: Path) -> Outcome:
    """F13."""
    return _tried(trials, folder, (_same_name, _same_checkpoint))


_Trial = Callable[[Fits, Path, random.Random], tuple[list[str], float]]


def _tried(trials: int, folder: Path, kinds: Sequence[_Trial]) -> Outcome:
    failures, worst, chance = [], 0.0, random.Random(time.time_ns())
    for number in range(trials):
        of = folder / f"trial-{number}"
        if number == 0:
            fits = Fits(of)
        fits.folder, fits._truth = of, of / "truth"
        of.mkdir(exist_ok=True)
        wrong, figure = kinds[number % len(kinds)](fits, of / "runs", chance)
        worst = max(worst, figure)
        if wrong:
            failures.append(f"trial {number}: {'; '.join(wrong)}")
    fits.__exit__(None, None, None)
    return Outcome(
        trials=trials,
        passed=trials - len(failures),
        worst=f"{worst:.2f} s of rows lost with a killed process",
        failures=tuple(failures),
    )


def _killed_twice(fits: Fits, runs_dir: Path, chance: random.Random) -> tuple[list[str], float]:
    """Kill -9 just after a checkpoint, and at a random step; each time on from the last one, then to the end."""
    asked, begun = {"runs_dir": str(runs_dir)}, 0
    pids = []
    for kill in (0, 1):
        pids += fits.start({**asked, "resume": "last" if kill else None})
        at_a_checkpoint = kill == 0  # whose steps nobody will do again: what was not stored by then is lost
        fits.reach(pids[-1], begun + (41 if at_a_checkpoint else chance.randint(25, 50)))
        time.sleep(0.0 if at_a_checkpoint else chance.uniform(0.0, 0.02))
        os.kill(pids[-1], signal.SIGKILL)
        if fits.wait() != [-signal.SIGKILL]:
            return ["the fit was not killed"], 0.0
        begun = max(done.step for done in fits.truth()) // 20 * 20
    pids += fits.start({**asked, "resume": "last"})
    if fits.wait() != [0]:
        return ["the last fit did not end well"], 0.0
    return _check(fits, runs_dir, pids)


def _requeued(fits: Fits, runs_dir: Path, chance: random.Random) -> tuple[list[str], float]:
    """SIGUSR1 as SLURM sends it before the time is over; Lightning writes its checkpoint and has the job requeued."""
    programs = fits.folder / "bin"
    programs.mkdir()
    asked_of_slurm = fits.folder / "asked"
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked_of_slurm}\n')
    (programs / "scontrol").chmod(0o755)
    env = {**_JOB, "PATH": f"{programs}:{os.environ['PATH']}"}
    asked = {"runs_dir": str(runs_dir), "checkpoint_every": 10 * STEPS}
    pids = fits.start({**asked, "env": env})
    fits.reach(pids[0], chance.randint(10, 60))
    os.kill(pids[0], signal.SIGUSR1)
    while not asked_of_slurm.exists():
        time.sleep(0.01)
    time.sleep(chance.uniform(0.1, 0.3))
    os.kill(pids[0], signal.SIGKILL)
    fits.wait()
    pids += fits.start({**asked, "env": {**env, "SLURM_RESTART_COUNT": "1"}})
    if fits.wait() != [0]:
        return ["the requeued fit did not end well"], 0.0
    wrong, worst = _check(fits, runs_dir, pids)
    if asked_of_slurm.read_text().split() != ["requeue", "4242"]:
        wrong.append("SLURM was not asked to requeue the job")
    return wrong, worst


def _workload(fits: Fits, runs_dir: Path, chance: random.Random) -> tuple[list[str], float]:
    """`joulescale run lm`, killed twice: the weights of a training that was never killed, bit by bit."""
    command = [sys.executable, str(WORKLOAD), str(fits.folder), str(chance.randrange(10**6))]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        return [made.stderr.strip().splitlines()[-1]], 0.0
    told = json.loads(made.stdout.splitlines()[-1])
    killed = next(run for run in scan_runs(runs_dir) if run.run_id == "killed")
    wrong = [] if told["equal"] else [f"killed at {told['kills']}, its weights are others"]
    if {p.facts.attempt for p in killed.processes} != {1, 2, 3}:
        wrong.append("its attempts are not three")
    wrong += _whole(killed, [*range(1, told["steps"] + 1)])
    whole, points = (
        scale_points([run])["loss"].to_list()
        for run in (next(run for run in scan_runs(runs_dir) if run.run_id == "whole"), killed)
    )
    return wrong + ([] if whole == points else [f"losses of its points are {points}, not {whole}"]), 0.0


def _check(fits: Fits, runs_dir: Path, pids: Sequence[int]) -> tuple[list[str], float]:
    """Everything that must be true of one run of these processes, against what they wrote down."""
    runs = scan_runs(runs_dir)
    if [run.status for run in runs] != ["finished"]:
        return [f"the runs are {[(run.run_id, run.status) for run in runs]}"], 0.0
    run, truth, wrong, worst = runs[0], fits.truth(), [], 0.0
    summary = summarize(run)
    leaders = run.processes
    if [p.facts.pid for p in leaders] != list(pids) or [p.facts.attempt for p in leaders] != [
        *range(1, len(pids) + 1)
    ]:
        return [f"attempts are {[(p.facts.attempt, p.facts.pid) for p in leaders]}"], 0.0
    kept = pl.concat(kept_steps(leaders))["step"].to_list()
    if kept != [*range(1, STEPS + 1)] or summary["steps"] != STEPS or summary["samples"] != STEPS:
        wrong.append(f"steps that count: {len(kept)} of {STEPS}, {summary['notes'].get('steps missing')}")
    for row, process, later in zip(
        summary["attempts"], leaders, [*summary["attempts"][1:], None], strict=True
    ):
        done = [d for d in truth if d.pid == process.facts.pid]
        stored = process.steps["step"].to_list()
        missing = [d for d in done if d.step not in stored]
        worst = max(worst, done[-1].time_s - missing[0].time_s if missing else 0.0)
        if stored != [d.step for d in done[: len(stored)]]:
            wrong.append(f"attempt {row['attempt']} stored steps that it did not do, or left some out")
        if later is not None:
            lost = sum(step > later["resumed_from_step"] for step in stored)
            if row["lost"]["steps"] != lost:
                wrong.append(
                    f"attempt {row['attempt']} lost {lost} steps, and is said to have lost {row['lost']['steps']}"
                )
        wrong += _check_energy(row, process.facts.meters, [d for d in done if d.step in stored])
    if worst > LOST_S:
        wrong.append(f"{worst:.2f} s of steps were lost")
    return wrong + _check_sums(summary), worst


def _check_energy(row: dict[str, Any], meters: Sequence[dict[str, Any]], done: Sequence[Done]) -> list[str]:
    """The estimate of an attempt, against the CPU seconds that its process itself wrote down."""
    if not done:
        return [f"attempt {row['attempt']} stored nothing"]
    per_s = next(meter["joules_per_cpu_s"] for meter in meters if meter["source"] == "estimated")
    least_j = per_s * (done[-1].cpu_s - done[0].cpu_s)
    found_j = row["energy"]["estimated_j"]
    if found_j is None and done[-1].time_s - done[0].time_s < SHORT_S:
        return []
    if found_j is None or not 0.9 * least_j <= found_j <= 1.3 * least_j + per_s * 1.5:
        return [
            f"attempt {row['attempt']} used {least_j:.3g} J in its steps, and is said to have used {found_j}"
        ]
    return []


def _check_sums(summary: dict[str, Any]) -> list[str]:
    rows, wrong = summary["attempts"], []
    for what, whole, parts in (
        ("joules", summary["energy"]["estimated_j"], [row["energy"]["estimated_j"] for row in rows]),
        ("seconds", summary["duration_s"], [row["duration_s"] for row in rows]),
        ("lost joules", summary["lost_work"]["energy_j"], [row["lost"]["energy_j"] for row in rows]),
    ):
        if (
            None in parts and what == "joules"
        ):  # of an attempt that was killed at once: the run's bar has room for it
            fits = whole is None or whole >= sum(part for part in parts if part is not None)
        elif None in parts:  # a short stretch of lost work may be known too badly to be stated
            fits = whole is None and what == "lost joules"
        else:
            fits = whole is not None and abs(whole - sum(parts)) <= 1e-9 * max(whole, 1.0)
        if not fits:
            wrong.append(f"{what} of the run are {whole}, of its attempts {parts}")
    return wrong


def _same_name(fits: Fits, runs_dir: Path, chance: random.Random) -> tuple[list[str], float]:
    """Three trainings that ask for one name in the same moment."""
    start_s = time.monotonic() + 1.5
    asked = {"runs_dir": str(runs_dir), "name": "one", "steps": 30, "start_s": start_s}
    pids = fits.start(*({**asked, "folder": str(fits.folder / f"of-{n}")} for n in range(3)))
    statuses = fits.wait()
    wrong = [] if statuses == [0, 0, 0] else [f"exit statuses {statuses}"]
    runs = scan_runs(runs_dir)
    if sorted(run.run_id for run in runs) != ["one", "one-2", "one-3"]:
        wrong.append(f"the runs are {[run.run_id for run in runs]}")
    return wrong + [w for run in runs for w in _whole(run, [*range(1, 31)])] + _own(runs, pids), 0.0


def _same_checkpoint(fits: Fits, runs_dir: Path, chance: random.Random) -> tuple[list[str], float]:
    """Two trainings that go on from one checkpoint in the same moment, and a third while they run."""
    asked = {"runs_dir": str(runs_dir), "steps": 60}
    first = fits.start(asked)
    fits.reach(first[0], 30)
    os.kill(first[0], signal.SIGKILL)
    fits.wait()
    again = {**asked, "resume": str(fits.folder / "last.ckpt"), "start_s": time.monotonic() + 1.5}
    pids = fits.start(*({**again, "folder": str(fits.folder / f"of-{n}")} for n in range(2)))
    statuses = fits.wait()
    wrong = [] if statuses == [0, 0] else [f"exit statuses {statuses}"]
    runs = scan_runs(runs_dir)
    parents = [run.manifest.parent for run in runs]
    attempts = [[p.facts.attempt for p in run.processes] for run in runs]
    if attempts != [[1, 2], [1]] or parents[0] is not None or not parents[1]:
        wrong.append(f"attempts {attempts}, parents {parents}")
        return wrong, 0.0
    if parents[1] != {"run_id": runs[0].run_id, "attempt": 1, "step": 20}:
        wrong.append(f"the second training says that it is from {parents[1]}")
    return wrong + _whole(runs[0], [*range(1, 61)]) + _whole(runs[1], [*range(21, 61)]) + _own(
        runs, [*first, *pids]
    ), 0.0


def _whole(run: StoredRun, steps: list[int]) -> list[str]:
    found = pl.concat(kept_steps(run.processes))["step"].to_list()
    return (
        [] if found == steps and run.status == "finished" else [f"{run.run_id} is {run.status} with {found}"]
    )


def _own(runs: Sequence[StoredRun], pids: Sequence[int]) -> list[str]:
    """Each process once, nothing twice."""
    found = sorted(p.facts.pid for run in runs for p in run.processes)
    return [] if found == sorted(pids) else [f"recorded were {found}, of {sorted(pids)}"]


ROWS = (
    Fault(
        id="F12",
        fault="kill -9 at random, twice, and SIGUSR1 requeue; each time on from the last checkpoint",
        pass_line="one run, every step once, joules of all attempts added, lost work told, <= 1 s of rows lost;"
        " weights of `run lm --resume` bit-equal",
        run=resumed,
        trials=12,
        quick=1,
    ),
    Fault(
        id="F13",
        fault="three trainings of one name, or two from one checkpoint, in the same moment",
        pass_line="each recorded whole, no attempt shared, nothing twice",
        run=at_once,
        trials=8,
    ),
)
