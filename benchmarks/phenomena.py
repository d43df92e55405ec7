"""All reference workloads at their cpu presets, priced: did each phenomenon show by its criterion, and for what?

    python benchmarks/phenomena.py [--only NAME ...] [--runs-dir runs] [--country FRA] [--output benchmarks/results]

lm runs its sweep, the others as many seeds as their question asks for, each run in a process of its own through the
`joulescale` command. Finished runs are not run again. Writes `phenomena-<date>.json` and `.md`, failures included; the
exit status is 1 if a run failed, and 0 whatever the verdicts are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin burn joules

from phenomenon_runs.board import Board
from phenomenon_runs.jobs import AT_ONCE, Done, Job, jobs_of, may_share, run_all
from phenomenon_runs.page import duration_by_run, entry, page

from profiler.carbon.factors import CarbonFactors, national_intensity
from profiler.cli.sweep import newest_run
from profiler.errors import JoulescaleError, UnknownNameError
from profiler.hardware import cpu_power
from profiler.store.files import write_whole
from profiler.store.folder import writable_runs_dir
from profiler.store.runs import open_run, scan_runs
from profiler.workload import load_workload

NAMES = (
    "lm",
    "grokking",
    "double-descent",
    "distillation",
    "chain-of-thought",
    "dictionary",
    "attention-sinks",
    "diffusion",
    "gates",
)


def main() -> None:
    """Run what is not there yet, and write down what was seen."""
    arguments = _arguments()
    wanted, missing = _installed(arguments.only)
    for name in missing:
        print(f"{name} is not installed, so it is not run.", file=sys.stderr)
    try:
        runs_dir = writable_runs_dir(arguments.runs_dir)
        factors = CarbonFactors(country=arguments.country)
        jobs = {name: jobs_of(name, arguments.preset) for name in wanted}
        ended = _run(jobs, runs_dir, arguments, factors, missing)
    except JoulescaleError as error:
        sys.exit(f"phenomena: {error}")
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Finished runs are kept: the same command goes on with the rest.", file=sys.stderr
        )
        sys.exit(130)
    sys.exit(1 if any(one.status == "failed" for one in ended) else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads to run; all if none is named")
    parser.add_argument("--preset", default="cpu", choices=("smoke", "cpu", "gpu"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--note", help="why it is run again: stands beside this go in the result")
    parser.add_argument("--country", help="of the grid, for grams; none is assumed")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results"), help="folder for the results"
    )
    return parser.parse_args()


def _installed(only: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The workloads to run, and those of them that are not here."""
    unknown = sorted(set(only or ()) - set(NAMES))
    if unknown:
        sys.exit(f"There is no reference workload {', '.join(unknown)}. They are: {', '.join(NAMES)}.")
    wanted = [name for name in NAMES if not only or name in only]
    here = [name for name in wanted if _is_here(name)]
    return here, [name for name in wanted if name not in here]


def _is_here(name: str) -> bool:
    """Whether a workload is declared and can be imported."""
    try:
        load_workload(name)
    except (UnknownNameError, ModuleNotFoundError):
        return False
    return True


def _run(
    jobs: Mapping[str, Sequence[Job]],
    runs_dir: Path,
    arguments: argparse.Namespace,
    factors: CarbonFactors,
    missing: Sequence[str],
) -> list[Done]:
    """Run all jobs; the result is written anew after each workload."""
    began_s, began_at, stored = (
        time.monotonic(),
        datetime.now(UTC).isoformat(timespec="seconds"),
        scan_runs(runs_dir),
    )
    earlier = _earlier(arguments.output)
    ended: list[Done] = []
    shares = may_share()
    waiting = [
        job
        for of in jobs.values()
        for job in of
        if newest_run(job.point, job.identity, stored, ("finished",)) is None
    ]
    expected = {job.point.label: earlier.get(job.point.label) for job in waiting}
    entries: dict[str, dict[str, Any]] = {}
    with Board(expected, AT_ONCE if shares else 1) as board:
        for name, of in jobs.items():
            done = []
            for one in run_all(of, stored, runs_dir, board, shares=shares):
                board.say(f"{one.job.point.label}: {one.status}{f', {one.message}' if one.message else ''}")
                done.append(one)
            ended += done
            done.sort(key=lambda one: of.index(one.job))
            runs = {one.run_id: open_run(runs_dir, one.run_id) for one in done if one.run_id}
            entries[name] = entry(name, done, runs, factors)
            board.say(f"{name}: {entries[name]['outcome']}")
            go = {
                "command": _command(arguments),
                "began_at": began_at,
                "wall_s": round(time.monotonic() - began_s, 1),
                "runs": sum(each.status != "reused" for each in ended),
                "note": arguments.note,
            }
            result = _result(arguments, entries, missing, go, shares=shares)
            _write(arguments.output, result)
    return ended


def _command(arguments: argparse.Namespace) -> str:
    only = f" --only {' '.join(arguments.only)}" if arguments.only else ""
    country = f" --country {arguments.country}" if arguments.country else ""
    return f"python benchmarks/phenomena.py{only}{country}"


def _grid(country: str | None) -> str | None:
    if country is None:
        return None
    g_per_kwh, source = national_intensity(country)
    return f"{g_per_kwh:.0f} gCO2e/kWh, {source}"


def _result(
    arguments: argparse.Namespace,
    entries: Mapping[str, Mapping[str, Any]],
    missing: Sequence[str],
    go: Mapping[str, Any],
    *,
    shares: bool,
) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    how = "Runs of one thread went two at a time." if shares else "One run at a time."
    return {
        "goes": [go],
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu_power().name}, {cores} cores, Python {platform.python_version()}, {platform.platform()}",
        "preset": arguments.preset,
        "how": how,
        "grid": _grid(arguments.country),
        "not_installed": list(missing),
        "phenomena": list(entries.values()),
    }


def _write(folder: Path, result: dict[str, Any]) -> None:
    """The day's two files; what they hold of workloads that were not asked for now stays."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"phenomena-{result['date']}.json"
    before = (
        json.loads(path.read_text(encoding="utf-8"))
        if path.exists()
        else {"phenomena": [], "goes": [], "preset": None}
    )
    (go,) = result["goes"]
    goes = [one for one in before["goes"] if one["began_at"] != go["began_at"]]
    mine = {one["workload"] for one in result["phenomena"]}
    kept = [
        one
        for one in before["phenomena"]
        if one["workload"] not in mine and one["preset"] == result["preset"]
    ]
    phenomena = sorted([*kept, *result["phenomena"]], key=lambda one: NAMES.index(one["workload"]))
    whole = {**result, "goes": [*goes, go], "phenomena": phenomena}
    write_whole(path, lambda to: to.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8") and None)
    write_whole(path.with_suffix(".md"), lambda to: to.write_text(page(whole), encoding="utf-8") and None)


def _earlier(folder: Path) -> dict[str, float]:
    """How long runs took, by the newest result."""
    found = sorted(folder.glob("phenomena-*.json"))
    return duration_by_run(json.loads(found[-1].read_text(encoding="utf-8"))) if found else {}


if __name__ == "__main__":
    main()
