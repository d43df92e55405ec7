"""How much a page draws: 10,000 runs are for a search, not for a browser."""

from __future__ import annotations

import polars as pl
import streamlit as st

MOST_ROWS = 300
MOST_POINTS = 200
"""Of a chart; each takes three milliseconds to draw."""


def thinned(points: pl.DataFrame) -> pl.DataFrame:
    """Points spread evenly over all, as many as a chart takes, and a sentence on the page where some are left out."""
    every = -(-len(points) // MOST_POINTS)
    if every <= 1:
        return points
    st.caption(f"Charts draw every {_ordinal(every)} of the {len(points)} points.")
    return points.gather_every(every)


def searched(table: pl.DataFrame, columns: tuple[str, ...], what: str, key: str) -> pl.DataFrame:
    """The first rows of a table, or of those in which a text of the reader's is found; all of a short one."""
    if len(table) <= MOST_ROWS:
        return table
    text = st.text_input("Find", key=key, placeholder=f"a part of {', '.join(columns)}".replace("_", " "))
    if text:
        found = (pl.col(name).fill_null("").str.contains(text, literal=True) for name in columns)
        table = table.filter(pl.any_horizontal(found))
    if len(table) > MOST_ROWS:
        st.caption(f"{MOST_ROWS} of {len(table)} {what} are shown. Find the others by a part of their name.")
    return table.head(MOST_ROWS)


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else endings.get(number % 10, 'th')}"
