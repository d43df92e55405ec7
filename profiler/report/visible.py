"""Other people's text on a terminal: what would steer the terminal instead of being seen is shown as a mark.

A run's name, a host or a note may hold escape sequences that rewrite what stands above, change the window's title or
make links, signs that turn the direction of writing, and bytes that are no text at all.
"""

from __future__ import annotations

import re
from typing import final

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

MARK = "�"
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with a mark for every sign that steers the terminal; lines stay lines.

    >>> visible("a\x1b[2Jb\n")
    'a�[2Jb\n'
    """
    return _STEERING.sub(MARK, text)


@final
class Visible:
    """A table or text of rich, drawn so that only rich itself steers the terminal."""

    def __init__(self, renderable: RenderableType) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it; called by rich."""
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
