"""The roofline of one run: both roofs, the ridge between them, and the run beneath (Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import label_expression, log_ticks
from profiler.report.drawing import DEVICE_COLOURS, load_altair, rows
from profiler.report.facts import peak_text, roofline_text
from profiler.report.quantity import UNKNOWN, format_quantity

if TYPE_CHECKING:
    import altair as alt

_WIDTH, _HEIGHT = 620, 220
_GREY = "#808080"


def roofline_chart(efficiency: Mapping[str, Any]) -> alt.LayerChart:
    """FLOP/s against arithmetic intensity, both logarithmic. A traffic that is only an upper bound is a hollow point.

    Args:
        efficiency: The `efficiency` part of a run's summary.

    Raises:
        UsageError: A roof or the run's place is not known; or Altair is not installed.
    """
    place, speed = efficiency["roofline"], _speed(efficiency)
    intensity, ridge = place["intensity_flops_per_byte"], place["ridge_flops_per_byte"]
    peak = efficiency["peak_flops_per_s"]
    if intensity is None or ridge is None or speed is None or peak is None:
        raise UsageError(
            "The place of this run under the roofline is unknown: it needs FLOPs, traffic, and the peaks of both."
        )
    alt = load_altair()
    roof, run = _roof(ridge, peak, intensity, speed), _run(efficiency, intensity, speed)
    x, y = _scale(roof, run, "x", "Intensity (FLOP/B)"), _scale(roof, run, "y", "FLOP/s")
    line = alt.Chart(rows(roof)).mark_line(strokeWidth=2, color=_GREY).encode(x, y)
    ridge_line = alt.Chart(rows(roof[1:2])).mark_rule(strokeDash=[2, 3], color=_GREY).encode(x)
    names = alt.Chart(rows(_names(roof))).mark_text(fontSize=12, color=_GREY, dy=-9)
    dot = alt.Chart(rows(run)).mark_point(
        filled=not _is_bound(place), size=110, opacity=1, strokeWidth=2, color=DEVICE_COLOURS[0]
    )
    tooltip = [alt.Tooltip(f"{name}:N", title=title) for name, title in _TOOLTIP.items()]
    return alt.layer(  # type: ignore[no-any-return]
        line, ridge_line, names.encode(x, y, text="name:N"), dot.encode(x, y, tooltip=tooltip)
    ).properties(
        width=_WIDTH,
        height=_HEIGHT,
        title=alt.Title("Roofline", subtitle=_subtitle(efficiency), anchor="start", fontSize=14, offset=10),
    )


_TOOLTIP = {"speed_text": "Executed FLOP/s", "intensity_text": "Intensity", "bytes_text": "Traffic"}


def _speed(efficiency: Mapping[str, Any]) -> float | None:
    """Executed FLOP/s: the intensity times the traffic that it was made of."""
    place = efficiency["roofline"]
    if place["intensity_flops_per_byte"] is None or place["bytes_per_s"] is None:
        return None
    return float(place["intensity_flops_per_byte"] * place["bytes_per_s"])


def _is_bound(place: Mapping[str, Any]) -> bool:
    """Whether the run's intensity is only a lower bound, since its traffic is that of operators, none fused."""
    return str(place["bytes_source"]).startswith("operators")


def _roof(ridge: float, peak: float, intensity: float, speed: float) -> pl.DataFrame:
    """The roof from a decade below whatever lies lowest to half a decade above."""
    left, right = min(ridge, intensity) / 10, max(ridge, intensity) * 4
    low = min(speed / 3, peak * left / ridge)
    left = max(left, ridge * low / peak)
    return pl.DataFrame({"x": [left, ridge, right], "y": [peak * left / ridge, peak, peak]})


def _run(efficiency: Mapping[str, Any], intensity: float, speed: float) -> pl.DataFrame:
    place = efficiency["roofline"]
    return pl.DataFrame(
        {
            "x": [intensity],
            "y": [speed],
            "speed_text": [format_quantity(speed, "FLOP/s")],
            "intensity_text": [f"{intensity:.3g} FLOP/B"],
            "bytes_text": [f"{format_quantity(place['bytes_per_s'], 'B/s')}, {place['bytes_source']}"],
        }
    )


def _names(roof: pl.DataFrame) -> pl.DataFrame:
    """What each roof is, above its middle."""
    left, ridge, right = roof["x"]
    middle = (left * ridge) ** 0.5
    return pl.DataFrame(
        {
            "x": [middle * 0.6, (ridge * right) ** 0.5],
            "y": [roof["y"][1] * middle / ridge, roof["y"][1]],
            "name": ["memory", "compute"],
        }
    )


def _first(source: str | None) -> str:
    return (source or "").partition(":")[0]


def _scale(roof: pl.DataFrame, run: pl.DataFrame, column: str, title: str) -> Any:
    alt = load_altair()
    both = pl.concat([roof[column], run[column]])
    low, high = float(both.min()) / 1.2, float(both.max()) * (1.2 if column == "x" else 2.5)  # type: ignore[arg-type]
    return {"x": alt.X, "y": alt.Y}[column](
        f"{column}:Q",
        title=title,
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
        axis=alt.Axis(values=log_ticks(low, high), labelExpr=label_expression("FLOP/s"), grid=False),
    )


def _subtitle(efficiency: Mapping[str, Any]) -> list[str]:
    """Both roofs with their sources, the ridge, and where the run is."""
    place, bound = efficiency["roofline"], roofline_text(efficiency)
    memory = f"{format_quantity(place['peak_bytes_per_s'], 'B/s')}, {_first(place['peak_bytes_source'])}"
    roofs = (
        f"memory {memory}; compute {peak_text(efficiency)}; ridge {place['ridge_flops_per_byte']:.3g} FLOP/B."
    )
    told = (
        f"At {place['intensity_flops_per_byte']:.3g} FLOP/B"
        if bound == UNKNOWN
        else bound[0].upper() + bound[1:]
    )
    hollow = ", or more: hollow, for the traffic is that of operators, none fused" if _is_bound(place) else ""
    return [f"{told}{hollow}.", f"Roofs: {roofs}"]
