"""Energy and both powers of one GPU at one instant: one batched call, whose answer counter and gauge share.

`nvmlDeviceGetPowerUsage` is a mean over the last second on Ampere (except GA100) and newer, and instantaneous on
older ones. The fields 186 (instantaneous) and 185 (mean) mean the same everywhere, so they are asked first.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import pynvml

from profiler.errors import SensorError
from profiler.measure.sensors.base import GaugeReading
from profiler.measure.sensors.nvml_device import Handle, NvmlDevice, QuantityRefused
from profiler.measure.sensors.nvml_limits import MOST, unbelievable
from profiler.units import J_PER_MILLIJOULE, W_PER_MILLIWATT

FRESH_S = 0.05
"""An answer older than this belongs to an earlier round and is not shared any more."""

PROCESSOR_LEAST_W = 10.0
"""A module draws at least this much more than its GPU: an idle Grace processor and its memory draw tens of watts."""

POWERS = ("power_w", "average_power_w")

_ENERGY = pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
_INSTANT, _MEAN = pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE
_GPU, _MODULE = pynvml.NVML_POWER_SCOPE_GPU, pynvml.NVML_POWER_SCOPE_MODULE

_FIELD = "24xiI8s"
"""Of `nvmlFieldValue_t`: the type of the value, NVML's code, and the value's eight bytes."""

_VALUE: Mapping[int, struct.Struct] = {
    pynvml.NVML_VALUE_TYPE_DOUBLE: struct.Struct("d"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: struct.Struct("I"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: struct.Struct("L"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: struct.Struct("Q"),
    pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: struct.Struct("q"),
    pynvml.NVML_VALUE_TYPE_SIGNED_INT: struct.Struct("i"),
    pynvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: struct.Struct("H"),
}
_NOT_AVAILABLE = frozenset({-1, 2**32 - 1, 2**64 - 1})  # NVML_VALUE_NOT_AVAILABLE in each integer type


class FieldAnswer(NamedTuple):
    """What one batched call brought: values in SI, and a sentence for each that stays null."""

    time_s: float
    values: Mapping[str, float]
    refusals: Mapping[str, str]

    @property
    def powers(self) -> GaugeReading:
        """Both powers, None where it was not given."""
        return GaugeReading(self.values.get("power_w"), self.values.get("average_power_w"))

    def value(self, quantity: str) -> float:
        """One of them.

        Raises:
            QuantityRefused: NVML did not give it.
        """
        if quantity not in self.values:
            raise QuantityRefused(self.refusals[quantity])
        return self.values[quantity]

    def power(self) -> float:
        """Watts now; the mean of the last second where the GPU gives nothing better.

        Raises:
            QuantityRefused: It gives neither.
        """
        return self.value("power_w" if "power_w" in self.values else "average_power_w")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerScopes:
    """Whose power a GPU's fields tell: its own, or that of the module it shares with a processor.

    On Grace-Hopper the energy counter was seen to be the whole module's (ml-energy/zeus#172); where a module tells its
    own power, the counter is therefore not taken for the GPU's.
    """

    of_gpu: bool
    of_module: bool

    @property
    def is_only_module(self) -> bool:
        """Whether everything told is of the whole module."""
        return self.of_module and not self.of_gpu

    @property
    def has_both(self) -> bool:
        """Whether there are powers of both, and a counter of which it is not known whose it is."""
        return self.of_module and self.of_gpu


def find_power_scopes(device: NvmlDevice) -> PowerScopes:
    """Ask for both, once. A module that tells no more than its GPU is none.

    Raises:
        SensorError: The GPU is gone.
    """
    gpu_w, _ = ask_fields(device, FieldBatch(_power_fields(_GPU)))
    try:
        module_w, _ = ask_fields(device, FieldBatch(_power_fields(_MODULE)))
    except SensorError:  # a driver may call a scope that it does not know "not found"
        module_w = {}
    beyond_w = {power: watts - gpu_w.get(power, 0.0) for power, watts in module_w.items()}
    return PowerScopes(
        of_gpu=bool(gpu_w), of_module=bool(beyond_w) and min(beyond_w.values()) >= PROCESSOR_LEAST_W
    )


@final
class NvmlFields:
    """Asks one GPU for its energy and powers; every reader sees each answer once."""

    def __init__(self, device: NvmlDevice, *, clock: Callable[[], float], of_module: bool = False) -> None:
        """Ask `device` for its own powers, or for those of the module it sits on; `clock` is monotonic seconds."""
        self._device = device
        self._clock = clock
        scope = _MODULE if of_module else _GPU
        self._batch = FieldBatch({"energy_j": (_ENERGY, _GPU), **_power_fields(scope)})
        self._has_older_call = not of_module
        self._has_answered = False
        self._answer: FieldAnswer | None = None

    def after(self, used: FieldAnswer | None) -> FieldAnswer:
        """An answer that the caller has not used yet: the one that another reader just got, else a new one.

        Raises:
            SensorError: The GPU is gone.
        """
        kept, self._answer = self._answer, None
        if kept is None or kept is used or self._clock() - kept.time_s > FRESH_S:
            kept = self._ask()
        self._answer = kept
        return kept

    def _ask(self) -> FieldAnswer:
        time_s = self._clock()
        values, refusals = ask_fields(self._device, self._batch)
        if refusals and self._has_older_call and not values.keys() & set(POWERS):
            try:
                values["average_power_w"] = self._device.ask("average_power_w", _usage_watts)
                del refusals["average_power_w"]
            except QuantityRefused as refusal:
                refusals["average_power_w"] = str(refusal)
        if self._has_answered and not values:
            self._device.renew()  # once, whatever the code: after a reload everything may be refused with any
        self._has_answered = bool(values)
        return FieldAnswer(time_s=time_s, values=values, refusals=refusals)


def _power_fields(scope: int) -> dict[str, tuple[int, int]]:
    return {"power_w": (_INSTANT, scope), "average_power_w": (_MEAN, scope)}


def power_reader(fields: NvmlFields) -> Callable[[], float]:
    """A function that tells the watts now, as `FieldAnswer.power` does, never twice from one answer."""
    used: FieldAnswer | None = None

    def power() -> float:
        nonlocal used
        used = fields.after(used)
        return used.power()

    return power


@final
class FieldBatch:
    """Some fields by one call, in a buffer that is filled anew each time.

    pynvml's own function makes a new buffer for every call and reads it through Python, field by field: 15 µs instead
    of 3, eighty times a second on a node of eight GPUs.

    Attributes:
        quantities: Their names, in order.
        scales: What makes each of NVML's thousandths a value in SI.
        most: The most that each can be, in SI.
    """

    def __init__(self, ids: Mapping[str, tuple[int, int]]) -> None:
        """Ask for these fields and scopes, by the name of each quantity."""
        self.quantities = tuple(ids)
        self.scales = [J_PER_MILLIJOULE if name == "energy_j" else W_PER_MILLIWATT for name in ids]
        self.most = [MOST[name] for name in ids]
        self._buffer = (pynvml.c_nvmlFieldValue_t * len(ids))()
        for place, (field, scope) in zip(self._buffer, ids.values(), strict=True):
            place.fieldId, place.scopeId = field, scope
        self._count = ctypes.c_int32(len(ids))
        self._layout = struct.Struct("=" + _FIELD * len(ids))
        self._function: Callable[..., int] | None = None

    def read(self, gpu: Handle) -> tuple[Any, ...]:
        """Type, code and bytes of the first field, of the second, and so on.

        Raises:
            pynvml.NVMLError: The call as a whole was refused.
        """
        if self._function is None:
            self._function = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFieldValues")
        code = self._function(gpu, self._count, self._buffer)
        if code != pynvml.NVML_SUCCESS:
            raise pynvml.NVMLError(code)
        return self._layout.unpack(self._buffer)


def ask_fields(device: NvmlDevice, batch: FieldBatch) -> tuple[dict[str, float], dict[str, str]]:
    """Fields by one batched call: values in SI, and a sentence for each that NVML refused.

    Raises:
        SensorError: The GPU is gone.
    """
    try:
        told = device.ask("energy and power", batch.read)
    except QuantityRefused as refusal:
        return {}, dict.fromkeys(batch.quantities, str(refusal))
    values: dict[str, float] = {}
    refusals: dict[str, str] = {}
    told_apart = zip(
        batch.quantities, batch.scales, batch.most, told[::3], told[1::3], told[2::3], strict=True
    )
    for quantity, scale, most, kind, code, raw in told_apart:
        layout = _VALUE.get(kind)
        if code == pynvml.NVML_SUCCESS and layout is not None:
            number: float = layout.unpack_from(raw)[0]
            if 0.0 <= scale * number <= most and number not in _NOT_AVAILABLE:
                values[quantity] = scale * number
                continue
        refusals[quantity] = _why_refused(device, quantity, scale, kind, code, raw)
    return values, refusals


def _why_refused(device: NvmlDevice, quantity: str, scale: float, kind: int, code: int, raw: bytes) -> str:
    """A sentence for a field that holds no value to believe.

    Raises:
        SensorError: The GPU is gone.
    """
    if code != pynvml.NVML_SUCCESS:
        refusal = device.refusal(quantity, pynvml.NVMLError(code))
        if not isinstance(refusal, QuantityRefused):
            raise refusal
        return str(refusal)
    if kind not in _VALUE:
        return f"NVML gave {quantity} of {device.uuid} in the unknown type {kind}."
    number: float = _VALUE[kind].unpack_from(raw)[0]
    if number in _NOT_AVAILABLE:
        return f"NVML gave {quantity} of {device.uuid} as 'not available'."
    return unbelievable(device.uuid, quantity, scale * number)


def _usage_watts(gpu: Handle) -> float:
    return float(pynvml.nvmlDeviceGetPowerUsage(gpu) * W_PER_MILLIWATT)
