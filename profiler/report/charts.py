"""Charts: frames in, Altair charts out. Drawn by the dashboard and by `joulescale scale --plot`.

A chart refuses, with a sentence that says why and what to do, when there is nothing to draw.

    profiler.report.axes        what an axis says and where its ticks go
    profiler.report.drawing     colours, and a chart as a file
    profiler.report.timelines   charts of one run over time
    profiler.report.phases      where its time and joules went
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UnknownNameError, UsageError
from profiler.report.axes import AXES, X_AXES, Y_AXES, Axis, label_expression, ticks_for
from profiler.report.drawing import DEVICE_COLOURS, load_altair, ordered_colours, rows, save_chart
from profiler.report.phases import phase_chart, phase_panel
from profiler.report.quantity import format_quantity
from profiler.report.timelines import (
    loss_chart,
    memory_chart,
    power_chart,
    throughput_chart,
    utilization_chart,
)

if TYPE_CHECKING:
    import altair as alt

__all__ = [
    "AXES",
    "DEVICE_COLOURS",
    "X_AXES",
    "Y_AXES",
    "Axis",
    "loss_chart",
    "memory_chart",
    "missing",
    "phase_chart",
    "phase_panel",
    "power_chart",
    "save_chart",
    "scale_chart",
    "throughput_chart",
    "utilization_chart",
]

_WIDTH, _HEIGHT = 620, 400
_MARGIN = 0.05
"""Share of an axis that stays free on either side of the outermost point."""

_SOURCES = ["measured", "estimated"]
_SOURCE_SENTENCES = {
    ("measured",): "Energy is measured: sensor readings of the device.",
    (
        "estimated",
    ): "Energy is estimated, not measured: good for comparing these runs, not for quoting joules.",
    (
        "estimated",
        "measured",
    ): "Filled points and solid lines: energy measured. Hollow and dashed: estimated.",
}


_RING = "M-1,0a1,1 0 1,0 2,0a1,1 0 1,0 -2,0M-0.6,0a0.6,0.6 0 1,1 1.2,0a0.6,0.6 0 1,1 -1.2,0"
"""A hollow point. Vega-Lite draws no legend for fill opacity, so hollow has to be a shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """What one line of a scale chart holds together."""

    column: str
    title: str
    unit: str
    words: str


_BUDGETS = _Series(
    column="budget_tokens", title="Token budget", unit="tokens", words="one line a token budget"
)
_SIZES = _Series(column="params", title="Parameters", unit="params", words="one line a model size")


def missing(points: pl.DataFrame, *names: str) -> str | None:
    """Why these axes cannot be drawn from these points, and what to do; None when they can.

    Args:
        points: The table of `profiler.metrics.points.scale_points`.
        names: Names out of `AXES`.
    """
    if points.is_empty():
        return "There are no points to draw: no run has reached a token budget yet."
    for axis in map(_axis, names):
        if points[axis.name].null_count() == len(points):
            return f"{axis.title} is unknown for all {len(points)} points. {axis.why_unknown}"
    if _drawable(points, *map(_axis, names)).is_empty():
        titles = " and ".join(_axis(name).short.lower() for name in names)
        return f"None of the {len(points)} points has both {titles} above zero, so there is nothing to draw."
    return None


def scale_chart(points: pl.DataFrame, x: str = "params", y: str = "loss") -> alt.LayerChart:
    """One quantity of each training against another, across scale.

    Measured energy is a filled point on a solid line, estimated energy a hollow point on a dashed line.
    Lines join the mean over seeds; every seed has its own point, with its interval.

    Args:
        points: The table of `profiler.metrics.points.scale_points`: one row a point, SI units.
        x: One of `X_AXES`.
        y: One of `Y_AXES`.

    Raises:
        UnknownNameError: There is no such axis.
        UsageError: Nothing to draw, with the reason; or Altair is not installed.
    """
    across, up = _axis(x, X_AXES), _axis(y, Y_AXES)
    reason = missing(points, x, y)
    if reason:
        raise UsageError(reason)
    series = _BUDGETS if x == "params" else _SIZES
    shown = _prepared(points, across, up, series)
    return _layers(shown, across, up, series).properties(
        width=_WIDTH, height=_HEIGHT, title=_title(shown, across, up, series)
    )


