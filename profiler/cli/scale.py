"""`joulescale scale`: efficiency against scale, as a table and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.options import AsJson, RunsDir, print_json
from profiler.errors import UnknownNameError
from profiler.metrics.points import is_broken, is_partial, scale_points
from profiler.report.axes import X_AXES, Y_AXES
from profiler.report.terminal import is_wide, points_table, show
from profiler.report.visible import visible
from profiler.store.folder import nothing_yet
from profiler.store.run import StoredRun
from profiler.store.runs import open_run, scan_runs
from profiler.words import counted

PEAKS_AGREE = 1.25
"""Measured peaks of one quiet machine differ by less than this factor."""


@with_carbon
def scale(
    carbon: CarbonOptions,
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs to take; all of the folder if none is named.")
    ] = None,
    x: Annotated[str, typer.Option(help="params, tokens, model_flops or energy_j.")] = "params",
    y: Annotated[
        str, typer.Option(help="loss, energy_per_token_j, tokens_per_j, mfu, memory_bytes, emissions_g ...")
    ] = "loss",
    plot: Annotated[
        Path | None, typer.Option(help="Write the chart to this .svg, .png or .html file.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Print efficiency against scale, one row a model size and token budget."""
    for axis, known in ((x, X_AXES), (y, Y_AXES)):
        if axis not in known:
            raise UnknownNameError("axis", axis, known)
    stored = [open_run(runs_dir, name) for name in runs] if runs else scan_runs(runs_dir)
    points = scale_points(stored, carbon.factors())
    if plot is not None:
        from profiler.report.charts import save_chart, scale_chart  # altair is an extra

        save_chart(scale_chart(points, x, y), plot)
    if as_json:
        print_json(
            {
                "points": points.to_dicts(),
                "plot": None if plot is None else str(plot),
                "notes": _notes(points, stored),
            }
        )
        return
    if points.is_empty():
        typer.echo(nothing_yet("points", runs_dir))
        return
    show(points_table(points, wide=is_wide()))
    for note in _notes(points, stored).values():
        typer.echo(visible(note))
    if plot is not None:
        typer.echo(f"chart written to {plot}")


def _measured_peaks(stored: Sequence[StoredRun]) -> list[float]:
    """FLOP/s of the runs whose peak was measured on the spot."""
    manifests = [run.manifest for run in stored if str(run.manifest.peak_source).startswith("measured")]
    return [m.peak_flops_per_s for m in manifests if m.peak_flops_per_s is not None]


def _notes(points: pl.DataFrame, stored: Sequence[StoredRun]) -> dict[str, str]:
    """What a reader must know before comparing these points."""
    notes = {}
    broken = [run.run_id for run in stored if is_broken(run)]
    if broken:
        named = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
        have = counted(len(broken), "run has", "runs have")
        notes["damaged"] = (
            f"{have} damaged files and {'is' if len(broken) == 1 else 'are'} left out: {named}."
        )
    partial = [run.run_id for run in stored if is_partial(run)]
    if partial:
        named = ", ".join(partial[:3]) + (", ..." if len(partial) > 3 else "")
        lack = counted(len(partial), "run lacks", "runs lack")
        notes["partial"] = f"{lack} ranks and {'is' if len(partial) == 1 else 'are'} left out: {named}."
    peaks = _measured_peaks(stored)
    if peaks and max(peaks) > PEAKS_AGREE * min(peaks):
        notes["mfu"] = (
            f"The peak that MFU is a share of was measured before each run, and differs from {min(peaks):.3g} to"
            f" {max(peaks):.3g} FLOP/s: the machine was busy, or these are several machines. Compare FLOP/s, not MFU."
        )
    if points["data_sha256"].drop_nulls().n_unique() > 1:
        notes["data"] = "These points were trained on different data: their losses do not compare."
    if points["energy_source"].drop_nulls().n_unique() > 1:
        notes["energy"] = "Some joules here are measured and some estimated: they do not compare."
    return notes
