"""Commands recorded by a real `joulescale exec` over the fake NVML library, found by the real binding as the driver's.

The command says by the machine's own uptime when it ended, so that what the record costs at its exit is seen.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from fake_nvml.build import build_clock_shim, build_library, subprocess_env  # noqa: E402
from nvml_cases import monitors  # noqa: E402

from fault_rows.row import Outcome  # noqa: E402
from profiler.metrics.summary import summarize  # noqa: E402
from profiler.store.process import StoredProcess  # noqa: E402
from profiler.store.run import StoredRun  # noqa: E402
from profiler.store.runs import open_run  # noqa: E402

GPUS_W = {"GPU-aaaa": 250.0, "GPU-bbbb": 100.0}
STATUS = 7
TOGETHER = 2
"""Processes at a time: each works for a second and then sleeps."""


def two_gpus() -> str:
    """Two H100s that draw constant powers."""
    lines = []
    for number, (uuid, watts) in enumerate(GPUS_W.items()):
        lines += [f"gpu {uuid} NVIDIA H100 80GB HBM3", f"power {number} 0 {watts}", monitors(number)]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Recorded:
    """What a recorded command left.

    Attributes:
        lasted_s: Seconds that the command lived, by the machine's uptime.
        exit_s: Seconds from the command's end to that of the process that recorded it.
        status: The exit status of the latter.
    """

    runs_dir: Path
    lasted_s: float
    exit_s: float
    status: int
    stderr: str

    @cached_property
    def run(self) -> StoredRun:
        """The stored run."""
        return open_run(self.runs_dir, "r")

    @cached_property
    def process(self) -> StoredProcess:
        """Its only process."""
        (process,) = self.run.processes
        return process

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Its metrics."""
        return summarize(self.run)

    def times_s(self, device: str) -> list[float]:
        """When the counter of a device was read, in order."""
        known = self.process.readings.drop_nulls("energy_j")
        return sorted(known.filter(known["device"] == device)["time_s"].to_list())

    def cpu_times_s(self) -> list[float]:
        """When the processor was read."""
        return sorted(self.process.readings.filter(self.process.readings["component"] == "cpu")["time_s"])

    def wrong_energy(self, device: str) -> str | None:
        """Why the joules of a GPU are not what it truly used; None if they are, or are said to be unknown."""
        (found,) = [c for c in self.summary["energy"]["components"] if c["device"] == device]
        true_j = GPUS_W[device] * self.summary["duration_s"]
        if found["energy_j"] is None:
            at_least_j = found["at_least_j"] or 0.0
            return f"{device}: at least {at_least_j:.0f} J of {true_j:.0f}" if at_least_j > true_j else None
        off_j = abs(found["energy_j"] - true_j)
        if off_j <= found["plus_minus_j"]:
            return None
        return f"{device}: {found['energy_j']:.1f} +- {found['plus_minus_j']:.1f} J, and it was {true_j:.1f} J"


def record(folder: Path, lines: str, seconds: float, *, shim: bool = False) -> Recorded:
    """Record a command that sleeps for so long, on two GPUs to which `lines` happen.

    Args:
        folder: Made for it.
        lines: As in `fake_nvml.c`.
        seconds: That the command takes.
        shim: Whether the lines may set clocks.
    """
    folder.mkdir()
    library = folder / "lib"
    library.mkdir()
    env = subprocess_env(
        build_library(library),
        folder / "gpus.txt",
        two_gpus() + lines + "\n",
        PYTHONPATH=str(ROOT),
        CUDA_VISIBLE_DEVICES="0,1",
        **({"LD_PRELOAD": str(build_clock_shim(library))} if shim else {}),
    )
    start, end = folder / "start", folder / "end"
    command = f"cat /proc/uptime > {start}; sleep {seconds}; cat /proc/uptime > {end}; exit {STATUS}"
    words = [sys.executable, "-m", "profiler.cli.main", "exec", "--quiet", "--name", "r"]
    done = subprocess.run(
        [*words, "--runs-dir", str(folder / "runs"), "--", "sh", "-c", command],
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds + 60.0,
    )
    return Recorded(
        runs_dir=folder / "runs",
        lasted_s=_uptime_s(end) - _uptime_s(start),
        exit_s=_uptime_s(Path("/proc/uptime")) - _uptime_s(end),
        status=done.returncode,
        stderr=done.stderr,
    )


def _uptime_s(path: Path) -> float:
    return float(path.read_text().split()[0])


def outcome_of(
    trial: Callable[[int], tuple[float, list[str]]], trials: int, worst: Callable[[float], str]
) -> Outcome:
    """Of trials by number, each with its figure and a sentence for everything that was wrong; some at a time."""
    with ThreadPoolExecutor(TOGETHER) as pool:
        found = list(pool.map(trial, range(trials)))
    failures = tuple("; ".join(wrong) for _, wrong in found if wrong)
    return Outcome(
        trials=trials,
        passed=trials - len(failures),
        worst=worst(max(figure for figure, _ in found)),
        failures=failures,
    )