def _axis(name: str, known: tuple[str, ...] = tuple(AXES)) -> Axis:
    if name not in known:
        raise UnknownNameError("axis", name, known)
    return AXES[name]


def _drawable(points: pl.DataFrame, *axes: Axis) -> pl.DataFrame:
    """The points that have a place on every axis: known, and above zero where the axis is a logarithm."""
    least = {"log": 0.0, "linear": -1.0}
    keep = [pl.col(axis.name).is_not_null() & (pl.col(axis.name) > least[axis.scale]) for axis in axes]
    return points.filter(*keep)


def _prepared(points: pl.DataFrame, across: Axis, up: Axis, series: _Series) -> pl.DataFrame:
    """The drawable points with the columns that the marks read: places, intervals, group, source, texts."""
    source = pl.col("energy_source") if across.from_energy or up.from_energy else pl.lit("measured")
    return (
        _drawable(points, across, up)
        .sort(series.column, across.name)
        .select(
            "run_id",
            "workload",
            "preset",
            "seed",
            "params",
            "budget_tokens",
            x=pl.col(across.name).cast(pl.Float64),
            y=pl.col(up.name).cast(pl.Float64),
            group=_text(series.column, series.unit).str.strip_suffix(series.unit).str.strip_chars(),
            source=source.fill_null("estimated"),
            x_text=_text(across.name, across.unit, across.plus_minus),
            y_text=_text(up.name, up.unit, up.plus_minus),
            params_text=_text("params", "params"),
            tokens_text=_text("tokens", "tokens"),
            **_interval(across, "x"),
            **_interval(up, "y"),
        )
    )


def _text(column: str, unit: str, plus_minus: str | None = None) -> pl.Expr:
    """A column as text for people."""
    fields = [column, plus_minus] if plus_minus else [column]
    return pl.struct(fields).map_elements(
        lambda row: format_quantity(row[column], unit, row[plus_minus] if plus_minus else None),
        return_dtype=pl.String,
    )


def _interval(axis: Axis, to: str) -> dict[str, pl.Expr]:
    """The ends of the interval as columns, null where they are not known; on a logarithm never below zero."""
    value = pl.col(axis.name).cast(pl.Float64)
    if axis.low and axis.high:
        low, high = pl.col(axis.low), pl.col(axis.high)
    elif axis.plus_minus:
        low, high = value - pl.col(axis.plus_minus), value + pl.col(axis.plus_minus)
    else:
        low = high = pl.lit(None, dtype=pl.Float64)
    least = value / 1000 if axis.scale == "log" else pl.lit(0.0)
    return {f"{to}_low": pl.when(low.is_not_null()).then(pl.max_horizontal(low, least)), f"{to}_high": high}


def _means(shown: pl.DataFrame) -> pl.DataFrame:
    """Where the lines go: the mean over the seeds of one model size and one budget."""
    keys = ["workload", "preset", "params", "budget_tokens", "group", "source"]
    return shown.group_by(keys, maintain_order=True).agg(pl.col("x", "y").mean()).sort("x")


def _range(shown: pl.DataFrame, axis: Axis, column: str) -> tuple[float, float]:
    """The ends of an axis: all points and intervals, with a margin. An interval to zero is cut at a third."""
    ends = shown.select(
        low=pl.min_horizontal(column, pl.col(f"{column}_low").clip(lower_bound=pl.col(column) / 3)).min(),
        high=pl.max_horizontal(column, f"{column}_high").max(),
    )
    low, high = ends.row(0)
    if axis.scale == "linear":
        return 0.0, high * (1 + 2 * _MARGIN) or 1.0
    margin = max((high / low) ** _MARGIN, 1.02)
    return low / margin, high * margin


