"""Means of equal slices of time, with the least and the most of each: what a chart shows of a million readings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

SLICES = 600
_AT_ONCE = 100_000


def slice_width_s(start_s: float, end_s: float) -> float:
    """The length of each of `SLICES` slices."""
    return max((end_s - start_s) / SLICES, 1e-9)


def in_slices(
    pieces: Iterable[pl.DataFrame], width_s: float, values: Sequence[str], keys: Sequence[str] = ()
) -> pl.DataFrame:
    """One row for each key and slice: `time_s` and each value as means, `<value>_low`, `<value>_high`, by time.

    Args:
        pieces: Frames with `time_s`, the keys and the values; null values are left out.
        width_s: Of a slice.
        values: Columns of numbers.
        keys: Columns that tell series apart.
    """
    by = [*keys, "slice"]
    parts = [_partial(some, width_s, values, keys) for some in _gathered(pieces)]
    if not parts:
        return pl.DataFrame()
    folded = pl.concat(parts).group_by(by).agg(
        pl.col("^.*_(sum|count)$").sum(), pl.col("^.*_low$").min(), pl.col("^.*_high$").max()
    )  # fmt: skip
    mean = {name: pl.col(f"{name}_sum") / pl.col(f"{name}_count") for name in ("time_s", *values)}
    known = {name: pl.when(pl.col(f"{name}_count") > 0).then(value) for name, value in mean.items()}
    kept = [f"{name}_{end}" for name in values for end in ("low", "high")]
    return folded.select(*keys, "slice", *kept, **known).sort(*keys, "time_s")


def _gathered(pieces: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Fewer and larger pieces: each costs half a millisecond beside its rows."""
    waiting: list[pl.DataFrame] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= _AT_ONCE:
            yield pl.concat(waiting)
            waiting = []
    if waiting and sum(map(len, waiting)):
        yield pl.concat(waiting)


def _partial(piece: pl.DataFrame, width_s: float, values: Sequence[str], keys: Sequence[str]) -> pl.DataFrame:
    """Sums and extremes of each stretch of rows of one key and slice; a key or slice may come again.

    By NumPy: rows lie in order, and a hash of every row's keys takes three times as long as all the rest.
    """
    slices = np.floor(piece["time_s"].to_numpy() / width_s)
    several = [key for key in keys if not piece[key].eq_missing(piece[key][0]).all()]
    stretches = [slices, *(piece.select(pl.col(several).rle_id()) if several else ())]
    begins = np.flatnonzero(np.any([_differs(np.asarray(ids)) for ids in stretches], axis=0))
    columns: dict[str, Any] = {"slice": slices[begins].astype(np.int64)}
    for name in ("time_s", *values):
        columns |= {f"{name}_{what}": found for what, found in _folded(piece[name], begins).items()}
    columns |= {key: piece[key][begins] for key in keys}
    return pl.DataFrame(columns, nan_to_null=True)


def _folded(column: pl.Series, begins: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Sum, count, least and most of the known values of each stretch; NaN where it has none."""
    numbers = column.to_numpy().astype(np.float64, copy=False)  # null is NaN
    at, unknown = begins, np.isnan(numbers)
    if unknown.any():
        known = np.flatnonzero(~unknown)
        at, numbers = np.searchsorted(known, begins), numbers[known]
    count = np.diff(np.append(at, len(numbers)))
    some = count > 0
    found = {"count": count, **{what: np.full(len(begins), np.nan) for what in ("sum", "low", "high")}}
    if some.any():  # a stretch without a value begins where the next does, and is no stretch here
        for what, fold in (("sum", np.add), ("low", np.minimum), ("high", np.maximum)):
            found[what][some] = fold.reduceat(numbers, at[some])
    return found


def _differs(numbers: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers are not the one before; the first is none."""
    return np.concatenate([[True], numbers[1:] != numbers[:-1]])
