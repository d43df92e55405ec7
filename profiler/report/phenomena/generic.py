"""Curves of an experiment that nobody has drawn a picture for: each number against the first that grows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from profiler.errors import UsageError
from profiler.report.axes import Axis
from profiler.report.phenomena.plot import Look, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_OURS = ("arm", "time_s", "energy_j", "plus_minus_j", "source", "duration_s", "seed")
_MOST_SERIES = 8


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """One picture a curve."""
    names = dict.fromkeys(name for one in seen for name in one.curves)
    return [Picture(key=name, make=partial(curve, seen, name, across)) for name in names]


def curve(seen: Sequence[Seen], name: str, across: Across) -> alt.LayerChart:
    """All numbers of a curve against its `step`, or else its first number."""
    frame = joined(seen, name)
    numbers = [column for column in frame.columns if column not in _OURS and frame[column].dtype.is_numeric()]
    if not numbers:
        raise UsageError(f"The points of the curve {name!r} hold no numbers, so there is nothing to draw.")
    step = "step" if "step" in numbers else numbers[0]
    x, axis = progress(frame, across, step)
    values = [column for column in numbers if column != step][:_MOST_SERIES] or [step]
    axis = axis if across == "energy" else Axis(name=x, title=_words(step), unit="", scale="linear")
    return plot(
        [series_of(frame, x, value, _words(value)) for value in values],
        Look(
            title=f"{_words(name)} against {axis.short.lower()}",
            note=note(frame, across),
            across=axis,
            up=Axis(
                name="value",
                title=_words(values[0]) if len(values) == 1 else "Value",
                unit="",
                scale="linear",
            ),
        ),
    )


def _words(name: str) -> str:
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]
