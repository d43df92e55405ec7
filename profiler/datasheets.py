"""What vendors print of accelerators: dense peaks by exact device name and dtype, and memory bandwidth.

The key is the name that NVML and `torch.cuda.get_device_name` give, in full. A name that is not here is unknown:
matching by part of a name, a "usual GPU", and sparse figures are why the peaks in use for one card differ by up to
3.8x between respected codebases. Where one name stands for cards that differ, what differs is left out.

All figures are dense (sheets print twice as much for 2:4 sparsity, and four times for Ada's "AI TOPS" in fp8), of
matrix units where the device has them, accumulating fp16, bf16 and fp8 in 32 bits. GeForce cards do that at half the
rate that their boxes print for 16-bit accumulation; professional cards of the same chip do not.

Not here: laptop, embedded and vGPU names, and cards whose dense figures could not be checked ("NVIDIA RTX PRO 6000
Blackwell Server Edition", "NVIDIA H100" without more, "NVIDIA H20-3e").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DType = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8"]

_TERA, _GIGA = 1e12, 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasheet:
    """One device as its vendor prints it.

    Attributes:
        peaks: Dense FLOP/s by dtype; what the device lacks or the sheet does not say is missing.
        bytes_per_s: Bandwidth of its memory; None where one name stands for several.
        source: The document.
    """

    peaks: Mapping[DType, float]
    bytes_per_s: float | None
    source: str


def _sheet(source: str, *, gb_per_s: float | None, **teras: float) -> Datasheet:
    """A row from teraFLOP/s by dtype and GB/s."""
    peaks: dict[DType, float] = {dtype: teras[dtype] * _TERA for dtype in _DTYPES if dtype in teras}
    assert len(peaks) == len(teras), f"{source}: no such dtype in {sorted(teras)}"
    return Datasheet(peaks=peaks, bytes_per_s=None if gb_per_s is None else gb_per_s * _GIGA, source=source)


_DTYPES: tuple[DType, ...] = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8")


def _tensor(
    source: str, *, gb_per_s: float | None, fp32: float, tf32: float, bf16: float, **more: float
) -> Datasheet:
    """Ampere and newer: fp16 runs as fast as bf16."""
    return _sheet(source, gb_per_s=gb_per_s, fp32=fp32, tf32=tf32, fp16=bf16, bf16=bf16, **more)


def _geforce(source: str, *, gb_per_s: float | None, fp32: float, bf16: float | None = None) -> Datasheet:
    """GeForce since Ampere: with 32-bit accumulation tf32 is as fast as fp32, and 16 bits twice as fast."""
    return _tensor(source, gb_per_s=gb_per_s, fp32=fp32, tf32=fp32, bf16=bf16 or 2 * fp32)


def _professional(
    source: str, *, gb_per_s: float, fp32: float, sparse: float, dense_bf16: float
) -> Datasheet:
    """RTX workstation cards: the sheet's tensor figure is sparse, of fp16 (Ampere) or fp8 (Ada)."""
    assert sparse / dense_bf16 in (2, 4)
    return _tensor(source, gb_per_s=gb_per_s, fp32=fp32, tf32=dense_bf16 / 2, bf16=dense_bf16)


def _ampere(name: str, *, gb_per_s: float, fp32: float, sparse: float) -> Datasheet:
    return _professional(
        f"NVIDIA {name} datasheet", gb_per_s=gb_per_s, fp32=fp32, sparse=sparse, dense_bf16=sparse / 2
    )


def _ada(name: str, *, gb_per_s: float, fp32: float, sparse: float) -> Datasheet:
    return _professional(
        f"NVIDIA {name} datasheet", gb_per_s=gb_per_s, fp32=fp32, sparse=sparse, dense_bf16=sparse / 4
    )


def _v100(form: str, *, gb_per_s: float, fp64: float, fp32: float, fp16: float) -> Datasheet:
    return _sheet(f"NVIDIA V100 datasheet, {form}", gb_per_s=gb_per_s, fp64=fp64, fp32=fp32, fp16=fp16)


def _a100(gb_per_s: float, form: str, name: str = "A100", fp64: float = 19.5) -> Datasheet:
    source = f"NVIDIA {name} datasheet, {form}"
    return _tensor(source, gb_per_s=gb_per_s, fp64=fp64, fp32=19.5, tf32=156.0, bf16=312.0)


