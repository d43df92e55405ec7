"""GPUs for the fake NVML library, and what tests of its sensors have in common."""

from __future__ import annotations

import pynvml
from fake_nvml.build import FakeNvml

from profiler.measure.sensors.nvml import GpuProbes, open_gpus
from profiler.measure.sensors.nvml_gauge import NvmlGauge

FUTURE_CODE = 77
"""No NVML of today returns it."""

ALL_CODES = sorted(
    {
        value
        for name, value in vars(pynvml).items()
        if name.startswith("NVML_ERROR_") and isinstance(value, int)
    }
    | {FUTURE_CODE}
)
GONE = [1, 6, 9, 15, 16, 18, 28]
"""After these the device is looked up anew."""

ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
FIELDS = "nvmlDeviceGetFieldValues"
USAGE = "nvmlDeviceGetPowerUsage"
SLOW_CALLS = {
    "utilization": "nvmlDeviceGetUtilizationRates",
    "memory_used_bytes": "nvmlDeviceGetMemoryInfo",
    "temperature_c": "nvmlDeviceGetTemperature",
    "sm_clock_hz": "nvmlDeviceGetClockInfo",
    "power_limit_w": "nvmlDeviceGetEnforcedPowerLimit",
    "throttle_reasons": "nvmlDeviceGetCurrentClocksEventReasons",
}
GPM_METRICS = {
    "sm_activity": 2,
    "sm_occupancy": 3,
    "tensor_activity": 5,
    "dram_activity": 10,
    "pcie_sent_bytes_per_s": 20,
    "pcie_received_bytes_per_s": 21,
    "nvlink_received_bytes_per_s": 60,
    "nvlink_sent_bytes_per_s": 61,
}


def monitors(gpu: int, value: float = 50.0) -> str:
    """Lines that give a GPU performance monitors, all at `value` (percent or MiB/s)."""
    return "\n".join(f"gpm {gpu} {metric} 0 {value}" for metric in GPM_METRICS.values())


ONE_GPU = f"""
    gpu GPU-aaaa NVIDIA H100 80GB HBM3
    power 0 0 250
    {monitors(0)}
"""
TWO_GPUS = f"""
    gpu GPU-aaaa NVIDIA H100 80GB HBM3
    power 0 0 100
    wave 0 500 0.5 0.4 0.05
    {monitors(0)}
    gpu GPU-bbbb NVIDIA A100-SXM4-80GB
    power 1 0 60
    power 1 3 300
    offset 1 12345
    {monitors(1)}
"""


def opened(fake: FakeNvml, *uuids: str) -> GpuProbes:
    return open_gpus(uuids or ["GPU-aaaa"], clock=fake.time)


def gauge_of(probes: GpuProbes, index: int = 0) -> NvmlGauge:
    gauge = probes.probes[index].gauge
    assert isinstance(gauge, NvmlGauge)
    return gauge
