"""Charts of one run over time: power, use, memory, loss and speed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.attempts_chart import attempts_chart
from profiler.report.axes import clock_unit, label_expression, linear_ticks, loss_title
from profiler.report.drawing import DEVICE_COLOURS, load_altair, rows
from profiler.report.many_series import collapsed
from profiler.report.quantity import format_quantity
from profiler.report.series import NOT_FINITE, device_series, finite, rank_series

if TYPE_CHECKING:
    import altair as alt

MAX_POINTS = 600
"""A series with more points than this is drawn as mean, least and most of so many slices of time."""

_WIDTH, _HEIGHT = 620, 220


def power_chart(power: pl.DataFrame, *, end_s: float | None = None) -> alt.LayerChart:
    """Power of every device over time. Estimated power is dashed; how far off it may be stands in the subtitle.

    Args:
        power: The table of `profiler.metrics.timeline.power_timeline`.
        end_s: Where the time axis ends; by default, and at least, where the table does. So in all charts over time.

    Raises:
        UsageError: No power is known, with the reason; or Altair is not installed.
    """
    why = "No sensor gave joules or watts. 'joulescale doctor' lists the sensors and why some are missing."
    series = device_series(power, "power_w")
    why = f"Power over time is unknown. {why}"
    return _lines(series, "Power (W)", "W", why, end_s=end_s or _end_s(power), dashed=_dashed(power))


def utilization_chart(gauges: pl.DataFrame, *, end_s: float | None = None) -> alt.LayerChart:
    """Share of time in which each device did anything at all, for whomever: not efficiency.

    Args:
        gauges: The table of `profiler.metrics.timeline.gauge_timeline`.
        end_s: As in `power_chart`.

    Raises:
        UsageError: No utilization is known, with the reason; or Altair is not installed.
    """
    why = "Device utilization is unknown: no device reported it during this run."
    cpu = pl.col("component") == "cpu"
    series = pl.concat(
        [
            device_series(gauges.filter(~cpu), "utilization"),
            device_series(gauges.filter(cpu), "utilization", suffix=", whole machine"),
        ]
    )
    title = "Device time in use, by any process"
    return _lines(series, title, "fraction", why, end_s=end_s or _end_s(gauges))


def memory_chart(
    steps: pl.DataFrame, gauges: pl.DataFrame | None = None, *, end_s: float | None = None
) -> alt.LayerChart:
    """Memory over time: what PyTorch allocated, what the process holds, what the device has in use.

    Args:
        steps: The table of `profiler.metrics.timeline.step_timeline`.
        gauges: The table of `profiler.metrics.timeline.gauge_timeline`, for the device's own view.
        end_s: As in `power_chart`.

    Raises:
        UsageError: No memory is known, with the reason; or Altair is not installed.
    """
    allocated, held = "Allocated by PyTorch", "Process (host RSS)"
    frames = [
        rank_series(steps, "memory_allocated_bytes", allocated, of_many=f"{allocated}, rank {{}}"),
        rank_series(steps, "host_rss_bytes", held, of_many=f"{held}, rank {{}}"),
    ]
    if gauges is not None:
        gpus = gauges.filter(pl.col("component") == "gpu")
        frames.append(device_series(gpus, "memory_used_bytes", "In use on "))
    why = "Memory over time is unknown: the run recorded neither device nor host memory."
    return _lines(pl.concat(frames), "Memory", "B", why, end_s=end_s or _end_s(steps))


def loss_chart(
    steps: pl.DataFrame, workload: str | None = None, *, end_s: float | None = None
) -> alt.LayerChart:
    """Training loss of every step over time; over steps, with what was lost, where attempts did some of them again.

    Args:
        steps: The table of `profiler.metrics.timeline.step_timeline`.
        workload: Of the run; it says what the loss is in.
        end_s: As in `power_chart`.

    Raises:
        UsageError: No loss was logged; or Altair is not installed.
    """
    why = "Loss over time is unknown: the run did not log one. Log it as 'loss' in training_step."
    title = loss_title("training", [workload])
    logged = steps.drop_nulls("loss") if len(steps) else steps
    if len(logged) and len(finite(logged, "loss").filter("lost")):
        return attempts_chart(logged, title)
    series = rank_series(steps, "loss", "Training loss")
    return _lines(series, title, "", why, from_zero=False, end_s=end_s or _end_s(steps))


def throughput_chart(steps: pl.DataFrame, *, end_s: float | None = None) -> alt.LayerChart:
    """Tokens a second of each rank over time, or samples a second where tokens were not counted.

    Args:
        steps: The table of `profiler.metrics.timeline.step_timeline`.
        end_s: As in `power_chart`.

    Raises:
        UsageError: Neither is known; or Altair is not installed.
    """
    why = "Throughput is unknown: the run counted neither tokens nor samples."
    tokens, samples = (rank_series(steps, f"{unit}_per_s", f"{unit}/s") for unit in ("tokens", "samples"))
    series, unit = (samples, "samples/s") if tokens.is_empty() else (tokens, "tokens/s")
    each = " of each rank" if len(steps) and steps["rank"].n_unique() > 1 else ""
    return _lines(series, f"Throughput{each} ({unit})", unit, why, end_s=end_s or _end_s(steps))


def downsample(frame: pl.DataFrame, most: int = MAX_POINTS) -> pl.DataFrame:
    """At most `most` rows a series: mean, least and most of slices of equal time.

    Args:
        frame: Columns `series, source, attempt, time_s, value` and, where a row is a slice already, `low, high`, in any
            order.
        most: Rows that a series may keep.

    Returns:
        Columns `series, source, attempt, time_s, value, low, high`; a slice without a value has no row.
    """
    if "low" not in frame.columns:
        frame = frame.with_columns(low="value", high="value")
    lengths = frame.group_by("series").len()
    if lengths.is_empty() or lengths["len"].max() <= most:  # type: ignore[operator]
        return frame.sort("series", "time_s")
    start, span = pl.col("time_s").min(), pl.col("time_s").max() - pl.col("time_s").min()
    piece = ((pl.col("time_s") - start) / span * most).floor().clip(0, most - 1).over("series")
    return (
        frame.with_columns(piece=piece)
        .group_by("series", "source", "attempt", "piece")
        .agg(
            pl.col("time_s").mean(),
            pl.col("value").mean(),
            pl.col("low").min(),
            pl.col("high").max(),
        )
        .drop("piece")
        .sort("series", "time_s")
    )


def _dashed(power: pl.DataFrame) -> str:
    """What a dashed line means, with half the error bar of the estimate that may be off by most."""
    shares = power.filter(pl.col("source") == "estimated")["relative_uncertainty"].drop_nulls().to_list()
    bar = f" ± {format_quantity(max(shares), 'fraction')}" if shares else ""
    return f"dashed: estimated{bar}, not measured"


def _end_s(frame: pl.DataFrame) -> float:
    """When the last of a timeline happened: one point alone needs an axis around it."""
    return float(frame["time_s"].max() or 0.0) if len(frame) else 0.0  # type: ignore[arg-type]


def _lines(
    series: pl.DataFrame,
    title: str,
    unit: str,
    why_unknown: str,
    *,
    from_zero: bool = True,
    end_s: float,
    dashed: str = "",
) -> alt.LayerChart:
    """Lines over time, with a band from least to most where one point stands for many; a lone point is a dot."""
    known = finite(series, "value", "low", "high")
    if known.is_empty():
        raise UsageError(why_unknown if series.is_empty() else f"{title} is at no time a finite number.")
    alt = load_altair()
    drawn = collapsed(downsample(known)).with_columns(
        text=pl.col("value").map_elements(lambda v: format_quantity(v, unit), return_dtype=pl.String),
        time_text=pl.col("time_s").map_elements(lambda v: format_quantity(v, "s"), return_dtype=pl.String),
        source=pl.when(pl.col("source") == "estimated")
        .then(pl.lit("estimated"))
        .otherwise(pl.lit("measured")),
        alone=pl.len().over("series") == 1,
    )
    lines = alt.Detail("attempt:N")  # what lies between two attempts is no time of the run
    base = alt.Chart(rows(drawn)).encode(_time(drawn, end_s), _colour(drawn), lines)
    dash = alt.StrokeDash(
        "source:N", scale=alt.Scale(domain=["measured", "estimated"], range=[[1, 0], [5, 4]]), legend=None
    )
    tooltip = [
        alt.Tooltip("series:N", title="Of"),
        alt.Tooltip("time_text:N", title="At"),
        alt.Tooltip("text:N", title=title),
        alt.Tooltip("source:N", title="Got how"),
    ]
    band = base.mark_area(opacity=0.2, line=False).encode(
        _height(drawn, unit, from_zero, "low"), alt.Y2("high")
    )
    line = base.mark_line(strokeWidth=1.8).encode(_height(drawn, unit, from_zero), dash)
    seen = alt.condition(alt.datum.alone, alt.value(1.0), alt.value(0.0))
    dots = base.mark_circle(size=60).encode(_height(drawn, unit, from_zero), opacity=seen, tooltip=tooltip)
    return alt.layer(band, line, dots).properties(  # type: ignore[no-any-return]
        width=_WIDTH, height=_HEIGHT, title=_title(drawn, title, dashed, whole=len(known) == len(series))
    )


def _title(drawn: pl.DataFrame, title: str, dashed: str, *, whole: bool) -> Any:
    """What is drawn; beneath it the only series' name, whether it is an estimate, and whether something is left out."""
    alt = load_altair()
    names = drawn["series"].unique(maintain_order=True).to_list()
    name = names[0] if len(names) == 1 and names[0].lower() not in title.lower() else ""
    estimated = "estimated" in drawn["source"].to_list()
    how = dashed if estimated else ""
    means = f"means of {_slice_text(drawn)}; band: least to most" if _is_sliced(drawn) else ""
    subtitle = ", ".join(part for part in (name, how, means, "" if whole else NOT_FINITE) if part)
    return alt.Title(title, subtitle=subtitle or alt.Undefined, anchor="start", fontSize=14, offset=10)


