"""CPU packages and memory through RAPL, as Linux shows it under `/sys/class/powercap`: each meter once, unwrapped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

from profiler.measure.sensors.base import Meter
from profiler.measure.sensors.rapl_zones import (
    UPDATE_PERIOD_S,
    Zone,
    find_zones,
    read_text,
    readable_once,
    without_mirrors,
)
from profiler.records import Component
from profiler.units import J_PER_MICROJOULE

POWERCAP = Path("/sys/class/powercap")

POWER_CEILING_W = 1000.0
"""Twice the 500 W that the hungriest processors of 2025 are specified to draw: what no package or its memory passes.

A zone's own limits are not that ceiling: they are means over a time window, which a burst passes, and may be set low.
"""

_UNCERTAINTY: dict[Component, tuple[float, str]] = {
    "cpu": (
        0.10,
        "a cautious figure: measured on Intel since Haswell, but modelled on others, AMD Zen 2 among them "
        "(Schöne et al. 2021, arXiv 2108.00808)",
    ),
    "dram": (
        0.20,
        "a cautious figure: follows a meter up to an offset, worse when idle "
        "(Desrochers et al. 2016, doi 10.1145/2989081.2989088)",
    ),
}


def counted_uj(previous_uj: int, current_uj: int, *, range_uj: int, most_uj: float) -> int | None:
    """What a wrapping counter counted between two reads, in microjoules.

    Args:
        previous_uj: The earlier read.
        current_uj: The later read.
        range_uj: Where the counter starts again from 0.
        most_uj: The most that can have been used in between.

    Returns:
        None if that cannot be told: it would be more than possible, so the counter was reset or jumped, or there was
        time for one more wrap.

    >>> counted_uj(990, 10, range_uj=1000, most_uj=100)
    20
    >>> counted_uj(500, 10, range_uj=1000, most_uj=100) is None
    True
    >>> counted_uj(500, 510, range_uj=1000, most_uj=1010) is None
    True
    """
    step_uj = (current_uj - previous_uj) % range_uj
    return step_uj if step_uj <= most_uj < step_uj + range_uj else None


@final
class RaplEnergy:
    """The unwrapped energy of one zone.

    Where a step cannot be told (a reset, a jump, a zone that came back after too long, a clock that went back while the
    counter fell) the sum falls, as an `EnergyCounter` does when the hardware resets: readers bridge a fall, and count
    it as a gap. The time in which two wraps would look like one is 65 to 262 s at the ceiling of 1000 W.
    """

    def __init__(self, zone: Zone, meter: Meter, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read `zone`, described by `meter`."""
        self._zone = zone
        self._meter = meter
        self._clock = clock
        self._total_uj = 0
        self._last: tuple[float, int] | None = None

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Joules; only differences mean anything.

        Raises:
            SensorError: The zone cannot be read, or shows what no counter can.
        """
        now_s, now_uj = self._clock(), self._zone.energy_uj()
        step_uj = now_uj if self._last is None else self._step_uj(*self._last, now_s, now_uj)
        self._total_uj = self._fallen_uj(now_uj) if step_uj is None else self._total_uj + step_uj
        self._last = (now_s, now_uj)
        return self._total_uj * J_PER_MICROJOULE

    def _fallen_uj(self, now_uj: int) -> int:
        return now_uj if now_uj < self._total_uj else min(self._total_uj, 0) - 1

    def _step_uj(self, last_s: float, last_uj: int, now_s: float, now_uj: int) -> int | None:
        if now_s < last_s:  # no time to judge by: believe a rise, not a wrap
            return now_uj - last_uj if now_uj >= last_uj else None
        most_uj = POWER_CEILING_W * (now_s - last_s + UPDATE_PERIOD_S) / J_PER_MICROJOULE
        return counted_uj(last_uj, now_uj, range_uj=self._zone.range_uj, most_uj=most_uj)


def open_rapl(
    root: Path = POWERCAP,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> tuple[tuple[RaplEnergy, ...], tuple[str, ...]]:
    """The counters of this machine's CPU packages and memory, and a sentence for each that cannot be read.

    Args:
        root: The powercap folder.
        clock: Monotonic seconds.
        wait: Lets seconds pass; only asked where two zones look like one counter.
    """
    zones = find_zones(root)
    if not any(zone.component for zone in zones):
        return (), (
            f"There is no RAPL package under {root}, so the energy of CPU and memory is not measured. That "
            "is usual in virtual machines and containers; on bare Linux try 'sudo modprobe intel_rapl_msr'.",
        )
    readable, refusals = readable_once(zones)
    counters = [
        RaplEnergy(zone, _meter(zone, _notes(zone, mirrors, zones)), clock=clock)
        for zone, mirrors in without_mirrors(readable, wait=wait)
    ]
    return tuple(counters), tuple(refusals)


def _notes(zone: Zone, mirrors: Sequence[str], zones: Sequence[Zone]) -> tuple[str, ...]:
    """What was left out beside this zone, and why."""
    notes = [
        f"{mirror} shows the very same counter (the dies of a socket may mirror one) and is left out"
        for mirror in mirrors
    ]
    if zone.component == "cpu" and any(other.name == "psys" for other in zones):
        notes.append("psys, the platform's own meter, is left out: it contains this package")
    return tuple(notes)


def _meter(zone: Zone, notes: tuple[str, ...]) -> Meter:
    assert zone.component is not None, "only zones that are booked on something are opened"
    relative, source = _UNCERTAINTY[zone.component]
    return Meter(
        component=zone.component,
        device=zone.device,
        name=f"{'CPU' if zone.component == 'cpu' else 'Memory'} {zone.device} (RAPL)",
        source="counter",
        update_period_s=UPDATE_PERIOD_S,
        relative_uncertainty=relative,
        uncertainty_source=source,
        power_max_w=_power_max_w(zone.path),
        notes=notes,
    )


def _power_max_w(zone: Path) -> float | None:
    """The highest power that any of the zone's constraints names; None when none does."""
    texts = [read_text(path) for path in zone.glob("constraint_*_*_uw")]
    limits_uw = [int(text) for text in texts if text and text.isdecimal() and int(text) > 0]
    return max(limits_uw) * J_PER_MICROJOULE if limits_uw else None  # a watt is a joule a second
