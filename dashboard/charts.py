"""A chart on a page: its title and subtitle as text of the page, so that they wrap and follow its light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from dashboard.plain import plain
from profiler.errors import UsageError

if TYPE_CHECKING:
    import altair as alt

_NARROW_PX, _SIGN_PX, _CHARACTER_PX = 290, 34, 7
"""The width of a chart on a telephone, and what a legend's symbol and each character of a name take of it."""

Height = int | Literal["own"] | None
"""Of a chart on a page: given, as the chart has it with room for a legend, or left to Streamlit."""

_LEGEND_ROW_PX, _SUBTITLE_PX = 30, 32
"""What a row of a legend takes beneath a chart, and a line of subtitle above it."""

_LOOK: Mapping[str, Any] = {
    "padding": {"left": 0, "right": 4, "top": 4, "bottom": 0},
    "config": {"axisY": {"labelFlush": False}},
}
"""What Streamlit's own leaves otherwise: a strip around, and the first and last label off their lines."""


def draw(make: Callable[[], alt.LayerChart], *, key: str, height: Height = None) -> None:
    """Draw a chart in a box; where it refuses, the box holds its reason instead."""
    with st.container(border=True, height="stretch", gap="xsmall"):
        try:
            chart = make()
        except UsageError as error:
            st.info(plain(str(error)))
        else:
            show(chart, key=key, height=height)


def draw_row(charts: Mapping[str, alt.LayerChart], *, height: int) -> None:
    """Draw charts that are made beside each other, by key, each in a box: all as high as the highest needs to be."""
    needed = {key: _furniture_px(chart.to_dict()) for key, chart in charts.items()}
    for column, (key, chart) in zip(st.columns(len(charts)), charts.items(), strict=True):
        with column.container(border=True, height="stretch", gap="xsmall"):
            show(chart, key=key, height=height + max(needed.values()) - needed[key])


def show(chart: alt.LayerChart, *, key: str, height: Height = None) -> None:
    """Draw a chart that is made; `height` is without its legend."""
    spec = chart.to_dict()
    height = spec["height"] if height == "own" else height
    title = spec.pop("title")
    subtitle = title.get("subtitle", [])
    lines = [subtitle] if isinstance(subtitle, str) else subtitle
    st.markdown(f"**{plain(title['text'])}**")
    if lines:
        st.caption(plain(" ".join(lines)))
    rows = _legend_beneath(spec)
    sized = {"height": height + rows * _LEGEND_ROW_PX} if height else {}
    st.vega_lite_chart({**spec, **_LOOK, **sized}, key=key)


def _furniture_px(spec: dict[str, Any]) -> int:
    """What subtitle and legend of a chart take beside its plot."""
    subtitle = _SUBTITLE_PX if spec["title"].get("subtitle") else 0
    return subtitle + _legend_beneath(spec) * _LEGEND_ROW_PX


def _legend_beneath(spec: dict[str, Any]) -> int:
    """Put the legend of colours under the chart, where a narrow screen has room; gives how many rows it takes.

    Filled or hollow needs no legend here: the subtitle, which is text of the page, says what it means.
    """
    rows = 0
    for layer in spec["layer"]:
        encoding = layer["encoding"]
        for name in ("shape", "strokeDash"):
            if name in encoding:
                encoding[name] |= {"legend": None}
        legend = encoding.get("color", {}).get("legend")
        if legend:
            names = encoding["color"]["scale"]["domain"]
            columns = max(_NARROW_PX // (_SIGN_PX + _CHARACTER_PX * max(map(len, names))), 1)
            legend |= {"orient": "bottom", "direction": "horizontal", "columns": columns}
            shown = min(len(names), legend.get("symbolLimit", len(names)))
            rows = math.ceil(shown / columns) + bool(legend.get("title"))
    return rows
