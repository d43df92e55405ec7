"""What no GPU can reach: a value beyond it is a misread, and is refused rather than stored."""

from __future__ import annotations

from collections.abc import Mapping

from profiler.measure.sensors.nvml_device import QuantityRefused

MOST_W = 20_000.0
"""No board draws this much: a Grace-Blackwell module, the largest, is sold with 2,900 W."""

_YEARS_20_S = 20 * 365 * 24 * 3600
_SHARE = 1.001  # NVML's percentages are rounded
_BYTES_PER_S = 1e14  # fifty times the fastest NVLink

MOST: Mapping[str, float] = {
    "energy_j": MOST_W * _YEARS_20_S,
    "power_w": MOST_W,
    "average_power_w": MOST_W,
    "power_limit_w": MOST_W,
    "power_max_w": MOST_W,
    "utilization": _SHARE,
    "sm_activity": _SHARE,
    "sm_occupancy": _SHARE,
    "tensor_activity": _SHARE,
    "dram_activity": _SHARE,
    "pcie_sent_bytes_per_s": _BYTES_PER_S,
    "pcie_received_bytes_per_s": _BYTES_PER_S,
    "nvlink_sent_bytes_per_s": _BYTES_PER_S,
    "nvlink_received_bytes_per_s": _BYTES_PER_S,
    "memory_used_bytes": 1e15,
    "temperature_c": 250.0,
    "sm_clock_hz": 2e10,
    "throttle_reasons": 2.0**63,  # a mask, which is stored as a signed integer
}
"""The most that each quantity can be, in SI."""


def believable(uuid: str, quantity: str, value: float) -> float:
    """The value, if it can be true at all.

    Raises:
        QuantityRefused: It is negative, not a number, or more than any GPU can reach.
    """
    if not 0.0 <= value <= MOST[quantity]:
        raise QuantityRefused(unbelievable(uuid, quantity, value))
    return value


def unbelievable(uuid: str, quantity: str, value: float) -> str:
    """Why a value is refused."""
    return f"NVML gave {quantity} of {uuid} as {value:g}, which no GPU can reach."
