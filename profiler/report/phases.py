"""Where the time and the joules of a run went, by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.drawing import DEVICE_COLOURS, load_altair, rows
from profiler.report.facts import METHODS, methods_text
from profiler.report.quantity import format_quantity

if TYPE_CHECKING:
    import altair as alt

_TITLES = {
    "data": "Data",
    "forward": "Forward",
    "backward": "Backward",
    "optimizer": "Optimizer",
    "other": "Other",
    "validation": "Validation",
    "checkpoint": "Checkpoint",
    "outside steps": "Outside steps",
}

_PANEL_WIDTH = 270


def phase_chart(phases: Sequence[Mapping[str, Any]]) -> alt.HConcatChart:
    """Where the time and the joules went: two aligned panels of bars, one bar a phase.

    A phase whose energy is not known says so; it gets no bar of length zero. Bars of estimates are hollow.

    Args:
        phases: `phases` of a run's summary: dicts of `phase, duration_s, energy_j, plus_minus_j`.

    Raises:
        UsageError: The run recorded no phases; or Altair is not installed.
    """
    alt = load_altair()
    time, energy = phase_panel(phases, "duration_s"), phase_panel(phases, "energy_j", names=False)
    return alt.hconcat(  # type: ignore[no-any-return]
        time.properties(width=_PANEL_WIDTH), energy.properties(width=_PANEL_WIDTH), spacing=24
    )


def phase_panel(phases: Sequence[Mapping[str, Any]], column: str, *, names: bool = True) -> alt.LayerChart:
    """One panel of `phase_chart`: bars of `duration_s` or `energy_j`, with the phases' names or without."""
    alt = load_altair()
    frame = _phase_frame(phases, column)
    order = frame["title"].to_list()
    title = {"duration_s": "Where the time went", "energy_j": "Where the energy went"}[column]
    most: float = frame["value"].max() or 1.0  # type: ignore[assignment]
    base = alt.Chart(rows(frame)).encode(
        y=alt.Y("title:N", sort=order, title=None, axis=alt.Axis(labels=names, ticks=False, domain=False)),
        tooltip=[
            alt.Tooltip("title:N", title="Phase"),
            alt.Tooltip("text:N", title=title),
            *([alt.Tooltip("how:N", title="Got how")] if column == "energy_j" else []),
        ],
    )
    x = alt.X("value:Q", axis=None, scale=alt.Scale(domain=[0, most * 1.45], nice=False))
    hollow = alt.condition(alt.datum.estimated, alt.value(0.0), alt.value(1.0))
    bar = base.mark_bar(
        cornerRadiusEnd=3, height={"band": 0.68}, color=DEVICE_COLOURS[0], stroke=DEVICE_COLOURS[0]
    )
    bars = bar.encode(x, fillOpacity=hollow)
    texts = base.mark_text(align="left", dx=6, fontSize=12, color="#808080").encode(
        x=alt.X("place:Q", axis=None), text="text:N"
    )
    return alt.layer(bars, texts).properties(  # type: ignore[no-any-return]
        height=alt.Step(30),
        title=alt.Title(title, subtitle=_how(phases, column), anchor="start", fontSize=14),
    )


def _how(phases: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    """What the subtitle says: how these joules were got."""
    words = methods_text(phases) if column == "energy_j" else ""
    return [words[0].upper() + words[1:]] if words else []


def _phase_frame(phases: Sequence[Mapping[str, Any]], column: str) -> pl.DataFrame:
    order = list(_TITLES)
    known = sorted(
        (phase for phase in phases if phase["duration_s"] is not None),
        key=lambda phase: order.index(phase["phase"]) if phase["phase"] in order else len(order),
    )
    if not known:
        raise UsageError(
            "Time by phase is unknown: the run recorded no phases."
            " Use the callback, or 'with run.phase(...)' in a loop."
        )
    unit = {"duration_s": "s", "energy_j": "J"}[column]
    error = "plus_minus_j" if column == "energy_j" else None
    return pl.DataFrame(
        [
            {
                "title": _TITLES.get(p["phase"], p["phase"]),
                "value": p[column],
                "place": p[column] or 0.0,
                "estimated": column == "energy_j" and p.get("source") == "estimated",
                "how": METHODS.get(p.get("method") or "", p.get("reason") or "not said"),
                "text": format_quantity(p[column], unit, p.get(error) if error else None),
            }
            for p in known
        ],
        schema={
            "title": pl.String,
            "value": pl.Float64,
            "place": pl.Float64,
            "estimated": pl.Boolean,
            "how": pl.String,
            "text": pl.String,
        },
    )
