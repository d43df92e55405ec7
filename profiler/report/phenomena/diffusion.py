"""A diffusion transformer on fields of a fluid: loss against compute, spectra, and the fields themselves."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import Axis
from profiler.report.drawing import NEUTRAL, load_altair, rows
from profiler.report.phenomena.plot import WIDTH, Look, plot, series_of, title
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_KINDS = {"real": "simulated", "sample": "drawn by the model", "noise": "white noise"}
ROUNDING = 1e-9
"""Share of the largest power below which a spectrum is what rounding leaves of zero."""

_LABEL_PX, _GAP_PX = 20, 8


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """Loss, a spectrum a viscosity, and fields."""
    spectra = [Picture(key=f"spectrum {nu:g}", make=partial(spectrum, seen, nu)) for nu in _viscosities(seen)]
    return [
        Picture(key="loss", make=partial(loss, seen, across)),
        *(spectra or [Picture(key="spectrum", make=partial(spectrum, seen, 0.0))]),
        Picture(key="fields", make=partial(fields, seen), is_wide=True, is_sized=True),
    ]


def loss(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Validation loss of models of several sizes, at equal steps."""
    frame = joined(seen, "loss", "gflops", "loss", "half_width")
    half = pl.col("half_width")
    x, axis = progress(frame, across, "gflops")
    compute = Axis(name="gflops", title="Compute of a forward pass (Gflop/field)", unit="")
    return plot(
        [series_of(frame, x, "loss", "loss", low=pl.col("loss") - half, high=pl.col("loss") + half)],
        Look(
            title="Loss against compute, at equal steps",
            note=note(
                frame,
                across,
                "bars: 95 % of each by itself; the verdict compares them in pairs, which is finer",
            ),
            across=compute if across == "steps" else axis,
            up=Axis(name="loss", title="Validation loss", unit="", scale="linear"),
        ),
    )


def spectrum(seen: Sequence[Seen], nu: float) -> alt.LayerChart:
    """Power by wavenumber of simulated fields, of drawn ones and of noise."""
    frame = joined(seen, "spectrum", "kind", "nu", "k", "power").filter(pl.col("nu") == nu)
    frame = frame.filter(pl.col("power") > ROUNDING * pl.col("power").max())
    return plot(
        [
            series_of(frame.filter(pl.col("kind") == kind), "k", "power", name)
            for kind, name in _KINDS.items()
        ],
        Look(
            title=f"Spectrum at viscosity {nu:g}",
            note=note(frame, "steps"),
            across=Axis(name="k", title="Wavenumber", unit=""),
            up=Axis(name="power", title="Power", unit=""),
        ),
    )


def fields(seen: Sequence[Seen]) -> alt.LayerChart:
    """Simulated fields over drawn ones, a row a kind and viscosity, of the first run."""
    alt = load_altair()
    frame = joined(seen[:1], "fields", "kind", "nu", "png").drop_nulls("png").sort("nu", "kind")
    strips: list[dict[str, Any]] = []
    top = 0.0
    for kind, nu, png in frame.select("kind", "nu", "png").rows():
        size = _size(png)
        if size is not None:
            name, ratio = f"{_KINDS.get(kind, kind)}, viscosity {nu:g}", size[1] / size[0]
            strips.append({"url": f"data:image/png;base64,{png}", "name": name, "top": top, "ratio": ratio})
            top += _LABEL_PX + WIDTH * ratio + _GAP_PX
    if not strips:
        raise UsageError("There are no pictures of fields that can be read.")
    layers = [layer for strip in strips for layer in _strip(strip)]
    return alt.layer(*layers).properties(  # type: ignore[no-any-return]
        width=WIDTH, height=top, title=title("Vorticity fields", note(frame, "steps"))
    )


def _strip(strip: Mapping[str, Any]) -> list[Any]:
    """A row of fields under its name; narrower where the page is."""
    alt = load_altair()
    base = alt.Chart(rows(pl.DataFrame([strip])))
    width = f"min(width, {WIDTH})"
    image = base.mark_image(
        align="left", baseline="top", width=alt.expr(width), height=alt.expr(f"{width} * {strip['ratio']}")
    )
    name = base.mark_text(align="left", baseline="top", fontSize=12, color=NEUTRAL)
    return [
        name.encode(x=alt.value(0), y=alt.value(strip["top"]), text="name:N"),
        image.encode(x=alt.value(0), y=alt.value(strip["top"] + _LABEL_PX), url="url:N"),
    ]


def _viscosities(seen: Sequence[Seen]) -> list[float]:
    found = {
        float(nu)
        for one in seen
        if "spectrum" in one.curves
        for nu in one.curves["spectrum"]["nu"].drop_nulls()
    }
    return sorted(found)


def _size(png: str) -> tuple[int, int] | None:
    """Width and height of a picture, from the first chunk of its file."""
    try:
        head = base64.b64decode(png, validate=True)[:24]
        width, height = struct.unpack(">II", head[16:24])
    except (ValueError, struct.error):
        return None
    return (
        (width, height)
        if head.startswith(b"\x89PNG") and 0 < width < 10_000 and 0 < height < 10_000
        else None
    )
