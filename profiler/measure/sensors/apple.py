"""Apple silicon through `zeus_apple_silicon`, the layer under Zeus's own; it is only asked where it is installed.

It reads the chip's energy model (IOReport, group "Energy Model"), in millijoules since the chip started, and needs no
root. Zeus itself stays out: its Mac layer is this one call, and brings pandas, scikit-learn and amdsmi along.

Booked are the processor, the graphics and the memory. Left out: the neural engine, which PyTorch does not use, and the
graphics' own SRAM, of which it is not said whether the graphics' figure has it in already.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, final

from profiler.errors import SensorError
from profiler.measure.sensors.base import Meter, Probe
from profiler.records import Component
from profiler.units import J_PER_MILLIJOULE

_FIELDS: tuple[tuple[Component, str, str], ...] = (
    ("cpu", "cpu_total_mj", "Apple CPU"),
    ("gpu", "gpu_mj", "Apple GPU"),
    ("dram", "dram_mj", "Apple memory"),
)
_SAME_LOOK_S = 0.02
"""Within this time the meters of one round share one look at the chip."""

_UNCERTAINTY = 0.20
_UNCERTAINTY_SOURCE = (
    "a cautious figure: a model in the chip's firmware, of which Apple publishes no accuracy and says that it is not "
    "for comparing devices (manual of powermetrics)"
)


@final
class AppleChip:
    """The chip's cumulative energies, looked at once for all meters of a round.

    Args:
        monitor: A `zeus_apple_silicon.AppleEnergyMonitor`.
        clock: Monotonic seconds.
    """

    def __init__(self, monitor: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._monitor = monitor
        self._clock = clock
        self._looked_s: float | None = None
        self._metrics: Any = None

    def joules(self, field: str) -> float:
        """One of its energies.

        Raises:
            SensorError: The chip does not tell it.
        """
        now_s = self._clock()
        if self._looked_s is None or not 0.0 <= now_s - self._looked_s < _SAME_LOOK_S:
            try:
                self._metrics = self._monitor.get_cumulative_energy()
            except RuntimeError as error:
                raise SensorError(f"the chip's energy model did not answer ({error})") from error
            self._looked_s = now_s
        millijoules = getattr(self._metrics, field, None)
        if millijoules is None or millijoules < 0:
            raise SensorError(f"the chip's energy model gives {field} as {millijoules!r}")
        return float(millijoules * J_PER_MILLIJOULE)


@final
class AppleEnergy:
    """The energy of one part of the chip, for all processes together."""

    def __init__(self, chip: AppleChip, component: Component, field: str, name: str) -> None:
        """Read `field` of the chip's energies."""
        self._chip = chip
        self._field = field
        self._meter = Meter(
            component=component,
            device=f"apple-{component}",
            name=name,
            source="counter",
            update_period_s=None,
            relative_uncertainty=_UNCERTAINTY,
            uncertainty_source=_UNCERTAINTY_SOURCE,
            notes=("the chip's own energy model",),
        )

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Joules since the chip started.

        Raises:
            SensorError: The chip does not tell.
        """
        return self._chip.joules(self._field)


def load_apple(platform: str = sys.platform) -> Any:
    """The module `zeus_apple_silicon`; None where there is neither it nor a Mac.

    Raises:
        SensorError: This is a Mac, and the module is not installed.
    """
    if platform != "darwin":
        return None
    if find_spec("zeus_apple_silicon") is None:
        raise SensorError(
            "zeus-apple-silicon is not installed, so the energy of this Mac is not measured. If its chip is Apple's, "
            "run 'pip install \"joulescale[apple]\"'."
        )
    return import_module("zeus_apple_silicon")


def open_apple(
    binding: Any, *, clock: Callable[[], float] = time.monotonic
) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
    """The meters of this chip, and a sentence for each that it does not have.

    Raises:
        SensorError: There is no energy model to ask (an Intel Mac).
    """
    try:
        chip = AppleChip(binding.AppleEnergyMonitor(), clock=clock)
    except RuntimeError as error:
        raise SensorError(
            f"This Mac's energy model cannot be read ({error}), so its energy is null."
        ) from error
    probes, reasons = [], []
    for component, field, name in _FIELDS:
        counter = AppleEnergy(chip, component, field, name)
        try:
            counter.read()
        except SensorError as refusal:
            reasons.append(f"{name}: {refusal}, so its energy is null.")
        else:
            probes.append(Probe(counter=counter, driver="the library for apple"))
    return tuple(probes), tuple(reasons)
