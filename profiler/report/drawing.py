"""What every chart shares: Altair loaded late, colours, and writing a chart to a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import InvalidValueError, UsageError
from profiler.store.files import write_whole

if TYPE_CHECKING:
    import altair as alt

SUFFIXES = ("svg", "png", "html")

DEVICE_COLOURS = ("#3c87c7", "#e08a1e", "#1f9e77", "#cc6fa3", "#d1552b", "#8a7bd1", "#8c8c3a", "#5aa9c9")
"""Unordered series. After Okabe and Ito (2008), shifted so that each has contrast on white and on black."""

_RAMP = ("#6455c9", "#2f86bd", "#2c9f86", "#8fa637", "#e5a02d")
"""Ordered series, smallest first: lightness rises all the way, so that order survives any colour vision."""

NEUTRAL = "#7d7d7d"
"""Text and lines for a file whose background is not known: contrast 4.1 on white, 4.7 on #0d1117."""

_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

_STYLE = """<style>
text { fill: #24292f; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } }
</style>"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline';
 img-src data: blob:">
<title>joulescale</title>
{style}
</head>
<body>
<div id="chart"></div>
<script type="module">{bundle}
const actions = {{export: true, source: false, compiled: false, editor: false}};
vegaEmbed("#chart", {spec}, {{renderer: "svg", actions}});
</script>
</body>
</html>
"""


def load_altair() -> Any:
    """The altair module, which is not installed with joulescale by default.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import altair
    except ModuleNotFoundError as error:
        raise UsageError(
            f"Drawing needs {error.name}, which is not installed, so there is no chart."
            " Install it with: pip install 'joulescale[dashboard]'"
        ) from error
    return altair


def ordered_colours(count: int) -> list[str]:
    """`count` colours along the ramp for an ordered series, smallest first.

    >>> ordered_colours(2)
    ['#6455c9', '#e5a02d']
    """
    if count == 1:
        return [_RAMP[1]]
    return [_along_ramp(index / (count - 1)) for index in range(count)]


def rows(frame: pl.DataFrame) -> alt.Data:
    """A frame as inline data: no row limit of Altair's, and the same in every renderer."""
    data: alt.Data = load_altair().Data(values=frame.to_dicts())
    return data


def save_chart(chart: alt.TopLevelMixin, path: Path) -> None:
    """Write a chart to a file by its suffix: svg, png or html, whole or not at all.

    The HTML holds everything it needs and opens without a network. SVG and HTML follow the reader's light or
    dark setting; a PNG has a transparent background and a grey that reads on both.

    Raises:
        InvalidValueError: The suffix is none of these, or the folder is not there or refuses the file.
        UsageError: The drawing libraries are not installed.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise InvalidValueError(
            f"Cannot draw to {str(path)!r}: its suffix is {path.suffix!r}, which is no kind of picture that"
            " joulescale writes. Use .svg, .png or .html."
        )
    if not path.parent.is_dir():
        raise InvalidValueError(
            f"Cannot draw to {str(path)!r}: there is no folder {str(path.parent)!r}. Make it, or name another."
        )
    content = _rendered(_styled(chart), suffix)
    try:
        write_whole(path, lambda temporary: _write(temporary, content))
    except OSError as error:
        raise InvalidValueError(
            f"Cannot draw to {str(path)!r}: {error.strerror}. Name another file."
        ) from None


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _rendered(spec: dict[str, Any], suffix: str) -> bytes:
    convert = _load_converter()
    if suffix == "png":
        return bytes(convert.vegalite_to_png(spec, scale=2.0))
    if suffix == "svg":
        svg: str = convert.vegalite_to_svg(spec)
        head, mark, tail = svg.partition(">")
        return f"{head}{mark}{_STYLE}{tail}".encode()
    return _page(spec, convert.javascript_bundle()).encode()


def _load_converter() -> Any:
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise UsageError(
            "Writing a chart to a file needs vl-convert-python, which is not installed."
            " Install it with: pip install 'joulescale[dashboard]'"
        ) from error
    return vl_convert


def _page(spec: dict[str, Any], bundle: str) -> str:
    """A page with the drawing library, the chart, and no way out to a network.

    `<` is escaped in the specification: names in it are other people's text, and one that holds `</script>`
    must not end the script (vl-convert's own HTML does not see to that).
    """
    data = json.dumps(spec).replace("<", "\\u003c")
    return _PAGE.format(style=_STYLE, bundle=bundle.replace("</script", "<\\/script"), spec=data)


def _styled(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as a Vega-Lite specification, with the look of a file on an unknown background."""
    spec: dict[str, Any] = chart.to_dict()
    line = {"domainColor": NEUTRAL, "tickColor": NEUTRAL, "gridColor": NEUTRAL, "gridOpacity": 0.12}
    text = {"labelColor": NEUTRAL, "titleColor": NEUTRAL, "labelFontSize": 12, "titleFontSize": 12}
    spec["config"] = {
        **spec.get("config", {}),
        "background": "transparent",
        "font": _FONT,
        "padding": {"left": 12, "top": 12, "bottom": 12, "right": 40},
        "view": {"stroke": None},
        "axis": line | text | {"titleFontWeight": "normal", "titlePadding": 10, "labelPadding": 5},
        "legend": text | {"titleFontWeight": "bold", "symbolSize": 80, "rowPadding": 4},
        "header": text,
        "title": {"color": NEUTRAL, "subtitleColor": NEUTRAL, "fontSize": 16, "subtitleFontSize": 12},
        "text": {"color": NEUTRAL},
    }
    return spec


def _along_ramp(position: float) -> str:
    place = position * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    return _mixed(_RAMP[index], _RAMP[index + 1], place - index)


def _mixed(first: str, second: str, share: float) -> str:
    pairs = zip(_channels(first), _channels(second), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> Sequence[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
