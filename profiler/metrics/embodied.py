"""A run's share of the carbon that making its devices emitted: grams a device x seconds of the run / lifetime.

SCI (ISO/IEC 21031) calls it M = TE x TS x RS: total embodied, time share, share of the resource. The share of the
resource is 1: a run is taken to have its devices for itself. Devices are its GPUs, or, where there is none, its hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from profiler.carbon.factors import CarbonFactors
from profiler.carbon.footprints import footprint
from profiler.metrics.devices import DeviceCurve, Windows
from profiler.store.node import node_of
from profiler.store.process import StoredProcess
from profiler.units import G_PER_KG, S_PER_YEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class Embodied:
    """Grams of all devices together, and how they were got."""

    grams: float
    source: str


def embodied(
    factors: CarbonFactors, curves: Sequence[DeviceCurve], windows: Callable[[StoredProcess], Windows]
) -> tuple[Embodied | None, str | None]:
    """The run's share, or None and why it is unknown."""
    devices = _devices(curves)
    if not devices:
        return None, "no device of the run is known, so none can have an embodied share"
    parts = []
    for curve in devices:
        part = _grams_of(factors, curve)
        if part is None:
            return None, f"no published footprint of {_name(curve)} is packaged: give --embodied-g"
        parts.append(part)
    if factors.lifetime_years is None:
        return None, "a run's share of its devices needs their lifetime: give --lifetime-years"
    lifetime_s = factors.lifetime_years * S_PER_YEAR
    seconds = [sum(end - start for start, end in windows(curve.process)) for curve in devices]
    grams = sum(part[0] * lasted / lifetime_s for part, lasted in zip(parts, seconds, strict=True))
    sources = "; ".join(dict.fromkeys(source for _, source in parts))
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    return Embodied(grams=grams, source=f"{sources}; {count}time / {factors.lifetime_years:g} years"), None


def _devices(curves: Sequence[DeviceCurve]) -> list[DeviceCurve]:
    """One curve for each device of each attempt."""
    gpus = [curve for curve in curves if _kind(curve) == "GPU"]
    hosts: dict[tuple[int, str], DeviceCurve] = {}
    for curve in curves:
        hosts.setdefault((curve.process.facts.attempt, node_of(curve.process.facts)), curve)
    return gpus or list(hosts.values())


def _grams_of(factors: CarbonFactors, curve: DeviceCurve) -> tuple[float, str] | None:
    if factors.embodied_g is not None:
        return factors.embodied_g, f"{factors.embodied_g / G_PER_KG:g} kg a {_kind(curve)}, given"
    if curve.meter.get("scope", "device") == "parent_of_mig":
        return None  # a slice of a GPU: which share of it the run had is not known
    known = footprint(str(curve.meter["name"])) if _kind(curve) == "GPU" else None
    return known and (known.grams, known.source)


def _kind(curve: DeviceCurve) -> str:
    return "GPU" if curve.meter["component"] in ("gpu", "module") else "host"


def _name(curve: DeviceCurve) -> str:
    return str(curve.meter["name"]) if _kind(curve) == "GPU" else f"the host {curve.process.facts.host}"
