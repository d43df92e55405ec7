"""L1: a day of 64 GPUs at 10 Hz, through the real writer as fast as it goes: bytes on disk, and flat memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fault_rows.row import Fault, Outcome

MOST_GB = 1.0
MOST_GROWTH_MB = 30.0
SHARE_OF_DAY = 1 / 24
"""So much is recorded, and its bytes are scaled: what is on disk grows by four merged parts an hour."""

_DRIVER = """
import json, math, os, random, sys, time
from pathlib import Path
import psutil
from profiler.records import Mark, Reading, Step
from profiler.store.writer import JournalWriter

folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
now_s = [0.0]
writer = JournalWriter(folder, clock=lambda: now_s[0])
chance, process = random.Random(0), psutil.Process()
energies_mj = [chance.randrange(10**9, 10**10) for _ in range(64)]
memory_mb, frames_ms, step = [], [], 0
for second in range(seconds):
    for tick in range(10):
        at_s = second + 0.1 * tick + chance.expovariate(5000)
        for gpu in range(64):
            at_s += 5e-5 + chance.expovariate(100_000)
            power_mw = int(600_000 + 80_000 * math.sin((10 * second + tick) / 7) + chance.gauss(0, 25_000))
            energies_mj[gpu] += power_mw // 10
            slow = tick == 0
            writer.append(Reading(
                time_s=at_s, component="gpu", device=f"GPU-{gpu:08x}-1234-5678-9abc-def012345678", source="counter",
                energy_j=energies_mj[gpu] / 1000.0, power_w=power_mw / 1000.0,
                average_power_w=(power_mw + chance.randrange(-9000, 9000)) / 1000.0,
                utilization=chance.randrange(90, 101) / 100.0,
                sm_activity=chance.random() if slow else None, tensor_activity=chance.random() if slow else None,
                sm_occupancy=chance.random() if slow else None, dram_activity=chance.random() if slow else None,
                pcie_sent_bytes_per_s=float(chance.randrange(10**9)) if slow else None,
                pcie_received_bytes_per_s=float(chance.randrange(10**9)) if slow else None,
                nvlink_sent_bytes_per_s=float(chance.randrange(10**9)) if slow else None,
                nvlink_received_bytes_per_s=float(chance.randrange(10**9)) if slow else None,
                memory_used_bytes=70 * 2**30, temperature_c=float(chance.randrange(58, 64)),
                sm_clock_hz=1e6 * chance.choice((1980, 1965, 1950)), power_limit_w=700.0,
                throttle_reasons=chance.choice((0, 4)), took_s=chance.choice((0.0, 0.0, 0.0, 0.001)),
            ))
        now_s[0] += 0.1
        if tick in (4, 9):
            before_s = time.perf_counter()
            writer.flush()
            frames_ms.append(1e3 * (time.perf_counter() - before_s))
    step += 1
    loss = 3.0 - chance.random()
    writer.append(Step(rank=0, step=step, start_s=float(second), duration_s=1.0, tokens=10**6, loss=loss))
    if second % 60 == 59:
        memory_mb.append(process.memory_info().rss / 2**20)
before_s = time.perf_counter()
writer.close()
end_s = time.perf_counter() - before_s
frames_ms.sort()
print(json.dumps({
    "bytes": sum(path.stat().st_size for path in folder.iterdir()), "files": len(list(folder.iterdir())),
    "memory_mb": memory_mb, "end_s": end_s,
    "frame_p50_ms": frames_ms[len(frames_ms) // 2], "frame_max_ms": frames_ms[-1],
}))
"""


def record_a_day(trials: int, folder: Path) -> Outcome:
    """Drive the writer through a part of a day, and scale it."""
    failures, worst = list[str](), ""
    for trial in range(trials):
        seconds = round(86_400 * SHARE_OF_DAY)
        words = [sys.executable, "-c", _DRIVER, str(folder / str(trial)), str(seconds)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=3600)
        told = json.loads(done.stdout)
        gigabytes = told["bytes"] / SHARE_OF_DAY / 1e9
        settled = told["memory_mb"][len(told["memory_mb"]) // 4 :]
        growth_mb = settled[-1] - settled[0]
        memory = f"memory grew by {growth_mb:.0f} MB to {settled[-1]:.0f} MB over {len(settled)} minutes"
        frames = (
            f"a frame of 320 rows {told['frame_p50_ms']:.1f} ms, with parts {told['frame_max_ms']:.0f} ms"
        )
        worst = f"{gigabytes:.2f} GB a day; {memory}; {frames}; the end {told['end_s']:.1f} s"
        if gigabytes > MOST_GB or growth_mb > MOST_GROWTH_MB:
            failures.append(worst)
    return Outcome(trials=trials, passed=trials - len(failures), worst=worst, failures=tuple(failures))


ROWS = (
    Fault(
        id="L1",
        fault="64 GPUs x 10 Hz, all quantities, a day at the pace of the disk (an hour is recorded and scaled)",
        pass_line=f"< {MOST_GB:g} GB a day, memory flat",
        run=record_a_day,
        trials=1,
    ),
)
