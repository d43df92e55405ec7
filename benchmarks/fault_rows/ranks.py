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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_node_slurm import PROGRAMS, OneNodeSlurm

from fault_rows.made_nodes import ROOT, MadeNode
from fault_rows.row import Fault, Outcome
from profiler.metrics.summary import summarize
from profiler.store.ranks import named
from profiler.store.runs import scan_runs

SCRIPTS = ROOT / "benchmarks" / "fault_scripts"
LIMIT_S = 240.0
NEAR = 0.05
"""A sum may be off by this share, and by what a tenth of a second costs: the truth is taken by another clock read."""

GPU_W = (100.0, 200.0, 300.0, 400.0)
NODE_W = (20.0, 30.0)


@dataclass
class Job:
    """What is started, and what must come of it.

    Attributes:
        ranks: How many in all.
        nodes: On how many nodes.
        told: To the script, beside its folders and sensors.
        killed: The rank that kills itself.
        share_gpu: Every rank measures the same GPU.
    """

    ranks: int
    nodes: int = 1
    told: dict[str, Any] = field(default_factory=dict)
    killed: int | None = None
    share_gpu: bool = False

    @property
    def per_node(self) -> int:
        """Ranks on each node."""
        return self.ranks // self.nodes

    def gpus_of(self, node: int) -> list[list[str]]:
        """By local rank, the GPUs to measure."""
        first = 0 if self.share_gpu else node * self.per_node
        return [[_uuid(first + (0 if self.share_gpu else rank))] for rank in range(self.per_node)]


def _uuid(number: int) -> str:
    return f"GPU-{number:08x}"


Launch = Callable[[Job, Sequence[MadeNode], Path, ExitStack], list[subprocess.Popen[str]]]


def _tell(job: Job, node: MadeNode, number: int, folder: Path, **more: Any) -> str:
    told = {
        "runs_dir": str(folder / "runs"),
        "rapl": str(node.rapl),
        "gpus": job.gpus_of(number),
        "devices": job.per_node,
        "nodes": job.nodes,
        "steps": 60,
        "kill_rank": job.killed,
        "kill_step": 30,
    }
    return json.dumps(told | job.told | more)


def _start(node: MadeNode, words: Sequence[str], **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        node.command(*words),
        env={**node.env, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def by_hand(job: Job, nodes: Sequence[MadeNode], folder: Path, _: ExitStack) -> list[subprocess.Popen[str]]:
    """Sessions without a framework, placed by the variables that torchrun would set."""
    started = []
    for rank in range(job.ranks):
        number, local_rank = divmod(rank, job.per_node)
        node = nodes[number]
        place = {"RANK": str(rank), "LOCAL_RANK": str(local_rank), "WORLD_SIZE": str(job.ranks)}
        told = _tell(job, node, number, folder, seconds=1.5, name="made")
        started.append(_start(node, [sys.executable, str(SCRIPTS / "ranks_session.py"), told], **place))
    return started


def by_lightning(
    job: Job, nodes: Sequence[MadeNode], folder: Path, _: ExitStack
) -> list[subprocess.Popen[str]]:
    """Lightning's own launcher."""
    told = _tell(job, nodes[0], 0, folder)
    return [_start(nodes[0], [sys.executable, str(SCRIPTS / "ranks_fit.py"), told])]


def by_torchrun(
    job: Job, nodes: Sequence[MadeNode], folder: Path, _: ExitStack
) -> list[subprocess.Popen[str]]:
    """One torchrun a node."""
    port = _free_port()
    return [
        _start(
            node,
            [
                *(sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={job.per_node}"),
                *(f"--nnodes={job.nodes}", f"--node-rank={number}"),
                *("--master-addr=127.0.0.1", f"--master-port={port}"),
                *(str(SCRIPTS / "ranks_fit.py"), _tell(job, node, number, folder)),
            ],
        )
        for number, node in enumerate(nodes)
    ]


def by_elastic(
    job: Job, nodes: Sequence[MadeNode], folder: Path, _: ExitStack
) -> list[subprocess.Popen[str]]:
    """Sessions under a torchrun that starts them again once."""
    told = _tell(job, nodes[0], 0, folder, seconds=1.5, name=None)
    options = ["--standalone", "--max-restarts=1", f"--nproc-per-node={job.per_node}"]
    words = [sys.executable, "-m", "torch.distributed.run", *options]
    return [_start(nodes[0], [*words, str(SCRIPTS / "ranks_session.py"), told])]


def by_srun(script: str, **more: Any) -> Launch:
    """A real SLURM of one node."""

    def launch(
        job: Job, nodes: Sequence[MadeNode], folder: Path, opened: ExitStack
    ) -> list[subprocess.Popen[str]]:
        slurm = opened.enter_context(OneNodeSlurm(folder))
        told = _tell(job, nodes[0], 0, folder, **more)
        words = [
            "srun",
            "--nodes=1",
            f"--ntasks-per-node={job.ranks}",
            "--kill-on-bad-exit=0",
            sys.executable,
            str(SCRIPTS / script),
            told,
        ]
        return [_start(nodes[0], words, SLURM_CONF=slurm.env["SLURM_CONF"], MASTER_ADDR="127.0.0.1")]

    return launch


srun_sessions = by_srun("ranks_session.py", seconds=1.5, name=None)
srun_fit = by_srun("ranks_fit.py")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def try_job(job: Job, launch: Launch, folder: Path) -> tuple[dict[str, Any], list[str], float]:
    """Start it and wait for its end: the run's summary, what is wrong with it, and the largest error of a sum."""
    folder.mkdir()
    with ExitStack() as opened:
        nodes = [
            opened.enter_context(
                MadeNode(
                    folder / f"node{number}",
                    watts=NODE_W[number],
                    gpus={_uuid(rank): GPU_W[rank] for rank in range(job.ranks)},
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
    errors = [_error(job, part, lasted) for part in parts]
    whole_j = sum(part["energy_j"] or 0.0 for part in parts)
    if abs((summary["energy"]["measured_j"] or 0.0) - whole_j) > 1e-6 * whole_j:
        wrong.append(f"the sum is {summary['energy']['measured_j']}, its parts add up to {whole_j}")
    wrong += [f"a device is {error:.1%} off" for error in errors if error > NEAR]
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
    off_j = abs((part["energy_j"] or 0.0) - truth_j)
    return max(off_j - 0.1 * watts, 0.0) / truth_j


def _check_partial(job: Job, summary: Mapping[str, Any]) -> list[str]:
    """The killed rank is missing and named, all others said how they ended."""
    states = {row["rank"]: row["status"] for row in summary["ranks"]}
    if states.get(job.killed) != "lost":
        return [f"rank {job.killed} was not killed: {states}"]
    partial = summary["partial"] or {}
    lost = sorted(
        rank for rank, state in states.items() if state == "lost"
    )  # a launcher may kill the others, too
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
        gpus = {_uuid(rank): GPU_W[rank] for rank in range(job.ranks)}
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
        worst=f"{worst:.1%} off the truth, a device's joules",
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
