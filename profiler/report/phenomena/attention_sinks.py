"""A sink that forms, and what a stream pays without it: loss, speed and memory against context."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from profiler.report.axes import Axis
from profiler.report.phenomena.plot import Look, plot, series_of
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_CONTEXT = Axis(name="context", title="Context (tokens read)", unit="")
_STREAMING = {
    "loss": ("Loss while streaming", Axis(name="loss", title="Loss (nats/token)", unit="", scale="linear")),
    "tokens_per_s": ("Speed while streaming", Axis(name="tokens_per_s", title="Speed", unit="tokens/s")),
    "kv_bytes": ("Memory of keys and values", Axis(name="kv_bytes", title="Keys and values", unit="B")),
}


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """The sink, then loss, speed and memory."""
    return [
        Picture(key="sink", make=partial(sink, seen, across)),
        *(Picture(key=column, make=partial(streaming, seen, column)) for column in _STREAMING),
    ]


def sink(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Attention on the first token during training."""
    frame = joined(seen, "sink", "step", "mass")
    x, axis = progress(frame, across)
    return plot(
        [series_of(frame, x, "mass", "attention")],
        Look(
            title="Attention on the first token",
            note=note(frame, across),
            across=Axis(name=axis.name, title=axis.title, unit=axis.unit, scale="linear"),
            up=Axis(name="mass", title="Share of attention", unit="fraction", scale="linear"),
        ),
    )


def streaming(seen: Sequence[Seen], column: str) -> alt.LayerChart:
    """One quantity of each kind of cache."""
    frame = joined(seen, "streaming", "cache", "context", column, "half_width")
    text, axis = _STREAMING[column]
    bars = {}
    if column == "loss":
        half = pl.col("half_width")
        bars = {"low": pl.col("loss") - half, "high": pl.col("loss") + half}
    return plot(
        [series_of(frame, "context", column, pl.col("cache"), **bars)],
        Look(title=text, note=note(frame, "steps"), across=_CONTEXT, up=axis),
    )
