"""Everything a person can say of the grid, the building, the devices and the price, checked when it is said.

There is no default country, lifetime, water use or price: what nobody gave is unknown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from profiler.carbon.series import LEAST_G_PER_KWH, MOST_G_PER_KWH, IntensitySeries
from profiler.codecarbon_tables import national_grids, source_name
from profiler.errors import InvalidValueError, UnknownNameError

IntensityKind = Literal["average", "marginal"]
"""Of all power plants that run, or of those that one kWh more makes run."""

_GRID = ("country", "intensity_g_per_kwh", "intensity_kind", "series")
_MONEY = ("price_per_kwh", "currency")


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonFactors:
    """What turns joules at the device into grams at the grid, litres at the site and money.

    Attributes:
        country: ISO 3166 alpha-3 code; its grid's yearly average intensity is used.
        intensity_g_per_kwh: gCO2e per kWh, instead of a country's.
        intensity_kind: What the given intensity or series is; packaged national ones are averages.
        series: Intensity over time, instead of one number.
        pue: Power usage effectiveness: energy of the facility / energy of its computers, at least 1; None: 1.
        wue_l_per_kwh: Water usage effectiveness: litres used at the site / kWh of its computers.
        embodied_g: gCO2e to make one device (a GPU; where there is none, the host).
        lifetime_years: For how long a device serves before it is replaced.
        price_per_kwh: Money a kWh of the facility costs, in `currency`.
        currency: What the price is in: any short label.

    Raises:
        UnknownNameError: No grid of that country is known.
        InvalidValueError: A factor is out of its range, or two say the same thing.
    """

    country: str | None = None
    intensity_g_per_kwh: float | None = None
    intensity_kind: IntensityKind | None = None
    series: IntensitySeries | None = None
    pue: float | None = None
    wue_l_per_kwh: float | None = None
    embodied_g: float | None = None
    lifetime_years: float | None = None
    price_per_kwh: float | None = None
    currency: str | None = None

    def __post_init__(self) -> None:
        self._check_grid()
        _check(
            self.pue,
            1.0,
            10.0,
            "The PUE {} is not within 1 to 10: a facility uses at least what its computers do.",
        )
        _check(
            self.wue_l_per_kwh,
            0.0,
            1_000.0,
            "The WUE {} is not within 0 to 1000 litres a kWh of the computers.",
        )
        _check(self.embodied_g, 0.0, 1e12, "The embodied carbon {} g is not within 0 to 1e12 gCO2e a device.")
        _check(
            self.lifetime_years,
            0.01,
            100.0,
            "The lifetime of {} years is not within 0.01 to 100 years, so no share of it can be taken.",
        )
        _check(self.price_per_kwh, 0.0, 1e9, "The price {} a kWh is not within 0 to 1e9.")
        self._check_money()

    def _check_grid(self) -> None:
        if self.country is not None and str(self.country) not in national_grids():
            raise _unknown_country(str(self.country))
        _check(
            self.intensity_g_per_kwh,
            0.0,
            MOST_G_PER_KWH,
            "The carbon intensity {} is not within 0 to 10000 gCO2e/kWh.",
        )
        if self.intensity_g_per_kwh is not None and 0.0 < self.intensity_g_per_kwh < LEAST_G_PER_KWH:
            raise InvalidValueError(
                f"The carbon intensity {self.intensity_g_per_kwh!r} gCO2e/kWh is less than any grid's. If it is in"
                " kg/kWh, multiply it by 1000."
            )
        if self.series is not None and not isinstance(self.series, IntensitySeries):
            raise InvalidValueError(
                f"The carbon series {self.series!r} is not read yet. Give what"
                f" profiler.carbon.series_file.read_series({self.series!r}) returns."
            )
        if self.intensity_g_per_kwh is not None and self.series is not None:
            raise InvalidValueError(
                "A carbon intensity and a series of them are both given, so it is not clear which counts."
                " Leave one out."
            )
        if self.intensity_kind is None:
            return
        if self.intensity_kind not in get_args(IntensityKind):
            raise UnknownNameError("kind of intensity", str(self.intensity_kind), get_args(IntensityKind))
        if self.intensity_g_per_kwh is None and self.series is None:
            raise InvalidValueError(
                f"The kind {self.intensity_kind!r} says what a given intensity is, and none is given. Give one, with"
                " --carbon-intensity or --carbon-series. Packaged national intensities are averages."
            )

    def _check_money(self) -> None:
        if (self.price_per_kwh is None) != (self.currency is None):
            has, lacks = ("--price", "--currency") if self.currency is None else ("--currency", "--price")
            raise InvalidValueError(
                f"{has} is given without {lacks}, so a cost would say nothing. Give both."
            )
        if self.currency is not None and not (
            0 < len(str(self.currency)) <= 8 and str(self.currency).isprintable()
        ):
            raise InvalidValueError(
                f"The currency {self.currency!r} is no label of 1 to 8 characters, such as EUR."
            )

    def otherwise(self, stored: CarbonFactors) -> CarbonFactors:
        """These, and `stored` where nothing is said here.

        Country, intensity and series stand for one another, so whoever gives one replaces all; so do price and
        currency.
        """
        both = {f.name: (getattr(self, f.name), getattr(stored, f.name)) for f in dataclasses.fields(self)}
        chosen = {name: theirs if ours is None else ours for name, (ours, theirs) in both.items()}
        for group in (_GRID, _MONEY):
            if any(getattr(self, name) is not None for name in group):
                chosen |= {name: getattr(self, name) for name in group}
        return CarbonFactors(**chosen)

    def stored(self) -> dict[str, Any]:
        """What was given, as JSON; a series is kept apart, since it may be long."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "series"}
        return {name: value for name, value in named.items() if value is not None}

    @staticmethod
    def of(given: CarbonFactors | Mapping[str, Any]) -> CarbonFactors:
        """Factors from a mapping of their names, such as `{"country": "FRA"}`.

        Raises:
            UnknownNameError: A name is none of a factor.
            InvalidValueError: A value cannot be one.
        """
        if isinstance(given, CarbonFactors):
            return given
        names = [f.name for f in dataclasses.fields(CarbonFactors)]
        for name in given:
            if name not in names:
                raise UnknownNameError("carbon factor", str(name), names)
        return CarbonFactors(**given)


