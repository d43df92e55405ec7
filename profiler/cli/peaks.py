"""What this machine's devices reach, beside what their datasheets say: for `joulescale doctor --measure-peak`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from profiler.datasheets import DType
from profiler.hardware import cpu_power, peak_bytes_per_s, peak_flops_per_s
from profiler.measure.peak import Measured, measure_bandwidth, measure_products

_DTYPES: Mapping[DType, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def measured_peaks() -> list[dict[str, Any]]:
    """A row for each dtype of each device, and one for its memory; what failed has its reason in `error`."""
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [row for device in [*devices, torch.device("cpu")] for row in _rows(device)]


def _rows(device: torch.device) -> Iterator[dict[str, Any]]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_power().name
    for dtype in _dtypes_of(device):
        with _products_in(dtype):
            yield _row(device, name, dtype, peak_flops_per_s(name, dtype))
    yield _row(device, name, None, peak_bytes_per_s(name))


def _row(
    device: torch.device, name: str, dtype: DType | None, sheet: tuple[float, str] | None
) -> dict[str, Any]:
    """Products of a dtype, or the memory if there is none."""
    found, error = _measured(device, dtype)
    return {
        "device": str(device),
        "name": name,
        "what": dtype or "memory",
        "measured_per_s": found and found.per_s,
        "how": found and found.how,
        "datasheet_per_s": sheet and sheet[0],
        "datasheet_source": sheet and sheet[1],
        "share_of_datasheet": found.per_s / sheet[0] if found and sheet else None,
        "error": error,
    }


def _measured(device: torch.device, dtype: DType | None) -> tuple[Measured | None, str | None]:
    try:
        if dtype is None:
            return measure_bandwidth(device), None
        return measure_products(device, _DTYPES[dtype]), None
    except (
        RuntimeError
    ) as error:  # no kernel for this dtype, or no memory left: of one row, not of the command
        return None, str(error).splitlines()[0]


def _dtypes_of(device: torch.device) -> tuple[DType, ...]:
    """What the device has units for; a processor does all of them, some slowly."""
    if device.type == "cpu":
        return "fp32", "fp16", "bf16"
    ampere = torch.cuda.get_device_capability(device)[0] >= 8
    return ("fp32", "tf32", "fp16", "bf16") if ampere else ("fp32", "fp16")


@contextmanager
def _products_in(dtype: DType) -> Iterator[None]:
    """float32 products exactly, or rounded to tf32; this process trains nothing, but puts the setting back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
