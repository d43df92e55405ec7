"""Standard output as a place for tables."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType

from profiler.report.visible import Visible

WIDE = 120


def show(table: RenderableType) -> None:
    """Print on standard output, at its width; a pipe has none and gets wide lines."""
    _console().print(Visible(table))


def is_wide() -> bool:
    """Whether standard output has room for wide tables."""
    return _console().width >= WIDE


def _console() -> Console:
    """Without markup: brackets in other people's text are brackets."""
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, emoji=False)
