"""The lines of a chart over time: one a device or rank, each by the shortest name that tells it from the others."""

from __future__ import annotations

import polars as pl

_NUMBERS = ("value", "low", "high")
_SERIES = {
    "series": pl.String,
    "source": pl.String,
    "attempt": pl.Int64,
    "time_s": pl.Float64,
    **dict.fromkeys(_NUMBERS, pl.Float64),
}

NOT_FINITE = "where it is not finite it is left out"


def device_series(timeline: pl.DataFrame, column: str, prefix: str = "", suffix: str = "") -> pl.DataFrame:
    """One column of the devices' timeline as `series, source, attempt, time_s, value, low, high`.

    Namesakes keep the end of their ids; what goes by one id on several nodes, as a package does, or is each rank's own,
    as an estimate is, keeps its node or rank.
    """
    name = pl.coalesce("name", "device")
    several = pl.col("device").n_unique().over(name) > 1
    ranks, hosts = (pl.col(column).n_unique().over(name, "device") for column in ("rank", "host"))
    place = (
        pl.when(hosts == ranks).then(pl.format(", on {}", "host")).otherwise(pl.format(", rank {}", "rank"))
    )
    parts = [
        pl.lit(prefix),
        name,
        pl.lit(suffix),
        pl.when(several).then(pl.format(" …{}", pl.col("device").str.slice(-6))).otherwise(pl.lit("")),
        pl.when(ranks > 1).then(place).otherwise(pl.lit("")),
    ]
    source = pl.col("source") if column == "power_w" else pl.lit("counter")
    return _known(timeline, column, pl.concat_str(parts), source)


def rank_series(steps: pl.DataFrame, column: str, title: str, *, of_many: str = "rank {}") -> pl.DataFrame:
    """One column of the steps' timeline likewise, one line a rank.

    Args:
        steps: The table of `profiler.metrics.timeline.step_timeline`.
        column: Of it.
        title: Of the line, if there is one rank only.
        of_many: Of each rank's line, if there are several.
    """
    if steps.is_empty():
        return pl.DataFrame(schema=_SERIES)
    many = steps["rank"].n_unique() > 1
    series = pl.format(of_many, pl.col("rank")) if many else pl.lit(title)
    return _known(steps, column, series, pl.lit("counter"))


def finite(drawn: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The rows in which these columns are numbers that a chart can show: a loss may be NaN or infinite."""
    return drawn.filter(pl.all_horizontal(pl.col(columns).is_finite()))


def _known(frame: pl.DataFrame, column: str, series: pl.Expr, source: pl.Expr) -> pl.DataFrame:
    low, high = (
        pl.col(f"{column}_{end}" if f"{column}_{end}" in frame.columns else column) for end in ("low", "high")
    )
    drawn = frame.select(
        series=series,
        source=source,
        attempt="attempt",
        time_s="time_s",
        value=pl.col(column),
        low=low,
        high=high,
    )
    return drawn.with_columns(pl.col(_NUMBERS).cast(pl.Float64)).drop_nulls("value")
