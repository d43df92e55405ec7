"""A dictionary of features: how well it fits, what its features name, and what clamping one of them does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import Axis
from profiler.report.phenomena.bars import dots
from profiler.report.phenomena.plot import Look, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_F1 = {
    "f1_feature": "one feature",
    "f1_raw": "one dimension of the stream",
    "f1_random": "one feature of a random transformer",
}
_DOSE = Axis(name="dose", title="Dose (times the feature's largest activation)", unit="", scale="linear")


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """Dose response and what it costs, F1 by class, the fit."""
    return [
        Picture(key="steering", make=partial(steering, seen)),
        Picture(key="steering loss", make=partial(steering_loss, seen)),
        Picture(key="features", make=partial(features, seen), is_sized=True),
        Picture(key="fit", make=partial(fit, seen, across)),
    ]


def steering(seen: Sequence[Seen]) -> alt.LayerChart:
    """Probability of the class against the dose, of the feature and of random ones."""
    frame = joined(seen, "steering", "feature", "dose", "probability", "control")
    return plot(
        [
            series_of(frame, "dose", "probability", "the feature clamped"),
            series_of(frame, "dose", "control", "random features clamped"),
        ],
        Look(
            title="What clamping a feature does",
            note=note(frame, "steps"),
            across=_DOSE,
            up=Axis(name="p", title="Probability of its class", unit="fraction", scale="linear"),
        ),
    )


def steering_loss(seen: Sequence[Seen]) -> alt.LayerChart:
    """The loss that steering costs."""
    frame = joined(seen, "steering", "dose", "loss", "control_loss")
    return plot(
        [
            series_of(frame, "dose", "loss", "the feature clamped"),
            series_of(frame, "dose", "control_loss", "random features clamped"),
        ],
        Look(
            title="What steering costs",
            note=note(frame, "steps"),
            across=_DOSE,
            up=Axis(name="loss", title="Loss (nats/token)", unit="", scale="linear"),
        ),
    )


def features(seen: Sequence[Seen]) -> alt.LayerChart:
    """How well one feature names a class of characters, beside one raw dimension and the null."""
    frame = joined(seen, "features", "kind", *_F1)
    points = [
        frame.select("seed", name=pl.col("kind"), series=pl.lit(text), value=pl.col(column).cast(pl.Float64))
        for column, text in _F1.items()
    ]
    named = pl.concat(points).with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
    order = frame.group_by("kind").agg(pl.col("f1_feature").mean()).sort("f1_feature", descending=True)
    ranked = named.join(order.with_row_index("rank"), left_on="name", right_on="kind").sort("rank")
    axis = Axis(name="f1", title="F1", unit="", scale="linear")
    return dots(ranked, axis, text="How well one number names a class", note=note(frame, "steps"))


def fit(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """The share of variance that the dictionary leaves unexplained, while it is fitted."""
    frame = joined(seen, "fit", "step", "fvu")
    x, axis = progress(frame, across)
    return plot(
        [series_of(frame, x, "fvu", "unexplained")],
        Look(
            title="Variance that the dictionary does not explain",
            note=note(frame, across),
            across=axis,
            up=Axis(name="fvu", title="FVU", unit="fraction"),
        ),
    )