def _hopper(source: str, gb_per_s: float | None, *, bf16: float = 989.5, fp64: float = 66.9) -> Datasheet:
    """The SXM form of GH100."""
    return _tensor(source, gb_per_s=gb_per_s, fp64=fp64, fp32=66.9, tf32=494.7, bf16=bf16, fp8=1978.9)


def _hopper_nvl(source: str, gb_per_s: float) -> Datasheet:
    return _tensor(source, gb_per_s=gb_per_s, fp64=60.0, fp32=60.0, tf32=417.5, bf16=835.5, fp8=1670.5)


def _mi300x(name: str, gb_per_s: float) -> Datasheet:
    return _tensor(
        f"AMD Instinct {name} data sheet, matrix",
        gb_per_s=gb_per_s,
        fp64=163.4,
        fp32=163.4,
        tf32=653.7,
        bf16=1307.4,
        fp8=2614.9,
    )


_V100_SXM2 = _v100("SXM2", gb_per_s=900, fp64=7.8, fp32=15.7, fp16=125.0)
_V100_PCIE = _v100("PCIe", gb_per_s=900, fp64=7.0, fp32=14.0, fp16=112.0)
_TITAN_V = _sheet("NVIDIA TITAN V product page", gb_per_s=652.8, fp32=14.9, fp16=110.0)
_TURING = _sheet("NVIDIA Turing whitepaper, appendix A", gb_per_s=672, fp32=16.3, fp16=130.5)
_H20 = _tensor("NVIDIA H20 datasheet", gb_per_s=4000, fp64=1.0, fp32=44.0, tf32=74.0, bf16=148.0, fp8=296.0)
_MI300X = _mi300x("MI300X", 5300)
_A2000 = _ampere("RTX A2000", gb_per_s=288, fp32=8.0, sparse=63.9)

_VOLTA_TURING: dict[str, Datasheet] = {
    "Tesla V100-SXM2-16GB": _V100_SXM2,
    "Tesla V100-SXM2-32GB": _V100_SXM2,
    "Tesla V100-PCIE-16GB": _V100_PCIE,
    "Tesla V100-PCIE-32GB": _V100_PCIE,
    "Tesla V100S-PCIE-32GB": _v100("V100S", gb_per_s=1134, fp64=8.2, fp32=16.4, fp16=130.0),
    "Tesla V100-SXM3-32GB": _sheet("NVIDIA DGX-2 datasheet: 2 PFLOP/s of 16", gb_per_s=None, fp16=125.0),
    "TITAN V": _TITAN_V,
    "NVIDIA TITAN V": _TITAN_V,
    "TITAN RTX": _TURING,
    "NVIDIA TITAN RTX": _TURING,
    "Quadro RTX 6000": _TURING,
    "Quadro RTX 8000": _TURING,
    "NVIDIA GeForce RTX 2080 Ti": _sheet(
        "NVIDIA Turing whitepaper, appendix A, Founders Edition, FP32 accumulate",
        gb_per_s=616,
        fp32=14.2,
        fp16=56.9,
    ),
    "Tesla T4": _sheet("NVIDIA T4 datasheet", gb_per_s=320, fp32=8.1, fp16=65.0),
}

