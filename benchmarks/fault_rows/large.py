"""Much data: 10,000 runs to list, and a run of 10^8 rows to sum up and to draw, each by a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fault_rows.large_runs import (
    RANKS,
    TOKENS,
    energy_j,
    make_large_run,
    make_small_runs,
    remember_small_runs,
    window_of,
)
from fault_rows.row import Fault, Outcome

ROOT = Path(__file__).parents[2]
RUNS = 10_000
READINGS = 100_000_000
MOST_LIST_S = 2.0
MOST_CHART_S = 10.0
MOST_BYTES = 1e9
MOST_POINTS = 5_000


def _listed(trials: int, folder: Path) -> Outcome:
    """By the command."""
    runs = _small_runs(folder)
    found = [
        _timed([sys.executable, "-m", "profiler.cli.main", "list", "--runs-dir", str(runs)])
        for _ in range(trials)
    ]
    return _within(found, MOST_LIST_S, lambda output: output.count("lm-") == RUNS)


def _listed_by_dashboard(trials: int, folder: Path) -> Outcome:
    """By what the Runs page draws: its table, its points, its headline."""
    script = (
        "import dashboard.data as d; r = d.overview_table(None); p = d.points_table(None);"
        " print(len(r), len(p), len(d.stored_runs()))"
    )
    runs = _small_runs(folder)
    found = [_timed([sys.executable, "-c", script], JOULESCALE_RUNS_DIR=str(runs)) for _ in range(trials)]
    return _within(found, MOST_LIST_S, lambda output: output.split()[-3:] == [str(RUNS)] * 3)


def _summed_up(trials: int, folder: Path) -> Outcome:
    """By `show`; the sums are known exactly."""
    run = make_large_run(folder / "runs", READINGS)
    command = [sys.executable, "-m", "profiler.cli.main", "show", "--json", "--runs-dir", str(run.parent)]
    found = [_timed(command) for _ in range(trials)]
    failures = [why for one in found for why in _wrong_sums(one)]
    worst = max(one["bytes"] for one in found)
    return Outcome(
        trials=trials,
        passed=trials - len(failures),
        worst=f"{worst / 1e6:.0f} MB of memory, {max(one['seconds'] for one in found):.0f} s",
        failures=tuple(failures),
    )


def _wrong_sums(found: dict[str, Any]) -> list[str]:
    summary = json.loads(found["output"])
    start_s, end_s, steps = window_of(READINGS)
    expected_j = RANKS * float(energy_j(end_s) - energy_j(start_s))
    told_j = summary["energy"]["measured_j"] or 0.0
    wrong = []
    if abs(told_j / expected_j - 1.0) > 1e-4:
        wrong.append(f"{told_j:.6g} J instead of {expected_j:.6g} J")
    if summary["steps"] != steps or summary["tokens"] != RANKS * steps * TOKENS:
        wrong.append(f"{summary['steps']} steps of {summary['tokens']} tokens instead of {steps}")
    if found["bytes"] >= MOST_BYTES:
        wrong.append(f"it took {found['bytes'] / 1e6:.0f} MB")
    return ["; ".join(wrong)] if wrong else []


def _drawn(trials: int, folder: Path) -> Outcome:
    """What the Run page draws first: power over time."""
    script = (
        "import dashboard.data as d; from profiler.report.timelines import power_chart;"
        " name = d.stored_runs()[0]; spec = power_chart(d.run_power(name)).to_dict();"
        " print(spec['title']['subtitle']); print(max(len(l['data']['values']) for l in spec['layer'] if 'data' in l)"
        " if 'data' not in spec else len(spec['data']['values']))"
    )
    run = make_large_run(folder / "runs", READINGS)
    found = [
        _timed([sys.executable, "-c", script], JOULESCALE_RUNS_DIR=str(run.parent)) for _ in range(trials)
    ]
    return _within(
        found, MOST_CHART_S, lambda output: "means of" in output and int(output.split()[-1]) <= MOST_POINTS
    )


def _small_runs(folder: Path) -> Path:
    """The runs, of which each process that wrote one left what there is to say in the index."""
    runs = folder / "runs"
    make_small_runs(runs, RUNS)
    remember_small_runs(runs)
    return runs


_MEASURE = """
import json, resource, subprocess, sys, time
start_s = time.perf_counter()
status = subprocess.call(sys.argv[2:])
seconds = time.perf_counter() - start_s
used = resource.getrusage(resource.RUSAGE_CHILDREN)
known = {"seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "bytes": used.ru_maxrss * 1024, "status": status}
open(sys.argv[1], "w").write(json.dumps(known))
"""
"""By a small process between: one that is started by a large one has had its memory, as the kernel counts."""


def _timed(command: Sequence[str], **environment: str) -> dict[str, Any]:
    """Run a command to its end in a process of its own: seconds, most bytes of memory, output, errors."""
    with tempfile.NamedTemporaryFile("w+") as measured:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, measured.name, *command],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
            check=True,
        )
        known: dict[str, Any] = json.load(measured)
    return {**known, "output": done.stdout, "errors": done.stderr[-500:]}


def _within(found: Sequence[dict[str, Any]], most_s: float, is_whole: Callable[[str], bool]) -> Outcome:
    """Every process ended well, in time, in memory, and with all there is to say."""
    failures = []
    for one in found:
        if one["status"] != 0 or not is_whole(one["output"]):
            failures.append(f"status {one['status']}, {one['output'][-200:]!r} {one['errors']}")
        elif one["seconds"] >= most_s or one["bytes"] >= MOST_BYTES:
            failures.append(f"{one['seconds']:.2f} s, {one['bytes'] / 1e6:.0f} MB")
    slowest = max(found, key=lambda one: float(one["seconds"]))
    worst = (
        f"{slowest['seconds']:.2f} s ({slowest['cpu_s']:.2f} s of processor time),"
        f" {max(one['bytes'] for one in found) / 1e6:.0f} MB"
    )
    return Outcome(
        trials=len(found), passed=len(found) - len(failures), worst=worst, failures=tuple(failures)
    )


ROWS = (
    Fault(
        id="L2",
        fault=f"{RUNS:,} runs, listed by joulescale list in a fresh process",
        pass_line=f"all of them, < {MOST_LIST_S:g} s",
        run=_listed,
        trials=5,
    ),
    Fault(
        id="L3",
        fault=f"{RUNS:,} runs, by what the dashboard's Runs page shows, in a fresh process",
        pass_line=f"all of them, < {MOST_LIST_S:g} s",
        run=_listed_by_dashboard,
        trials=5,
    ),
    Fault(
        id="L4",
        fault="a run of 10^8 readings on 64 nodes, by joulescale show",
        pass_line="right sums, < 1 GB of memory",
        run=_summed_up,
        trials=1,
    ),
    Fault(
        id="L5",
        fault="a run of 10^8 readings on 64 nodes: the first chart of its page, in a fresh process",
        pass_line=f"< {MOST_CHART_S:g} s, < 1 GB of memory, <= {MOST_POINTS:,} points",
        run=_drawn,
        trials=3,
    ),
)
