"""The momentary values of one NVIDIA GPU: powers in one batched call, slow quantities once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import pynvml

from profiler.errors import SensorError
from profiler.measure.sensors.base import GaugeReading
from profiler.measure.sensors.nvml_device import Handle, NvmlDevice, QuantityRefused
from profiler.units import FRACTION_PER_PERCENT, HZ_PER_MEGAHERTZ, W_PER_MILLIWATT

_POWER_FIELDS: Mapping[str, int] = {
    "power_w": pynvml.NVML_FI_DEV_POWER_INSTANT,
    "average_power_w": pynvml.NVML_FI_DEV_POWER_AVERAGE,
}
_UNION_MEMBERS: Mapping[int, str] = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
}
_NOT_AVAILABLE = frozenset({-1, 2**32 - 1, 2**64 - 1})  # NVML_VALUE_NOT_AVAILABLE in each integer type


def _event_reasons(handle: Handle) -> int:
    """The reasons mask, by its name of today or, on older drivers, by that before CUDA 12.2."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


_FAST: Mapping[str, Callable[[Handle], float]] = {
    "utilization": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu * FRACTION_PER_PERCENT,
}
_SLOW: Mapping[str, Callable[[Handle], float]] = {
    "memory_used_bytes": lambda gpu: int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
    "temperature_c": lambda gpu: float(
        pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    ),
    "sm_clock_hz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) * HZ_PER_MEGAHERTZ,
    "power_limit_w": lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) * W_PER_MILLIWATT,
    "throttle_reasons": _event_reasons,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What one round of questions brought: values in SI, and a sentence for each that stays null."""

    values: dict[str, Any] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def ask(self, device: NvmlDevice, quantity: str, call: Callable[[Handle], float]) -> None:
        try:
            self.values[quantity] = device.ask(quantity, call)
            self.refusals.pop(quantity, None)
        except QuantityRefused as refusal:
            self.refusals[quantity] = str(refusal)

    def ask_power(self, device: NvmlDevice) -> None:
        """Both powers by one batched call; by the older call when the driver knows neither field.

        `nvmlDeviceGetPowerUsage` is a mean over the last second on Ampere (except GA100) and newer, where
        field 185 exists too. On GA100 and older it is instantaneous: so it does not stand in for a missing
        field 185 where field 186 answers.
        """
        try:
            fields = device.ask(
                "power", lambda gpu: pynvml.nvmlDeviceGetFieldValues(gpu, [*_POWER_FIELDS.values()])
            )
        except QuantityRefused as refusal:
            self.refusals.update(dict.fromkeys(_POWER_FIELDS, str(refusal)))
        else:
            for quantity, value in zip(_POWER_FIELDS, fields, strict=True):
                self.ask(device, quantity, partial(_field_watts, value))
        if not self.values.keys() & _POWER_FIELDS.keys():
            self.ask(device, "average_power_w", _usage_watts)


def _field_watts(value: Any, _: Handle) -> float:
    """The watts in one field of a batched answer, whose success and type are its own."""
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(value.nvmlReturn)
    member = _UNION_MEMBERS.get(value.valueType)
    if member is None:
        raise QuantityRefused(f"NVML gave field {value.fieldId} in the unknown type {value.valueType}.")
    milliwatts = getattr(value.value, member)
    if milliwatts in _NOT_AVAILABLE:
        raise QuantityRefused(f"NVML gave field {value.fieldId} as 'not available'.")
    return float(milliwatts * W_PER_MILLIWATT)


def _usage_watts(gpu: Handle) -> float:
    return float(pynvml.nvmlDeviceGetPowerUsage(gpu) * W_PER_MILLIWATT)


@final
class NvmlGauge:
    """The momentary values of one GPU: power and utilization every time, the rest once a second.

    `memory_used_bytes` is everybody's on that GPU, and what the driver keeps for itself. Between two
    refreshes the slow quantities are None, not repeated: they cost more, and NVML takes a driver-wide lock.
    """

    def __init__(
        self, device: NvmlDevice, *, clock: Callable[[], float] = time.monotonic, slow_period_s: float = 1.0
    ) -> None:
        """Read `device`, its slow quantities at most every `slow_period_s` seconds of `clock`."""
        self._device = device
        self._clock = clock
        self._slow_period_s = slow_period_s
        self._slow_at_s: float | None = None
        self._slow_answered = False

    def read(self) -> GaugeReading:
        """What the GPU says now; what it refuses is None.

        Raises:
            SensorError: The GPU is gone, or gives none of its quantities.
        """
        answers = self._fast()
        if self._slow_is_due():
            self._slow_answered = False
            slow = self._slow()
            self._slow_answered = bool(slow.values)
            answers.values.update(slow.values)
        if not answers.values and not self._slow_answered:
            raise SensorError(next(iter(answers.refusals.values())))
        return GaugeReading(**answers.values)

    def refusals(self) -> Mapping[str, str]:
        """Ask everything once, whatever the time, and tell what the GPU does not give: quantity to reason.

        Raises:
            SensorError: The GPU is gone.
        """
        return self._fast().refusals | self._slow().refusals

    def power(self) -> float:
        """Watts now; the mean of the last second where the GPU gives nothing better.

        Raises:
            SensorError: The GPU gives neither, or is gone.
        """
        answers = _Answers()
        answers.ask_power(self._device)
        for quantity in _POWER_FIELDS:
            if quantity in answers.values:
                return float(answers.values[quantity])
        raise QuantityRefused(answers.refusals["average_power_w"])

    def _slow_is_due(self) -> bool:
        now_s = self._clock()
        if self._slow_at_s is not None and now_s - self._slow_at_s < self._slow_period_s:
            return False
        self._slow_at_s = now_s
        return True

    def _fast(self) -> _Answers:
        answers = _Answers()
        answers.ask_power(self._device)
        for quantity, call in _FAST.items():
            answers.ask(self._device, quantity, call)
        return answers

    def _slow(self) -> _Answers:
        answers = _Answers()
        for quantity, call in _SLOW.items():
            answers.ask(self._device, quantity, call)
        return answers
