"""Other people's text made safe to show.

Streamlit reads most texts as Markdown. A run's name, a note or a message can hold anything, a picture's
address too, and showing that picture would tell somebody else that this page was opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import streamlit as st

from profiler.report.visible import visible

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=\"'/@])")


def plain(text: str) -> str:
    r"""The text with every sign that Markdown gives a meaning escaped, on one line, and a mark for what is no sign.

    >>> plain("![x](http://a)")
    '\\!\\[x\\]\\(http\\:\\/\\/a\\)'
    """
    return _MARKDOWN.sub(r"\\\1", visible(" ".join(text.split())))


def lines(rows: Mapping[str, str]) -> None:
    """Draw names and texts in a box, each text under its name."""
    if rows:
        with st.container(border=True, height="stretch", gap="xsmall"):
            for name, text in rows.items():
                st.markdown(f":gray[{plain(name)}]  \n{plain(text)}")
