"""The options that say how joules become grams, litres and money: declared once, for every command that takes them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from profiler.carbon.factors import CarbonFactors
from profiler.carbon.series_file import read_series

PANEL = "Carbon, water, cost"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=PANEL)


@dataclass(frozen=True, kw_only=True)
class CarbonOptions:
    """What a person gave on the command line; a field's name is its option's, with dashes."""

    country: Annotated[
        str | None,
        _option(
            "--country", help="ISO 3166 alpha-3 code of the grid, such as FRA. None: emissions stay unknown."
        ),
    ] = None
    carbon_intensity: Annotated[
        float | None,
        _option("--carbon-intensity", help="Grid's carbon intensity in gCO2e/kWh, instead of a country's."),
    ] = None
    carbon_series: Annotated[
        Path | None,
        _option(
            "--carbon-series",
            help="Intensity over time, .csv or .parquet: columns time (with its offset) and g_per_kwh, or an export"
            " of Electricity Maps. It must cover the run.",
        ),
    ] = None
    intensity_kind: Annotated[
        str | None,
        _option("--intensity-kind", help="average or marginal: what the given intensity or series is."),
    ] = None
    pue: Annotated[
        float | None,
        _option("--pue", help="Power usage effectiveness of the facility, at least 1. Default 1."),
    ] = None
    wue: Annotated[
        float | None,
        _option("--wue", help="Water usage effectiveness: litres at the site a kWh of the computers."),
    ] = None
    embodied_g: Annotated[
        float | None,
        _option("--embodied-g", help="gCO2e to make one device (a GPU; the host where there is none)."),
    ] = None
    lifetime_years: Annotated[
        float | None, _option("--lifetime-years", help="For how long a device serves, for embodied carbon.")
    ] = None
    price: Annotated[float | None, _option("--price", help="Price of a kWh, in --currency.")] = None
    currency: Annotated[str | None, _option("--currency", help="What the price is in, such as EUR.")] = None

    def factors(self) -> CarbonFactors:
        """The factors that were given.

        Raises:
            UsageError: One of them cannot be used.
        """
        return CarbonFactors(
            country=self.country,
            intensity_g_per_kwh=self.carbon_intensity,
            intensity_kind=self.intensity_kind,  # type: ignore[arg-type]  # checked there
            series=None if self.carbon_series is None else read_series(self.carbon_series),
            pue=self.pue,
            wue_l_per_kwh=self.wue,
            embodied_g=self.embodied_g,
            lifetime_years=self.lifetime_years,
            price_per_kwh=self.price,
            currency=self.currency,
        )

    def words(self) -> list[str]:
        """The same options, for another process's command line."""
        given = {f.name.replace("_", "-"): getattr(self, f.name) for f in dataclasses.fields(self)}
        return [
            word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))
        ]


def with_carbon(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all carbon options; it gets them as its argument `carbon`."""
    hints = get_type_hints(CarbonOptions, include_extras=True)
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(CarbonOptions)
    ]
    names = {option.name for option in options}

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        carbon = CarbonOptions(**{name: given.pop(name) for name in names})
        command(**given, carbon=carbon)

    own = inspect.signature(command, eval_str=True).parameters
    kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for name, p in own.items() if name != "carbon"]
    shown = [*(p for p in kept if p.name != "as_json"), *options, *(p for p in kept if p.name == "as_json")]
    with_options.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in shown}
    return with_options
