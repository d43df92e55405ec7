"""Test error against width, with its peak and the width from which the training set is fitted; and over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import Axis
from profiler.report.phenomena.plot import Look, Rule, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

FITTED = 0.02
"""Training error below which the training set counts as fitted: the interpolation threshold, as in the criterion."""

_ERROR = Axis(name="error", title="Error", unit="fraction", scale="linear")


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """By width, over epochs, and of random features."""
    return [
        Picture(key="width", make=partial(by_width, seen, across), is_wide=True),
        Picture(key="epoch", make=partial(by_epoch, seen, across)),
        Picture(key="random features", make=partial(random_features, seen)),
    ]


def by_width(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Errors at the end of training, and the best test error on the way there."""
    frame = joined(seen, "width", "test_error", "train_error", "best_test_error", "standard_error")
    x, axis = progress(frame, across, "width")
    if across == "steps":
        axis = Axis(name="width", title="Width of the model", unit="")
    fitted = [] if across == "energy" else _threshold(frame)
    return plot(
        [
            series_of(frame, x, "test_error", "test error", mark=is_peak("width"), **_bars("test_error")),
            series_of(frame, x, "best_test_error", "test error, stopped at its best"),
            series_of(frame, x, "train_error", "training error"),
        ],
        Look(
            title="Test error against width",
            note=note(frame, across, "◆ highest between two lower ones", "bars: one standard error"),
            across=axis,
            up=_ERROR,
            rules=fitted,
        ),
    )


def by_epoch(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Test error over the training of each width that was watched."""
    frame = joined(seen, "epoch", "step", "width", "test_error").sort("width", "seed", "time_s")
    x, axis = progress(frame, across)
    return plot(
        [series_of(frame, x, "test_error", pl.format("width {}", "width"))],
        Look(
            title="Test error over training",
            note=note(frame, across),
            across=axis,
            up=replace(_ERROR, title="Test error"),
            ordered=True,
        ),
    )


def random_features(seen: Sequence[Seen]) -> alt.LayerChart:
    """The same with frozen features and a readout by least squares: no training, so no joules of one."""
    frame = joined(seen, "random features", "features", "test_error", "standard_error")
    error = series_of(
        frame, "features", "test_error", "test error", mark=is_peak("features"), **_bars("test_error")
    )
    return plot(
        [error],
        Look(
            title="Test error of random features",
            note=note(frame, "steps", "◆ highest between two lower ones"),
            across=Axis(name="features", title="Features", unit=""),
            up=replace(_ERROR, title="Test error"),
        ),
    )


def is_peak(size: str) -> pl.Expr:
    """Whether a point is the highest of its run that has a lower one before it and one after it."""
    error = pl.col("test_error").sort_by(size)
    lower_before, lower_after = (
        error.cum_min().shift(1) < error,
        error.cum_min(reverse=True).shift(-1) < error,
    )
    top = error.filter(lower_before & lower_after).max()
    inside = pl.col(size).is_in(pl.col(size).sort_by(size).filter(lower_before & lower_after).implode())
    return ((pl.col("test_error") == top) & inside).over("seed")


def _bars(column: str) -> dict[str, pl.Expr]:
    error = pl.col("standard_error")
    return {"low": pl.col(column) - error, "high": pl.col(column) + error}


def _threshold(frame: pl.DataFrame) -> list[Rule]:
    """The narrowest width that fits its training set, in the middle of the runs."""
    widths = (
        frame.filter(pl.col("train_error") <= FITTED).group_by("seed").agg(pl.col("width").min())["width"]
    )
    middle = widths.cast(pl.Float64).median()
    return [] if not isinstance(middle, float) else [Rule(axis="x", at=middle, word="training set fitted")]