_AMPERE: dict[str, Datasheet] = {
    "NVIDIA A100-SXM4-40GB": _a100(1555, "SXM 40 GB"),
    "NVIDIA A100-PCIE-40GB": _a100(1555, "PCIe 40 GB"),
    "NVIDIA A100-SXM4-80GB": _a100(2039, "SXM 80 GB"),
    "NVIDIA A100 80GB PCIe": _a100(1935, "PCIe 80 GB"),
    "NVIDIA A800-SXM4-80GB": _a100(2039, "SXM 80 GB", "A800"),
    "NVIDIA A800 80GB PCIe": _a100(1935, "PCIe 80 GB", "A800"),
    "NVIDIA A30": _tensor("NVIDIA A30 datasheet", gb_per_s=933, fp64=10.3, fp32=10.3, tf32=82.0, bf16=165.0),
    "NVIDIA A40": _tensor("NVIDIA A40 datasheet", gb_per_s=696, fp32=37.4, tf32=74.8, bf16=149.7),
    "NVIDIA A10": _tensor("NVIDIA A10 datasheet", gb_per_s=600, fp32=31.2, tf32=62.5, bf16=125.0),
    "NVIDIA A10G": _tensor("NVIDIA A10G datasheet", gb_per_s=600, fp32=35.0, tf32=35.0, bf16=70.0),
    "NVIDIA A16": _tensor("NVIDIA A16 datasheet, one of 4 GPUs", gb_per_s=200, fp32=4.5, tf32=9.0, bf16=17.9),
    "NVIDIA A2": _tensor("NVIDIA A2 datasheet", gb_per_s=200, fp32=4.5, tf32=9.0, bf16=18.0),
    "NVIDIA RTX A6000": _tensor(
        "NVIDIA GA102 whitepaper, RTX A6000", gb_per_s=768, fp32=38.7, tf32=77.4, bf16=154.8
    ),
    "NVIDIA RTX A5500": _ampere("RTX A5500", gb_per_s=768, fp32=34.1, sparse=272.8),
    "NVIDIA RTX A5000": _ampere("RTX A5000", gb_per_s=768, fp32=27.8, sparse=222.2),
    "NVIDIA RTX A4500": _ampere("RTX A4500", gb_per_s=640, fp32=23.7, sparse=189.2),
    "NVIDIA RTX A4000": _ampere("RTX A4000", gb_per_s=448, fp32=19.2, sparse=153.4),
    "NVIDIA RTX A2000": _A2000,
    "NVIDIA RTX A2000 12GB": _A2000,
    "NVIDIA GeForce RTX 3090 Ti": _geforce(
        "NVIDIA GeForce RTX 3090 Ti product page", gb_per_s=1008, fp32=40.0
    ),
    "NVIDIA GeForce RTX 3090": _geforce("NVIDIA GA102 whitepaper, table 2", gb_per_s=936, fp32=35.6),
    "NVIDIA GeForce RTX 3080 Ti": _geforce(
        "NVIDIA GeForce RTX 3080 Ti product page", gb_per_s=912, fp32=34.1
    ),
    "NVIDIA GeForce RTX 3080": _geforce(
        "NVIDIA GA102 whitepaper, the 10 GB form (the 12 GB form is 3 % faster)", gb_per_s=None, fp32=29.8
    ),
    "NVIDIA GeForce RTX 3070 Ti": _geforce(
        "NVIDIA GeForce RTX 3070 Ti product page", gb_per_s=608, fp32=21.7
    ),
    "NVIDIA GeForce RTX 3070": _geforce("NVIDIA GA102 whitepaper, RTX 3070", gb_per_s=448, fp32=20.3),
    "NVIDIA GeForce RTX 3060 Ti": _geforce(
        "NVIDIA GeForce RTX 3060 Ti product page", gb_per_s=None, fp32=16.2
    ),
    "NVIDIA GeForce RTX 3060": _geforce("NVIDIA GeForce RTX 3060 product page", gb_per_s=None, fp32=12.7),
}

