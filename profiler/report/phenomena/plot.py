"""How a phenomenon is drawn: lines of series with bars, what is to be noticed marked, thresholds as rules.

Points are frames of `seed, series, x, y` and, where they are known, `low, high` (a bar) and `mark` (true: a diamond).
Every run has a line of its own; series have colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import Axis, label_expression, linear_ticks, ticks_for
from profiler.report.drawing import DEVICE_COLOURS, NEUTRAL, load_altair, ordered_colours, rows
from profiler.report.quantity import format_quantity

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 620, 300
MAX_POINTS = 300
"""Of a series of one run; each takes a millisecond to draw."""

_OPTIONAL = {"low": pl.Float64, "high": pl.Float64, "mark": pl.Boolean, "dashed": pl.Boolean}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A threshold: a line across the picture at a value of one axis, with a word."""

    axis: Literal["x", "y"]
    at: float
    word: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a picture says.

    Attributes:
        title: A sentence without a full stop.
        note: Lines beneath it.
        across: The axis to the right.
        up: The axis upwards.
        ordered: Whether the series are an ordered quantity, smallest first.
        joined: Whether lines join the points.
        rules: Thresholds.
    """

    title: str
    note: Sequence[str]
    across: Axis
    up: Axis
    ordered: bool = False
    joined: bool = True
    rules: Sequence[Rule] = ()


def series_of(
    frame: pl.DataFrame, x: str, y: str, name: str | pl.Expr, **more: str | pl.Expr
) -> pl.DataFrame:
    """Points of one quantity of a curve.

    Args:
        frame: A curve of runs, with `seed`.
        x: Column.
        y: Column; nulls are no points.
        name: Of the series, or an expression that gives it.
        more: `low`, `high` and `mark`.
    """
    named = pl.lit(name) if isinstance(name, str) else name.cast(pl.String)
    values = {key: pl.col(value) if isinstance(value, str) else value for key, value in more.items()}
    optional = {key: values.get(key, pl.lit(None)).cast(kind) for key, kind in _OPTIONAL.items()}
    point = frame.select(
        "seed", series=named, x=pl.col(x).cast(pl.Float64), y=pl.col(y).cast(pl.Float64), **optional
    )
    return point.drop_nulls(["x", "y"])


def plot(points: Sequence[pl.DataFrame], look: Look) -> alt.LayerChart:
    """Draw series.

    Raises:
        UsageError: There is nothing to draw; or Altair is not installed.
    """
    alt = load_altair()
    shown = _drawable(pl.concat(points), look)
    base = alt.Chart(rows(_told(shown, look)))
    x, y, colour = _place(shown, look, "x"), _place(shown, look, "y"), _colour(shown, look)
    many = shown["seed"].n_unique() > 1
    detail = ["seed:N"]
    layers = [_rule(rule, look, shown) for rule in look.rules]
    if shown["low"].null_count() < len(shown):
        low = _place(shown, look, "y", "low")
        layers.append(
            base.mark_rule(strokeWidth=1.4, opacity=0.6, clip=True).encode(x, low, alt.Y2("high"), colour)
        )
    if look.joined:
        dash = alt.StrokeDash(
            "dashed:N", scale=alt.Scale(domain=[False, True], range=[[1, 0], [5, 4]]), legend=None
        )
        line = base.mark_line(strokeWidth=1.4 if many else 2, opacity=0.75 if many else 1, clip=True)
        # joules of one training need not rise with its size: lines follow the order of the points
        order = {"order": alt.Order("place:Q")} if look.across.from_energy else {}
        layers.append(line.encode(x, y, colour, dash, detail=detail, **order))
    dot = base.mark_circle(size=28 if look.joined else 70, opacity=1, clip=True)
    layers.append(dot.encode(x, y, colour, tooltip=_tooltip(look, many=many)))
    marked = base.transform_filter(alt.datum.mark).mark_point(
        shape="diamond", filled=True, size=210, opacity=1
    )
    if shown["mark"].any():
        layers.append(marked.encode(x, y, colour, tooltip=_tooltip(look, many=many)))
    texts = [_word(rule, look, shown) for rule in look.rules if rule.word]
    return alt.layer(*layers, *texts).properties(  # type: ignore[no-any-return]
        width=WIDTH, height=HEIGHT, title=title(look.title, look.note)
    )


def title(text: str, note: Sequence[str]) -> Any:
    """A title as the page and a file show it."""
    alt = load_altair()
    return alt.Title(
        text=text, subtitle=list(note), anchor="start", offset=14, subtitlePadding=6, subtitleLineHeight=17
    )


def colours(names: Sequence[str], *, ordered: bool = False) -> Mapping[str, str]:
    """A colour for each series."""
    found = ordered_colours(len(names)) if ordered else DEVICE_COLOURS
    return {name: found[index % len(found)] for index, name in enumerate(names)}


def colour_by(field: str, names: Sequence[str], *, ordered: bool = False) -> Any:
    """The encoding of series as colours, with a legend if there are several."""
    alt = load_altair()
    by_name = colours(names, ordered=ordered)
    legend = alt.Legend(
        title=None, symbolType="circle", symbolOpacity=1, labelLimit=260, orient="bottom", columns=3
    )
    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=list(by_name), range=list(by_name.values())),
        legend=legend if len(names) > 1 else None,
    )


def span(values: pl.Series, axis: Axis) -> tuple[float, float]:
    """The ends of an axis: a little more than the values take."""
    low, high = float(values.min()), float(values.max())  # type: ignore[arg-type]
    if axis.scale == "log":
        room = max((high / low) ** 0.04, 1.04)
        return low / room, high * room
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _drawable(points: pl.DataFrame, look: Look) -> pl.DataFrame:
    """What lies on the axes, at most so many points a line."""
    for column, axis in (("x", look.across), ("y", look.up)):
        if axis.scale == "log":
            points = points.filter(pl.col(column) > 0)
    if points.is_empty():
        raise UsageError(f"{look.title}: nothing of it is known above zero, so there is nothing to draw.")
    if look.up.scale == "log":
        points = points.with_columns(low=pl.when(pl.col("low") > 0).then("low").otherwise("y"))
    row, count = pl.int_range(pl.len()), pl.len()
    every = (count / MAX_POINTS).ceil().cast(pl.Int64)
    kept = (row % every == 0) | (row == count - 1) | pl.col("mark").fill_null(False)
    return points.filter(kept.over("seed", "series")).with_columns(pl.col("dashed", "mark").fill_null(False))


def _told(shown: pl.DataFrame, look: Look) -> pl.DataFrame:
    """The points with their tooltips' texts."""
    texts = {
        f"{column}_text": pl.col(column).map_elements(
            partial(format_quantity, unit=axis.unit), return_dtype=pl.String
        )
        for column, axis in (("x", look.across), ("y", look.up))
    }
    return shown.with_columns(**texts).with_row_index("place")


