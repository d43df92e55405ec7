"""CPU packages and memory through RAPL, as Linux shows it under `/sys/class/powercap`.

Of the zones that overlap, one of each kind is kept: packages (which contain their cores and graphics) and
memory, which is outside them. `psys` contains both and is left out; the MMIO zones are the MSR ones again.
Not handled: AMD dies that mirror one counter under different names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from profiler.errors import SensorError
from profiler.measure.sensors.base import Meter
from profiler.records import Component
from profiler.units import J_PER_MICROJOULE

POWERCAP = Path("/sys/class/powercap")

POWER_CEILING_W = 2000.0
"""More than any CPU package or its memory draws: tells a wrap from a reset where the zone states no limit."""

_ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:(?P<package>\d+)(?::\d+)?")
_UPDATE_PERIOD_S = 1e-3
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One RAPL zone.

    Attributes:
        path: Its folder.
        name: What its `name` file says: `package-0`, `dram`, `core`, `psys`, ...
        package: Number of the top-level zone that it is or belongs to.
        is_mmio: Whether it is read over MMIO; the same meter is usually there over MSR too.
    """

    path: Path
    name: str
    package: str
    is_mmio: bool

    @property
    def component(self) -> Component | None:
        """What its energy is booked on; None for a zone that is part of another, or contains others."""
        if self.name.startswith("package"):
            return "cpu"
        return "dram" if self.name == "dram" else None


def unwrap_step_uj(previous_uj: int, current_uj: int, *, range_uj: int, most_uj: float) -> int | None:
    """What a wrapping counter counted between two reads, in microjoules; None when it was reset.

    Args:
        previous_uj: The earlier read.
        current_uj: The later read.
        range_uj: Where the counter starts again from 0.
        most_uj: The most that can have been used in between: a wrap that would need more is a reset.

    >>> unwrap_step_uj(990, 10, range_uj=1000, most_uj=100)
    20
    >>> unwrap_step_uj(500, 10, range_uj=1000, most_uj=100) is None
    True
    """
    if current_uj >= previous_uj:
        return current_uj - previous_uj
    step_uj = current_uj - previous_uj + range_uj
    return step_uj if 0 <= step_uj <= most_uj else None


@final
class RaplEnergy:
    """The unwrapped energy of one zone.

    It must be read at least once in the time in which the zone wraps (22 minutes at 200 W and 262 kJ): two
    wraps between two reads look like one. After a reset the sum starts again from the zone's own value, so it
    falls, as an `EnergyCounter` does when the hardware resets.
    """

    def __init__(
        self, zone: Path, meter: Meter, *, range_uj: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the folder `zone`, which wraps at `range_uj` microjoules."""
        self._path = zone / "energy_uj"
        self._meter = meter
        self._range_uj = range_uj
        self._clock = clock
        self._most_w = meter.power_max_w or POWER_CEILING_W
        self._total_uj = 0
        self._last: tuple[float, int] | None = None

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Cumulative joules of the zone.

        Raises:
            SensorError: The file cannot be read; the message says what mends it.
        """
        now_s, now_uj = self._clock(), _read_number(self._path)
        step_uj = self._step_uj(now_s, now_uj)
        self._total_uj = now_uj if step_uj is None else self._total_uj + step_uj
        self._last = (now_s, now_uj)
        return self._total_uj * J_PER_MICROJOULE

    def _step_uj(self, now_s: float, now_uj: int) -> int | None:
        if self._last is None:
            return None
        last_s, last_uj = self._last
        most_uj = self._most_w * (now_s - last_s) / J_PER_MICROJOULE
        return unwrap_step_uj(last_uj, now_uj, range_uj=self._range_uj, most_uj=most_uj)


def open_rapl(
    root: Path = POWERCAP, *, clock: Callable[[], float] = time.monotonic
) -> tuple[tuple[RaplEnergy, ...], tuple[str, ...]]:
    """The counters of this machine's CPU packages and memory, and a sentence for each that cannot be read.

    Args:
        root: The powercap folder.
        clock: Monotonic seconds.
    """
    zones = _without_doubles(_zones(root))
    if not zones:
        return (), (
            f"There is no RAPL package under {root}, so the energy of CPU and memory is not measured. That "
            "is usual in virtual machines and containers; on bare Linux try 'sudo modprobe intel_rapl_msr'.",
        )
    counters, reasons = [], []
    for zone, component in zones:
        try:
            counter = _open_zone(zone, component, clock)
            counter.read()
        except SensorError as refusal:
            reasons.append(str(refusal))
        else:
            counters.append(counter)
    return tuple(counters), tuple(reasons)


def _zones(root: Path) -> list[Zone]:
    """All RAPL zones, MSR before MMIO, packages before their parts."""
    found = []
    for path in root.glob("intel-rapl*:*"):
        place = _ZONE.fullmatch(path.name)
        name = _read_text_or_none(path / "name")
        if place and name:
            found.append(
                Zone(path=path, name=name, package=place["package"], is_mmio=place["mmio"] is not None)
            )
    return sorted(found, key=lambda zone: (zone.is_mmio, zone.path.name.count(":"), zone.path.name))


def _without_doubles(zones: Iterable[Zone]) -> list[tuple[Zone, Component]]:
    """One zone a meter: the first of each name; memory by the package that it belongs to."""
    kept: dict[str, tuple[Zone, Component]] = {}
    for zone in zones:
        if zone.component is not None:
            key = zone.name if zone.component == "cpu" else f"{zone.name}-{zone.package}"
            kept.setdefault(key, (zone, zone.component))
    return list(kept.values())


def _open_zone(zone: Zone, component: Component, clock: Callable[[], float]) -> RaplEnergy:
    relative, source = _UNCERTAINTY[component]
    name = zone.name if component == "cpu" else f"{zone.name}-{zone.package}"
    meter = Meter(
        component=component,
        device=name,
        name=f"{'CPU' if component == 'cpu' else 'Memory'} {name} (RAPL)",
        source="counter",
        update_period_s=_UPDATE_PERIOD_S,
        relative_uncertainty=relative,
        uncertainty_source=source,
        power_max_w=_power_max_w(zone.path),
    )
    range_uj = _read_number(zone.path / "max_energy_range_uj")
    return RaplEnergy(zone.path, meter, range_uj=range_uj, clock=clock)


def _power_max_w(zone: Path) -> float | None:
    """The highest power that any of the zone's constraints names; None when none does."""
    texts = [_read_text_or_none(path) for path in zone.glob("constraint_*_*_uw")]
    limits_uw = [int(text) for text in texts if text and text.isdecimal() and int(text) > 0]
    return max(limits_uw) * J_PER_MICROJOULE if limits_uw else None  # a watt is a joule a second


def _read_text_or_none(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read_number(path: Path) -> int:
    """The whole number in a file.

    Raises:
        SensorError: There is none to be read.
    """
    try:
        return int(path.read_text(encoding="ascii"))
    except PermissionError as error:
        raise SensorError(
            f"{path} may only be read by root (a guard against CVE-2020-8694), so this energy is null. If "
            f"the machine is yours: sudo chmod -R a+r /sys/class/powercap/intel-rapl"
        ) from error
    except OSError as error:
        raise SensorError(f"{path} cannot be read ({error.strerror}), so this energy is null.") from error
    except ValueError as error:
        raise SensorError(f"{path} does not hold a whole number, so this energy is null.") from error
