"""What datasheets say of hardware: peak FLOP/s by exact device name and dtype, and the power of processors.

An unknown device is None, never "the usual GPU": substring matching, defaults and sparse figures are why the
peaks in use for one card differ by up to 3.8x between respected codebases.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from profiler.codecarbon_tables import cpu_tdp_w, source_name

DType = Literal["fp32", "tf32", "fp16", "bf16"]

_TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasheet:
    """Dense peaks (no sparsity), matrix units with 32-bit accumulation, in FLOP/s, and where they were read."""

    peaks: Mapping[DType, float]
    source: str


def _sheet(
    source: str, *, fp32: float, fp16: float, tf32: float | None = None, bf16: float | None = None
) -> Datasheet:
    teras: dict[DType, float | None] = {"fp32": fp32, "tf32": tf32, "fp16": fp16, "bf16": bf16}
    return Datasheet(peaks={k: v * _TERA for k, v in teras.items() if v is not None}, source=source)


_H100_SXM = _sheet("NVIDIA H100 datasheet, SXM5", fp32=66.9, tf32=494.7, fp16=989.4, bf16=989.4)
_H200_SXM = _sheet("NVIDIA H200 datasheet, SXM", fp32=66.9, tf32=494.7, fp16=989.5, bf16=989.5)
_A100 = _sheet("NVIDIA A100 datasheet", fp32=19.5, tf32=156.0, fp16=312.0, bf16=312.0)
_V100_SXM = _sheet("NVIDIA V100 datasheet, SXM2", fp32=15.7, fp16=125.0)

DATASHEETS: Mapping[str, Datasheet] = {
    "NVIDIA H200": _H200_SXM,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": _sheet("NVIDIA H100 datasheet, PCIe", fp32=51.2, tf32=378.0, fp16=756.0, bf16=756.0),
    "NVIDIA H100 NVL": _sheet("NVIDIA H100 NVL datasheet", fp32=60.0, tf32=417.5, fp16=835.5, bf16=835.5),
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA L40S": _sheet("NVIDIA L40S datasheet", fp32=91.6, tf32=183.0, fp16=362.05, bf16=362.05),
    "NVIDIA L4": _sheet("NVIDIA L4 datasheet", fp32=30.3, tf32=60.0, fp16=121.0, bf16=121.0),
    "NVIDIA RTX A6000": _sheet(
        "NVIDIA GA102 whitepaper, RTX A6000", fp32=38.7, tf32=77.4, fp16=154.8, bf16=154.8
    ),
    "NVIDIA GeForce RTX 4090": _sheet(
        "NVIDIA Ada whitepaper, table 2, FP32 accumulate", fp32=82.6, tf32=82.6, fp16=165.2, bf16=165.2
    ),
    "Tesla V100-SXM2-16GB": _V100_SXM,
    "Tesla V100-SXM2-32GB": _V100_SXM,
    "Tesla T4": _sheet("NVIDIA T4 datasheet", fp32=8.1, fp16=65.0),
}


def peak_flops_per_s(device_name: str, dtype: DType) -> tuple[float, str] | None:
    """Dense peak in FLOP/s of one device, with its datasheet; None if the exact name or dtype is not listed.

    >>> peak_flops_per_s("NVIDIA H200", "bf16")
    (989500000000000.0, 'NVIDIA H200 datasheet, SXM')
    >>> peak_flops_per_s("NVIDIA H2000", "bf16") is None
    True
    """
    sheet = DATASHEETS.get(device_name)
    if sheet is None or dtype not in sheet.peaks:
        return None
    return sheet.peaks[dtype], sheet.source


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPower:
    """Watts that one hardware thread stands for when it is busy, and how that is known.

    Attributes:
        name: The processor's product name.
        watts_per_thread: Thermal design power / hardware threads, or the assumption of `note`.
        relative_uncertainty: Half-width, as a fraction.
    """

    name: str
    watts_per_thread: float
    relative_uncertainty: float
    uncertainty_source: str
    note: str


ASSUMED_WATTS_PER_THREAD = 4.0
"""codecarbon's own assumption for a processor that it does not know (`core/cpu.py`, DEFAULT_POWER_PER_CORE)."""

ASSUMED_UNCERTAINTY = 0.6
"""Covers 1.9 W (EPYC 9654: 360 W, 192 threads) to 5.0 W (Xeon E5-2680 v4 class: 120 W, 28 threads, and turbo)."""

TDP_UNCERTAINTY = 0.4
"""Largest error of TDP models against wall meters in arXiv 2509.22092."""


def cpu_power(cpuinfo: Path = Path("/proc/cpuinfo")) -> CpuPower:
    """What a busy hardware thread of this machine's processor draws, by thermal design power.

    A virtual machine hides how many threads share the chip's power, so there, and for a model that the table
    lacks, a fixed number of watts a thread is assumed, and the error bar is wider.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    name = _field(text, "model name") or platform.processor() or platform.machine() or "unknown processor"
    tdp_w = cpu_tdp_w().get(_table_name(name))
    if tdp_w is None:
        return _assumed(name, f"codecarbon's table has no thermal design power for {name!r}")
    if re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE):
        return _assumed(name, "a virtual machine does not show how many threads share the processor's power")
    sockets = len(set(re.findall(r"^physical id\s*:\s*(\d+)", text, re.MULTILINE))) or 1
    threads = len(re.findall(r"^processor\s*:", text, re.MULTILINE)) / sockets
    return CpuPower(
        name=name,
        watts_per_thread=tdp_w / threads,
        relative_uncertainty=TDP_UNCERTAINTY,
        uncertainty_source="largest error of TDP models against meters, arXiv 2509.22092",
        note=f"estimated from CPU time: {tdp_w:g} W TDP ({source_name()}) over {threads:g} hardware threads",
    )


def _assumed(name: str, why: str) -> CpuPower:
    return CpuPower(
        name=name,
        watts_per_thread=ASSUMED_WATTS_PER_THREAD,
        relative_uncertainty=ASSUMED_UNCERTAINTY,
        uncertainty_source="range of thermal design power per thread over server processors",
        note=f"estimated from CPU time at an assumed {ASSUMED_WATTS_PER_THREAD:g} W a busy hardware thread: {why}",
    )


def _field(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _table_name(name: str) -> str:
    """The name as the table writes it: `Intel(R) Xeon(R) Platinum 8480+ @ 2.0GHz` -> `Intel Xeon Platinum 8480+`."""
    name = re.sub(r"\((R|TM)\)", "", name)
    name = re.sub(r"\b(CPU|\d+-Core Processor|Processor)\b|@.*$|\b\d+th Gen\b", "", name)
    return " ".join(name.split())
