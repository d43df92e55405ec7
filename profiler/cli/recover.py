"""`joulescale recover`: what a killed run left, as whole Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from profiler.cli.options import AsJson, RunsDir, print_json
from profiler.errors import RunsFolderError
from profiler.store.recover import Recovered, recover_run
from profiler.store.runs import open_run


def recover(
    run: Annotated[
        str, typer.Argument(help="Name of the run, a part of it that no other has, or 'latest'.")
    ] = "latest",
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Turn what a killed run left into whole Parquet files. Every command reads such a run as it is, too."""
    stored = open_run(runs_dir, run)
    try:
        recovered = recover_run(stored)
    except OSError as error:
        raise RunsFolderError(
            f"{stored.run_id} cannot be recovered here ({error.strerror or error}); nothing was lost, and every command"
            " reads it as it is. Make room or the folder writable, and try again."
        ) from None
    if as_json:
        print_json({"run_id": stored.run_id, "journals": [_as_json(one) for one in recovered]})
        return
    if not recovered:
        typer.echo(f"{stored.run_id}: nothing to recover, all of it is in whole files.")
    for one in recovered:
        typer.echo(f"{stored.run_id}: {_as_words(one)}")


def _as_json(one: Recovered) -> dict[str, object]:
    return {
        "journal": str(one.journal),
        "rows": dict(one.rows),
        "kept": str(one.kept) if one.kept else None,
        "why_kept": one.why_kept,
    }


def _as_words(one: Recovered) -> str:
    rows = (
        ", ".join(f"{count} {table}" for table, count in one.rows.items())
        or "no rows that were not there before"
    )
    kept = f"; {one.why_kept}, so it is kept as {one.kept.name}" if one.kept else ""
    return f"{rows} from {one.journal.parent.name}/{one.journal.name}{kept}."