def _layers(shown: pl.DataFrame, across: Axis, up: Axis, series: _Series) -> alt.LayerChart:
    alt = load_altair()
    x, y = _place(shown, across, "x"), _place(shown, up, "y")
    colour = _colour(shown, series)
    about_energy = across.from_energy or up.from_energy
    legend = None
    if about_energy:  # the same legend on both channels: Vega-Lite merges what is equal
        legend = alt.Legend(title="Energy", symbolFillColor="#808080", symbolStrokeWidth=0)
    dash = alt.StrokeDash("source:N", scale=alt.Scale(domain=_SOURCES, range=[[1, 0], [5, 4]]), legend=legend)
    shape = alt.Shape("source:N", scale=alt.Scale(domain=_SOURCES, range=["circle", _RING]), legend=legend)
    detail = ["workload:N", "preset:N"]
    line = alt.Chart(rows(_means(shown))).mark_line(strokeWidth=2, clip=True)
    points = alt.Chart(rows(shown))
    bar = points.mark_rule(strokeWidth=1.2, opacity=0.45, clip=True)
    dot = points.mark_point(filled=True, size=80, opacity=1, clip=True)
    return alt.layer(  # type: ignore[no-any-return]
        bar.encode(x, _place(shown, up, "y", "y_low"), alt.Y2("y_high"), colour),
        bar.encode(_place(shown, across, "x", "x_low"), y, alt.X2("x_high"), colour),
        line.encode(x, y, colour, dash, detail=detail),
        dot.encode(x, y, colour, shape, tooltip=_tooltip(across, up)),
    )


def _place(shown: pl.DataFrame, axis: Axis, column: str, field: str = "") -> Any:
    """The encoding of one axis: range, ticks, labels, title."""
    alt = load_altair()
    low, high = _range(shown, axis, column)
    return {"x": alt.X, "y": alt.Y}[column](
        field or column,
        type="quantitative",
        title=axis.full_title,
        scale=alt.Scale(type=axis.scale, domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks_for(axis, low, high), labelExpr=label_expression(axis.unit)),
    )


def _colour(shown: pl.DataFrame, series: _Series) -> Any:
    """Colours along the ramp, smallest first: budgets and sizes are ordered quantities."""
    alt = load_altair()
    groups = shown.sort(series.column)["group"].unique(maintain_order=True).to_list()
    return alt.Color(
        "group",
        type="nominal",
        scale=alt.Scale(domain=groups, range=ordered_colours(len(groups))),
        legend=alt.Legend(title=series.title, symbolType="circle", symbolOpacity=1),
    )


def _tooltip(across: Axis, up: Axis) -> list[Any]:
    alt = load_altair()
    fields = {
        "run_id": "Run",
        "x_text": across.short,
        "y_text": up.short,
        "params_text": "Parameters",
        "tokens_text": "Tokens",
        "seed": "Seed",
    }
    energy = {"source": "Energy"} if across.from_energy or up.from_energy else {}
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in (fields | energy).items()]


def _title(shown: pl.DataFrame, across: Axis, up: Axis, series: _Series) -> Any:
    """A sentence that says what is drawn, and beneath it how the energy was got and from how much."""
    alt = load_altair()
    about_energy = across.from_energy or up.from_energy
    sources = tuple(sorted(set(shown["source"].to_list())))
    what = " and ".join(sorted({f"{w}/{p}" for w, p in shown.select("workload", "preset").iter_rows()}))
    seeds = shown["seed"].n_unique()
    lines = f"lines join the mean of {seeds} seeds" if seeds > 1 else "one seed"
    sentences = [_SOURCE_SENTENCES[sources]] if about_energy else []
    return alt.Title(
        text=f"{up.short} against {across.short.lower()}, {series.words}",
        subtitle=[*sentences, f"{what}: {shown['run_id'].n_unique()} runs, {len(shown)} points, {lines}."],
        anchor="start",
        offset=14,
        subtitlePadding=6,
        subtitleLineHeight=17,
    )
