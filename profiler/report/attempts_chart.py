"""The loss of a run over its steps, where attempts did some of them again: what was thrown away lies broad beneath.

A training that goes on exactly repeats the losses of the steps that it does again, so one line hides the other: what
was lost is broader than what counts, and of another colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import linear_ticks
from profiler.report.drawing import DEVICE_COLOURS, load_altair, rows
from profiler.report.quantity import format_quantity
from profiler.report.series import NOT_FINITE, finite

if TYPE_CHECKING:
    import altair as alt

MOST_POINTS = 600
"""An attempt with more steps than this is drawn as means of so many slices."""

KEPT, LOST = "counts", "lost: done again later, or given up"

_COUNTS_COLOUR, _LOST_COLOUR = DEVICE_COLOURS[0], DEVICE_COLOURS[1]
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
    known = finite(steps, *(name for name in ("loss", "loss_low", "loss_high") if name in steps.columns))
    drawn = _slices(known).with_columns(
        text=pl.col("loss").map_elements(lambda loss: format_quantity(loss, ""), return_dtype=pl.String),
        fate=pl.when("lost").then(pl.lit(LOST)).otherwise(pl.lit(KEPT)),
        alone=pl.len().over("attempt", "rank", "lost") == 1,
    )
    layers = [
        layer
        for part in (drawn.filter("lost"), drawn.filter(~pl.col("lost")))
        for layer in _layers(part, drawn, title)
    ]
    return alt.layer(*layers).properties(  # type: ignore[no-any-return]
        width=_WIDTH, height=_HEIGHT, title=_title(title, drawn, whole=len(known) == len(steps))
    )


def _layers(part: pl.DataFrame, drawn: pl.DataFrame, title: str) -> list[alt.Chart]:
    """Line and band of the steps that were lost, or of those that count; a step that is alone is a dot."""
    if part.is_empty():
        return []
    alt = load_altair()
    lost = bool(part["lost"][0])
    base = alt.Chart(rows(part)).encode(
        _across(drawn), alt.Y("loss:Q", title=None, scale=_losses(drawn)), alt.Detail(["attempt:N", "rank:N"])
    )
    colour = _LOST_COLOUR if lost else _COUNTS_COLOUR
    band = base.mark_area(opacity=0.2, line=False, color=colour).encode(
        alt.Y("low:Q", title=None, scale=_losses(drawn)), alt.Y2("high")
    )
    line = base.mark_line(strokeWidth=6 if lost else 1.6, opacity=0.6 if lost else 1.0, color=colour)
    seen = alt.condition(alt.datum.alone, alt.value(1.0), alt.value(0.0))
    dots = base.mark_circle(size=120 if lost else 50, color=colour).encode(
        opacity=seen, tooltip=_tooltip(title)
    )
    return [*([band] if _is_sliced(part) else []), line, dots]


def _across(drawn: pl.DataFrame) -> alt.X:
    alt = load_altair()
    low, high = drawn.select(pl.col("step").min(), high=pl.col("step").max()).row(0)
    whole = [tick for tick in linear_ticks(low, high) if tick == round(tick)]
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    return alt.X("step:Q", title="Step", axis=alt.Axis(grid=False, format=",d", values=whole), scale=scale)  # type: ignore[no-any-return]


def _losses(drawn: pl.DataFrame) -> alt.Scale:
    """All layers draw on one scale: what was lost may lie outside of what counts."""
    domain = [drawn["low"].min(), drawn["high"].max()]
    return load_altair().Scale(domain=domain, nice=True, zero=False)  # type: ignore[no-any-return]


def _tooltip(title: str) -> list[alt.Tooltip]:
    alt = load_altair()
    return [
        alt.Tooltip("attempt:O", title="Attempt"),
        alt.Tooltip("step:Q", title="Step", format=",d"),
        alt.Tooltip("text:N", title=title),
        alt.Tooltip("fate:N", title="This step"),
    ]


def _slices(steps: pl.DataFrame) -> pl.DataFrame:
    """At most `MOST_POINTS` rows an attempt and rank: the mean loss, the least and the most."""
    least, most = ("loss_low", "loss_high") if "loss_low" in steps.columns else ("loss", "loss")
    width = pl.max_horizontal((pl.len().over("attempt", "rank") / MOST_POINTS).ceil(), 1).cast(pl.Int64)
    return (
        steps.with_columns(piece=pl.col("step") // width)
        .group_by("attempt", "rank", "lost", "piece")
        .agg(
            pl.col("step").mean().round().cast(pl.Int64),
            pl.col("loss").mean(),
            low=pl.col(least).min(),
            high=pl.col(most).max(),
        )
        .drop("piece")
        .sort("attempt", "rank", "step")
    )


def _is_sliced(drawn: pl.DataFrame) -> bool:
    return bool((drawn["low"] != drawn["high"]).any())


def _title(title: str, drawn: pl.DataFrame, *, whole: bool) -> object:
    alt = load_altair()
    subtitle = (
        f"{drawn['attempt'].n_unique()} attempts; broad orange: lost, since a later one went on from before"
    )
    means = "; means of slices, band: least to most" if _is_sliced(drawn) else ""
    left_out = "" if whole else f"; {NOT_FINITE}"
    return alt.Title(title, subtitle=subtitle + means + left_out, anchor="start", fontSize=14, offset=10)
