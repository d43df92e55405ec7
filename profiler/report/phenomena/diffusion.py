"""A diffusion transformer on fields of a fluid: loss against compute, spectra, and the fields themselves."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import Axis
from profiler.report.drawing import load_altair, rows
from profiler.report.phenomena.plot import WIDTH, Look, plot, series_of, title
from profiler.report.phenomena.seen import Across, Picture, Seen, joined, note, progress

if TYPE_CHECKING:
    import altair as alt

_KINDS = {"real": "simulated", "sample": "drawn by the model", "noise": "white noise"}
_LABEL_PX, _GAP_PX = 20, 8


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """Loss, a spectrum a viscosity, and fields."""
    spectra = [Picture(key=f"spectrum {nu:g}", make=partial(spectrum, seen, nu)) for nu in _viscosities(seen)]
    return [
        Picture(key="loss", make=partial(loss, seen, across)),
        *(spectra or [Picture(key="spectrum", make=partial(spectrum, seen, 0.0))]),
        Picture(key="fields", make=partial(fields, seen), is_wide=True),
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
            note=note(frame, across, "bars: 95 %"),
            across=compute if across == "steps" else axis,
            up=Axis(name="loss", title="Validation loss", unit="", scale="linear"),
        ),
    )


def spectrum(seen: Sequence[Seen], nu: float) -> alt.LayerChart:
    """Power by wavenumber of simulated fields, of drawn ones and of noise."""
    frame = joined(seen, "spectrum", "kind", "nu", "k", "power").filter(pl.col("nu") == nu)
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
    drawn, top = [], 0.0
    for kind, nu, png in frame.select("kind", "nu", "png").rows():
        size = _size(png)
        if size is not None:
            height = WIDTH * size[1] / size[0]
            name = f"{_KINDS.get(kind, kind)}, viscosity {nu:g}"
            middle = top + _LABEL_PX + height / 2
            drawn.append(
                {"url": f"data:image/png;base64,{png}", "name": name, "top": top, "y": middle, "h": height}
            )
            top += _LABEL_PX + height + _GAP_PX
    if not drawn:
        raise UsageError("There are no pictures of fields that can be read.")
    names = alt.Chart(rows(pl.DataFrame(drawn))).mark_text(align="left", baseline="top", fontSize=12)
    images: list[Any] = [
        alt.Chart(rows(pl.DataFrame([one])))
        .mark_image(width=WIDTH, height=one["h"])
        .encode(x=alt.value(WIDTH / 2), y=_at("y", top), url="url:N")
        for one in drawn
    ]
    labels = names.encode(x=alt.value(0), y=_at("top", top), text="name:N")
    return alt.layer(*images, labels).properties(  # type: ignore[no-any-return]
        width=WIDTH, height=top, title=title("Vorticity fields", note(frame, "steps"))
    )


def _at(column: str, top: float) -> Any:
    alt = load_altair()
    return alt.Y(f"{column}:Q", scale=alt.Scale(domain=[top, 0], nice=False), axis=None)


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
