"""Lines of many like devices or ranks as one: their mean, in a band from the least to the most of any of them."""

from __future__ import annotations

import polars as pl

MOST_SERIES = 8
"""More lines than that are no longer told apart by colour."""

SLICES = 300


def collapsed(drawn: pl.DataFrame) -> pl.DataFrame:
    """The lines as they are, or, of more than `MOST_SERIES`, one a kind: `NVIDIA H100, mean of 64`, `mean of 64 ranks`.

    Args:
        drawn: Columns `series, source, time_s, value, low, high`, maybe others that name a line; a series' name is
            `rank 7`, or ends in `, rank 7`, `, on node-7` or ` …a1b2c3`, where others are of its kind.
    """
    if drawn["series"].n_unique() <= MOST_SERIES:
        return drawn
    end_s = drawn["time_s"].max() or 1.0
    kind = pl.col("series").str.replace(r"(^rank \d+|, rank \d+|, on \S+| ….{1,6})$", "")
    named = drawn.with_columns(
        kind=kind,
        count=pl.col("series").n_unique().over(kind),
        slice=(pl.col("time_s") / end_s * SLICES).floor().clip(0, SLICES - 1),
    ).with_columns(
        series=pl.when(pl.col("count") == 1)
        .then("series")
        .when(pl.col("kind") == "")
        .then(pl.format("mean of {} ranks", "count"))
        .otherwise(pl.format("{}, mean of {}", "kind", "count"))
    )
    keys = [c for c in drawn.columns if c not in ("time_s", "value", "low", "high")]
    means = named.group_by(*keys, "slice").agg(
        pl.col("time_s", "value").mean(), pl.col("low").min(), pl.col("high").max()
    )
    return means.select(drawn.columns).sort("series", "time_s")
