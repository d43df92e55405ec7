"""A chart on a page: its title and subtitle as text of the page, so that they wrap and follow its light or dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from dashboard.plain import plain
from profiler.errors import UsageError

if TYPE_CHECKING:
    import altair as alt


def draw(make: Callable[[], alt.LayerChart], *, key: str, height: int | None = None) -> None:
    """Draw a chart in a box; where it refuses, the box holds its reason instead."""
    with st.container(border=True, height="stretch", gap="xsmall"):
        try:
            chart = make()
        except UsageError as error:
            st.info(plain(str(error)))
        else:
            show(chart, key=key, height=height)


def show(chart: alt.LayerChart, *, key: str, height: int | None = None) -> None:
    """Draw a chart that is made."""
    spec = chart.to_dict()
    title = spec.pop("title")
    subtitle = title.get("subtitle", [])
    lines = [subtitle] if isinstance(subtitle, str) else subtitle
    st.markdown(f"**{plain(title['text'])}**")
    if lines:
        st.caption(plain(" ".join(lines)))
    st.vega_lite_chart(spec | ({"height": height} if height else {}), key=key)
