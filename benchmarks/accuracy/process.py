"""One tool in a process of its own, in real time over the fake library: `python process.py TOOL PLAN.json`.

Runs in the peers' environment, or in ours; imports nothing of ours unless the tool is ours. Prints one JSON line a
window: its length, what each GPU truly used between the return of "begin" and the call of "end", and what the tool
says. Each tool is used as its documentation recommends; see `page.SETTINGS`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Joules = list[float | None]


class Library:
    """The fake library that this process's pynvml will find, too."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL("libnvidia-ml.so.1")
        self._lib.fake_nvml_time.restype = ctypes.c_double
        self._lib.fake_nvml_joules.argtypes = [ctypes.c_int, ctypes.c_double]
        self._lib.fake_nvml_joules.restype = ctypes.c_double

    def now(self) -> float:
        return float(self._lib.fake_nvml_time())

    def joules(self, gpu: int, start_s: float, end_s: float) -> float:
        return float(self._lib.fake_nvml_joules(gpu, end_s) - self._lib.fake_nvml_joules(gpu, start_s))

    def tell(self, line: str) -> None:
        assert self._lib.fake_nvml_command(line.encode()) == 0, line


class Zeus:
    """`ZeusMonitor`, windows without synchronising; `approx` takes its answer to windows of 0 J."""

    def __init__(self, gpus: int, approx: bool = False) -> None:
        from zeus.monitor import ZeusMonitor

        self._monitor = ZeusMonitor(cpu_indices=[], approx_instant_energy=approx)

    def begin(self) -> None:
        self._monitor.begin_window("w", sync_execution=False)

    def end(self) -> Joules:
        found = self._monitor.end_window("w", sync_execution=False)
        return list(found.gpu_energy.values())

    def close(self) -> None:
        """Nothing to close."""


class CodeCarbon:
    """`OfflineEmissionsTracker` with a task a window; its energies a GPU are those that it sums up."""

    def __init__(self, gpus: int) -> None:
        from codecarbon import OfflineEmissionsTracker

        self._tracker = OfflineEmissionsTracker(
            country_iso_code="FRA", log_level="error", save_to_file=False, tracking_mode="process"
        )
        self._count = 0

    def begin(self) -> None:
        self._count += 1
        self._tracker.start_task(f"w{self._count}")

    def end(self) -> Joules:
        said_j = self._tracker.stop_task(f"w{self._count}").gpu_energy * 3.6e6
        boards = [h for h in self._tracker._hardware if type(h).__name__ == "GPU"]
        each = [device.energy_delta.kWh * 3.6e6 for board in boards for device in board.devices.devices]
        same = abs(sum(each) - said_j) < 1e-3 * max(abs(said_j), 1.0)
        return [*each] if same else [said_j]

    def close(self) -> None:
        self._tracker.stop()


class CarbonTracker:
    """`CarbonTracker` with an epoch a window, errors ignored, without the PUE that it multiplies in."""

    def __init__(self, gpus: int) -> None:
        from carbontracker import constants
        from carbontracker.tracker import CarbonTracker as Tracker

        self._pue = constants.PUE_2023
        self._tracker = Tracker(
            epochs=1000, epochs_before_pred=0, components="gpu", ignore_errors=True, verbose=0
        )
        self._windows = 0

    def begin(self) -> None:
        self._windows += 1
        self._tracker.epoch_start()

    def end(self) -> Joules:
        self._tracker.epoch_end()
        return [
            None
        ]  # one number for all GPUs; and only later, as short epochs take the readings of later ones

    def close(self) -> None:
        """Nothing to close: `later` asks first."""

    def later(self) -> list[Joules]:
        kwh = self._tracker.tracker.total_energy_per_epoch() / self._pue
        return [[float(value) * 3.6e6] for value in kwh]


