"""The momentary values of one NVIDIA GPU: powers with the counter's own answer, the others every second or less."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import pynvml

from profiler.errors import SensorError
from profiler.measure.sensors.base import GaugeReading
from profiler.measure.sensors.nvml_device import Handle, NvmlDevice, QuantityRefused
from profiler.measure.sensors.nvml_fields import POWERS, FieldAnswer, NvmlFields
from profiler.measure.sensors.nvml_gpm import GPM, NvmlGpm
from profiler.measure.sensors.nvml_limits import believable
from profiler.measure.sensors.pace import Pace
from profiler.units import FRACTION_PER_PERCENT, HZ_PER_MEGAHERTZ, W_PER_MILLIWATT

NOTICEABLE_S = 0.2
"""A call made less often than this, because it is slow, is worth a word."""

Answers = tuple[dict[str, Any], dict[str, str]]
"""Values in SI, and a sentence for each quantity that stays null."""


def _event_reasons(handle: Handle) -> int:
    """The reasons mask, by its name of today or, on older drivers, by that before CUDA 12.2."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


_CALLS: Mapping[str, Callable[[Handle], float]] = {
    "utilization": lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu * FRACTION_PER_PERCENT,
    "memory_used_bytes": lambda gpu: int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
    "temperature_c": lambda gpu: float(
        pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    ),
    "sm_clock_hz": lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) * HZ_PER_MEGAHERTZ,
    "power_limit_w": lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) * W_PER_MILLIWATT,
    "throttle_reasons": _event_reasons,
}

PERIODS_S: Mapping[str, float] = {
    "utilization": 1.0,  # the driver's own window is 1/6 to 1 s, by product
    "sm_clock_hz": 4.0,
    "throttle_reasons": 4.0,
    "memory_used_bytes": 5.0,
    "temperature_c": 5.0,
    "power_limit_w": 5.0,
    GPM: 4.0,  # two calls, for means over all of the time between them
}
"""How often each is asked. Eight GPUs at 10 Hz whose every call takes 50 µs are read in 1 % of a core so."""


@final
class NvmlGauge:
    """The momentary values of one GPU: power every time, the rest as `PERIODS_S` says.

    `memory_used_bytes` is everybody's on that GPU, and what the driver keeps for itself. Between two
    refreshes the others are None, not repeated: each is a call, and NVML takes a driver-wide lock.
    A call that turns out slow is made less often still, and that is said.
    """

    def __init__(
        self,
        device: NvmlDevice,
        fields: NvmlFields,
        gpm: NvmlGpm | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read `device`, its powers from `fields`; `clock` is monotonic seconds."""
        self._device = device
        self._fields = fields
        self._used: FieldAnswer | None = None
        self._clock = clock
        calls = {q: self._single(q, call) for q, call in _CALLS.items()}
        self._calls: dict[str, Callable[[], Answers]] = calls | ({GPM: gpm.read} if gpm else {})
        self._paces = {quantity: Pace(PERIODS_S[quantity]) for quantity in self._calls}
        self._due_s = -math.inf
        self._refusals: dict[str, str] = {}
        self._slowed: set[str] = set()
        self._power_limit_w: float | None = None

    def read(self) -> GaugeReading:
        """What the GPU says now; what it refuses is None.

        Raises:
            SensorError: The GPU is gone, or gives none of its quantities.
        """
        used = self._used = self._fields.after(self._used)
        is_due = self._clock() >= self._due_s
        if not is_due and not self._refusals and not used.refusals:
            return used.powers  # nine rounds of ten
        refused_before, news = tuple(self._refusals), {}
        values = self._powers(used)
        if is_due:
            values |= self._due_values()
            news = self._slowness() | self._limit_change(values)
        if self._refusals:
            news |= {q: sentence for q, sentence in self._refusals.items() if q not in refused_before}
            if self._refusals.keys() >= {*POWERS, *self._calls}:
                raise SensorError(next(iter(self._refusals.values())))
        return GaugeReading(**values, news=news)

    def refusals(self) -> Mapping[str, str]:
        """Ask everything once, whatever the time, and tell what the GPU does not give: quantity to reason.

        Raises:
            SensorError: The GPU is gone.
        """
        self._used = self._fields.after(self._used)
        self._powers(self._used)
        for quantity, call in self._calls.items():
            self._asked(quantity, call)
        return dict(self._refusals)

    def _single(self, quantity: str, call: Callable[[Handle], float]) -> Callable[[], Answers]:
        def ask() -> Answers:
            value = self._device.ask(quantity, call)
            believable(self._device.uuid, quantity, value)
            return {quantity: value}, {}

        return ask

    def _powers(self, answer: FieldAnswer) -> dict[str, Any]:
        values, refusals = answer.values, answer.refusals
        return self._kept(
            ({q: values[q] for q in POWERS if q in values}, {q: refusals[q] for q in POWERS if q in refusals})
        )

    def _due_values(self) -> dict[str, Any]:
        """Of the quantities whose time has come."""
        now_s, values = self._clock(), dict[str, Any]()
        for quantity, call in self._calls.items():
            if self._paces[quantity].due_s <= now_s:
                values |= self._paced(quantity, call)
        self._due_s = min(pace.due_s for pace in self._paces.values())
        return values

    def _paced(self, quantity: str, call: Callable[[], Answers]) -> dict[str, Any]:
        start_s = self._clock()
        values = self._asked(quantity, call)
        self._paces[quantity].made(start_s, self._clock() - start_s)
        return values

    def _asked(self, quantity: str, call: Callable[[], Answers]) -> dict[str, Any]:
        try:
            answers = call()
        except QuantityRefused as refusal:
            self._refusals[quantity] = str(refusal)
            return {}
        self._refusals.pop(quantity, None)
        return self._kept(answers)

    def _kept(self, answers: Answers) -> dict[str, Any]:
        """The values; what was refused is remembered until it is given again."""
        values, refusals = answers
        for quantity in values:
            self._refusals.pop(quantity, None)
        self._refusals |= refusals
        return values

    def _slowness(self) -> dict[str, str]:
        """A sentence for each call that was found to be slow now."""
        news = {}
        for quantity, pace in self._paces.items():
            if pace.is_slowed and pace.interval_s > NOTICEABLE_S and quantity not in self._slowed:
                self._slowed.add(quantity)
                news[f"pace of {quantity}"] = (
                    f"NVML is slow to give {quantity} of {self._device.uuid}: it is asked every "
                    f"{pace.interval_s:.1f} s or less often, so that it takes at most a hundredth of the time."
                )
        return news

    def _limit_change(self, values: Mapping[str, Any]) -> dict[str, str]:
        before_w, now_w = self._power_limit_w, values.get("power_limit_w")
        self._power_limit_w = before_w if now_w is None else now_w
        if before_w is None or now_w is None or before_w == now_w:
            return {}
        return {
            "power limit": f"The power limit of {self._device.uuid} went from {before_w:g} W to {now_w:g} W."
        }
