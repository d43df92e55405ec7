"""`joulescale show`: one run's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiler.cli.carbon_live import CarbonLive, ask_live, chosen_source
from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.options import AsJson, RunsDir, print_json
from profiler.metrics.summary import summarize
from profiler.report.terminal import run_table
from profiler.report.terminal import show as show_table
from profiler.store.runs import open_run


@with_carbon
def show(
    carbon: CarbonOptions,
    run: Annotated[
        str, typer.Argument(help="Name of the run, a part of it that no other has, or 'latest'.")
    ] = "latest",
    runs_dir: RunsDir = Path("runs"),
    carbon_live: CarbonLive = None,
    as_json: AsJson = False,
) -> None:
    """Show one run's metrics; what is unknown is null, with the reason in the notes."""
    factors = carbon.factors()
    source = chosen_source(carbon_live, factors)
    stored = open_run(runs_dir, run)
    summary = summarize(stored, ask_live(source, factors, stored) if source else factors)
    if as_json:
        print_json(summary)
    else:
        show_table(run_table(summary))
