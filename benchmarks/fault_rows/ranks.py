"""F10 and F25: ranks of one node and of two, under every launcher, whole and with one of them killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from one_node_slurm import PROGRAMS

from fault_rows.made_nodes import MadeNode
from fault_rows.rank_jobs import (
    Job,
    Launch,
    by_elastic,
    by_hand,
    by_lightning,
    by_torchrun,
    srun_fit,
    srun_sessions,
    uuid_of,
)
from fault_rows.row import Fault, Outcome
from profiler.metrics.summary import summarize
from profiler.store.ranks import named
from profiler.store.runs import scan_runs

LIMIT_S = 240.0
NEAR, SLACK_S = 0.05, 0.1
"""A device may be off by this share, and by what it uses in a tenth of a second: another callback than ours reads
the clock for the truth."""

GPU_W = (100.0, 200.0, 300.0, 400.0)
NODE_W = (20.0, 30.0)


def try_job(job: Job, launch: Launch, folder: Path) -> tuple[dict[str, Any], list[str], float]:
    """Start it and wait for its end: the run's summary, what is wrong with it, and the largest error of a sum."""
    folder.mkdir()
    with ExitStack() as opened:
        nodes = [
            opened.enter_context(
                MadeNode(
                    folder / f"node{number}",
                    watts=NODE_W[number],
                    gpus={uuid_of(rank): GPU_W[rank] for rank in range(job.ranks)},
                    name=f"node-{'ab'[number]}" if job.nodes > 1 else None,
                )
            )
            for number in range(job.nodes)
        ]
        said = [_end_of(process) for process in launch(job, nodes, folder, opened)]
        runs = list((folder / "runs").glob("*/run.json"))
        if len(runs) != 1:
            return {}, [f"{len(runs)} runs were recorded: {said}"], 0.0
        summary = _shown_on(nodes[-1], folder / "runs")
    told = [json.loads(line) for text, _ in said for line in text.splitlines() if line.startswith('{"rank"')]
    wrong, error = _check(job, summary, told)
    return summary, [f"{sentence}. {said}" for sentence in wrong], error


def _shown_on(node: MadeNode, runs_dir: Path) -> dict[str, Any]:
    """What `show` says on a node: whether a process lives, only its own machine knows at once."""
    words = [sys.executable, "-m", "profiler.cli.main", "show", "--json", "--runs-dir", str(runs_dir)]
    shown = subprocess.run(
        node.command(*words), env=node.env, capture_output=True, text=True, check=True, timeout=LIMIT_S
    )
    return json.loads(shown.stdout)


def _end_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        err += f"\nnot ended after {LIMIT_S:g} s"
    return out, err[-1500:]


def _check(
    job: Job, summary: Mapping[str, Any], told: Sequence[Mapping[str, Any]]
) -> tuple[list[str], float]:
    """What is wrong, and the largest relative error of a device's joules; of a killed job the rank must be named."""
    parts = [part for part in summary["energy"]["components"] if part["source"] != "estimated"]
    counted = sorted((part["component"], part["device"], part["host"]) for part in parts)
    wrong = [] if counted == _expected(job) else [f"counted {counted}, not {_expected(job)}"]
    if job.killed is not None:
        return wrong + _check_partial(job, summary), 0.0
    if summary["status"] != "finished" or summary["partial"]:
        wrong.append(f"the run is {summary['status']}, partial {summary['partial']}")
    lasted = {said["rank"]: said["end_s"] - said["start_s"] for said in told}
    if sorted(lasted) != list(range(job.ranks)):
        return [*wrong, f"ranks {sorted(lasted)} came to their end"], 0.0
    errors, slack = [_error(job, part, lasted) for part in parts], NEAR + SLACK_S / min(lasted.values())
    whole_j = sum(part["energy_j"] or 0.0 for part in parts)
    if abs((summary["energy"]["measured_j"] or 0.0) - whole_j) > 1e-6 * whole_j:
        wrong.append(f"the sum is {summary['energy']['measured_j']}, its parts add up to {whole_j}")
    wrong += [f"a device is {error:.1%} off" for error in errors if error > slack]
    return wrong, max(errors, default=0.0)


def _expected(job: Job) -> list[tuple[str, str, str]]:
    hosts = ["node-a", "node-b"] if job.nodes > 1 else [socket.gethostname()]
    gpus = {(gpu, hosts[node]) for node in range(job.nodes) for gpu in itertools.chain(*job.gpus_of(node))}
    return sorted(
        [*(("gpu", gpu, host) for gpu, host in gpus), *(("cpu", "package-0", host) for host in hosts)]
    )


def _error(job: Job, part: Mapping[str, Any], lasted: Mapping[int, float]) -> float:
    """How far a device's joules are from its watts x the seconds of the fit that counted it, relatively."""
    node = part["rank"] // job.per_node
    watts = NODE_W[node] if part["component"] == "cpu" else GPU_W[int(part["device"][4:], 16)]
    truth_j = watts * lasted[part["rank"]]
    return abs((part["energy_j"] or 0.0) - truth_j) / truth_j


def _check_partial(job: Job, summary: Mapping[str, Any]) -> list[str]:
    """The killed rank is missing and named, all others said how they ended."""
    states = {row["rank"]: row["status"] for row in summary["ranks"]}
    if states.get(job.killed) != "lost":
        return [f"rank {job.killed} was not killed: {states}"]
    partial = summary["partial"] or {}
    lost = sorted(rank for rank, state in states.items() if state == "lost")  # a launcher may kill others
    if partial.get("ranks_missing") != lost or f"{named(lost)} on" not in partial["why"]:
        return [f"partial is {partial}, states are {states}"]
    return []


