"""What every check needs: the GPU's sensors, a load on it, and how long to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pynvml
import torch

from profiler.errors import SensorError
from profiler.measure.sensors.base import Probe
from profiler.measure.sensors.nvml import GpuProbes, list_gpus, open_gpus

Handle = Any


class Load:
    """Matrix products of one size, launched in groups of about 20 ms so that the queue stays short."""

    def __init__(self, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.device, self.size = device, 8192 if cuda else 256
        self.dtype = torch.bfloat16 if cuda else torch.float32
        own = torch.Generator(device).manual_seed(0)
        self._left = torch.randn(self.size, self.size, generator=own, device=device).to(self.dtype)
        self._out = torch.empty_like(self._left)
        self.product_s = self._calibrate()

    def launch(self, products: int) -> None:
        """Queue so many products; returns at once on CUDA."""
        for _ in range(products):
            torch.mm(self._left, self._left, out=self._out)

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run(self, seconds: float) -> float:
        """Keep the device busy; returns the FLOP/s reached."""
        group, done = max(round(0.02 / self.product_s), 1), 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            self.launch(group)
            self.wait()
            done += group
        return done * 2.0 * self.size**3 / (time.perf_counter() - start)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Busy while the block runs: torch lets go of the interpreter while it waits for the device."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                self.run(0.05)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _calibrate(self) -> float:
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            self.launch(20)
            self.wait()
            took_s = time.perf_counter() - start
        return took_s / 20


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One GPU under test."""

    probes: GpuProbes
    handle: Handle
    load: Load
    device: torch.device
    scale: float

    @classmethod
    def open(cls, index: int, device: torch.device, scale: float) -> Bench:
        """The GPU at NVML's `index`."""
        uuid = list_gpus()[index].uuid
        probes = open_gpus([uuid])
        return cls(
            probes=probes,
            handle=pynvml.nvmlDeviceGetHandleByUUID(uuid),
            load=Load(device),
            device=device,
            scale=scale,
        )

    @property
    def probe(self) -> Probe:
        """The sensors of the GPU, as joulescale opens them."""
        return self.probes.probes[0]

    def seconds(self, wanted: float) -> float:
        """A duration, shorter in a rehearsal."""
        return wanted * self.scale

    def facts(self) -> dict[str, Any]:
        """What the GPU is."""
        meter = self.probe.counter.meter
        return {
            "name": meter.name,
            "torch_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "none",
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "source": meter.source,
            "scope": meter.scope,
            "power_max_w": meter.power_max_w,
            "product": f"{self.load.size}^3 {self.load.dtype}, {1e3 * self.load.product_s:.3f} ms",
            "missing": list(self.probes.reasons),
        }

    def poll(self, seconds: float, period_s: float) -> pl.DataFrame:
        """Readings of the counter and of the powers, as the sampler takes them: `time_s, energy_j, power_w, ...`."""
        rows, start = [], time.monotonic()
        while (now := time.monotonic()) - start < seconds:
            reading = {"time_s": now, "energy_j": _or_none(self.probe.counter.read)}
            gauge = _or_none(self.probe.gauge.read) if self.probe.gauge else None
            for name in ("power_w", "average_power_w", "sm_activity", "tensor_activity", "dram_activity"):
                reading[name] = getattr(gauge, name, None)
            rows.append(reading)
            time.sleep(max(period_s - (time.monotonic() - now), 0.0))
        return pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.Float64))

    def close(self) -> None:
        """Let go of NVML."""
        self.probes.close()


def _or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except SensorError:
        return None


def quantiles(values: Any, factor: float = 1.0) -> dict[str, float | None]:
    """p5, p50 and p95 of some numbers, and how many there are."""
    array = np.asarray(values, dtype=np.float64) * factor
    if not len(array):
        return {"n": 0, "p5": None, "p50": None, "p95": None}
    p5, p50, p95 = (float(q) for q in np.quantile(array, [0.05, 0.5, 0.95]))
    return {"n": len(array), "p5": p5, "p50": p50, "p95": p95}
