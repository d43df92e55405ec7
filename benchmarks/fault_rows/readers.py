"""F20: somebody reads while a run is being written: every look is whole, and never older than a second."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from fault_rows.row import Fault, Outcome
from profiler.store.runs import open_run

MOST_AGE_S = 1.0

_WRITER = """
import sys, time
from pathlib import Path
from profiler.records import Mark, Reading, Step
from profiler.store import merge, writer
writer.PART_INTERVAL_S, writer.FRAME_INTERVAL_S, merge.PARTS_AT_ONCE = 0.25, 0.05, 4
sys.path.insert(0, sys.argv[2])
from fault_rows.made_run import made_run
folder = next(made_run(Path(sys.argv[1]), "made").glob("attempt-1/*"))
for path in [*folder.glob("*.parquet"), *folder.glob("wal-*")]:
    path.unlink()
own = writer.JournalWriter(folder)
own.start()
print("open", flush=True)
step = 0
while True:
    step += 1
    own.append(Step(rank=0, step=step, start_s=time.monotonic(), duration_s=0.002))
    of = dict(component="gpu", device=f"d{step % 3}", source="counter")
    own.append(Reading(time_s=time.monotonic(), energy_j=float(step), **of))
    if step % 50 == 0:
        own.append(Mark(rank=0, kind="note", start_s=time.monotonic()))
    time.sleep(0.002)
"""


def read_while_writing(trials: int, folder: Path) -> Outcome:
    """Read again and again while parts appear, are merged and go, and journals vanish."""
    benchmarks = str(Path(__file__).parents[1])
    words = [sys.executable, "-c", _WRITER, str(folder), benchmarks]
    failures, ages_s, names = list[str](), [0.0], set[str]()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            time.sleep(1.0)
            for trial in range(trials):
                names |= {path.name for path in folder.glob("made/attempt-1/*/*")}
                failure, age_s = _look(folder)
                ages_s.append(age_s)
                if failure or age_s > MOST_AGE_S:
                    failures.append(f"look {trial}: {failure or f'{age_s:.2f} s old'}")
                time.sleep(0.01)
        finally:
            process.kill()
    merged = sum(name.startswith("steps-") and name.count("-") == 2 for name in names)
    if len(names) < 6:
        failures.append("the writer made no parts meanwhile")
    return Outcome(
        trials=trials,
        passed=max(trials - len(failures), 0),
        worst=f"{max(ages_s):.2f} s old; {len(names)} files came and went, {merged} of them merged",
        failures=tuple(failures),
    )


def _look(folder: Path) -> tuple[str | None, float]:
    """What is wrong with a look, and how old its newest step is."""
    start_s = time.monotonic()
    try:
        run = open_run(folder, "made")
        process = run.processes[0]
        steps, readings, damaged = process.steps, process.readings, run.damaged
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a crash of ours
        return f"{type(error).__name__}: {error}", 0.0
    if damaged:
        return f"damage is said: {damaged[0]}", 0.0
    if steps["step"].to_list() != list(range(1, len(steps) + 1)):
        return f"steps are missing or twice: {len(steps)} rows up to {steps['step'].max()}", 0.0
    if sorted(readings["energy_j"].to_list()) != [float(n) for n in range(1, len(readings) + 1)]:
        return "readings are missing or twice", 0.0
    return None, start_s - float(steps["start_s"][-1])


ROWS = (
    Fault(
        id="F20",
        fault="a reader while parts appear, are merged, and journals vanish",
        pass_line=f"0 crashes, 0 gaps, nothing twice, <= {MOST_AGE_S:g} s old",
        run=read_while_writing,
        trials=400,
        quick=15,
    ),
)
