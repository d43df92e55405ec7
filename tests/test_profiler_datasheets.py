"""The device table: by exact name or not at all, dense, and with the ratios that the hardware has."""

from __future__ import annotations

import pytest

from profiler.datasheets import DATASHEETS, Datasheet, DType
from profiler.hardware import peak_bytes_per_s, peak_flops_per_s

TERA, GIGA = 1e12, 1e9

# What NVML and torch print, as the driver's own list of products spells it.
KNOWN_NAMES = (
    """
Tesla V100-SXM2-16GB|Tesla V100-SXM2-32GB|Tesla V100-PCIE-16GB|Tesla V100-PCIE-32GB|Tesla V100S-PCIE-32GB
Tesla V100-SXM3-32GB|Tesla T4|NVIDIA TITAN V|NVIDIA TITAN RTX|Quadro RTX 6000|Quadro RTX 8000
NVIDIA A100-SXM4-40GB|NVIDIA A100-SXM4-80GB|NVIDIA A100-PCIE-40GB|NVIDIA A100 80GB PCIe|NVIDIA A800-SXM4-80GB
NVIDIA A800 80GB PCIe|NVIDIA A30|NVIDIA A40|NVIDIA A10|NVIDIA A10G|NVIDIA A16|NVIDIA A2|NVIDIA RTX A6000
NVIDIA RTX A5500|NVIDIA RTX A5000|NVIDIA RTX A4500|NVIDIA RTX A4000|NVIDIA RTX A2000|NVIDIA RTX A2000 12GB
NVIDIA L4|NVIDIA L40|NVIDIA L40S|NVIDIA L20|NVIDIA RTX 6000 Ada Generation|NVIDIA RTX 5880 Ada Generation
NVIDIA RTX 5000 Ada Generation|NVIDIA RTX 4500 Ada Generation|NVIDIA RTX 4000 Ada Generation
NVIDIA RTX 4000 SFF Ada Generation|NVIDIA RTX 2000 Ada Generation|NVIDIA H100 80GB HBM3|NVIDIA H100 PCIe
NVIDIA H100 NVL|NVIDIA H800|NVIDIA H20|NVIDIA GH200 480GB|NVIDIA GH200 144G HBM3e|NVIDIA H200|NVIDIA H200 NVL
NVIDIA B200|NVIDIA GB200|NVIDIA B300 SXM6 AC|NVIDIA GB300|NVIDIA RTX PRO 6000 Blackwell Workstation Edition
NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition|NVIDIA GeForce RTX 2080 Ti|NVIDIA GeForce RTX 3060
NVIDIA GeForce RTX 3060 Ti|NVIDIA GeForce RTX 3070|NVIDIA GeForce RTX 3070 Ti|NVIDIA GeForce RTX 3080
NVIDIA GeForce RTX 3080 Ti|NVIDIA GeForce RTX 3090|NVIDIA GeForce RTX 3090 Ti|NVIDIA GeForce RTX 4060
NVIDIA GeForce RTX 4060 Ti|NVIDIA GeForce RTX 4070|NVIDIA GeForce RTX 4070 SUPER|NVIDIA GeForce RTX 4070 Ti
NVIDIA GeForce RTX 4070 Ti SUPER|NVIDIA GeForce RTX 4080|NVIDIA GeForce RTX 4080 SUPER|NVIDIA GeForce RTX 4090
NVIDIA GeForce RTX 4090 D|NVIDIA GeForce RTX 5070|NVIDIA GeForce RTX 5070 Ti|NVIDIA GeForce RTX 5080
NVIDIA GeForce RTX 5090|AMD Instinct MI100|AMD Instinct MI210|AMD Instinct MI250|AMD Instinct MI250X
AMD Instinct MI300A|AMD Instinct MI300X|AMD Instinct MI300X OAM|AMD Instinct MI325X|AMD Instinct MI350X
AMD Instinct MI355X
""".replace("\n", "|")
    .strip("|")
    .split("|")
)

