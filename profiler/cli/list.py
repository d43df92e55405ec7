"""`joulescale list`: the runs of a runs folder."""

from __future__ import annotations

from pathlib import Path

import typer

from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.options import AsJson, RunsDir, print_json
from profiler.metrics.overview import overview
from profiler.report.terminal import overview_table
from profiler.report.terminal import show as show_table
from profiler.store.runs import scan_runs


@with_carbon
def list_runs(
    carbon: CarbonOptions,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a runs folder, newest first."""
    frame = overview(scan_runs(runs_dir), carbon.factors())
    if as_json:
        print_json(frame.to_dicts())
    elif frame.is_empty():
        typer.echo(
            f"No runs in {runs_dir} yet. Fill it with 'joulescale sweep lm --preset cpu --runs-dir {runs_dir}'."
        )
    else:
        show_table(overview_table(frame))
