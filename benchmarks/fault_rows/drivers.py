"""Drivers that lie, hang and vanish: F6 to F9, over a fake `libnvidia-ml.so.1` that the real binding finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fault_rows.row import Fault, Outcome
from fault_rows.sensing import ROOT, STATUS, Recorded, build_library, outcome_of, record, subprocess_env
from fault_rows.visible_forms import FORMS, MACHINE
from profiler.measure.aside import CLOSING_S

MOST_EXIT_S = 2.0
HANG_S = 60
HANG_AT_S = 1.0
LOST_AT_S = 2.0
BACK_AT_S = 4.0
MOST_AWAY_S = 7.0
"""Two seconds of loss, and five until a lost sensor is tried for the third time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hang:
    """A call that hangs while a process of so many seconds is recorded.

    Attributes:
        stops: Whether the readings of the GPUs end with it.
        back_s: It hangs once, and comes back after this long; None: it hangs for a minute, each time.
    """

    call: str
    seconds: float = 4.5
    at_start: bool = False
    stops: bool = True
    back_s: float | None = None

    @property
    def event(self) -> tuple[float, str]:
        """When it happens, and the line that makes it."""
        line = f"hang {self.call} {self.back_s or HANG_S}" + (" -1 1" if self.back_s else "")
        return 0.0 if self.at_start else HANG_AT_S, line


_HANGS = (
    _Hang(call="nvmlDeviceGetFieldValues"),
    _Hang(call="nvmlShutdown", stops=False),
    _Hang(call="nvmlDeviceGetFieldValues", seconds=9.0, back_s=5.0),
    _Hang(call="nvmlDeviceGetUtilizationRates"),
    _Hang(call="nvmlDeviceGetMemoryInfo", seconds=8.0),  # asked every 5 s
    _Hang(call="nvmlGpmSampleGet", seconds=8.0),  # every 4 s
    _Hang(call="nvmlInit", at_start=True),
    _Hang(call="nvmlShutdown", at_start=True),
    _Hang(call="nvmlDeviceGetCount_v2", at_start=True),
    _Hang(call="nvmlDeviceGetComputeRunningProcesses_v3"),
    _Hang(call="nvmlDeviceGetFieldValues", seconds=65.0, back_s=60.0),
)


def _hangs(trials: int, folder: Path) -> Outcome:
    """Each beside a record without a hang, so that a busy machine holds up both."""

    def trial(number: int) -> tuple[float, list[str]]:
        hang = _HANGS[number % len(_HANGS)]
        with ThreadPoolExecutor(2) as pool:
            usual = pool.submit(record, folder / f"without-{number}", [], hang.seconds)
            recorded = record(folder / str(number), [hang.event], hang.seconds)
        late_s = recorded.exit_s - usual.result().exit_s
        wrong = [] if late_s <= MOST_EXIT_S else [f"it took {late_s:.1f} s longer to exit"]
        if hang.call == "nvmlShutdown" and not hang.at_start and recorded.exit_s < CLOSING_S:
            wrong.append("the call did not hang")
        return late_s, [f"{hang.event}: {why}" for why in [*wrong, *_wrong_after_hang(recorded, hang)]]

    return outcome_of(trial, trials, lambda late_s: f"exit {late_s:.2f} s later than without a hang")


def _wrong_after_hang(recorded: Recorded, hang: _Hang) -> list[str]:
    wrong = [] if recorded.status == STATUS else [f"exit status {recorded.status}: {recorded.stderr[-300:]}"]
    if hang.at_start:  # it hangs the opening, and a driver that was given up is not called at the exit
        said = recorded.process.facts.notes.get("gpu", "")
        return wrong if "did not answer within" in said else [*wrong, f"no reason but {said!r}"]
    cpu_s, gpu_s = recorded.cpu_times_s(), recorded.times_s("GPU-aaaa")
    if (hole_s := _widest_s([*cpu_s, recorded.end_s])) > (hang.seconds - HANG_AT_S) / 2.0:
        wrong.append(f"the processor was not read for {hole_s:.1f} s")
    if hang.stops and "Running" not in hang.call:
        wrong += _wrong_gap(recorded, hang, gpu_s)
    return wrong + [w for w in map(recorded.wrong_energy, ("GPU-aaaa", "GPU-bbbb")) if w]


def _wrong_gap(recorded: Recorded, hang: _Hang, gpu_s: list[float]) -> list[str]:
    """Of the hole that the hang leaves in the readings of a GPU."""
    hole_s = _widest_s([*gpu_s, recorded.end_s])
    wrong = [] if "driver NVML" in recorded.process.facts.notes else ["the gap is not said"]
    if "sensor_gap" not in recorded.process.marks["kind"]:
        wrong.append("the gap is not marked")
    if hang.back_s is None:
        return wrong if recorded.end_s - gpu_s[-1] > 1.0 else [*wrong, "the call did not hang"]
    if not hang.back_s < hole_s < hang.back_s + 1.0:
        wrong.append(f"the hole is {hole_s:.1f} s wide for a hang of {hang.back_s} s")
    return wrong


def _widest_s(times_s: list[float]) -> float:
    return max((later - earlier for earlier, later in pairwise(times_s)), default=1e9)


