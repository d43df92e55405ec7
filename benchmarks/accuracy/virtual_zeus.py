"""The real `ZeusMonitor` on the fake library's virtual clock: `python virtual_zeus.py SEED TRACES PART_TIME APPROX`.

Runs in the peers' environment. For Volta and newer it only takes the difference of two counter readings, so nothing of
it needs real time; its clock is the library's, so that its approximation of windows of 0 J knows their length.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pynvml
from fake_nvml.build import FakeNvml, build_library

from accuracy.traces import Trace, seeded, true_joules

LOSS_CALL = "nvmlDeviceGetTotalEnergyConsumption"


def main() -> None:
    """Print one JSON list of [group, trouble, true joules, said joules or null]."""
    seed, traces, part_time, approx = map(int, sys.argv[1:])
    folder = Path(tempfile.mkdtemp(prefix="fake-nvml-"))
    extra = [Path(__file__).with_name("peer_nvml.c")]
    library = FakeNvml(build_library(folder, soname="libfake-nvml-zeus.so", extra=extra))
    pynvml.nvmlLib = library.handle
    library.tell("gpu GPU-0 any")
    import zeus.device.gpu
    import zeus.monitor.energy as energy

    energy.time = library.time
    rows = []
    for number in range(traces):
        trace, windows, _ = seeded(seed, number, bool(part_time))
        monitor = zeus.device.gpu._gpus = None  # their handles are of the library before the reset
        gc.collect()
        library.reset()
        library.tell(trace.script(0))
        library.tell(trace.power_script(0))
        monitor = energy.ZeusMonitor(cpu_indices=[], approx_instant_energy=bool(approx))
        said = _play(library, monitor, trace, [(start, end) for _, start, end in windows])
        for (group, start, end), joules in zip(windows, said, strict=True):
            true_j = float(np.diff(true_joules(trace, np.array([start, end])))[0])
            rows.append([group, trace.trouble, true_j, joules])
    print(json.dumps(rows))


def _play(
    library: FakeNvml, monitor: object, trace: Trace, windows: list[tuple[float, float]]
) -> list[float | None]:
    """Begin and end the windows in the order of time; a refusal is no answer."""
    said: list[float | None] = [None] * len(windows)
    events = sorted((time, number, end) for number, w in enumerate(windows) for end, time in enumerate(w))
    lost = False
    for time_s, number, end in events:
        library.set_time(time_s)
        if trace.lost and lost != (trace.lost[0] <= time_s < trace.lost[1]):
            lost = not lost
            library.tell(f"error {LOSS_CALL} 15" if lost else f"clear {LOSS_CALL}")
        try:
            if end:
                said[number] = monitor.end_window(str(number), sync_execution=False).total_energy
            else:
                monitor.begin_window(str(number), sync_execution=False)
        except Exception:  # noqa: BLE001 - whatever it raises, it has no answer
            continue
    return said


if __name__ == "__main__":
    main()
