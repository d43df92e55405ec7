"""What pictures are drawn from: runs of one experiment, and their curves joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import Axis

if TYPE_CHECKING:
    import altair as alt

Across = Literal["steps", "energy"]
"""What a training's progress is drawn against: its updates, or the joules that they had cost."""

ESTIMATED = "energy is estimated from CPU time, not measured"
_MIXED = "energy of some runs is measured, of others estimated from CPU time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One run of an experiment.

    Attributes:
        label: What tells it from the others: its seed.
        curves: From `profiler.metrics.phenomena.phenomenon_curves`.
        figures: Of its verdict.
        costs: Likewise: `cost, energy_j, plus_minus_j, source, duration_s, is_bound`.
    """

    label: str
    curves: Mapping[str, pl.DataFrame]
    figures: Mapping[str, Any] = field(default_factory=dict)
    costs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart that is made when it is shown; what it cannot be made of it says by a `UsageError`.

    Attributes:
        key: Short name, unique within an experiment.
        make: Draws it.
        is_wide: Whether it takes a row for itself.
        is_sized: Whether it is as high as what it shows needs; others are all of one height.
    """

    key: str
    make: Callable[[], alt.LayerChart]
    is_wide: bool = False
    is_sized: bool = False


def joined(seen: Sequence[Seen], curve: str, *needed: str) -> pl.DataFrame:
    """The points of a curve of all runs, with a column `seed` that names the run.

    Args:
        seen: Runs.
        curve: Its name.
        needed: Columns that must be there; one that is not is null in all points.

    Raises:
        UsageError: No run has a point of it yet.
    """
    frames = [
        one.curves[curve].with_columns(seed=pl.lit(one.label))
        for one in seen
        if len(one.curves.get(curve, ()))
    ]
    if not frames:
        raise UsageError(
            f"No point of the curve {curve!r} was recorded yet. It is drawn once the experiment has come so far."
        )
    frame = pl.concat(frames, how="diagonal_relaxed")
    return frame.with_columns(pl.lit(None).alias(name) for name in needed if name not in frame.columns)


def progress(frame: pl.DataFrame, across: Across, step: str = "step") -> tuple[str, Axis]:
    """The column and the axis of a training's progress.

    Raises:
        UsageError: Joules are asked for, and none are known.
    """
    if across == "steps":
        return step, Axis(name=step, title="Training step", unit="")
    if frame["energy_j"].null_count() == len(frame):
        raise UsageError(
            "The joules of these trainings are unknown: no sensor gave any, they took too little time to tell, or they"
            " have not ended. Draw against steps instead."
        )
    estimated = set(frame["source"].drop_nulls()) == {"estimated"}
    title = "Training energy, estimated" if estimated else "Training energy"
    return "energy_j", Axis(name="energy_j", title=title, unit="J", from_energy=True)


def note(frame: pl.DataFrame, across: Across, *more: str) -> list[str]:
    """What stands beneath a title: of how many seeds, how joules were got, and `more`."""
    seeds = frame["seed"].unique(maintain_order=True).to_list()
    lines = [seeds[0] if len(seeds) == 1 else f"{len(seeds)} runs overlaid"]
    sources = set(frame["source"].drop_nulls()) if across == "energy" else set()
    if sources == {"estimated"}:
        lines.append(ESTIMATED)
    elif len(sources) > 1:
        lines.append(_MIXED)
    return [sentence(*lines, *more)]


def sentence(*parts: str) -> str:
    """Parts as one sentence.

    >>> sentence("seed 0", "bars: 95 %")
    'Seed 0; bars: 95 %.'
    """
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."
