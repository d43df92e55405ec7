"""Emissions: facility energy times the carbon intensity of the grid, each factor with its source.

Factors are applied when a run is read, never before it is stored. There is no default country: without one,
emissions are unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from profiler.codecarbon_tables import national_grids, source_name
from profiler.errors import InvalidValueError, UnknownNameError
from profiler.units import J_PER_KWH


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonFactors:
    """What turns joules at the device into grams at the grid.

    Attributes:
        country: ISO 3166 alpha-3 code; its grid's yearly average intensity is used.
        intensity_g_per_kwh: gCO2e per kWh, instead of a country's.
        pue: Power usage effectiveness: energy of the facility / energy of its computers, at least 1; None: 1.

    Raises:
        UnknownNameError: No grid of that country is known.
        InvalidValueError: A factor is out of its range.
    """

    country: str | None = None
    intensity_g_per_kwh: float | None = None
    pue: float | None = None

    def __post_init__(self) -> None:
        if self.country is not None and self.country not in national_grids():
            raise _unknown_country(self.country)
        if self.intensity_g_per_kwh is not None and not 0.0 <= self.intensity_g_per_kwh < 10_000.0:
            raise InvalidValueError(
                f"The carbon intensity {self.intensity_g_per_kwh!r} is not within 0 to 10000 gCO2e/kWh."
            )
        if self.pue is not None and not 1.0 <= self.pue < 10.0:
            raise InvalidValueError(
                f"The PUE {self.pue!r} is not within 1 to 10: a facility uses at least what its computers do."
            )

    def resolve(self) -> tuple[float, str] | None:
        """Intensity in gCO2e/kWh and its source; None if neither an intensity nor a country was given."""
        if self.intensity_g_per_kwh is not None:
            return self.intensity_g_per_kwh, "given"
        if self.country is None:
            return None
        grid = national_grids()[self.country]
        source = f"{grid['country_name']}, average of {grid['year']}, location-based ({source_name()})"
        return float(grid["carbon_intensity"]), source


def countries() -> dict[str, str]:
    """Names of all countries whose grid is known, by ISO 3166 alpha-3 code, sorted by name."""
    names = {code: str(grid["country_name"]) for code, grid in national_grids().items()}
    return dict(sorted(names.items(), key=lambda item: item[1]))


def carbon(factors: CarbonFactors, energy_j: float | None, plus_minus_j: float | None) -> dict[str, Any]:
    """The `carbon` part of a summary; keys as in `show --json`, unknown ones None.

    The interval of the emissions is the energy's alone: packaged intensities state no spread.
    """
    found = factors.resolve()
    intensity, source = found if found else (None, None)
    pue = 1.0 if factors.pue is None else factors.pue
    kwh = None if energy_j is None else energy_j * pue / J_PER_KWH
    bar_kwh = None if plus_minus_j is None else plus_minus_j * pue / J_PER_KWH
    grams = None if kwh is None or intensity is None else kwh * intensity
    bar = None if bar_kwh is None or intensity is None else bar_kwh * intensity
    return {
        "carbon_intensity_g_per_kwh": intensity,
        "carbon_intensity_source": source,
        "pue": pue,
        "facility_energy_kwh": kwh,
        "emissions_g": grams,
        "emissions_low_g": None if bar is None or grams is None else max(grams - bar, 0.0),
        "emissions_high_g": None if bar is None or grams is None else grams + bar,
        "embodied_g": None,
        "water_l": None,
        "cost": None,
    }


def factors_of(stored: Mapping[str, Any], asked: CarbonFactors | None) -> CarbonFactors:
    """What a reader asked for, and what was stored with the run where the reader did not ask.

    A country and an intensity stand for one another: whoever gives one replaces both.
    """
    asked = asked or CarbonFactors()
    own_grid = asked.country is not None or asked.intensity_g_per_kwh is not None
    return CarbonFactors(
        country=asked.country if own_grid else stored.get("country"),
        intensity_g_per_kwh=asked.intensity_g_per_kwh if own_grid else stored.get("intensity_g_per_kwh"),
        pue=stored.get("pue") if asked.pue is None else asked.pue,
    )


def _unknown_country(code: str) -> UnknownNameError:
    by_name = {name.lower(): iso for iso, name in countries().items()}
    if code.upper() in national_grids():
        hint = f"Write it in capitals: {code.upper()}."
    elif code.lower() in by_name:
        hint = f"Use its code: {by_name[code.lower()]}."
    else:
        hint = "Use an ISO 3166 alpha-3 code such as FRA, DEU or USA, or give --carbon-intensity."
    return UnknownNameError("country's grid", code, national_grids(), why=hint)