Trial = tuple[str, Callable[[Path], tuple[dict[str, Any], list[str], float]]]


def _check_batches(folder: Path, job: Job) -> tuple[dict[str, Any], list[str], float]:
    """Two ranks share a model by tensors, so they are given the same 60 batches of 4."""
    summary, wrong, error = try_job(job, by_torchrun, folder)
    if summary and summary["samples"] != 240:
        wrong.append(f"{summary['samples']} samples were counted, of 240")
    return summary, wrong, error


def _check_straggler(folder: Path, job: Job) -> tuple[dict[str, Any], list[str], float]:
    summary, wrong, error = try_job(job, by_lightning, folder)
    found = (summary.get("straggler") or {}) if summary else {}
    if found.get("rank") != job.told["slow_rank"] or found.get("phase") != "forward":
        wrong.append(f"the straggler is said to be {found}")
    return summary, wrong, error


def _check_restart(folder: Path, job: Job) -> tuple[dict[str, Any], list[str], float]:
    """The second start of the job is a second attempt of the same run, and whole."""
    folder.mkdir()
    with ExitStack() as opened:
        gpus = {uuid_of(rank): GPU_W[rank] for rank in range(job.ranks)}
        node = opened.enter_context(MadeNode(folder / "node0", watts=NODE_W[0], gpus=gpus))
        said = [_end_of(process) for process in by_elastic(job, [node], folder, opened)]
    runs = scan_runs(folder / "runs")
    if len(runs) != 1:
        return {}, [f"{len(runs)} runs were recorded: {said}"], 0.0
    summary = summarize(runs[0])
    attempts = sorted({(p.facts.attempt, p.facts.rank) for p in runs[0].processes})
    expected = [(attempt, rank) for attempt in (1, 2) for rank in range(job.ranks)]
    wrong = [] if attempts == expected else [f"attempts and ranks are {attempts}: {said}"]
    if summary["status"] != "finished" or summary["partial"]:
        wrong.append(f"the run is {summary['status']}, partial {summary['partial']}")
    return summary, wrong, 0.0


def _trial(launch: Launch, **job: Any) -> Callable[[Path], tuple[dict[str, Any], list[str], float]]:
    return lambda folder: try_job(Job(**job), launch, folder)


ONE_NODE: tuple[Trial, ...] = (
    ("srun, 2 sessions, one killed", _trial(srun_sessions, ranks=2, killed=1)),
    ("srun, 2 ranks", _trial(srun_fit, ranks=2)),
    ("srun, one killed", _trial(srun_fit, ranks=2, killed=1)),
    ("torchrun, 2 ranks", _trial(by_torchrun, ranks=2)),
    ("torchrun, one killed", _trial(by_torchrun, ranks=2, killed=1)),
    ("Lightning, 4 ranks, one slow", lambda f: _check_straggler(f, Job(ranks=4, told={"slow_rank": 2}))),
    ("Lightning, one killed", _trial(by_lightning, ranks=2, killed=1)),
    ("a shared GPU", _trial(by_lightning, ranks=2, share_gpu=True)),
    ("tensor parallel", lambda f: _check_batches(f, Job(ranks=2, told={"parallel": (1, 2), "shares": 1}))),
    ("torchrun starts again", lambda f: _check_restart(f, Job(ranks=2, killed=1))),
)

TWO_NODES: tuple[Trial, ...] = (
    ("4 sessions, one killed", _trial(by_hand, ranks=4, nodes=2, killed=3)),
    ("torchrun, 2 x 2 ranks", _trial(by_torchrun, ranks=4, nodes=2)),
    ("torchrun, one killed on the second", _trial(by_torchrun, ranks=4, nodes=2, killed=3)),
)


def _run(trials: Sequence[Trial], count: int, folder: Path) -> Outcome:
    failures, worst, chosen = [], 0.0, list(itertools.islice(itertools.cycle(trials), count))
    for number, (name, run) in enumerate(chosen):
        _, wrong, error = run(folder / str(number))
        worst = max(worst, error)
        failures += [f"{name}: {'; '.join(wrong)}"] if wrong else []
    return Outcome(
        trials=count,
        passed=count - len(failures),
        worst=f"{worst:.1%} off, a device's joules" if worst else "no rank missed, none too many",
        failures=tuple(failures),
    )


ROWS = (
    Fault(
        id="F10",
        fault="4 ranks on one node under Lightning, torchrun and srun; one killed; a GPU shared; started again",
        pass_line="each GPU and the node's package once, sums right; killed: partial, with the rank and why",
        run=lambda count, folder: _run(ONE_NODE, count, folder),
        trials=len(ONE_NODE),
        quick=1,
        programs=("gcc", *PROGRAMS),
    ),
    Fault(
        id="F25",
        fault="two nodes of 2 ranks, each with its own host name, boot id and sensors; one rank killed",
        pass_line="each GPU and each node's package once, sums over nodes right; killed: partial, and why",
        run=lambda count, folder: _run(TWO_NODES, count, folder),
        trials=len(TWO_NODES),
        quick=1,
        programs=("gcc", "unshare"),
    ),
)
