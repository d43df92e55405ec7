"""The option that asks a live source for the carbon intensity, and the asking: never inside the training."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from profiler.carbon.factors import CarbonFactors
from profiler.carbon.live import IntensitySource, live_source
from profiler.carbon.series import IntensitySeries
from profiler.cli.carbon_options import PANEL
from profiler.errors import InvalidValueError
from profiler.metrics.intensity import wall_spans
from profiler.store.run import StoredRun

CarbonLive = Annotated[
    str | None,
    typer.Option(
        "--carbon-live",
        metavar="gb",
        help="Ask a live source over the network for the intensity during the run: gb (Great Britain, no key)."
        " Nothing is contacted without this option.",
        rich_help_panel=PANEL,
    ),
]


def chosen_source(name: str | None, factors: CarbonFactors) -> IntensitySource | None:
    """The live source of that name, not yet contacted; None if none is asked for.

    Raises:
        UsageError: There is none, or it would stand beside another intensity.
    """
    if name is None:
        return None
    source = live_source(name)
    if factors.series is not None or factors.intensity_g_per_kwh is not None:
        raise InvalidValueError(
            f"--carbon-live {name} and an intensity of your own are both given, so it is not clear which counts."
            " Leave one out."
        )
    return source


def ask_live(source: IntensitySource, factors: CarbonFactors, run: StoredRun) -> CarbonFactors:
    """The factors with the intensity that a source gives for the time of a run; without rows if it gives none."""
    spans = wall_spans(run.processes)
    if spans:
        series = source.over(min(start for start, _ in spans), max(end for _, end in spans))
    else:
        series = IntensitySeries(rows=(), source="none", missing="nothing was recorded of the fit")
    return dataclasses.replace(factors, series=series, intensity_kind="average")
