"""`joulescale show`: one run's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiler.cli.options import AsJson, CarbonIntensity, Country, Pue, RunsDir, carbon_factors, print_json
from profiler.metrics.summary import summarize
from profiler.report.terminal import run_table
from profiler.report.terminal import show as show_table
from profiler.store.runs import open_run


def show(
    run: Annotated[
        str, typer.Argument(help="Name of the run, a part of it that no other has, or 'latest'.")
    ] = "latest",
    runs_dir: RunsDir = Path("runs"),
    country: Country = None,
    carbon_intensity: CarbonIntensity = None,
    pue: Pue = None,
    as_json: AsJson = False,
) -> None:
    """Show one run's metrics; what is unknown is null, with the reason in the notes."""
    summary = summarize(open_run(runs_dir, run), carbon_factors(country, carbon_intensity, pue))
    if as_json:
        print_json(summary)
    else:
        show_table(run_table(summary))
