"""Accuracy on what was trained on and on the rest, with the moment at which the rule was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import Axis
from profiler.report.phenomena.plot import Look, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_FOUND = "t_gen (step)"


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """The curves of accuracy."""
    return [Picture(key="accuracy", make=partial(accuracy, seen, across), is_wide=True)]


def accuracy(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Accuracies against steps or joules, both on a log axis; the grok is a diamond."""
    frame = joined(seen, "accuracy", "step", "train", "validation")
    found = pl.DataFrame(
        {"seed": [one.label for one in seen], "found": [one.figures.get(_FOUND) for one in seen]},
        schema={"seed": pl.String, "found": pl.Float64},
    )
    frame = frame.join(found, on="seed", how="left", maintain_order="left")
    x, axis = progress(frame, across)
    grokked = pl.col("step") == pl.col("found")
    groks = frame.filter(grokked)["seed"].n_unique()
    told = f"◆ {'it groks' if len(seen) == 1 else f'{groks} of {len(seen)} grok'}" if groks else "no grok"
    return plot(
        [
            series_of(frame, x, "train", "training set"),
            series_of(frame, x, "validation", "held out", mark=grokked),
        ],
        Look(
            title="Accuracy on what was trained on, and on the rest",
            note=note(frame, across, told),
            across=replace(axis, scale="log"),
            up=Axis(name="accuracy", title="Accuracy", unit="fraction", scale="linear"),
        ),
    )
