"""Do the error bars of energy by phase hold? Random trainings of known phase powers, read through a slow counter.

    python benchmarks/phase_energy.py [--traces 150] [--output benchmarks/results/phase_energy.json]

Steps of 15 ms to 2 s, counters of 10 to 100 ms whose true period is off by up to 0.2 %, readings at 10 Hz that come
late, noise and drift of the powers, waits, validations and checkpoints; and what the regression takes not to be: phases
whose first half draws less than their second, ticks that jitter. A phase is stated if its half-width is below its
value.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fixtures_phases import Course, trace

from profiler.metrics.phase_power import divide

ROWS: dict[str, dict[str, float]] = {
    "constant phase powers": {},
    "first and second half of a phase differ by +-20 %": {"within": 0.2},
    "ticks jitter by 2 ms": {"tick_jitter_s": 0.002},
    "steps of 20 ms, counter of 100 ms": {"step_s": 0.02, "period_s": 0.1},
    "steps of 200 ms, in near pace with a counter of 100 ms": {
        "step_s": 0.2,
        "period_s": 0.1,
        "step_jitter": 0.002,
    },
}


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=int, default=150)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = {
        "command": "python benchmarks/phase_energy.py",
        "date": datetime.now(UTC).date().isoformat(),
        "traces_a_row": arguments.traces,
        "rows": {name: _row(given, arguments.traces) for name, given in ROWS.items()},
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _row(given: dict[str, float], traces: int) -> dict[str, Any]:
    widths: list[float] = []
    held = phases = 0
    for seed in range(traces):
        random = np.random.default_rng(seed)
        made = trace(Course.drawn(random, **given), random)
        found, truth = divide(made.clock, made.readings), made.shares()
        phases += len(truth)
        for phase, share in found.share.items():
            half = found.half_width[phase]
            if phase not in found.refused and half < share:
                widths.append(half / share)
                held += abs(share - truth[phase]) <= half
    return {
        "phases": phases,
        "stated": len(widths),
        "inside": round(held / max(len(widths), 1), 4),
        "half_width_of_the_median": round(statistics.median(widths), 4) if widths else None,
    }


if __name__ == "__main__":
    main()
