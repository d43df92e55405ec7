"""`joulescale list`: the runs of a runs folder."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.options import AsJson, RunsDir, print_json
from profiler.metrics.listing import list_folder
from profiler.report.console import show
from profiler.report.tables import overview_table
from profiler.store.folder import nothing_yet

_LONG = 300
"""So many runs that nobody has read yet take some ten seconds: they are counted aloud."""


@with_carbon
def list_runs(
    carbon: CarbonOptions,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a runs folder, newest first."""
    frame = list_folder(runs_dir, carbon.factors(), _count).runs
    if as_json:
        print_json(frame.to_dicts())
    elif frame.is_empty():
        typer.echo(nothing_yet("runs", runs_dir))
    else:
        show(overview_table(frame))


def _count(done: int, of: int) -> None:
    if of > _LONG and sys.stderr.isatty():
        typer.echo(f"\rreading runs for the first time: {done} of {of}", err=True, nl=done == of)
