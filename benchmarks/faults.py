"""The fault scorecard: each row a real fault in real processes, tried, counted and held against its pass line.

    python benchmarks/faults.py [F1 F18 ...] [--quick] [--output benchmarks/results]

Prints a table and writes `faults-<date>.json` after each row; rows of that day that are not run again stay in it. The
exit status is 1 if a row failed or its programs are missing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fault_rows import all_faults
from fault_rows.row import Fault, Outcome
from rich.console import Console
from rich.table import Table

from profiler.hardware import cpu_power


def main() -> None:
    """Run the rows, print the table, write the result."""
    arguments = _arguments()
    chosen = _chosen(arguments.ids)
    console = Console(width=None if sys.stdout.isatty() else 150)
    results = []
    for number, fault in enumerate(chosen, 1):
        trials = (fault.quick or 0) if arguments.quick else fault.trials
        if trials == 0:
            continue
        print(
            f"[{number}/{len(chosen)}] {fault.id}: {fault.fault}, {trials} trials",
            file=sys.stderr,
            flush=True,
        )
        results.append(_try(fault, trials))
        if arguments.output:
            _write(arguments.output, results[-1])
        if not results[-1]["ok"]:
            print("\n".join(results[-1]["failures"][:5]), file=sys.stderr, flush=True)
    console.print(_table(results))
    sys.exit(0 if results and all(result["ok"] for result in results) else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", help="rows to run; all if none is named")
    parser.add_argument("--quick", action="store_true", help="as few trials as in make test")
    parser.add_argument("--output", type=Path, help="folder for faults-<date>.json")
    return parser.parse_args()


def _chosen(ids: Sequence[str]) -> list[Fault]:
    faults = all_faults()
    unknown = sorted(set(ids) - {fault.id for fault in faults})
    if unknown:
        sys.exit(f"There is no row {', '.join(unknown)}. Rows: {', '.join(fault.id for fault in faults)}.")
    return [fault for fault in faults if not ids or fault.id in ids]


def _try(fault: Fault, trials: int) -> dict[str, Any]:
    start = time.perf_counter()
    if missing := fault.missing():
        outcome = Outcome(trials=0, passed=0, worst="", failures=(f"{', '.join(missing)} is not installed",))
    else:
        with tempfile.TemporaryDirectory(prefix="joulescale-fault-") as folder:
            outcome = fault.run(trials, Path(folder))
    return {
        "id": fault.id,
        "fault": fault.fault,
        "pass_line": fault.pass_line,
        **asdict(outcome),
        "ok": outcome.trials > 0 and outcome.passed == outcome.trials,
        "seconds": round(time.perf_counter() - start, 1),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="faults", title_justify="left")
    for name in ("id", "fault", "pass line", "trials", "passed", "worst figure"):
        table.add_column(name, justify="right" if name in ("trials", "passed") else "left")
    for result in results:
        style = None if result["ok"] else "bold red"
        table.add_row(
            *(str(result[key]) for key in ("id", "fault", "pass_line", "trials", "passed", "worst")),
            style=style,
        )
    return table


def _write(folder: Path, result: dict[str, Any]) -> None:
    """Put a row into the day's file, in the place of an earlier try of it."""
    today = datetime.now(UTC).date().isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"faults-{today}.json"
    earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = [row for row in earlier if row["id"] != result["id"]] + [result]
    page = {
        "command": "python benchmarks/faults.py",
        "date": today,
        "machine": f"{cpu_power().name}, Python {platform.python_version()}, {platform.platform()}",
        "rows": sorted(rows, key=lambda row: (row["id"][0], int(row["id"][1:]))),
    }
    path.write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