_ADA: dict[str, Datasheet] = {
    "NVIDIA L40S": _tensor(
        "NVIDIA L40S datasheet", gb_per_s=864, fp32=91.6, tf32=183.0, bf16=362.05, fp8=733.0
    ),
    "NVIDIA L40": _tensor("NVIDIA L40 datasheet", gb_per_s=864, fp32=90.5, tf32=90.5, bf16=181.05, fp8=362.0),
    "NVIDIA L20": _tensor("NVIDIA L20 datasheet", gb_per_s=864, fp32=59.8, tf32=59.8, bf16=119.5, fp8=239.0),
    "NVIDIA L4": _tensor("NVIDIA L4 datasheet", gb_per_s=300, fp32=30.3, tf32=60.0, bf16=121.0, fp8=242.5),
    "NVIDIA RTX 6000 Ada Generation": _ada("RTX 6000 Ada", gb_per_s=960, fp32=91.1, sparse=1457.0),
    "NVIDIA RTX 5880 Ada Generation": _ada("RTX 5880 Ada", gb_per_s=960, fp32=69.3, sparse=1108.4),
    "NVIDIA RTX 5000 Ada Generation": _ada("RTX 5000 Ada", gb_per_s=576, fp32=65.3, sparse=1044.4),
    "NVIDIA RTX 4500 Ada Generation": _ada("RTX 4500 Ada", gb_per_s=432, fp32=39.6, sparse=634.0),
    "NVIDIA RTX 4000 Ada Generation": _ada("RTX 4000 Ada", gb_per_s=360, fp32=26.7, sparse=427.6),
    "NVIDIA RTX 4000 SFF Ada Generation": _ada("RTX 4000 SFF Ada", gb_per_s=280, fp32=19.2, sparse=306.8),
    "NVIDIA RTX 2000 Ada Generation": _ada("RTX 2000 Ada", gb_per_s=224, fp32=12.0, sparse=191.9),
    "NVIDIA GeForce RTX 4090": _sheet(
        "NVIDIA Ada whitepaper, table 2, FP32 accumulate",
        gb_per_s=1008,
        fp32=82.6,
        tf32=82.6,
        fp16=165.2,
        bf16=165.2,
        fp8=330.3,
    ),
    "NVIDIA GeForce RTX 4090 D": _geforce("NVIDIA GeForce RTX 4090 D product page", gb_per_s=1008, fp32=73.5),
    "NVIDIA GeForce RTX 4080 SUPER": _geforce(
        "NVIDIA GeForce RTX 4080 SUPER product page", gb_per_s=736, fp32=52.2
    ),
    "NVIDIA GeForce RTX 4080": _geforce("NVIDIA Ada whitepaper, RTX 4080", gb_per_s=716.8, fp32=48.7),
    "NVIDIA GeForce RTX 4070 Ti SUPER": _geforce(
        "NVIDIA GeForce RTX 4070 Ti SUPER product page", gb_per_s=672, fp32=44.1
    ),
    "NVIDIA GeForce RTX 4070 Ti": _geforce("NVIDIA Ada whitepaper, RTX 4070 Ti", gb_per_s=504, fp32=40.1),
    "NVIDIA GeForce RTX 4070 SUPER": _geforce(
        "NVIDIA GeForce RTX 4070 SUPER product page", gb_per_s=504, fp32=35.5
    ),
    "NVIDIA GeForce RTX 4070": _geforce("NVIDIA GeForce RTX 4070 product page", gb_per_s=None, fp32=29.1),
    "NVIDIA GeForce RTX 4060 Ti": _geforce(
        "NVIDIA GeForce RTX 4060 Ti product page", gb_per_s=288, fp32=22.1
    ),
    "NVIDIA GeForce RTX 4060": _geforce("NVIDIA GeForce RTX 4060 product page", gb_per_s=272, fp32=15.1),
}

_HOPPER: dict[str, Datasheet] = {
    "NVIDIA H100 80GB HBM3": _hopper("NVIDIA H100 datasheet, SXM5", 3350, bf16=989.4),
    "NVIDIA H100 PCIe": _tensor(
        "NVIDIA H100 datasheet, PCIe",
        gb_per_s=2039,
        fp64=51.2,
        fp32=51.2,
        tf32=378.0,
        bf16=756.0,
        fp8=1513.0,
    ),
    "NVIDIA H100 NVL": _hopper_nvl("NVIDIA H100 NVL datasheet", 3938),
    "NVIDIA H800": _hopper("NVIDIA H800 datasheet, SXM", 3350, bf16=989.4, fp64=1.0),
    "NVIDIA H20": _H20,
    "NVIDIA GH200 480GB": _hopper("NVIDIA GH200 datasheet, 96 GB HBM3", 4000),
    "NVIDIA GH200 144G HBM3e": _hopper("NVIDIA GH200 datasheet, 144 GB HBM3e", 4900),
    "NVIDIA H200": _hopper("NVIDIA H200 datasheet, SXM", 4800),
    "NVIDIA H200 NVL": _hopper_nvl("NVIDIA H200 datasheet, NVL", 4800),
}

