"""The most FLOP/s that this machine was seen to do: a large matrix product, the best of several.

It stands in for the datasheet where there is none (processors, unknown cards), and is stored as `measured`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Dense FLOP/s of one device for one dtype, and how it is known (datasheet, measured or given)."""

    flops_per_s: float
    dtype: str
    source: str


def measure_peak(
    device: torch.device, dtype: torch.dtype = torch.float32, *, size: int = 2048, repeats: int = 4
) -> Peak:
    """Time `size`^3 matrix products on `device` and keep the fastest.

    Synchronises the device, so it is called before a training, never during one. About 1 s on two CPU cores.

    Args:
        device: Where.
        dtype: Of the factors.
        size: Rows and columns.
        repeats: Products timed after one that is not.
    """
    own_numbers = torch.Generator(device).manual_seed(0)  # the global generator belongs to the training
    left = torch.rand(size, size, generator=own_numbers, device=device).to(dtype)
    seconds = [_timed_product(left, device) for _ in range(repeats + 1)][1:]
    words = f"measured: best of {repeats} {size}x{size}x{size} matrix products"
    return Peak(
        flops_per_s=2.0 * size**3 / min(seconds), dtype=str(dtype).removeprefix("torch."), source=words
    )


def _timed_product(left: torch.Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    torch.mm(left, left)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
