"""What a GPU really does, from its own performance monitors (GPM): Hopper and newer.

`utilization` says only that some kernel ran; these say how many of its parts worked. Two samples of the monitors
make one reading, of the time between them. An unprivileged container may lose the permission in the middle of a run
(NVIDIA/DCGM#214): the quantities are then null, and nothing takes their place.

Source: NVML API reference, "GPM Structs" and "GPM Functions"; percentages and MiB/s there, fractions and bytes/s here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, final

import pynvml

from profiler.errors import SensorError
from profiler.measure.sensors.nvml_device import NvmlDevice, QuantityRefused
from profiler.measure.sensors.nvml_limits import believable
from profiler.units import BYTES_PER_MIB, FRACTION_PER_PERCENT

MIN_WINDOW_S = 0.5
"""Over less than this, the monitors have hardly counted."""

GPM = "activity of SMs, tensor pipes and DRAM, PCIe and NVLink traffic (GPM)"

_METRICS: Mapping[str, tuple[int, float]] = {
    "sm_activity": (pynvml.NVML_GPM_METRIC_SM_UTIL, FRACTION_PER_PERCENT),
    "sm_occupancy": (pynvml.NVML_GPM_METRIC_SM_OCCUPANCY, FRACTION_PER_PERCENT),
    "tensor_activity": (pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL, FRACTION_PER_PERCENT),
    "dram_activity": (pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL, FRACTION_PER_PERCENT),
    "pcie_sent_bytes_per_s": (pynvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC, BYTES_PER_MIB),
    "pcie_received_bytes_per_s": (pynvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC, BYTES_PER_MIB),
    "nvlink_received_bytes_per_s": (pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC, BYTES_PER_MIB),
    "nvlink_sent_bytes_per_s": (pynvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC, BYTES_PER_MIB),
}


@final
class NvmlGpm:
    """The activity of one GPU since it was last asked. Its two sample buffers are the driver's, and must be freed."""

    def __init__(self, device: NvmlDevice, *, clock: Callable[[], float]) -> None:
        """Allocate the buffers, if the GPU has the monitors; `clock` is monotonic seconds.

        Raises:
            QuantityRefused: It has none, or NVML gives no buffers.
            SensorError: The GPU is gone.
        """
        self._device = device
        self._clock = clock
        self._lock = threading.Lock()
        self._buffers: list[Any] = []
        self._earlier: tuple[float, int] | None = None  # when, and in which start of NVML
        self._request = _request()
        if not device.ask(GPM, pynvml.nvmlGpmQueryDeviceSupport).isSupportedDevice:
            raise QuantityRefused(
                f"NVML does not give {GPM} of {device.uuid}: only Hopper and newer GPUs have these monitors."
            )
        try:
            self._buffers.extend(device.ask(GPM, lambda _: pynvml.nvmlGpmSampleAlloc()) for _ in range(2))
        except SensorError:
            self.close()
            raise

    def read(self) -> tuple[dict[str, float], dict[str, str]]:
        """Values in SI over the time since the last read, and a sentence for each that NVML refused.

        Both are empty at the first read, and too soon after one.

        Raises:
            QuantityRefused: NVML gave no sample; the next one starts anew.
            SensorError: The GPU is gone, or this was closed.
        """
        with self._lock:
            if not self._buffers:
                raise QuantityRefused(f"NVML does not give {GPM} of {self._device.uuid}: it was closed.")
            earlier, now_s = self._earlier, self._clock()
            if earlier and now_s - earlier[0] < MIN_WINDOW_S:
                return {}, {}
            self._earlier = None
            self._device.ask(GPM, lambda gpu: pynvml.nvmlGpmSampleGet(gpu, self._buffers[1]))
            start = self._device.start
            metrics = self._metrics() if earlier and earlier[1] == start else None
            self._buffers.reverse()
            self._earlier = (now_s, start)
        return self._values(metrics) if metrics else ({}, {})

    def close(self) -> None:
        """Free the buffers, unless a call that hangs may still write to them; further calls do nothing."""
        if self._lock.acquire(blocking=False):
            for buffer in self._buffers:
                with suppress(pynvml.NVMLError):
                    pynvml.nvmlGpmSampleFree(buffer)
            self._buffers.clear()
            self._lock.release()

    def _metrics(self) -> Any:
        request = self._request
        request.sample1, request.sample2 = self._buffers
        return self._device.ask(GPM, lambda _: pynvml.nvmlGpmMetricsGet(request)).metrics

    def _values(self, metrics: Any) -> tuple[dict[str, float], dict[str, str]]:
        values: dict[str, float] = {}
        refusals: dict[str, str] = {}
        for metric, (quantity, (_, per_si)) in zip(metrics, _METRICS.items(), strict=False):
            try:
                values[quantity] = self._value(metric, quantity, per_si)
            except QuantityRefused as refusal:
                refusals[quantity] = str(refusal)
        return values, refusals

    def _value(self, metric: Any, quantity: str, per_si: float) -> float:
        if metric.nvmlReturn != pynvml.NVML_SUCCESS:
            raise self._device.refusal(quantity, pynvml.NVMLError(metric.nvmlReturn))
        value = believable(self._device.uuid, quantity, float(metric.value * per_si))
        return min(value, 1.0) if per_si == FRACTION_PER_PERCENT else value


def _request() -> Any:
    """What is asked for, in 10 kB that are made once; the samples are still missing."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(_METRICS)
    for metric, (number, _) in zip(request.metrics, _METRICS.values(), strict=False):
        metric.metricId = number
    return request
