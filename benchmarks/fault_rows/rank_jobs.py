"""How ranks are started on made nodes: by hand, by Lightning's launcher, by torchrun, and by a real srun."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_node_slurm import OneNodeSlurm

from fault_rows.made_nodes import ROOT, MadeNode

SCRIPTS = ROOT / "benchmarks" / "fault_scripts"


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
        return [[uuid_of(first + (0 if self.share_gpu else rank))] for rank in range(self.per_node)]


def uuid_of(number: int) -> str:
    """Of a made GPU."""
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
