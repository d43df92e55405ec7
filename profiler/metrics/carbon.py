"""Emissions, water, embodied carbon and cost of a run: its energy times factors, each with its source.

Factors are applied when a run is read, never before it is stored. There is no default country, lifetime, water use
or price: what nobody gave is unknown, and says so.

    facility energy   device energy x PUE
    emissions         facility energy x carbon intensity; over a series, sum of E_k I_k over its intervals
    water             device energy x WUE: litres at the site, by WUE's definition a kWh of the computers
    embodied          g to make a device x seconds of the run / lifetime, for each device; never times PUE
    cost              facility energy x price
    SCI               (emissions + embodied) / R, R being a token, a sample or the run (ISO/IEC 21031)

Not counted: water for making the electricity, embodied carbon of whatever is no accelerator (where there is one),
years in which a device stands idle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profiler.carbon.factors import CarbonFactors as CarbonFactors
from profiler.carbon.factors import countries as countries
from profiler.errors import StoredDataError
from profiler.metrics.devices import DeviceCurve, Windows, fit_windows, total
from profiler.metrics.embodied import embodied
from profiler.metrics.intensity import Intensity, intensity_over
from profiler.store.factors import read_factors
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun
from profiler.units import J_PER_KWH


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a run, or a part of one, used and did.

    Attributes:
        energy_j: Of its devices, measured or estimated, never both; None if unknown.
        plus_minus_j: Half-width of it.
        curves: Of all devices, so that the energy can be cut where the intensity changes.
        estimated: Whether the energy is that of the estimated devices.
        windows: The part of each process's time that is meant.
        tokens: Trained on.
        samples: Trained on.
    """

    energy_j: float | None
    plus_minus_j: float | None = None
    curves: Sequence[DeviceCurve] = ()
    estimated: bool = False
    windows: Callable[[StoredProcess], Windows] = fit_windows
    tokens: int | None = None
    samples: int | None = None

    @property
    def counted(self) -> list[DeviceCurve]:
        """The devices whose energy it is."""
        return [curve for curve in self.curves if curve.estimated == self.estimated]

    @property
    def source(self) -> str | None:
        """Whether the energy is measured or estimated; None if it is unknown."""
        return None if self.energy_j is None else "estimated" if self.estimated else "measured"


def use_of(curves: Sequence[DeviceCurve], windows: Callable[[StoredProcess], Windows] = fit_windows) -> Use:
    """The energy of devices over windows: measured, if any sensor measured, else the estimate. Never both together."""
    estimated = all(c.estimated for c in curves)
    found = total(curves, windows, estimated=estimated)
    return Use(
        energy_j=found.energy_j if found else None,
        plus_minus_j=found.plus_minus_j if found else None,
        curves=curves,
        estimated=estimated,
        windows=windows,
    )


def carbon(factors: CarbonFactors, use: Use) -> tuple[dict[str, Any], dict[str, str]]:
    """The `carbon` part of a summary, keys as in `show --json`, and why what is None is unknown.

    The interval of the emissions takes energy and intensity to their ends together; an intensity that states no
    spread counts as exact, and `emissions_interval` says so.
    """
    pue = 1.0 if factors.pue is None else factors.pue
    found, why = intensity_over(factors, use.energy_j, use.counted, use.windows)
    made, why_not_made = embodied(factors, use.curves, use.windows)
    kwh = None if use.energy_j is None else use.energy_j / J_PER_KWH
    facility_kwh = None if kwh is None else kwh * pue
    emissions = _emissions(found, facility_kwh, _times(use.plus_minus_j, pue / J_PER_KWH))
    amounts = {
        "carbon_intensity_g_per_kwh": found.g_per_kwh if found else None,
        "carbon_intensity_kind": found.kind if found else None,
        "carbon_intensity_source": found.source if found else None,
        "pue": pue,
        "pue_source": "none given: 1, so nothing but the devices counts" if factors.pue is None else "given",
        "facility_energy_kwh": facility_kwh,
        **emissions,
        "embodied_g": made.grams if made else None,
        "embodied_source": made.source if made else None,
        "water_l": _times(kwh, factors.wue_l_per_kwh),
        "water_source": _water_source(factors.wue_l_per_kwh),
        "cost": _times(facility_kwh, factors.price_per_kwh),
        "cost_currency": factors.currency,
        "cost_source": _cost_source(factors),
        "sci": _sci(emissions["emissions_g"], made.grams if made else None, use),
    }
    notes = {
        "carbon.carbon_intensity_g_per_kwh": why,
        "carbon.embodied_g": why_not_made,
        **_why_unknown(factors, use),
    }
    if found and found.kind is None:
        notes["carbon.carbon_intensity_kind"] = "nobody said: give --intensity-kind average or marginal"
    return amounts, {key: reason for key, reason in notes.items() if reason is not None}


