"""What is known of hardware before measuring: peaks by exact device name, and the power of processors.

An unknown device is None, never "the usual GPU".
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from profiler.codecarbon_tables import cpu_tdp_w, source_name
from profiler.datasheets import DATASHEETS, DType


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


def peak_bytes_per_s(device_name: str) -> tuple[float, str] | None:
    """Memory bandwidth of one device in bytes/s, with its datasheet; None if the exact name is not listed.

    >>> peak_bytes_per_s("NVIDIA H200")
    (4800000000000.0, 'NVIDIA H200 datasheet, SXM')
    """
    sheet = DATASHEETS.get(device_name)
    if sheet is None or sheet.bytes_per_s is None:
        return None
    return sheet.bytes_per_s, sheet.source


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
