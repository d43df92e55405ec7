"""Records until a file says stop, and prints what came of it as one line of JSON.

    python disk_victim.py RUNS_DIR STOP_FILE [UID]

A step takes ten milliseconds; eight scripted devices of exactly 100 W are read at 10 Hz. Their counters follow the time
without steps, so that the joules of a reading belong to its time, or it is wrong. What waits for the disk is tried
again every half second, not every half minute, and at most 200 readings wait, so that a trial takes seconds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from profiler.errors import RunsFolderError
from profiler.measure.guard import Guard
from profiler.measure.ranks import Place
from profiler.measure.recorder import Work
from profiler.measure.sensors.base import Probe
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts, Session
from profiler.store import waiting, writer

WATTS = 100.0


def main() -> None:
    """Record; a refusal to open is told like everything else."""
    runs_dir, stop = Path(sys.argv[1]), Path(sys.argv[2])
    writer.RETRY_INTERVAL_S = 0.5
    writer.PART_INTERVAL_S = 1.0
    waiting.MAX_WAITING["readings"] = 200
    if len(sys.argv) > 3:
        _become(int(sys.argv[3]))
    try:
        told = _record(runs_dir, stop)
    except RunsFolderError as refusal:
        told = {"refusal": str(refusal)}
    print(json.dumps(told), flush=True)


def _become(user: int) -> None:
    """Be another user, who may not be able to read the libraries: all that is needed of them is loaded before."""
    with tempfile.TemporaryDirectory() as elsewhere:
        _record(Path(elsewhere) / "runs", Path(elsewhere))
    os.setresuid(user, user, user)


def _record(runs_dir: Path, stop: Path) -> dict[str, object]:
    devices = [
        ScriptedEnergy([(1.0, WATTS)], clock=time.monotonic, update_period_s=None, device=f"GPU-{number}")
        for number in range(8)
    ]
    session = Session(
        runs_dir,
        RunFacts(workload="victim"),
        place=Place(rank=0, local_rank=0, world_size=1),
        probes=[Probe(counter=device) for device in devices],
        guard=Guard(),
        name="victim",
    )
    if not stop.exists():
        print("open", file=sys.stderr, flush=True)
    hooks_s, step, start_s = [], 0, session.now()
    now, work = session.recorder.clock, Work(samples=8, tokens=64)
    note, (cpu, look_s) = session.recorder.note, session.recorder.look(now())
    while not stop.exists():
        step += 1
        spent_s = 0.0
        for phase in ("data", "forward", "backward", "optimizer"):
            before_s = time.perf_counter()
            note((phase, now(), cpu and cpu()))  # as `integrations.lightning_hooks` does
            spent_s += time.perf_counter() - before_s
            time.sleep(0.0025)
        before_s = time.perf_counter()
        end_s = now()
        note(("data", end_s, cpu and cpu(), work, 1.0 / step, (step, 1, None)))
        if end_s >= look_s:
            cpu, look_s = session.recorder.look(end_s)
        hooks_s.append(spent_s + time.perf_counter() - before_s)
    session.sample()
    before_s, end_s = time.monotonic(), session.now()
    session.recorder.mark("fit", start_s, end_s)
    session.close("finished")
    return {
        "run_dir": str(session.run_dir),
        "steps": step,
        "hook_us": _quantiles_us(sorted(hooks_s)) if hooks_s else None,
        "close_s": time.monotonic() - before_s,
    }


def _quantiles_us(seconds: Sequence[float]) -> dict[str, float]:
    return {"p99": 1e6 * seconds[int(0.99 * len(seconds))], "longest": 1e6 * seconds[-1]}


if __name__ == "__main__":
    main()
