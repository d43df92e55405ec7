"""Workload and preset of points: which to look at first, and how they are called."""

from __future__ import annotations

import polars as pl

OWN = "own trainings"
"""What has no workload: trainings that joulescale only watched."""


def largest_kind(points: pl.DataFrame) -> tuple[str | None, str | None]:
    """The workload and preset with most points; own trainings come last, for each may be of its own kind."""
    counts = points.group_by("workload", "preset").len().with_columns(own=pl.col("workload").is_null())
    ordered = counts.sort(["own", "len", "workload", "preset"], descending=[False, True, False, False])
    if ordered.is_empty():
        return None, None
    workload, preset = ordered.select("workload", "preset").row(0)
    return workload, preset


def of_kind(points: pl.DataFrame, workload: str | None, preset: str | None) -> pl.DataFrame:
    """The points of one workload and preset; None stands for those that have none."""
    return points.filter(
        pl.col("workload").eq_missing(pl.lit(workload)) & pl.col("preset").eq_missing(pl.lit(preset))
    )


def kind_name(kind: tuple[str | None, str | None]) -> str:
    """`lm/cpu`, or that these are one's own trainings."""
    return "/".join(filter(None, kind)) or OWN
