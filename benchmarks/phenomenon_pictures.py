"""The pictures of the Phenomena page as files, two a row, one file a workload: those of `docs/workloads/`.

    python benchmarks/phenomenon_pictures.py distillation dictionary [--runs-dir runs] [--across steps] [--output DIR]

Draws the newest finished run of every seed of the cpu preset.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import altair as alt

from profiler.errors import JoulescaleError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.report.drawing import save_chart
from profiler.report.phenomena import Seen, pictures
from profiler.store.runs import scan_runs

Concat = TypeVar("Concat", alt.HConcatChart, alt.VConcatChart)


def main() -> None:
    """Draw each workload's pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--across", choices=("steps", "energy"), default="steps")
    parser.add_argument("--output", type=Path, default=Path("docs/workloads/images"))
    arguments = parser.parse_args()
    try:
        for workload in arguments.workloads:
            charts = [
                one.make()
                for one in pictures(workload, _seen(arguments.runs_dir, workload), arguments.across)
            ]
            save_chart(_in_rows(charts), arguments.output / f"{workload}.png")
    except JoulescaleError as error:
        sys.exit(f"phenomenon_pictures: {error}")


def _seen(runs_dir: Path, workload: str) -> list[Seen]:
    newest = {}
    for run in sorted(scan_runs(runs_dir), key=lambda run: run.manifest.created_at):
        if (run.manifest.workload, run.manifest.preset, run.status) == (workload, "cpu", "finished"):
            newest[run.manifest.seed or 0] = run
    found = {seed: summarize(run, by_phase=False)["phenomenon"] for seed, run in sorted(newest.items())}
    return [
        Seen(
            label=f"seed {seed}",
            curves=phenomenon_curves(newest[seed]),
            figures=one["figures"],
            costs=one["costs"],
        )
        for seed, one in found.items()
    ]


def _in_rows(charts: Sequence[alt.LayerChart]) -> alt.VConcatChart:
    pairs = (charts[first : first + 2] for first in range(0, len(charts), 2))
    return _apart(alt.vconcat(*(_apart(alt.hconcat(*pair)) for pair in pairs)))


def _apart(charts: Concat) -> Concat:
    """Each with colours and a legend of its own."""
    return charts.resolve_scale(color="independent", shape="independent")


if __name__ == "__main__":
    main()
