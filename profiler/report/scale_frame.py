"""The points of a scale chart as its marks read them: places, intervals, series, texts. Frames in, frames out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from profiler.report.axes import Axis
from profiler.report.quantity import format_quantity

_MARGIN = 0.05
"""Share of an axis that stays free on either side of the outermost point."""

_LEAST_SPAN = {"x": 4.0, "y": 1.2}
"""A logarithmic axis spans at least this factor: one size is no reason to look at a hundredth of it."""

_DODGE, _MOST_DODGE = 0.012, 0.06
"""Share of the axis between points of two series at one place, and between the outermost of many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one line of a scale chart holds together. A run of which that is unknown stands for itself.

    Attributes:
        column: Of the table of points.
        title: Of the legend.
        unit: As `profiler.report.quantity` knows it.
        words: What one line is.
        place: What points that share a place along x have in common.
    """

    column: str
    title: str
    unit: str
    words: str
    place: str

    def legend(self, shown: pl.DataFrame) -> str:
        """The legend's title, by what is known of these points."""
        unknown = shown[self.column].null_count()
        return self.title if not unknown else "Run" if unknown == len(shown) else f"{self.title}, or run"

    def sentence(self, shown: pl.DataFrame) -> str:
        """What one line is, by what is known of these points."""
        return "one point a run" if shown[self.column].null_count() == len(shown) else self.words


BUDGETS = Series(
    column="budget_tokens", title="Token budget", unit="tokens", words="one line a token budget", place="size"
)
SIZES = Series(
    column="params", title="Parameters", unit="params", words="one line a model size", place="value"
)


def drawable(points: pl.DataFrame, *axes: Axis) -> pl.DataFrame:
    """The points that have a place on every axis: known, and above zero where the axis is a logarithm."""
    least = {"log": 0.0, "linear": -1.0}
    keep = [pl.col(axis.name).is_not_null() & (pl.col(axis.name) > least[axis.scale]) for axis in axes]
    return points.filter(*keep)


def prepared(points: pl.DataFrame, across: Axis, up: Axis, series: Series) -> pl.DataFrame:
    """The drawable points with the columns that the marks read: places, intervals, group, source, texts."""
    source = pl.col("energy_source") if across.from_energy or up.from_energy else pl.lit("measured")
    shown = (
        drawable(points, across, up)
        .sort(series.column, "run_id", across.name, nulls_last=True)
        .select(
            "run_id",
            "workload",
            "preset",
            "seed",
            "params",
            "budget_tokens",
            x=pl.col(across.name).cast(pl.Float64),
            y=pl.col(up.name).cast(pl.Float64),
            group=pl.coalesce(_series_text(series), "run_id"),
            source=source.fill_null("estimated"),
            x_text=_text(across.name, across.unit, across.plus_minus),
            y_text=_text(up.name, up.unit, up.plus_minus),
            params_text=_text("params", "params"),
            tokens_text=_text("tokens", "tokens"),
            **_interval(across, "x"),
            **_interval(up, "y"),
        )
    )
    return _side_by_side(shown, across)


def means(shown: pl.DataFrame) -> pl.DataFrame:
    """Where the lines go: the mean over the seeds of one model size and one budget."""
    keys = ["workload", "preset", "params", "budget_tokens", "group", "source"]
    return shown.group_by(keys, maintain_order=True).agg(pl.col("x", "y").mean()).sort("x")


def groups(shown: pl.DataFrame, series: Series) -> tuple[list[str], list[str]]:
    """The series that have a size, smallest first, and the runs that stand for themselves."""
    known = shown.filter(pl.col(series.column).is_not_null())
    alone = shown.filter(pl.col(series.column).is_null())
    return tuple(f["group"].unique(maintain_order=True).to_list() for f in (known, alone))  # type: ignore[return-value]


def span(shown: pl.DataFrame, axis: Axis, column: str) -> tuple[float, float]:
    """The ends of an axis: all points and intervals, with a margin. An interval to zero is cut at a third."""
    ends = shown.select(
        low=pl.min_horizontal(column, pl.col(f"{column}_low").clip(lower_bound=pl.col(column) / 3)).min(),
        high=pl.max_horizontal(column, f"{column}_high").max(),
    )
    low, high = ends.row(0)
    if axis.scale == "linear":
        return 0.0, high * (1 + 2 * _MARGIN) or 1.0
    missing = max(_LEAST_SPAN[column] / (high / low), 1.0) ** 0.5
    margin = (high / low) ** _MARGIN * missing
    return low / margin, high * margin


def _side_by_side(shown: pl.DataFrame, across: Axis) -> pl.DataFrame:
    """Points of different series at one place moved apart, so that their error bars can be told apart."""
    names = shown["group"].unique(maintain_order=True).to_list()
    number = pl.col("group").replace_strict(dict(zip(names, range(len(names)), strict=True)))
    placed = shown.with_columns(
        rank=number.rank("dense").over("x").cast(pl.Float64), beside=pl.col("group").n_unique().over("x")
    )
    most: int = placed["beside"].max() or 1  # type: ignore[assignment]
    low, high = span(shown, across, "x")
    step = min(_DODGE, _MOST_DODGE / most)
    factor = (high / low) ** (step * (pl.col("rank") - (pl.col("beside") + 1) / 2))
    return placed.with_columns(pl.col("x", "x_low", "x_high") * factor, moved=pl.col("beside") > 1)


def _series_text(series: Series) -> pl.Expr:
    """The series' own quantity as text, without its unit; null where it is unknown."""
    text = _text(series.column, series.unit).str.strip_suffix(series.unit).str.strip_chars()
    return pl.when(pl.col(series.column).is_not_null()).then(text)


def _text(column: str, unit: str, plus_minus: str | None = None) -> pl.Expr:
    """A column as text for people."""
    fields: Sequence[str] = [column, plus_minus] if plus_minus else [column]
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
