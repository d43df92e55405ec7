"""The loss of a run over its steps, where attempts did some of them again: what was thrown away is pale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from profiler.report.drawing import DEVICE_COLOURS, load_altair, rows
from profiler.report.quantity import format_quantity

if TYPE_CHECKING:
    import altair as alt

MOST_POINTS = 600
"""An attempt with more steps than this is drawn as means of so many slices."""

KEPT, LOST = "counts", "lost: done again later, or given up"

_WIDTH, _HEIGHT = 620, 220


def attempts_chart(steps: pl.DataFrame, title: str) -> alt.LayerChart:
    """Loss by step, one line an attempt and rank.

    Args:
        steps: The table of `profiler.metrics.timeline.step_timeline`, those with a loss.
        title: What the loss is.

    Raises:
        UsageError: Altair is not installed.
    """
    alt = load_altair()
    drawn = _slices(steps).with_columns(
        text=pl.col("loss").map_elements(lambda loss: format_quantity(loss, ""), return_dtype=pl.String),
        fate=pl.when("lost").then(pl.lit(LOST)).otherwise(pl.lit(KEPT)),
        alone=pl.len().over("attempt", "rank", "lost") == 1,
    )
    steps_axis = alt.Axis(grid=False, format=",d", tickMinStep=1)
    base = alt.Chart(rows(drawn)).encode(
        alt.X("step:Q", title="Step", axis=steps_axis, scale=alt.Scale(zero=False)),
        alt.Y("loss:Q", title=None, scale=alt.Scale(zero=False)),
        alt.Detail(["attempt:N", "rank:N"]),
        alt.Opacity("fate:N", scale=alt.Scale(domain=[KEPT, LOST], range=[1.0, 0.3]), legend=None),
        tooltip=[
            alt.Tooltip("attempt:O", title="Attempt"),
            alt.Tooltip("step:Q", title="Step", format=",d"),
            alt.Tooltip("text:N", title=title),
            alt.Tooltip("fate:N", title="This step"),
        ],
    )
    line = base.mark_line(strokeWidth=1.8, color=DEVICE_COLOURS[0])
    lone = base.transform_filter("datum.alone").mark_circle(size=60, color=DEVICE_COLOURS[0])
    return alt.layer(line, lone).properties(  # type: ignore[no-any-return]
        width=_WIDTH, height=_HEIGHT, title=_title(title, drawn["attempt"].n_unique())
    )


def _slices(steps: pl.DataFrame) -> pl.DataFrame:
    width = pl.max_horizontal((pl.len().over("attempt", "rank") / MOST_POINTS).ceil(), 1).cast(pl.Int64)
    return (
        steps.with_columns(piece=pl.col("step") // width)
        .group_by("attempt", "rank", "lost", "piece")
        .agg(pl.col("step").mean().round().cast(pl.Int64), pl.col("loss").mean())
        .drop("piece")
        .sort("attempt", "rank", "step")
    )


def _title(title: str, attempts: int) -> object:
    alt = load_altair()
    subtitle = f"{attempts} attempts; pale: lost, since a later one went on from before"
    return alt.Title(title, subtitle=subtitle, anchor="start", fontSize=14, offset=10)
