"""A table of very many rows: Rich takes 13 s to lay out 10,000 of them, this 0.1 s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

from profiler.report.visible import MARK, visible

LONG = 500
"""Tables of more rows than this are laid out here."""

_NARROWEST = 12


@final
class LongTable:
    """Columns of text as `tables.new_table` draws them: the first to the left, the others to the right.

    Where the terminal is too narrow the first column is cut, and then whole lines.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._rows = [[visible(cell).replace("\n", MARK) for cell in row] for row in (columns, *rows)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """All lines in two pieces."""
        widths = [max(map(cell_len, column)) for column in zip(*self._rows, strict=True)]
        spare = options.max_width - sum(width + 2 for width in widths)
        widths[0] = max(widths[0] + min(spare, 0), min(widths[0], _NARROWEST))
        head, *lines = (_line(row, widths)[: options.max_width] for row in self._rows)
        yield Segment(head + "\n", Style(bold=True))
        yield Segment("\n".join(lines) + "\n")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0] if cell_len(cells[0]) <= widths[0] else cells[0][: widths[0] - 1] + "…"
    padded = [first + " " * (widths[0] - cell_len(first))]
    padded += [
        " " * (width - cell_len(cell)) + cell for cell, width in zip(cells[1:], widths[1:], strict=True)
    ]
    return " " + "  ".join(padded) + " "
