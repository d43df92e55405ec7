"""From how much real text on it is better than a teacher's samples: the crossover."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import Axis
from profiler.report.phenomena.plot import Look, Rule, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note

if TYPE_CHECKING:
    import altair as alt

_SERIES = {
    "scratch": "real text only",
    "hard": "the teacher's text",
    "soft": "the teacher's text and its probabilities",
    "oracle": "unlimited real text",
}
_BYTES = Axis(name="real_bytes", title="Real text", unit="B")


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """Losses, and the gain with its interval."""
    return [
        Picture(key="crossover", make=partial(crossover, seen)),
        Picture(key="gain", make=partial(gain, seen)),
    ]


def crossover(seen: Sequence[Seen]) -> alt.LayerChart:
    """Loss of students on real text against the real text that they, or only the one from scratch, were given."""
    frame = joined(seen, "crossover", "real_bytes", *_SERIES)
    return plot(
        [series_of(frame, "real_bytes", column, name) for column, name in _SERIES.items()],
        Look(
            title="Loss on real text, by what the student learnt from",
            note=note(frame, "steps"),
            across=_BYTES,
            up=Axis(name="loss", title="Validation loss (nats/token)", unit="", scale="linear"),
        ),
    )


def gain(seen: Sequence[Seen]) -> alt.LayerChart:
    """How much better the distilled student is than the one from scratch, by pairs."""
    frame = joined(seen, "crossover", "real_bytes", "gain", "gain_half_width")
    half = pl.col("gain_half_width")
    return plot(
        [
            series_of(
                frame, "real_bytes", "gain", "gain", low=pl.col("gain") - half, high=pl.col("gain") + half
            )
        ],
        Look(
            title="What the teacher gains",
            note=note(frame, "steps", "bars: 95 % of paired differences, over sequences and first weights"),
            across=_BYTES,
            up=Axis(name="gain", title="Gain (nats/token)", unit="", scale="linear"),
            rules=[Rule(axis="y", at=0.0, word="no gain")],
        ),
    )
