"""Charts: frames in, Altair charts out. Drawn by the dashboard and by `joulescale scale --plot`.

A chart refuses, with a sentence that says why and what to do, when there is nothing to draw.

    profiler.report.axes        what an axis says and where its ticks go
    profiler.report.scale_frame the points of a scale chart as its marks read them
    profiler.report.drawing     colours, and a chart as a file
    profiler.report.timelines   charts of one run over time
    profiler.report.phases      where its time and joules went
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UnknownNameError, UsageError
from profiler.report.axes import AXES, X_AXES, Y_AXES, Axis, label_expression, ticks_for, titled
from profiler.report.drawing import DEVICE_COLOURS, load_altair, ordered_colours, rows, save_chart
from profiler.report.phases import phase_chart, phase_panel
from profiler.report.roofline_chart import roofline_chart
from profiler.report.scale_frame import BUDGETS, SIZES, Series, drawable, groups, means, prepared, span
from profiler.report.timelines import (
    loss_chart,
    memory_chart,
    power_chart,
    throughput_chart,
    utilization_chart,
)
from profiler.words import counted

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
    "roofline_chart",
    "save_chart",
    "scale_chart",
    "throughput_chart",
    "utilization_chart",
]

_WIDTH, _HEIGHT = 620, 400
_MOST_IN_LEGEND = 12

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
            every = "the only point" if len(points) == 1 else f"all {len(points)} points"
            return f"{axis.title} is unknown for {every}. {axis.why_unknown}"
    if drawable(points, *map(_axis, names)).is_empty():
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
    _axis(x, X_AXES), _axis(y, Y_AXES)
    reason = missing(points, x, y)
    if reason:
        raise UsageError(reason)
    across, up = titled(AXES[x], points), titled(AXES[y], points)
    series = BUDGETS if x == "params" else SIZES
    shown = prepared(points, across, up, series)
    return _layers(shown, across, up, series).properties(
        width=_WIDTH, height=_HEIGHT, title=_title(shown, across, up, series)
    )


def _axis(name: str, known: tuple[str, ...] = tuple(AXES)) -> Axis:
    if name not in known:
        raise UnknownNameError("axis", name, known)
    return AXES[name]


def _layers(shown: pl.DataFrame, across: Axis, up: Axis, series: Series) -> alt.LayerChart:
    alt = load_altair()
    x, y = _place(shown, across, "x"), _place(shown, up, "y")
    colour = _colour(shown, series)
    legend = None
    if shown["source"].n_unique() > 1:  # the same legend on both channels: Vega-Lite merges what is equal
        legend = alt.Legend(title="Energy", symbolFillColor="#808080", symbolStrokeWidth=0)
    dash = alt.StrokeDash("source:N", scale=alt.Scale(domain=_SOURCES, range=[[1, 0], [5, 4]]), legend=legend)
    shape = alt.Shape("source:N", scale=alt.Scale(domain=_SOURCES, range=["circle", _RING]), legend=legend)
    detail = ["workload:N", "preset:N"]
    line = alt.Chart(rows(means(shown))).mark_line(strokeWidth=2, clip=True)
    points = alt.Chart(rows(shown))
    bar = points.mark_rule(strokeWidth=1.4, opacity=0.6, clip=True)
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
    low, high = span(shown, axis, column)
    return {"x": alt.X, "y": alt.Y}[column](
        field or column,
        type="quantitative",
        title=axis.full_title,
        scale=alt.Scale(type=axis.scale, domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks_for(axis, low, high), labelExpr=label_expression(axis.unit)),
    )


def _colour(shown: pl.DataFrame, series: Series) -> Any:
    """Colours along the ramp, smallest first: budgets and sizes are ordered quantities; single runs are not."""
    alt = load_altair()
    ordered, alone = groups(shown, series)
    colours = [
        *ordered_colours(len(ordered)),
        *(DEVICE_COLOURS[k % len(DEVICE_COLOURS)] for k in range(len(alone))),
    ]
    return alt.Color(
        "group",
        type="nominal",
        scale=alt.Scale(domain=[*ordered, *alone], range=colours),
        legend=alt.Legend(
            title=series.legend(shown), symbolType="circle", symbolOpacity=1, symbolLimit=_MOST_IN_LEGEND
        ),
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


def _title(shown: pl.DataFrame, across: Axis, up: Axis, series: Series) -> Any:
    """A sentence that says what is drawn, and beneath it how the energy was got and from how much."""
    alt = load_altair()
    about_energy = across.from_energy or up.from_energy
    sources = tuple(sorted(set(shown["source"].to_list())))
    sentences = [_SOURCE_SENTENCES[sources]] if about_energy else []
    beside = f"; points of one {series.place} stand side by side" if shown["moved"].any() else ""
    return alt.Title(
        text=f"{up.short} against {across.short.lower()}, {series.sentence(shown)}",
        subtitle=[*sentences, f"{_kinds(shown)}: {_counts(shown)}, {_seeds(shown)}{beside}."],
        anchor="start",
        offset=14,
        subtitlePadding=6,
        subtitleLineHeight=17,
    )


def _kinds(shown: pl.DataFrame) -> str:
    """Workloads and presets of the points: `lm/cpu and own trainings`."""
    pairs = (
        shown.select("workload", "preset").unique().sort("workload", "preset", nulls_last=True).iter_rows()
    )
    return " and ".join("/".join(filter(None, pair)) or "own trainings" for pair in pairs)


def _counts(shown: pl.DataFrame) -> str:
    return f"{counted(shown['run_id'].n_unique(), 'run')}, {counted(len(shown), 'point')}"


def _seeds(shown: pl.DataFrame) -> str:
    seeds = shown["seed"].drop_nulls().n_unique()
    if seeds > 1:
        return f"lines join the mean of {seeds} seeds"
    return "seed unknown" if shown["seed"].null_count() else "one seed"