def _losses(trials: int, folder: Path) -> Outcome:
    """A GPU that falls off the bus and returns; a driver that is unloaded and loaded, so that counters start anew."""
    fields = "nvmlDeviceGetFieldValues"
    lost = [(LOST_AT_S, f"error {fields} 15 0"), (BACK_AT_S, f"clear {fields}")]
    reloaded = [(LOST_AT_S, "unload 9"), (BACK_AT_S, "load")]

    def trial(number: int) -> tuple[float, list[str]]:
        is_lost = number % 2 == 0
        recorded = record(folder / str(number), lost if is_lost else reloaded, 24.0)
        away_s = _widest_s(recorded.times_s("GPU-aaaa"))
        other_s = _widest_s(recorded.times_s("GPU-bbbb"))
        wrong = [w for w in map(recorded.wrong_energy, ("GPU-aaaa", "GPU-bbbb")) if w]
        wrong += [] if recorded.status == STATUS else [f"exit status {recorded.status}"]
        wrong += [] if BACK_AT_S - LOST_AT_S - 0.2 < away_s < MOST_AWAY_S else [f"away for {away_s:.1f} s"]
        if is_lost and other_s > (BACK_AT_S - LOST_AT_S) / 2.0:
            wrong.append(f"the other GPU was not read for {other_s:.1f} s")
        if not is_lost and not _fell(recorded):
            wrong.append("the counter did not start anew")
        gpus = {c["device"]: c for c in recorded.summary["energy"]["components"]}
        wrong += [] if gpus["GPU-aaaa"]["energy_j"] else ["no energy is known of GPU-aaaa"]
        wrong += [] if gpus["GPU-bbbb"]["at_least_j"] else ["nothing is known of GPU-bbbb"]
        return away_s, wrong

    return outcome_of(trial, trials, lambda away_s: f"{away_s:.1f} s without readings, 2 s of them lost")


def _fell(recorded: Recorded) -> bool:
    readings = recorded.process.readings.drop_nulls("energy_j").sort("time_s")
    steps = readings.filter(readings["device"] == "GPU-aaaa")["energy_j"].diff()
    return bool((steps < 0.0).any())


def _codes(trials: int, folder: Path) -> Outcome:
    """The tests' matrix: every function that is called x every code, at opening and midway; one test a function."""
    words = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "-rA"]
    done = subprocess.run(
        [*words, f"--basetemp={folder / 'pytest'}", "tests/test_profiler_sensors_nvml_matrix.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    passed = sum(line.startswith("PASSED") for line in done.stdout.splitlines())
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return Outcome(
        trials=max(passed + len(failed), 1),
        passed=passed,
        worst=f"{len(failed)} functions of which a code harms; every test tries all 30 codes",
        failures=tuple(failed),
    )


_OPEN_ALL = """
import json, os, sys
from profiler.measure.probes import GpuWish, open_probes
from profiler.measure.ranks import Place
found = []
for form in json.load(sys.stdin):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if form is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = form
    opened = open_probes(Place(rank=0, local_rank=0, world_size=1), GpuWish(choice="visible"))
    found.append([p.counter.meter.device for p in opened.probes if p.counter.meter.component == "gpu"])
    opened.close()
print(json.dumps(found))
"""


def _forms(trials: int, folder: Path) -> Outcome:
    """Every form of the variable, each opened anew in one process with the fake library as the machine's own."""
    env = subprocess_env(build_library(folder), folder / "gpus.txt", MACHINE, PYTHONPATH=str(ROOT))
    forms = list(FORMS.items())[:trials]
    done = subprocess.run(
        [sys.executable, "-c", _OPEN_ALL],
        input=json.dumps([form for form, _ in forms]),
        env=env,
        capture_output=True,
        text=True,
        timeout=120.0,
        check=True,
    )
    failures = tuple(
        f"CUDA_VISIBLE_DEVICES={form!r} measured {found}, and CUDA shows {list(shown)}"
        for (form, shown), found in zip(forms, json.loads(done.stdout), strict=True)
        if found != list(shown)
    )
    return Outcome(
        trials=len(forms),
        passed=len(forms) - len(failures),
        worst=f"{len(failures)} forms that measure another GPU than CUDA shows",
        failures=failures,
    )


ROWS = (
    Fault(
        id="F6",
        fault="every NVML error code x every call, at opening and midway",
        pass_line="null with a reason, never 0; the other GPU whole",
        run=_codes,
        trials=48,
        programs=("gcc",),
    ),
    Fault(
        id="F7",
        fault="an NVML call that hangs for a minute, at the start, midway, at the end",
        pass_line="exit <= 2 s later with its own status; processors read on; back after it: read on, gap said",
        run=_hangs,
        trials=len(_HANGS),
        quick=1,
        programs=("gcc",),
    ),
    Fault(
        id="F8",
        fault="a GPU lost for 2 s; the driver reloaded (counters start anew)",
        pass_line="energy inside its bar, gap <= 7 s, measuring resumes, the other GPU whole",
        run=_losses,
        trials=4,
        programs=("gcc",),
    ),
    Fault(
        id="F9",
        fault="every form of CUDA_VISIBLE_DEVICES: none, empty, reordered, UUIDs, prefixes, MIG, wrong",
        pass_line="the GPUs that CUDA shows, in its order, and no other",
        run=_forms,
        trials=len(FORMS),
        quick=len(FORMS),
        programs=("gcc",),
    ),
)