# Real names of other cards, and names that a search by parts would take for one of ours.
OTHER_NAMES = (
    """
|H200|h200|NVIDIA H2000|nvidia h200|NVIDIA H200 |NVIDIA H200 NVL MIG 1g.18gb|NVIDIA H100|NVIDIA H800 PCIe|NVIDIA A100
NVIDIA H20-3e|NVIDIA H20 NVL16|NVIDIA A6000|NVIDIA RTX 6000|NVIDIA L4 |NVIDIA A10M|NVIDIA A800 40GB Active
NVIDIA GeForce RTX 4090 Laptop GPU|NVIDIA GeForce RTX 3080 Laptop GPU|NVIDIA RTX A5000 Laptop GPU
NVIDIA RTX A2000 8GB Laptop GPU|NVIDIA RTX A4500 Embedded GPU|NVIDIA GeForce RTX 3050|NVIDIA GeForce GTX 1660 Ti
Tesla V100-FHHL-16GB|Tesla P100-SXM2-16GB|GRID A100-40C|NVIDIA A100X|NVIDIA GH200 120GB|NVIDIA CMP 90HX
NVIDIA RTX PRO 6000 Blackwell Server Edition|AMD Instinct MI250X/MI250|AMD Instinct MI308X|AMD Radeon Graphics
AMD EPYC|AMD Instinct MI300X VF
""".replace("\n", "|")
    .strip("\n")
    .split("|")
)


def test_every_known_name_is_in_the_table_and_nothing_else():
    assert set(KNOWN_NAMES) | {"TITAN V", "TITAN RTX"} == set(DATASHEETS)


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_near_and_unknown_names_are_unknown(name: str):
    assert peak_flops_per_s(name, "bf16") is None
    assert peak_bytes_per_s(name) is None


@pytest.mark.parametrize(
    ("name", "bf16", "tf32", "fp32", "gb_per_s"),
    [
        ("NVIDIA H200", 989.5, 494.7, 66.9, 4800),
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7, 66.9, 3350),
        ("NVIDIA L40S", 362.05, 183.0, 91.6, 864),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6, 1008),
        ("NVIDIA RTX A6000", 154.8, 77.4, 38.7, 768),
        ("NVIDIA A100-SXM4-80GB", 312.0, 156.0, 19.5, 2039),
        ("NVIDIA B200", 2250.0, 1125.0, 75.0, 7700),
        ("AMD Instinct MI300X", 1307.4, 653.7, 163.4, 5300),
    ],
)
def test_dense_peaks_by_exact_name(name: str, bf16: float, tf32: float, fp32: float, gb_per_s: float):
    dense: dict[DType, float] = {"bf16": bf16, "fp16": bf16, "tf32": tf32, "fp32": fp32}
    for dtype, teras in dense.items():
        assert peak_flops_per_s(name, dtype) == (pytest.approx(teras * TERA), DATASHEETS[name].source)
    assert peak_bytes_per_s(name) == (pytest.approx(gb_per_s * GIGA), DATASHEETS[name].source)


def test_a_dtype_that_the_device_lacks_is_unknown():
    assert peak_flops_per_s("Tesla V100-SXM2-32GB", "bf16") is None
    assert peak_flops_per_s("Tesla T4", "tf32") is None
    assert peak_flops_per_s("NVIDIA A100-SXM4-80GB", "fp8") is None
    assert peak_flops_per_s("AMD Instinct MI355X", "tf32") is None
    assert peak_bytes_per_s("NVIDIA GeForce RTX 3060") is None  # 8 and 12 GB forms share the name


@pytest.mark.parametrize(("name", "sheet"), DATASHEETS.items(), ids=list(DATASHEETS))
def test_every_row_is_dense_and_sane(name: str, sheet: Datasheet):
    """A sparse figure in one column would break a ratio: the units of each dtype are fixed multiples."""
    peaks = sheet.peaks
    assert all(0.5 * TERA < peak < 6000 * TERA for peak in peaks.values())
    if "bf16" in peaks:
        assert peaks["fp16"] / peaks["bf16"] == (2.0 if name == "AMD Instinct MI100" else 1.0)
    if "tf32" in peaks:
        assert peaks["bf16"] / peaks["tf32"] == pytest.approx(2.0, rel=0.015)
        assert peaks["fp32"] <= peaks["tf32"] * 1.01
    if "fp8" in peaks:
        assert peaks["fp8"] / peaks["bf16"] == pytest.approx(2.0, rel=0.02)
    if "fp32" in peaks:
        assert 1.9 <= peaks["fp16"] / peaks["fp32"] <= 34
        assert peaks.get("fp64", 0.0) <= peaks["fp32"] * 1.001
    if sheet.bytes_per_s is not None:
        assert 190 * GIGA <= sheet.bytes_per_s <= 8000 * GIGA
        assert 20 < peaks["fp16"] / sheet.bytes_per_s < 500, "FLOP/B at which the device is balanced"
    assert sheet.source.startswith(("NVIDIA ", "AMD "))
