"""The sensors of AMD GPUs.

Their energy counter is not believed unseen. It stood still on MI100s until a reboot, and was off by far on others
(ROCm/amdsmi issues 22 and 38), so it must move as the card's own power says, within a factor of ten, or power is
integrated instead. The second die of an MI250 shows no power at all: the first one's counter is that of the whole card.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, final

from profiler.errors import SensorError
from profiler.measure.sensors.amd_device import AmdDevice, list_amd
from profiler.measure.sensors.base import EnergyCounter, GaugeReading, Meter, Probe
from profiler.measure.sensors.integrated import IntegratedPower
from profiler.records import Source
from profiler.units import FRACTION_PER_PERCENT, HZ_PER_MEGAHERTZ, J_PER_MICROJOULE

CHECK_S = 0.2
"""Seconds over which the counter is held against the power at the start."""

SLOW_PERIOD_S = 1.0
_DRIVER = "the library for amd"

_UPDATE_PERIOD_S = 0.01
"""A guess: the kernel's copy is at most 1 ms old (amdgpu, `smu_cmn_get_metrics_table`); the firmware's is not told."""

_GAIN_ERROR = 0.10
_GAIN_SOURCE = "a cautious figure: AMD publishes no accuracy of the counter or of the power it is made of"
_MICRO = J_PER_MICROJOULE  # a microwatt likewise


Question = Callable[[AmdDevice], float]


def _temperature_c(gpu: AmdDevice) -> float:
    kind, metric = gpu.smi.AmdSmiTemperatureType.HOTSPOT, gpu.smi.AmdSmiTemperatureMetric.CURRENT
    told = gpu.number("amdsmi_get_temp_metric", "temperature", kind, metric)
    return told / 1000.0 if told >= 1000.0 else told  # no GPU is at 1000 degrees, nor at one


_FAST: Mapping[str, Question] = {
    "power_w": lambda gpu: gpu.number("amdsmi_get_power_info", "current_socket_power"),
    "average_power_w": lambda gpu: gpu.number("amdsmi_get_power_info", "average_socket_power"),
    "utilization": lambda gpu: gpu.number("amdsmi_get_gpu_activity", "gfx_activity") * FRACTION_PER_PERCENT,
    "dram_activity": lambda gpu: gpu.number("amdsmi_get_gpu_activity", "umc_activity") * FRACTION_PER_PERCENT,
}
_SLOW: Mapping[str, Question] = {
    "memory_used_bytes": lambda gpu: int(
        gpu.number("amdsmi_get_gpu_memory_usage", "bytes", gpu.smi.AmdSmiMemoryType.VRAM)
    ),
    "temperature_c": _temperature_c,
    "sm_clock_hz": lambda gpu: (
        gpu.number("amdsmi_get_clock_info", "clk", gpu.smi.AmdSmiClkType.GFX) * HZ_PER_MEGAHERTZ
    ),
    "power_limit_w": lambda gpu: gpu.number("amdsmi_get_power_cap_info", "power_cap") * _MICRO,
}


@final
class AmdGauge:
    """The momentary values of one AMD GPU: power and activity every time, the rest once a second, as for NVIDIA's."""

    def __init__(self, device: AmdDevice, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read `device`; what it does not give now is not asked for again."""
        self._device = device
        self._clock = clock
        self._slow_at_s = -SLOW_PERIOD_S
        answers = _answers(device, {**_FAST, **_SLOW})
        self._fast = {name: ask for name, ask in _FAST.items() if name in answers}
        self._slow = {name: ask for name, ask in _SLOW.items() if name in answers}

    def read(self) -> GaugeReading:
        """What the GPU says now; what it refuses is None.

        Raises:
            SensorError: It gives nothing of what it gave at the start.
        """
        asked = self._fast
        if self._clock() - self._slow_at_s >= SLOW_PERIOD_S:
            self._slow_at_s = self._clock()
            asked = {**self._fast, **self._slow}
        answers = _answers(self._device, asked)
        if asked and not answers:
            raise SensorError(f"{self._device.uuid} does not answer any more.")
        return GaugeReading(**answers)


def _answers(device: AmdDevice, asked: Mapping[str, Question]) -> dict[str, Any]:
    answers = {}
    for name, ask in asked.items():
        with suppress(SensorError):
            answers[name] = ask(device)
    return answers


@final
class AmdEnergy:
    """The GPU's own energy counter: joules since the driver was loaded."""

    def __init__(self, device: AmdDevice, meter: Meter) -> None:
        """Read `device`, described by `meter`."""
        self._device = device
        self._meter = meter

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Joules since the driver was loaded.

        Raises:
            SensorError: The GPU refused.
        """
        return self._device.energy_j()


def open_amd(
    binding: Any,
    choose: Callable[[Sequence[str]], Sequence[str]],
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> tuple[tuple[Probe, ...], tuple[str, ...], Callable[[], None]]:
    """The sensors of the chosen GPUs, a sentence for each that has none, and how to let go of them.

    Args:
        binding: From `load_amdsmi`.
        choose: Of all GPUs, in HIP's order, those to be measured.
        clock: Monotonic seconds.
        wait: Lets seconds pass while counters are checked.

    Raises:
        SensorError: The library refused to start.
    """
    with ExitStack() as undo:
        try:
            binding.amdsmi_init(binding.AmdSmiInitFlags.INIT_AMD_GPUS)
            undo.callback(_shut_down, binding)
            devices = list_amd(binding)
        except (binding.AmdSmiException, OSError) as error:
            said = " ".join(str(error).split())
            raise SensorError(f"amdsmi did not start ({said}), so AMD GPUs are not measured.") from error
        chosen = choose([device.uuid for device in devices])
        probes, reasons = _open_all([device for device in devices if device.uuid in chosen], clock, wait)
        return probes, reasons, undo.pop_all().close


def _shut_down(binding: Any) -> None:
    with suppress(binding.AmdSmiException, OSError):
        binding.amdsmi_shut_down()


def _open_all(
    devices: Sequence[AmdDevice], clock: Callable[[], float], wait: Callable[[float], None]
) -> tuple[tuple[Probe, ...], tuple[str, ...]]:
    """The probe of each, its counter only where it moves as the power says; all are checked in the same moment."""
    before = [_energy_or_none(device) for device in devices]
    start_s = clock()
    wait(CHECK_S if devices else 0.0)
    probes, reasons = [], []
    for device, start_j in zip(devices, before, strict=True):
        try:
            doubt = _doubt(device, start_j, clock() - start_s)
            probes.append(_probe(device, doubt, clock))
        except SensorError as refusal:
            reasons.append(f"{refusal} This GPU is not measured.")
        else:
            reasons.extend([] if doubt is None else [f"{doubt} Its power is integrated instead."])
    return tuple(probes), tuple(reasons)


def _energy_or_none(device: AmdDevice) -> float | None:
    try:
        return device.energy_j()
    except SensorError:
        return None


def _doubt(device: AmdDevice, start_j: float | None, seconds: float) -> str | None:
    """Why the counter is not to be believed; None if it moved as the power says, or there is no power to hold against.

    Raises:
        SensorError: It has neither counter nor power.
    """
    moved_j = 0.0 if start_j is None else device.energy_j() - start_j
    try:
        expected_j = device.power_w() * seconds
    except SensorError:
        if moved_j > 0.0:
            return None
        raise
    if expected_j <= 0.0 and moved_j <= 0.0:
        raise SensorError(
            f"{device.uuid} shows neither power nor energy, as the second die of a card does whose first shows both's."
        )
    if start_j is None:
        return f"{device.uuid} has no energy counter."
    if 0.1 * expected_j < moved_j < 10.0 * expected_j:
        return None
    return f"The energy counter of {device.uuid} moved by {moved_j:.3g} J where its power says {expected_j:.3g} J."


def _probe(device: AmdDevice, doubt: str | None, clock: Callable[[], float]) -> Probe:
    gauge = AmdGauge(device, clock=clock)
    if doubt is None:
        return Probe(counter=AmdEnergy(device, _meter(device, "counter")), gauge=gauge, driver=_DRIVER)
    counter: EnergyCounter = IntegratedPower(_meter(device, "integrated"), device.power_w, clock=clock)
    return Probe(counter=counter, gauge=gauge, driver=_DRIVER)


def _meter(device: AmdDevice, source: Source) -> Meter:
    name, limit_w = "AMD GPU of unknown name", None
    with suppress(SensorError):
        name = str(device.ask("amdsmi_get_gpu_asic_info")["market_name"])
    with suppress(SensorError):
        limit_w = device.number("amdsmi_get_power_cap_info", "max_power_cap") * _MICRO
    return Meter(
        component="gpu",
        device=device.uuid,
        name=name,
        source=source,
        update_period_s=_UPDATE_PERIOD_S,
        relative_uncertainty=_GAIN_ERROR,
        uncertainty_source=_GAIN_SOURCE,
        power_max_w=limit_w or None,
        notes=("of the whole card, if it holds two GPUs (MI250)",) if "MI250" in name else (),
    )
