"""One rank of a job without a framework: a real session over made sensors, in the place that its environment names.

    RANK=1 LOCAL_RANK=1 WORLD_SIZE=4 python ranks_session.py '{"runs_dir": ..., "seconds": 1.5, ...}'

Prints one line of JSON when it is recording; the rank that is told to die kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from profiler.measure.guard import Guard
from profiler.measure.probes import GpuWish, open_probes
from profiler.measure.ranks import place_from
from profiler.measure.recorder import Work
from profiler.measure.session import RunFacts, Session

TOLD = json.loads(sys.argv[1])
STEP_S = 0.02


def main() -> None:
    """Record steps that only sleep."""
    place = place_from(os.environ)
    wish = GpuWish(choice=TOLD["gpus"][place.local_rank])
    opened = open_probes(place, wish, rapl_root=Path(TOLD["rapl"]))
    session = Session(
        Path(TOLD["runs_dir"]),
        RunFacts(),
        place=place,
        probes=opened.probes,
        guard=Guard(),
        name=TOLD["name"],
    )
    start_s, step = session.now(), 0
    is_first_start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    session.recorder.enter("data")
    os.write(1, f"{json.dumps({'rank': place.rank, 'recording': True})}\n".encode())
    while session.now() - start_s < TOLD["seconds"]:
        if (place.rank, step) == (TOLD.get("kill_rank"), TOLD["kill_step"]) and is_first_start:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
        session.recorder.enter("forward")
        time.sleep(STEP_S)
        session.recorder.end_step(step, Work(samples=4, tokens=64), loss=1.0)
    session.recorder.enter(None)
    session.recorder.mark("fit", start_s, session.now())
    session.close("finished")
    opened.close()


if __name__ == "__main__":
    main()
