"""Processes that record themselves for some seconds, over the fake NVML library that the real binding finds.

Each opens its sensors and a session as a training does, makes the files at which the library obeys, and says by the
machine's uptime when its work ended, so that what the record costs at the exit is seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
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
Events = Sequence[tuple[float, str]]
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
    """What such a process left.

    Attributes:
        lasted_s: Seconds of its work, by the machine's uptime.
        exit_s: Seconds from the end of its work to that of the process.
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

    @property
    def end_s(self) -> float:
        """When its work ended, on the run's clock."""
        (fit,) = self.process.marks.filter(self.process.marks["kind"] == "fit")["end_s"]
        return float(fit)

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
        return (
            f"{device}: {found['energy_j']:.1f} +- {found['plus_minus_j']:.1f} J, and it was {true_j:.1f} J"
        )


def record(
    folder: Path,
    events: Events,
    seconds: float,
    *,
    shim: bool = False,
    rapl_root: Path | None = None,
    as_whom: Sequence[str] = (),
) -> Recorded:
    """Record a process that sleeps for so long, on two GPUs to which something happens meanwhile.

    Args:
        folder: Made for it if need be; holds the file `go` once its sensors are open.
        events: Seconds of its work, in order, and what happens then, as in `fake_nvml.c`; at 0 before it starts.
        seconds: Of its work.
        shim: Whether the clocks may be set.
        rapl_root: The powercap folder; there are no GPUs then.
        as_whom: Words before its own, such as `setpriv`'s.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = "" if rapl_root else two_gpus() + _lines(folder, events)
    env = subprocess_env(
        _built(build_library),
        folder / "gpus.txt",
        machine,
        PYTHONPATH=str(ROOT),
        HOME=str(folder),
        CUDA_VISIBLE_DEVICES="0,1",
        **({"LD_PRELOAD": str(_built(build_clock_shim))} if shim else {}),
    )
    (folder / "runs").mkdir()
    plan = {
        "rapl_root": str(rapl_root or folder / "no powercap"),
        "seconds": seconds,
        "files": [(at_s, _file(folder, number)) for number, (at_s, _) in enumerate(events)],
    }
    done = subprocess.run(
        [*as_whom, sys.executable, "-c", _RECORD, json.dumps(plan)],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds + 90.0,
    )
    ended_s = _uptime_s()
    told = json.loads((folder / "told.json").read_text()) if (folder / "told.json").exists() else {}
    return Recorded(
        runs_dir=folder / "runs",
        lasted_s=told.get("end_s", ended_s) - told.get("start_s", 0.0),
        exit_s=ended_s - told.get("end_s", 0.0),
        status=done.returncode,
        stderr=done.stderr,
    )


_RECORD = f"""
import json, os, sys, time
from pathlib import Path
from profiler.measure.guard import Guard
from profiler.measure.probes import GpuWish, open_probes
from profiler.measure.ranks import Place
from profiler.measure.session import RunFacts, Session

def uptime_s():
    return float(Path("/proc/uptime").read_text().split()[0])

plan = json.loads(sys.argv[1])
place = Place(rank=0, local_rank=0, world_size=1)
opened = open_probes(place, GpuWish(choice="visible"), rapl_root=Path(plan["rapl_root"]))
session = Session(Path("runs"), RunFacts(), place=place, probes=opened.probes, guard=Guard(), name="r")
session.notes.update(opened.notes)
Path("go").touch()
time.sleep(0.3)
told, start_s = {{"start_s": uptime_s()}}, session.now()
for at_s, path in plan["files"]:
    time.sleep(max(start_s + at_s - session.now(), 0.0))
    Path(path).touch()
time.sleep(start_s + plan["seconds"] - session.now())
told["end_s"], end_s = uptime_s(), session.now()
Path("told.json").write_text(json.dumps(told))
session.recorder.mark("fit", start_s, end_s)
session.close("finished")
opened.close()
sys.exit({STATUS})
"""


@cache
def _built(build: Callable[[Path], Path]) -> Path:
    """A library, built once."""
    return build(Path(tempfile.mkdtemp(prefix="joulescale-fake-")))


def _lines(folder: Path, events: Events) -> str:
    """Each event when its file is there: the process makes it, so a slow start of the record changes nothing."""
    whens = [
        line if at_s == 0.0 else f"when {_file(folder, number)} {line}"
        for number, (at_s, line) in enumerate(events)
    ]
    return "\n".join(whens) + "\n"


def _file(folder: Path, number: int) -> str:
    return str(folder / f"event-{number}")


def _uptime_s() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


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
