"""The zones of Linux's powercap folder that are one RAPL meter each: what overlaps is kept once.

Packages contain their cores and graphics; memory lies outside them. `psys`, the whole platform, contains the packages
and is left out wherever a package is there. The MMIO zones are the MSR ones again, and the dies of some AMD
processors mirror one counter of the socket under a name each (a Threadripper 1950X that drew 68 W was booked 137 W:
codecarbon#1274).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import SensorError
from profiler.records import Component

READABLE = "sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj"
"""Opens the zones behind their links, until the next boot. `chmod -R` of the folder would open other files too, and
sysfs knows no `setfacl`. What lasts is a udev rule:
`SUBSYSTEM=="powercap", ACTION=="add", TEST=="energy_uj", RUN+="/bin/chmod a+r /sys%p/energy_uj"`."""

UPDATE_PERIOD_S = 1e-3

APART_UJ = 1_000_000
"""What a kilowatt uses in an update period: counters further apart than that are not looked at again."""

_MIRROR_LOOKS = 5
_MIRROR_AGREE = 2
_ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:(?P<package>\d+)(?::\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One RAPL zone.

    Attributes:
        path: Its folder.
        name: What its `name` file says: `package-0`, `dram`, `core`, `psys`, ...
        package: Number of the top-level zone that it is or belongs to.
        is_mmio: Whether it is read over MMIO; the same meter is usually there over MSR too.
        range_uj: The highest number that its counter reaches before it starts again from 0; 0 if it does not say.
    """

    path: Path
    name: str
    package: str
    is_mmio: bool
    range_uj: int

    @property
    def component(self) -> Component | None:
        """What its energy is booked on; None for a zone that is part of another, or contains others."""
        if self.name.startswith("package"):
            return "cpu"
        return "dram" if self.name == "dram" else None

    @property
    def device(self) -> str:
        """A name that is unique on the host, and the same over MSR and MMIO."""
        return f"{self.name}-{self.package}" if self.component == "dram" else self.name

    def energy_uj(self) -> int:
        """What its counter shows, in microjoules, from 0 to `range_uj`.

        Raises:
            SensorError: It cannot be read, or shows what no counter can.
        """
        path = self.path / "energy_uj"
        count = _read_count(path)
        if not self.range_uj:
            raise SensorError(f"{self.path} does not say where its counter wraps, so this energy is null.")
        if count > self.range_uj:
            raise SensorError(
                f"{path} holds {count}, past its range of {self.range_uj}, so this energy is null."
            )
        return count


def find_zones(root: Path) -> list[Zone]:
    """All RAPL zones, MSR before MMIO, packages before their parts."""
    found = []
    for path in root.glob("intel-rapl*:*"):
        place = _ZONE.fullmatch(path.name)
        name = read_text(path / "name")
        if place and name:
            found.append(
                Zone(
                    path=path,
                    name=name,
                    package=place["package"],
                    is_mmio=place["mmio"] is not None,
                    range_uj=_count(read_text(path / "max_energy_range_uj")) or 0,
                )
            )
    return sorted(found, key=lambda zone: (zone.is_mmio, zone.path.name.count(":"), zone.path.name))


def readable_once(zones: Iterable[Zone]) -> tuple[list[Zone], list[str]]:
    """Of each meter the first zone that can be read, and a sentence for every meter of which none can."""
    kept: dict[str, Zone] = {}
    refusals: dict[str, str] = {}
    for zone in zones:
        if zone.component is None or zone.device in kept:
            continue
        try:
            zone.energy_uj()
        except SensorError as refusal:
            refusals.setdefault(zone.device, str(refusal))
        else:
            kept[zone.device] = zone
    return list(kept.values()), list(dict.fromkeys(r for d, r in refusals.items() if d not in kept))


def without_mirrors(
    zones: Sequence[Zone], *, wait: Callable[[float], None] = time.sleep
) -> list[tuple[Zone, tuple[str, ...]]]:
    """The zones that have a counter of their own, each with the names of those that only mirror it.

    Args:
        zones: Readable zones.
        wait: Lets seconds pass between two looks.
    """
    kept: list[tuple[Zone, list[str]]] = []
    for zone in zones:
        twin = next((mirrors for other, mirrors in kept if _mirrors(other, zone, wait)), None)
        if twin is None:
            kept.append((zone, []))
        else:
            twin.append(zone.device)
    return [(zone, tuple(mirrors)) for zone, mirrors in kept]


def _mirrors(zone: Zone, other: Zone, wait: Callable[[float], None]) -> bool:
    """Whether two zones show one counter: read between two reads of the one, the other lies between them.

    Counters of their own meet in so narrow a gap about once in 10 million looks; two looks are asked for, of five,
    because the copies of some dies are refreshed up to a millisecond apart. 0 is no sign: what is off shows it too.
    """
    if zone.component != other.component or not _alike(zone, other, within_uj=APART_UJ):
        return False
    agreed = 0
    for _ in range(_MIRROR_LOOKS):
        agreed += _alike(zone, other, within_uj=0)
        wait(2 * UPDATE_PERIOD_S)
    return agreed >= _MIRROR_AGREE


def _alike(zone: Zone, other: Zone, *, within_uj: int) -> bool:
    try:
        before, between, after = zone.energy_uj(), other.energy_uj(), zone.energy_uj()
    except SensorError:
        return False
    return between > 0 and before - within_uj <= between <= after + within_uj


def read_text(path: Path) -> str | None:
    """What a file says, without blanks around it; None if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _count(text: str | None) -> int | None:
    """A whole number of at least 0; None for anything else, of which `int` would take some: -5, 1_000, ²."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,19}", text) else None


def _read_count(path: Path) -> int:
    """The count in a file.

    Raises:
        SensorError: There is none to be read; the message says what mends it.
    """
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError as error:
        raise SensorError(
            f"RAPL under {path.parent.parent} may only be read by root (a guard against CVE-2020-8694), so the energy "
            f"of CPU and memory is not measured. If nobody else uses this machine: {READABLE} (until the next boot)."
        ) from error
    except OSError as error:
        raise SensorError(f"{path} cannot be read ({error.strerror}), so this energy is null.") from error
    count = _count(text)
    if count is None:
        raise SensorError(f"{path} holds {text[:30]!r}, which is no count, so this energy is null.")
    return count