def run_factors(run: StoredRun, asked: CarbonFactors | None) -> tuple[CarbonFactors, dict[str, str]]:
    """What a reader asked for, and what was stored with the run where the reader did not ask.

    Returns:
        The factors, and a note if those that were stored cannot be used: they then count as not given.
    """
    asked = asked or CarbonFactors()
    try:
        return asked.otherwise(read_factors(run.path, run.manifest.carbon)), {}
    except StoredDataError as error:
        return asked, {"carbon factors": str(error)}


def _emissions(found: Intensity | None, kwh: float | None, bar_kwh: float | None) -> dict[str, Any]:
    central = low = high = None
    if found is not None and kwh is not None:
        central = kwh * found.g_per_kwh
        if bar_kwh is not None:
            low, high = max(kwh - bar_kwh, 0.0) * found.low, (kwh + bar_kwh) * found.high
    interval = "of energy and intensity" if found and found.has_spread else "of energy only"
    return {
        "emissions_g": central,
        "emissions_low_g": low,
        "emissions_high_g": high,
        "emissions_interval": None if low is None else interval,
    }


def _sci(emissions_g: float | None, embodied_g: float | None, use: Use) -> dict[str, float | None]:
    """Grams a unit of work; unknown without embodied carbon, which the standard demands."""
    total_g = None if emissions_g is None or embodied_g is None else emissions_g + embodied_g
    return {
        "g_per_token": _per(total_g, use.tokens),
        "g_per_sample": _per(total_g, use.samples),
        "g_per_run": total_g,
    }


def _why_unknown(factors: CarbonFactors, use: Use) -> dict[str, str | None]:
    """Why there is no water, no cost and no rate; None where there is."""
    no_energy = "the energy that it follows from is not known" if use.energy_j is None else None
    no_wue = "water needs the site's litres a kWh: give --wue" if factors.wue_l_per_kwh is None else None
    no_price = (
        "cost needs a price a kWh: give --price and --currency" if factors.price_per_kwh is None else None
    )
    return {
        "carbon.water_l": no_wue or no_energy,
        "carbon.cost": no_price or no_energy,
        "carbon.sci.g_per_token": "no token was trained on" if use.tokens == 0 else None,
        "carbon.sci.g_per_sample": "no sample was trained on" if use.samples == 0 else None,
    }


def _water_source(wue: float | None) -> str | None:
    return None if wue is None else f"WUE {wue:g} L/kWh, given: at the site, not for making the electricity"


def _cost_source(factors: CarbonFactors) -> str | None:
    if factors.price_per_kwh is None:
        return None
    return f"{factors.price_per_kwh:g} {factors.currency}/kWh of the facility, given"


def _times(amount: float | None, factor: float | None) -> float | None:
    return None if amount is None or factor is None else amount * factor


def _per(amount: float | None, count: int | None) -> float | None:
    return None if amount is None or not count else amount / count


_EMISSIONS = ("energy.<headline>_j", "carbon.carbon_intensity_g_per_kwh")

MADE_OF: Mapping[str, tuple[str, ...]] = {
    "carbon.carbon_intensity_kind": ("carbon.carbon_intensity_g_per_kwh",),
    "carbon.carbon_intensity_source": ("carbon.carbon_intensity_g_per_kwh",),
    "carbon.facility_energy_kwh": ("energy.<headline>_j",),
    "carbon.emissions_g": _EMISSIONS,
    "carbon.emissions_low_g": _EMISSIONS,
    "carbon.emissions_high_g": _EMISSIONS,
    "carbon.emissions_interval": _EMISSIONS,
    "carbon.embodied_source": ("carbon.embodied_g",),
    "carbon.water_source": ("carbon.water_l",),
    "carbon.cost_currency": ("carbon.cost",),
    "carbon.cost_source": ("carbon.cost",),
    "carbon.sci.g_per_token": (*_EMISSIONS, "carbon.embodied_g", "tokens"),
    "carbon.sci.g_per_sample": (*_EMISSIONS, "carbon.embodied_g", "samples"),
    "carbon.sci.g_per_run": (*_EMISSIONS, "carbon.embodied_g"),
}
"""What a key is made of: it is null for the reason of the first of these that is null."""
