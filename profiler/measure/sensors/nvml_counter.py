"""The energy counter of one NVIDIA GPU, and what is done when it says something that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import pynvml

from profiler.measure.sensors.base import Meter
from profiler.measure.sensors.nvml_device import NvmlDevice, QuantityRefused
from profiler.measure.sensors.nvml_fields import FieldAnswer, NvmlFields
from profiler.measure.sensors.nvml_limits import MOST_W, believable
from profiler.units import J_PER_MILLIJOULE

_LATE_S = 1.0
"""The counter may show what was used this much earlier."""


@final
class NvmlEnergy:
    """Joules since the driver was loaded. Volta and newer.

    The batched field is asked first, so that energy and powers belong to one instant; where the driver refuses it,
    the older call. A value that does not follow from the last one is asked for again: a misread is not told twice.
    What is told twice is believed when it fell (the driver was reloaded) and refused when it leapt.
    """

    def __init__(
        self, device: NvmlDevice, fields: NvmlFields, meter: Meter, *, clock: Callable[[], float]
    ) -> None:
        """Read `fields` of `device`, described by `meter`; `clock` is monotonic seconds."""
        self._device = device
        self._fields = fields
        self._meter = meter
        self._clock = clock
        self._used: FieldAnswer | None = None
        self._last: tuple[float, float] | None = None

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Joules since the driver was loaded, in steps of about 100 ms; falls when the driver is reloaded.

        Raises:
            SensorError: NVML refused, or said something that cannot be.
        """
        energy_j, now_s = self._told(), self._clock()
        last_s, last_j = self._last or (now_s, energy_j)
        most_j = last_j + MOST_W * (now_s - last_s + _LATE_S)
        if not last_j <= energy_j <= most_j:
            energy_j = self._told()
            if energy_j > most_j:
                raise QuantityRefused(
                    f"NVML gave energy_j of {self._device.uuid} as {energy_j:g} J, {energy_j - last_j:g} J more than "
                    "before, which no GPU can use in that time. The counter is not believed until it comes back."
                )
        self._last = (now_s, energy_j)
        return energy_j

    def _told(self) -> float:
        self._used = self._fields.after(self._used)
        try:
            return self._used.value("energy_j")
        except QuantityRefused as no_field:
            return self._by_older_call(no_field)

    def _by_older_call(self, no_field: QuantityRefused) -> float:
        uuid = self._device.uuid
        try:
            millijoules = self._device.ask("energy_j", pynvml.nvmlDeviceGetTotalEnergyConsumption)
            return believable(uuid, "energy_j", float(millijoules * J_PER_MILLIJOULE))
        except QuantityRefused as no_call:
            same = str(no_field) == str(no_call)
            raise QuantityRefused(str(no_call) if same else f"{no_call} As a field: {no_field}") from no_field