_BLACKWELL: dict[str, Datasheet] = {
    "NVIDIA B200": _tensor(
        "NVIDIA HGX B200 datasheet, one of 8",
        gb_per_s=7700,
        fp64=37.0,
        fp32=75.0,
        tf32=1125.0,
        bf16=2250.0,
        fp8=4500.0,
    ),
    "NVIDIA GB200": _tensor(
        "NVIDIA GB200 NVL72 datasheet, one of 72",
        gb_per_s=8000,
        fp64=40.0,
        fp32=80.0,
        tf32=1250.0,
        bf16=2500.0,
        fp8=5000.0,
    ),
    "NVIDIA B300 SXM6 AC": _tensor(
        "NVIDIA HGX B300 datasheet, one of 8",
        gb_per_s=None,
        fp64=1.25,
        fp32=75.0,
        tf32=1125.0,
        bf16=2250.0,
        fp8=4500.0,
    ),
    "NVIDIA GB300": _tensor(
        "NVIDIA GB300 NVL72 datasheet, one of 72",
        gb_per_s=8000,
        fp32=80.0,
        tf32=1250.0,
        bf16=2500.0,
        fp8=5000.0,
    ),
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": _tensor(
        "NVIDIA RTX Blackwell PRO whitepaper", gb_per_s=1792, fp32=126.0, tf32=251.9, bf16=503.8, fp8=1007.6
    ),
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": _tensor(
        "NVIDIA RTX PRO 6000 Max-Q datasheet: 3511 sparse fp4 TFLOP/s are 438.9 dense of bf16",
        gb_per_s=1792,
        fp32=109.7,
        tf32=219.4,
        bf16=438.9,
        fp8=877.8,
    ),
    "NVIDIA GeForce RTX 5090": _geforce(
        "NVIDIA RTX Blackwell whitepaper, RTX 5090", gb_per_s=1792, fp32=104.8, bf16=209.5
    ),
    "NVIDIA GeForce RTX 5080": _geforce(
        "NVIDIA RTX Blackwell whitepaper, RTX 5080", gb_per_s=960, fp32=56.3, bf16=112.6
    ),
    "NVIDIA GeForce RTX 5070 Ti": _geforce(
        "NVIDIA RTX Blackwell whitepaper, RTX 5070 Ti", gb_per_s=896, fp32=43.9, bf16=87.9
    ),
    "NVIDIA GeForce RTX 5070": _geforce(
        "NVIDIA RTX Blackwell whitepaper, RTX 5070", gb_per_s=672, fp32=30.9, bf16=61.7
    ),
}

# fp32 and fp64 of AMD's are those of matrix cores, which rocBLAS uses for a product. One MI250 or MI250X is two
# devices to torch: their rows are halves. A machine may say "AMD Instinct MI250X/MI250", which leaves it open.
_INSTINCT: dict[str, Datasheet] = {
    "AMD Instinct MI100": _sheet(
        "AMD Instinct MI100 data sheet, matrix", gb_per_s=1228.8, fp64=11.5, fp32=46.1, fp16=184.6, bf16=92.3
    ),
    "AMD Instinct MI210": _sheet(
        "AMD Instinct MI210 data sheet, matrix", gb_per_s=1638.4, fp64=45.3, fp32=45.3, fp16=181.0, bf16=181.0
    ),
    "AMD Instinct MI250": _sheet(
        "AMD Instinct MI250 data sheet, matrix, one of its two dies",
        gb_per_s=1638.4,
        fp64=45.25,
        fp32=45.25,
        fp16=181.05,
        bf16=181.05,
    ),
    "AMD Instinct MI250X": _sheet(
        "AMD Instinct MI250X data sheet, matrix, one of its two dies",
        gb_per_s=1638.4,
        fp64=47.85,
        fp32=47.85,
        fp16=191.5,
        bf16=191.5,
    ),
    "AMD Instinct MI300A": _tensor(
        "AMD Instinct MI300A data sheet, matrix",
        gb_per_s=5300,
        fp64=122.6,
        fp32=122.6,
        tf32=490.3,
        bf16=980.6,
        fp8=1961.2,
    ),
    "AMD Instinct MI300X": _MI300X,
    "AMD Instinct MI300X OAM": _MI300X,
    "AMD Instinct MI325X": _mi300x("MI325X", 6000),
    "AMD Instinct MI350X": _sheet(
        "AMD Instinct MI350X data sheet, matrix",
        gb_per_s=8000,
        fp64=72.1,
        fp32=144.2,
        fp16=2306.9,
        bf16=2306.9,
        fp8=4613.7,
    ),
    "AMD Instinct MI355X": _sheet(
        "AMD Instinct MI355X data sheet, matrix",
        gb_per_s=8000,
        fp64=78.6,
        fp32=157.3,
        fp16=2516.6,
        bf16=2516.6,
        fp8=5033.2,
    ),
}

DATASHEETS: Mapping[str, Datasheet] = {
    **_VOLTA_TURING,
    **_AMPERE,
    **_ADA,
    **_HOPPER,
    **_BLACKWELL,
    **_INSTINCT,
}
