"""The most FLOP/s and bytes/s that this machine was seen to do: a large matrix product, and a large copy.

They stand in for a datasheet where there is none (processors, unknown cards), are stored as `measured`, and say how
much of a datasheet can be reached at all where there is one: about 80 % of either, on random numbers.

Everything here waits for the device, so it runs before a training or in a process of its own, never during one.

Source: McCalpin's STREAM (copy and triad, traffic that write-allocation adds is not counted).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

CPU_BUDGET_S = 1.0
GPU_BUDGET_S = 0.5
"""Seconds for one dtype, or for the bandwidth; a little more if the device is very slow."""

_SIZES = (256, 512, 1024, 2048, 4096, 8192)
_LAUNCHES = 8
"""Products timed as one on a GPU, so that waiting for it costs little."""

_MIN_ARRAY_BYTES = 128 << 20
_CACHES = 4
"""An array is this many times the largest cache, so that what is timed is memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What devices can do at most for one dtype, and how it is known (datasheet, measured or given).

    Attributes:
        flops_per_s: Dense; None if only the bandwidth is known.
        dtype: Of the factors of a product.
        source: Of `flops_per_s`.
        bytes_per_s: Of their memory; None if only the FLOP/s are known.
        bytes_source: Of `bytes_per_s`.
    """

    flops_per_s: float | None
    dtype: str
    source: str | None
    bytes_per_s: float | None = None
    bytes_source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The best of several: per second, and in words how."""

    per_s: float
    how: str


def measure_products(device: torch.device, dtype: torch.dtype, budget_s: float | None = None) -> Measured:
    """FLOP/s of the fastest square matrix product on random numbers.

    Sizes double until the next would not fit the time, so slow machines are not kept busy for minutes.

    Raises:
        RuntimeError: The device has no product of this dtype.
    """
    left_s = _budget(device, budget_s)
    best, best_size = 0.0, 0
    for size in _SIZES:
        a, b = (_random((size, size), dtype, device, seed) for seed in (0, 1))
        took_s = _best_s(lambda a=a, b=b: torch.mm(a, b), device, left_s / 4)  # type: ignore[misc]
        rate = 2.0 * size**3 / took_s.best_s
        best, best_size = max((best, best_size), (rate, size))
        left_s -= took_s.all_s  # three runs and a warm-up of the next, eight times as long, must fit
        if left_s < 4 * 8 * took_s.best_s * _repeats(device):
            break
    return Measured(per_s=best, how=f"measured: best of square matrix products, at {best_size}")


def measure_bandwidth(device: torch.device, budget_s: float | None = None) -> Measured:
    """Bytes/s of the faster of copy (a = b) and triad (a = b + s c) over arrays larger than every cache."""
    size = _array_bytes(device)
    numbers = size // 4
    a, b, c = (torch.zeros(numbers, device=device) for _ in range(3))
    half_s = _budget(device, budget_s) / 2
    copy = _best_s(lambda: a.copy_(b), device, half_s)
    triad = _best_s(lambda: torch.add(b, c, alpha=3.0, out=a), device, half_s)
    per_s, name = max((2 * size / copy.best_s, "copy"), (3 * size / triad.best_s, "triad"))
    return Measured(per_s=per_s, how=f"measured: best {name} of {size >> 20} MiB arrays")


@contextmanager
def memory_given_back(device: torch.device) -> Iterator[None]:
    """Leave a GPU's allocator as it was: what was measured must not be the training's peak memory."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.max_memory_allocated(device)
    yield
    torch.cuda.empty_cache()
    if torch.cuda.max_memory_allocated(device) > before:
        torch.cuda.reset_peak_memory_stats(device)


@dataclass(frozen=True, slots=True)
class _Timing:
    best_s: float
    all_s: float


def _best_s(work: Callable[[], object], device: torch.device, budget_s: float) -> _Timing:
    """The fastest of at least 3 runs after one that warms up, within a budget of time."""
    launches = _repeats(device)
    start_s = time.perf_counter()
    best_s = _timed(work, device, launches)
    runs = [_timed(work, device, launches) for _ in range(3)]
    while time.perf_counter() - start_s < budget_s:
        runs.append(_timed(work, device, launches))
    return _Timing(min(best_s, *runs), time.perf_counter() - start_s)


def _timed(work: Callable[[], object], device: torch.device, launches: int) -> float:
    start_s = time.perf_counter()
    for _ in range(launches):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start_s) / launches


def _repeats(device: torch.device) -> int:
    return _LAUNCHES if device.type == "cuda" else 1


def _budget(device: torch.device, budget_s: float | None) -> float:
    return budget_s or (GPU_BUDGET_S if device.type == "cuda" else CPU_BUDGET_S)


def _random(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, seed: int) -> torch.Tensor:
    """Random numbers: a GPU is faster on zeros. The global generator belongs to the training."""
    own_numbers = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=own_numbers, device=device).to(dtype)


def _array_bytes(device: torch.device) -> int:
    """As large as needed, and at most an eighth of the memory that is free."""
    if device.type == "cuda":
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
        free = torch.cuda.mem_get_info(device)[0]
    else:
        cache, free = largest_cache_bytes(), _free_bytes()
    return int(min(max(_MIN_ARRAY_BYTES, _CACHES * cache), free // 8)) // 4096 * 4096


def _free_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that this process may still take: a container's limit is not the machine's."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return free


def largest_cache_bytes(cpu: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the processor's largest cache, as Linux says; 0 if it does not."""
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes = [path.read_text().strip() for path in cpu.glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=0)