@cache
def national_intensity(country: str) -> tuple[float, str]:
    """Yearly average gCO2e/kWh of a country's grid, and its source with the year."""
    grid = national_grids()[country]
    source = f"{grid['country_name']}, average of {grid['year']}, location-based ({source_name()})"
    return float(grid["carbon_intensity"]), source


def countries() -> dict[str, str]:
    """Names of all countries whose grid is known, by ISO 3166 alpha-3 code, sorted by name."""
    names = {code: str(grid["country_name"]) for code, grid in national_grids().items()}
    return dict(sorted(names.items(), key=lambda item: item[1]))


def _check(value: float | None, low: float, high: float, message: str) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and low <= value < high):
        raise InvalidValueError(message.format(repr(value)))


def _unknown_country(code: str) -> UnknownNameError:
    by_name = {name.lower(): iso for iso, name in countries().items()}
    begins = [iso for iso in national_grids() if iso.startswith(code.upper())]
    if code.upper() in national_grids():
        hint = f"Write it in capitals: {code.upper()}."
    elif code.lower() in by_name:
        hint = f"Use its code: {by_name[code.lower()]}."
    elif len(code) == 2 and begins:
        return UnknownNameError(
            "country's grid", code, (), why=f"Codes have three letters: {', '.join(sorted(begins))}, perhaps."
        )
    else:
        hint = "Use an ISO 3166 alpha-3 code such as FRA, DEU or USA, or give --carbon-intensity."
    return UnknownNameError("country's grid", code, national_grids(), why=hint)