def _is_sliced(drawn: pl.DataFrame) -> bool:
    return bool((drawn["low"] != drawn["high"]).any())


def _slice_text(drawn: pl.DataFrame) -> str:
    """How long a slice is, by the usual distance of two points."""
    apart = drawn.select(pl.col("time_s").diff().over("series").median()).item()
    return "all that is known" if apart is None else format_quantity(apart, "s")


def _time(drawn: pl.DataFrame, end_s: float) -> Any:
    alt = load_altair()
    end: float = max(drawn["time_s"].max() or 0.0, end_s) or 1.0  # type: ignore[assignment]
    size, name = clock_unit(end)
    return alt.X(
        "time_s:Q",
        title=f"Time since the start ({name})",
        scale=alt.Scale(domain=[0, end], nice=False),
        axis=alt.Axis(
            grid=False,
            values=[tick * size for tick in linear_ticks(0, end / size)],
            labelExpr=f"format(datum.value / {size:.0f}, '.4~r')",
        ),
    )


def _height(drawn: pl.DataFrame, unit: str, from_zero: bool, field: str = "value") -> Any:
    alt = load_altair()
    least, most = drawn.select(pl.col("low").min(), most=pl.col("high").max()).row(0)
    low = 0.0 if from_zero else least - 0.05 * (most - least)
    high = (most + 0.05 * (most - low)) or 1.0
    size = 1024.0 ** math.floor(math.log(max(high, 1), 1024)) if unit == "B" else 1.0
    return alt.Y(
        f"{field}:Q",
        title=None,
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=alt.Axis(
            values=[tick * size for tick in linear_ticks(low / size, high / size)],
            labelExpr=label_expression(unit),
        ),
    )


def _colour(drawn: pl.DataFrame) -> Any:
    alt = load_altair()
    names = drawn["series"].unique(maintain_order=True).to_list()
    colours = [DEVICE_COLOURS[index % len(DEVICE_COLOURS)] for index in range(len(names))]
    legend = alt.Legend(
        orient="bottom",
        columns=2,
        columnPadding=24,
        labelLimit=300,
        symbolType="circle",
        symbolOpacity=1,
        title=None,
    )
    return alt.Color(
        "series:N",
        scale=alt.Scale(domain=names, range=colours),
        legend=legend if len(names) > 1 else None,
    )
