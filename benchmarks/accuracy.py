"""Whether the energy of a window is right, and its error bar holds: over random power traces, beside peers.

    python benchmarks/accuracy.py [--peers .venv-peers] [--traces 1000] [--batches 2] [--only virtual|realtime]

`virtual`: our sensors, sampler and estimator, and Zeus, over the fake NVML library on a clock that the benchmark moves:
exact, the same on any machine. `realtime`: our Session, Zeus, CodeCarbon and carbontracker in processes of their own
over the same library in real time, and what each says when something is wrong. Without `--peers` only ours is run.
`--only` keeps the other half of benchmarks/results/accuracy.json as it is. `make bench-accuracy` does all of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from accuracy.failures import failure_jobs, failure_rows  # noqa: E402
from accuracy.page import page  # noqa: E402
from accuracy.realtime import accuracy_jobs, realtime_windows, run_all, versions  # noqa: E402
from accuracy.scores import Window, table  # noqa: E402
from accuracy.virtual import load_library, ours, zeus  # noqa: E402

from profiler.hardware import cpu_power  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SEED = 2026
GPUS = 16
TOGETHER = 9
FEWER = 3


def main() -> None:
    """Measure what was asked for, and write the numbers and the page."""
    arguments = _arguments()
    stored = RESULTS / "accuracy.json"
    result: dict[str, Any] = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    peers = arguments.peers / "bin" / "python" if arguments.peers else None
    if arguments.only != "realtime":
        result["virtual"] = _stamped(lambda: _virtual(arguments.traces, peers))
    if arguments.only != "virtual":
        result["realtime"] = _stamped(lambda: _realtime(arguments.batches, peers))
    stored.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "accuracy.md").write_text(page(result), encoding="utf-8")
    print(page(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="virtual environment with zeus, codecarbon, carbontracker")
    parser.add_argument(
        "--traces", type=int, default=1000, help="on the virtual clock; a third of them part-time"
    )
    parser.add_argument("--batches", type=int, default=2, help="of 32 traces each, in real time")
    parser.add_argument("--only", choices=("virtual", "realtime"))
    return parser.parse_args()


def _stamped(measure: Any) -> dict[str, Any]:
    start_s = time.monotonic()
    found: dict[str, Any] = measure()
    return {
        "command": "python " + " ".join(["benchmarks/accuracy.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu_power().name}, Python {platform.python_version()}, fake NVML library",
        "took_s": round(time.monotonic() - start_s),
        **found,
    }


def _virtual(traces: int, peers: Path | None) -> dict[str, Any]:
    library = load_library()
    every = ours(library, SEED, traces, part_time=False)
    part_time = ours(library, SEED, traces // 3, part_time=True)
    rows = {
        "joulescale": every,
        "joulescale, marked": ours(library, SEED, traces, part_time=False, marked=True),
    }
    unanswered = {}
    for name, approx in (("zeus", False), ("zeus, approx", True)) if peers else ():
        rows[name], unanswered[name] = zeus(peers, SEED, traces, part_time=False, approx=approx)
    return {
        "traces": traces,
        "bars": table(every),
        "bars_part_time": table(part_time),
        "tools": {name: table(_sound(windows)) for name, windows in rows.items()},
        "troubles": {name: table(windows, key=lambda w: w.trouble) for name, windows in rows.items()},
        "unanswered": unanswered,
    }


def _sound(windows: list[Window]) -> list[Window]:
    return [window for window in windows if window.trouble == "none"]


def _realtime(batches: int, peers: Path | None) -> dict[str, Any]:
    outcomes = [
        outcome
        for batch in range(batches)
        for outcome in run_all(accuracy_jobs(SEED, batch, GPUS), peers, TOGETHER)
    ]
    failures = failure_rows(run_all(failure_jobs(), peers, FEWER))
    tools = realtime_windows(outcomes)
    return {
        "traces": 2 * GPUS * batches,
        "versions": versions(peers),
        "tools": {name: table(windows) for name, windows in tools.items()},
        "ended": sorted({f"{o.job.tool}: {o.ended}" for o in outcomes if o.ended != "finished"}),
        "failures": failures,
    }


if __name__ == "__main__":
    main()
