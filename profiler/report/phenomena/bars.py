"""Values of things that have names, not sizes: a row each, a dot a series, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import Axis, label_expression, ticks_for
from profiler.report.drawing import load_altair, rows
from profiler.report.phenomena.plot import WIDTH, colour_by, span, title
from profiler.report.quantity import format_quantity

if TYPE_CHECKING:
    import altair as alt

_ROW_PX, _AXIS_PX = 30, 60
"""Of each name, and of the axis: a page gives the whole picture this height."""


def dots(
    points: pl.DataFrame, axis: Axis, *, text: str, note: Sequence[str], from_zero: bool = True
) -> alt.LayerChart:
    """Draw named values.

    Args:
        points: `name, series, seed, value` and, where they are known, `low, high`.
        axis: Of the values.
        text: The title.
        note: Lines beneath it.
        from_zero: Whether a linear axis begins at zero.

    Raises:
        UsageError: There is nothing to draw; or Altair is not installed.
    """
    alt = load_altair()
    known = points.drop_nulls("value")
    if known.is_empty():
        raise UsageError(f"{text}: none of the values is known, so there is nothing to draw.")
    names = known["name"].unique(maintain_order=True).to_list()
    drawn = known.with_columns(
        text=pl.col("value").map_elements(lambda v: format_quantity(v, axis.unit), return_dtype=pl.String)
    )
    base = alt.Chart(rows(drawn)).encode(
        y=alt.Y(
            "name:N",
            sort=names,
            title=None,
            axis=alt.Axis(ticks=False, domain=False, labelLimit=220, grid=True),
        )
    )
    colour = colour_by("series", known["series"].unique(maintain_order=True).to_list())
    many = known["seed"].n_unique() > 1
    fields = {"name": "Of", "series": "What", "text": axis.short, **({"seed": "Run"} if many else {})}
    tooltip = [alt.Tooltip(f"{name}:N", title=shown) for name, shown in fields.items()]
    bar = base.mark_rule(strokeWidth=1.6, opacity=0.6).encode(
        _across(known, axis, "low", from_zero), alt.X2("high"), colour
    )
    dot = base.mark_circle(size=90, opacity=0.8 if many else 1).encode(
        _across(known, axis, "value", from_zero), colour, tooltip=tooltip
    )
    return alt.layer(bar, dot).properties(  # type: ignore[no-any-return]
        width=WIDTH, height=_ROW_PX * len(names) + _AXIS_PX, title=title(text, note)
    )


def _across(known: pl.DataFrame, axis: Axis, field: str, from_zero: bool) -> Any:
    alt = load_altair()
    zero = pl.Series([0.0] if from_zero and axis.scale == "linear" else [], dtype=pl.Float64)
    values = [known[name].cast(pl.Float64) for name in ("value", "low", "high")]
    low, high = span(pl.concat([*values, zero]).drop_nulls(), axis)
    if len(zero):
        low = min(0.0, float(known["value"].min()))  # type: ignore[arg-type]
    return alt.X(
        f"{field}:Q",
        title=axis.full_title,
        scale=alt.Scale(type=axis.scale, domain=[low, high], nice=False),
        axis=alt.Axis(values=ticks_for(axis, low, high), labelExpr=label_expression(axis.unit), grid=False),
    )
