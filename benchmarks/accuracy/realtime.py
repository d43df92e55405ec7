"""Peers and ourselves in real time: each tool in processes of its own, over the same traces of the fake library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fake_nvml.build import build_library

from accuracy.scores import Window
from accuracy.traces import Trace, random_trace

ROOT = Path(__file__).parents[2]
PROCESS = Path(__file__).with_name("process.py")
PEER_NVML = Path(__file__).with_name("peer_nvml.c")
OURS = "joulescale"
PACKAGES = ("zeus", "codecarbon", "carbontracker", "nvidia-ml-py")
SHORT = (0.01, 0.1, 1.0) * 8 + (10.0,) * 3
LONG = (60.0,)
ABOUT = (0.87, 1.09, 0.93, 1.03, 0.98, 1.06, 0.91)
"""Windows are about so long: a multiple of the update period would make a plain difference right by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process: a tool, the words of its fake library, and the windows that it goes through, times `about`."""

    tool: str
    script: str
    gpus: int
    windows_s: Sequence[float]
    about: Sequence[float] = (1.0,)
    trouble: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a process printed, and how it ended."""

    job: Job
    rows: list[dict[str, Any]]
    notes: dict[str, str]
    ended: str


def accuracy_jobs(seed: int, batch: int, gpus: int) -> list[Job]:
    """A batch: the same traces for every tool. carbontracker gets one GPU a process, as it has one number for all."""
    jobs = []
    for which, windows_s in enumerate((SHORT, LONG)):
        traces = [_sound_trace(seed, batch, which, gpu) for gpu in range(gpus)]
        script = "\n".join(t.script(g) + "\n" + t.power_script(g) for g, t in enumerate(traces))
        jobs += [
            Job(tool=tool, script=script, gpus=gpus, windows_s=windows_s, about=ABOUT)
            for tool in ("joulescale", "zeus", "zeus_approx", "codecarbon")
        ]
        jobs += [
            Job(
                tool="carbontracker",
                script=t.script(0) + "\n" + t.power_script(0),
                gpus=1,
                windows_s=windows_s,
                about=ABOUT,
            )
            for t in traces[: max(gpus // 4, 1)]
        ]
    return jobs


def _sound_trace(seed: int, batch: int, which: int, gpu: int) -> Trace:
    """A trace without resets and losses: what those do to each tool is shown on its own."""
    rng = np.random.default_rng([seed, batch, which, gpu])
    number = gpu + 16 * (2 * batch + which)
    while (trace := random_trace(rng, number)).reset_s is not None:
        pass
    return trace


def run_all(jobs: Sequence[Job], peers_python: Path | None, together: int) -> list[Outcome]:
    """Run the jobs, so many at once; without the peers' Python, those of ours only."""
    if peers_python is None:
        jobs = [job for job in jobs if job.tool == OURS]
    folder = Path(tempfile.mkdtemp(prefix="fake-nvml-"))
    build_library(folder, extra=[PEER_NVML])
    smi = folder / "nvidia-smi"  # codecarbon looks for it before it asks NVML
    smi.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    smi.chmod(0o755)
    with ThreadPoolExecutor(together) as pool:
        return list(pool.map(lambda pair: _run(folder, pair[0], pair[1], peers_python), enumerate(jobs)))


def _run(folder: Path, number: int, job: Job, peers_python: Path | None) -> Outcome:
    plan, config = folder / f"plan-{number}.json", folder / f"config-{number}.txt"
    config.write_text(job.script + "\nclock real\n", encoding="utf-8")
    plan.write_text(
        json.dumps(
            {
                "gpus": job.gpus,
                "windows_s": list(job.windows_s),
                "about": job.about,
                "trouble": list(job.trouble),
            }
        ),
        encoding="utf-8",
    )
    python = sys.executable if job.tool == OURS else peers_python
    words = [str(python), str(PROCESS), job.tool, str(plan)]
    try:
        done = subprocess.run(
            words,
            env=_environment(folder, config, job),
            capture_output=True,
            text=True,
            timeout=job.timeout_s,
        )
    except subprocess.TimeoutExpired:
        return Outcome(job=job, rows=[], notes={}, ended=f"no answer within {job.timeout_s:g} s")
    lines = done.stdout.splitlines()
    rows = [json.loads(line[4:]) for line in lines if line.startswith("ROW ")]
    notes = next((json.loads(line[6:]) for line in lines if line.startswith("NOTES ")), {})
    return Outcome(job=job, rows=rows, notes=notes, ended=_ending(done))


def _environment(folder: Path, config: Path, job: Job) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "PYTHONPATH")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT) if job.tool == OURS else "",
        "LD_LIBRARY_PATH": str(folder),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "FAKE_NVML_CONFIG": str(config),
        "OMP_NUM_THREADS": "1",
        **job.variables,
    }


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == 0:
        return "finished"
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return f"exit status {done.returncode}: {last}"


def realtime_windows(outcomes: Sequence[Outcome]) -> dict[str, list[Window]]:
    """Every window that a tool gave an answer to, by tool."""
    found: dict[str, list[Window]] = {}
    for outcome in outcomes:
        windows = found.setdefault(outcome.job.tool, [])
        for row in outcome.rows:
            for true_j, said in zip(row["true_j"], row["said"], strict=False):
                windows += _window(f"{row['length_s']:g} s", true_j, said)
    return found


def _window(group: str, true_j: float, said: Any) -> list[Window]:
    if said is None:
        return []
    if isinstance(said, dict):
        joules, bar_j = said["interpolated_j"], said["plus_minus_j"]
        return [Window(group=group, trouble="none", true_j=true_j, said_j=joules, bar_j=bar_j)]
    return [Window(group=group, trouble="none", true_j=true_j, said_j=said)]


def versions(peers_python: Path | None) -> dict[str, str]:
    """What the peers' environment holds."""
    if peers_python is None:
        return {}
    code = "import sys, importlib.metadata as m; print('\\n'.join(m.version(p) for p in sys.argv[1:]))"
    done = subprocess.run([peers_python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True)
    return dict(zip(PACKAGES, done.stdout.split(), strict=True))
