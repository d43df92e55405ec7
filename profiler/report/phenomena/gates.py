"""Capabilities at each gate, with Wilson's intervals and the lines that they must not cross unseen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import Axis
from profiler.report.phenomena.plot import Look, Rule, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_COMPUTE = Axis(name="effective_flops", title="Effective compute", unit="FLOP")


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """Accuracies, and the losses by which the next gate is forecast."""
    return [
        Picture(key="accuracy", make=partial(accuracy, seen, across), is_wide=True),
        Picture(key="forecast", make=partial(forecast, seen, across), is_wide=True),
    ]


def accuracy(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Accuracy of each skill at each gate; a diamond where a red line was crossed for the first time."""
    frame = joined(seen, "gates", "skill", "accuracy", "low", "high", "state", "red_line", "buffer")
    x, axis = progress(frame, across, "effective_flops")
    trips = (pl.col("state") == "trip") & ((pl.col("state") == "trip").cum_sum().over("seed", "skill") == 1)
    return plot(
        [series_of(frame, x, "accuracy", pl.col("skill"), low="low", high="high", mark=trips)],
        Look(
            title="What it can do at each gate",
            note=note(frame, across, "◆ the red line was crossed", "bars: 95 % (Wilson)"),
            across=_COMPUTE if across == "steps" else axis,
            up=Axis(name="accuracy", title="Accuracy", unit="fraction", scale="linear"),
            rules=[*_line(frame, "red_line", "red line"), *_line(frame, "buffer", "safety buffer")],
        ),
    )


def forecast(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Cross-entropy of each skill; dashed as the gate before had forecast it."""
    frame = joined(seen, "gates", "skill", "cross_entropy", "forecast_cross_entropy")
    x, axis = progress(frame, across, "effective_flops")
    skill = pl.col("skill")
    foretold = series_of(frame, x, "forecast_cross_entropy", skill, dashed=pl.lit(True))
    return plot(
        [series_of(frame, x, "cross_entropy", skill), foretold],
        Look(
            title="Cross-entropy of each skill, and its forecast",
            note=note(frame, across, "dashed: as the gates before forecast it"),
            across=_COMPUTE if across == "steps" else axis,
            up=Axis(name="ce", title="Cross-entropy (nats/token)", unit=""),
        ),
    )


def _line(frame: pl.DataFrame, column: str, word: str) -> list[Rule]:
    """A threshold that all points have alike."""
    values = frame[column].drop_nulls().unique().to_list()
    return [Rule(axis="y", at=float(values[0]), word=word)] if len(values) == 1 else []