class Ours:
    """A `Session` over the visible GPUs, as `EfficiencyMonitor` opens one; windows are asked for afterwards."""

    def __init__(self, gpus: int) -> None:
        from profiler.measure.guard import Guard
        from profiler.measure.probes import GpuWish, open_probes
        from profiler.measure.ranks import Place
        from profiler.measure.session import RunFacts, Session

        self._folder = Path(tempfile.mkdtemp(prefix="accuracy-"))
        place = Place(rank=0, local_rank=0, world_size=1)
        self._probes = open_probes(place, GpuWish(choice="visible"))
        probes = [p for p in self._probes.probes if p.counter.meter.component == "gpu"]
        self.notes = self._probes.notes
        self._session = Session(
            self._folder, RunFacts(), place=place, probes=probes, guard=Guard(), name="run"
        )
        self._windows: list[tuple[float, float]] = []

    def begin(self) -> None:
        self._start_s = self._session.now()

    def end(self) -> Joules:
        self._windows.append((self._start_s, self._session.now()))
        return [None]

    def close(self) -> None:
        self._session.close("finished")
        threading.Thread(target=self._probes.close, daemon=True).start()  # a hung driver may hold it

    def later(self) -> list[list[dict[str, float]]]:
        from profiler.metrics.devices import device_curves
        from profiler.store.runs import open_run

        run = open_run(self._folder, "run")
        curves = sorted(device_curves(run.processes), key=lambda c: c.meter["device"])
        return [[_found(curve, window) for curve in curves] for window in self._windows]


def _found(curve: Any, window: tuple[float, float]) -> dict[str, float] | None:
    found = curve.energy([window])
    if found is None:
        return None
    return {
        "energy_j": found.energy_j if found.is_knowledge else None,
        "interpolated_j": found.energy_j,
        "plus_minus_j": found.plus_minus_j,
        "at_least_j": found.at_least_j,
        "coverage": found.coverage,
    }


TOOLS: dict[str, Callable[[int], Any]] = {
    "joulescale": Ours,
    "zeus": Zeus,
    "zeus_approx": lambda gpus: Zeus(gpus, approx=True),
    "codecarbon": CodeCarbon,
    "carbontracker": CarbonTracker,
}


def main() -> None:
    """Go through the plan's windows, then say what the tool found."""
    plan = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    os.chdir(tempfile.mkdtemp(prefix="accuracy-"))  # tools write files where they stand
    library, gpus = Library(), plan["gpus"]
    tool = TOOLS[sys.argv[1]](gpus)
    time.sleep(1.5)
    rows = []
    for number, length_s in enumerate(plan["windows_s"]):
        tool.begin()
        start_s = library.now()
        _spend(library, length_s * plan["about"][number % len(plan["about"])], plan["trouble"])
        end_s = library.now()
        said = tool.end()
        ended_s = library.now() - end_s
        rows.append((length_s, [library.joules(g, start_s, end_s) for g in range(gpus)], said, ended_s))
        time.sleep(0.05 + 0.037 * (number % 7))
    started_s = library.now()
    time.sleep(0.2)
    tool.close()
    closed_s = library.now() - started_s - 0.2
    later = tool.later() if hasattr(tool, "later") else [row[2] for row in rows]
    for (length_s, true_j, _, ended_s), said in zip(rows, later, strict=True):
        row = {"length_s": length_s, "true_j": true_j, "said": said, "end_s": ended_s, "close_s": closed_s}
        print("ROW " + json.dumps(row), flush=True)
    if getattr(tool, "notes", None):
        print("NOTES " + json.dumps(tool.notes), flush=True)
    os._exit(0)  # a thread inside a hung call would hold the exit


def _spend(library: Library, seconds: float, trouble: list[str]) -> None:
    """Sleep; the trouble comes half way."""
    if trouble:
        time.sleep(seconds / 2)
        for line in trouble:
            library.tell(line)
        seconds /= 2
    time.sleep(seconds)


if __name__ == "__main__":
    main()
