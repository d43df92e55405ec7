"""How the energy counter and the powers move, and what it costs to ask, on an idle and on a busy GPU."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pynvml

from gpu_checks.bench import Bench, quantiles

POWER_FIELDS = {"average": pynvml.NVML_FI_DEV_POWER_AVERAGE, "instant": pynvml.NVML_FI_DEV_POWER_INSTANT}


def steps_and_costs(bench: Bench) -> dict[str, Any]:
    """`steps`: how often and by how much each quantity changes; `cost_us`: microseconds a call."""
    idle = _observe(bench)
    with bench.load.in_background():
        time.sleep(bench.seconds(1.0))
        busy = _observe(bench)
    return {"idle": idle, "busy": busy}


def _observe(bench: Bench) -> dict[str, Any]:
    watched = {
        "energy_mj": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(bench.handle),
        **{f"power_{name}_mw": _field(bench, field) for name, field in POWER_FIELDS.items()},
    }
    steps = {name: _steps(read, bench.seconds(5.0)) for name, read in watched.items()}
    return {
        "steps": steps,
        "cost_us": {
            name: _cost_us(call, round(bench.seconds(300)) + 5) for name, call in _calls(bench).items()
        },
    }


def _field(bench: Bench, field: int) -> Callable[[], int]:
    return lambda: int(pynvml.nvmlDeviceGetFieldValues(bench.handle, [field])[0].value.uiVal)


def _steps(read: Callable[[], int], seconds: float) -> dict[str, Any]:
    """Intervals between two changes in ms, the sizes of the changes, and the greatest step that divides them all."""
    try:
        last = read()
    except pynvml.NVMLError as error:
        return {"refused": str(error)}
    moments, sizes, reads, start = [], [], 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        value, reads = read(), reads + 1
        if value != last:
            moments.append(time.perf_counter())
            sizes.append(abs(value - last))
            last = value
        time.sleep(0.0002)
    histogram, edges = np.histogram(
        1e3 * np.diff(moments), bins=[0, 5, 15, 25, 45, 55, 95, 105, 150, 250, 2e3]
    )
    return {
        "reads": reads,
        "interval_ms": quantiles(np.diff(moments), 1e3),
        "size": quantiles(sizes),
        "resolution": math.gcd(*sizes) if sizes else None,
        "histogram_ms": {f"{a:g}-{b:g}": int(n) for a, b, n in zip(edges, edges[1:], histogram, strict=False) if n},
    }  # fmt: skip


def _calls(bench: Bench) -> Mapping[str, Callable[[], Any]]:
    gpu = bench.handle
    three = [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, *POWER_FIELDS.values()]
    return {
        "total energy": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu),
        "power usage": lambda: pynvml.nvmlDeviceGetPowerUsage(gpu),
        "three fields": lambda: pynvml.nvmlDeviceGetFieldValues(gpu, three),
        "utilization": lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu),
        "memory": lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu),
        "temperature": lambda: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
        "SM clock": lambda: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
        "power limit": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
        "event reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu),
        "process list": lambda: pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu),
        "a round of joulescale": lambda: (bench.probe.counter.read(), bench.probe.gauge.read()),  # type: ignore[union-attr]
        "getpid, for scale": os.getpid,
    }


def _cost_us(call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        try:
            call()
        except pynvml.NVMLError as error:
            return {"refused": str(error)}
        took.append(time.perf_counter() - start)
        if sum(took) > 2.0:
            break
    return quantiles(took, 1e6)
