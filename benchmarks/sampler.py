"""What the sampler costs: share of one core at 10 Hz with 8 GPUs whose every call takes 50 us, and memory over a day.

    python benchmarks/sampler.py [--seconds 20] [--rounds 3] [--hours 24] [--output benchmarks/results/sampler.json]

`cost`: CPU time of the sampler's threads, the fake library's in it, over wall time, in a process of its own that finds
the library as the driver's; idle beside it, and beside a main thread that multiplies matrices and so empties the
caches. `day`: 8 samplers of 8 scripted GPUs each are asked 10 times a scripted second, into a sink that drops.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from fake_nvml.build import build_library, subprocess_env  # noqa: E402
from nvml_cases import monitors  # noqa: E402

from profiler.hardware import cpu_power  # noqa: E402
from profiler.measure.guard import Guard  # noqa: E402
from profiler.measure.probes import GpuWish, open_probes  # noqa: E402
from profiler.measure.ranks import Place  # noqa: E402
from profiler.measure.sampler import SAMPLING_PERIOD_S, Sampler  # noqa: E402
from profiler.measure.sensors.base import GaugeReading, Probe  # noqa: E402
from profiler.measure.sensors.scripted import ScriptedEnergy  # noqa: E402

GPUS = 8
CALL_S = 50e-6
WARM_UP_S = 2.0
SAMPLERS = 8


def main() -> None:
    """Measure, print, and write the result."""
    arguments = _arguments()
    if arguments.measure is not None:
        print(json.dumps(_measured(arguments.measure)))
        return
    shares = [_in_own_process(arguments.seconds) for _ in range(arguments.rounds)]
    result = {
        "command": "python benchmarks/sampler.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu_power().name}, Python {platform.python_version()}",
        "gpus": GPUS,
        "call_us": round(1e6 * CALL_S),
        "period_s": SAMPLING_PERIOD_S,
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "share_of_one_core": {name: _summary([share[name] for share in shares]) for name in shares[0]},
        "day": _day(arguments.hours),
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=24.0, help="of the compressed day")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _summary(shares: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(shares), 5),
        "least": round(min(shares), 5),
        "most": round(max(shares), 5),
    }


def _in_own_process(seconds: float) -> dict[str, float]:
    """The shares, measured where the loader finds the fake library as the driver's."""
    lines = [f"cost {CALL_S}"]
    for gpu in range(GPUS):
        lines += [f"gpu GPU-{gpu:04d} NVIDIA H100 80GB HBM3", f"power {gpu} 0 {300 + gpu}", monitors(gpu)]
    with tempfile.TemporaryDirectory() as folder:
        library = build_library(Path(folder))
        env = subprocess_env(
            library,
            Path(folder) / "gpus.txt",
            "\n".join(lines) + "\n",
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS="1",
        )
        env.pop("CUDA_VISIBLE_DEVICES", None)
        words = [sys.executable, __file__, "--measure", str(seconds)]
        done = subprocess.run(words, env=env, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _measured(seconds: float) -> dict[str, float]:
    """CPU seconds of the sampler's threads a second: of the GPUs' alone, and of all that this machine has."""
    opened = open_probes(Place(rank=0, local_rank=0, world_size=1), GpuWish(choice="visible"))
    gpus = [probe for probe in opened.probes if probe.driver == "NVML"]
    assert len(gpus) == GPUS, opened.notes
    found = {
        "gpus, main thread idle": _share(gpus, seconds, time.sleep),
        "gpus, main thread busy": _share(gpus, seconds, _multiply),
        "gpus and processor, main thread busy": _share(opened.probes, seconds, _multiply),
    }
    opened.close()
    return found


def _share(probes: Sequence[Probe], seconds: float, meanwhile: Callable[[float], None]) -> float:
    read = [0]

    def emit(row: Any) -> None:
        read[0] += 1

    before = set(threading.enumerate())
    sampler = Sampler(probes, clock=time.monotonic, emit=emit, on_lost=_refuse, guard=Guard())
    sampler.start()
    time.sleep(WARM_UP_S)
    clocks = [
        time.pthread_getcpuclockid(t.ident) for t in threading.enumerate() if t not in before and t.ident
    ]
    start_s, spent_s, rows = time.monotonic(), _sum(clocks), read[0]
    meanwhile(seconds)
    lasted_s = time.monotonic() - start_s
    spent_s = _sum(clocks) - spent_s
    rows = read[0] - rows
    sampler.stop()
    rate = rows / lasted_s / len(probes)
    if rate < 0.9 / SAMPLING_PERIOD_S:  # a machine that is too busy to read often costs too little
        print(f"read {rate:.1f} times a second only: the machine is busy", file=sys.stderr)
        return spent_s / lasted_s * (1.0 / SAMPLING_PERIOD_S) / rate
    return spent_s / lasted_s


def _sum(clocks: Sequence[int]) -> float:
    return sum(time.clock_gettime(clock) for clock in clocks)


def _refuse(device: str, reason: str) -> None:
    raise AssertionError(f"{device} was lost: {reason}")


def _multiply(seconds: float) -> None:
    factor, until_s = np.ones((512, 512)), time.monotonic() + seconds
    while time.monotonic() < until_s:
        np.matmul(factor, factor)


class _Clock:
    """Moved by the benchmark."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class _Counter:
    """Of a GPU that always draws 300 W."""

    def __init__(self, clock: _Clock, device: str) -> None:
        self._clock = clock
        self.meter = ScriptedEnergy([(1.0, 300.0)], clock=clock, device=device).meter

    def read(self) -> float:
        return 300.0 * self._clock.now_s


class _Gauge:
    """Always the same."""

    def read(self) -> GaugeReading:
        return GaugeReading(power_w=300.0, utilization=0.9)


def _day(hours: float) -> dict[str, Any]:
    """Resident memory as 64 GPUs are read at 10 Hz over so many hours of a scripted clock."""
    clock, rows = _Clock(), [0]

    def drop(row: Any) -> None:
        rows[0] += 1

    samplers = [
        Sampler(
            [_scripted(clock, f"GPU-{8 * number + gpu}") for gpu in range(GPUS)],
            clock=clock,
            emit=drop,
            on_lost=_refuse,
            guard=Guard(),
        )
        for number in range(SAMPLERS)
    ]
    start_s, seen = time.monotonic(), []
    rounds = round(hours * 3600.0 / SAMPLING_PERIOD_S)
    for number in range(rounds):
        clock.now_s = number * SAMPLING_PERIOD_S
        for sampler in samplers:
            sampler.sample()
        if number % max(rounds // 24, 1) == 0:
            gc.collect()
            seen.append(psutil.Process(os.getpid()).memory_info().rss)
    return {
        "gpus": SAMPLERS * GPUS,
        "hours": hours,
        "rows": rows[0],
        "rss_mib_first_hour": round(seen[1] / 2**20, 2),
        "rss_mib_last_hour": round(seen[-1] / 2**20, 2),
        "growth_kib": round((seen[-1] - seen[1]) / 1024, 1),
        "took_s": round(time.monotonic() - start_s, 1),
    }


def _scripted(clock: _Clock, device: str) -> Probe:
    return Probe(counter=_Counter(clock, device), gauge=_Gauge())


if __name__ == "__main__":
    main()
