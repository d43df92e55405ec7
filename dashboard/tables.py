"""Tables that read as the charts do: cells sort by their numbers and show what `format_quantity` makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import streamlit as st

from profiler.report.quantity import format_quantity
from profiler.report.tables import bounded_cell

UNKNOWN = "–"
"""What a cell without a value shows: narrow columns have no room for the word."""


_SAFE = 2.0**53
"""Streamlit shows an error in place of a whole number beyond this one, such as the FLOPs of any training on a GPU."""


class Shown(float):
    """A number with the text that stands for it."""

    text: str

    def __new__(cls, value: float, text: str) -> Shown:
        """The number, with its text."""
        shown = super().__new__(cls, value)
        shown.text = text
        return shown


def cell(
    value: float | None, unit: str, plus_minus: float | None = None, *, bare: bool = False
) -> Shown | None:
    """A quantity, or nothing; `bare` leaves its unit out where the column says it."""
    if value is None:
        return None
    text = format_quantity(value, unit, plus_minus)
    return Shown(value, text.removesuffix(unit).strip() if bare else text)


def energy_cell(
    value: float | None, unit: str, source: str | None, plus_minus: float | None = None
) -> Shown | None:
    """A quantity that follows from joules: an estimate has a tilde."""
    if value is None:
        return None
    return Shown(value, ("~ " if source == "estimated" else "") + format_quantity(value, unit, plus_minus))


def bounded_shown(row: Mapping[str, Any], shown: Shown | None) -> Shown | None:
    """A sum over ranks: of a run that lacks some, it is what it was at least."""
    return None if shown is None else Shown(shown, bounded_cell(row, shown.text))


def loss_cell(value: float | None, plus_minus: float | None = None) -> Shown | None:
    """A loss, to three digits behind the point."""
    if value is None:
        return None
    return Shown(value, f"{value:.3f}" if plus_minus is None else f"{value:.3f} ± {plus_minus:.3f}")


def moment(text: str) -> datetime | None:
    """A label of wall time as a moment; None if it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def draw_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any], *, key: str, **options: Any
) -> Any:
    """Draw a table; columns in which nothing is known are left out.

    Args:
        rows: Cells by column: texts, moments, or `Shown`.
        columns: Streamlit's configuration of each column, in order.
        key: Of the element.
        options: For `st.dataframe`.

    Returns:
        What `st.dataframe` returns.
    """
    known = [name for name in columns if any(row[name] is not None for row in rows)]
    frame = pd.DataFrame(
        {name: pd.Series(_sortable([row[name] for row in rows]), dtype=object) for name in known}
    )
    numbers = [name for name in known if any(isinstance(row[name], Shown) for row in rows)]
    return st.dataframe(
        frame.style.format(lambda cell: cell.text, subset=numbers, na_rep=UNKNOWN),
        hide_index=True,
        column_order=known,
        column_config={name: columns[name] for name in known},
        placeholder=UNKNOWN,
        key=key,
        **options,
    )


def _sortable(cells: list[Any]) -> list[Any]:
    """The cells of a column as Streamlit can show and sort them: a share of the largest where that is too large."""
    most = max((abs(cell) for cell in cells if isinstance(cell, Shown)), default=0.0)
    if most < _SAFE:
        return cells
    return [Shown(cell / most, cell.text) if isinstance(cell, Shown) else cell for cell in cells]