def _tooltip(look: Look, *, many: bool) -> list[Any]:
    alt = load_altair()
    fields = {"series": "Of", "x_text": look.across.short, "y_text": look.up.short}
    return [
        alt.Tooltip(f"{name}:N", title=text)
        for name, text in (fields | ({"seed": "Run"} if many else {})).items()
    ]


def _place(shown: pl.DataFrame, look: Look, column: Literal["x", "y"], field: str = "") -> Any:
    """The encoding of one axis: range, ticks, labels, title."""
    alt = load_altair()
    axis = look.across if column == "x" else look.up
    bars = [shown["low"], shown["high"]] if column == "y" else []
    ruled = pl.Series([rule.at for rule in look.rules if rule.axis == column], dtype=pl.Float64)
    low, high = span(pl.concat([shown[column], *bars, ruled]).drop_nulls(), axis)
    return {"x": alt.X, "y": alt.Y}[column](
        f"{field or column}:Q",
        title=axis.full_title,
        scale=alt.Scale(type=axis.scale, domain=[low, high], nice=False),
        axis=alt.Axis(
            values=ticks_for(axis, low, high) if axis.scale == "log" else linear_ticks(low, high),
            labelExpr=label_expression(axis.unit),
            grid=column == "y",
        ),
    )


def _colour(shown: pl.DataFrame, look: Look) -> Any:
    return colour_by("series", shown["series"].unique(maintain_order=True).to_list(), ordered=look.ordered)


def _rule(rule: Rule, look: Look, shown: pl.DataFrame) -> Any:
    chart = _one(rule).mark_rule(color=NEUTRAL, strokeDash=[3, 3], strokeWidth=1.2)
    return chart.encode(**{rule.axis: _place(shown, look, rule.axis, "at")})


def _word(rule: Rule, look: Look, shown: pl.DataFrame) -> Any:
    """The word of a threshold, at the beginning of its line."""
    alt = load_altair()
    if rule.axis == "x":
        text = _one(rule).mark_text(align="left", baseline="top", dx=5, dy=2, color=NEUTRAL)
        return text.encode(x=_place(shown, look, "x", "at"), y=alt.value(0), text="word:N")
    text = _one(rule).mark_text(align="left", baseline="bottom", dx=4, dy=-3, color=NEUTRAL)
    return text.encode(y=_place(shown, look, "y", "at"), x=alt.value(0), text="word:N")


def _one(rule: Rule) -> Any:
    alt = load_altair()
    return alt.Chart(rows(pl.DataFrame({"at": [rule.at], "word": [rule.word]})))
