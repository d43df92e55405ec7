"""What Lightning and torch know of a run: its devices, their peak, memory, and logged metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sized
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import psutil
import torch
from torch.nn.parameter import UninitializedParameter
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from profiler.datasheets import DType
from profiler.hardware import peak_bytes_per_s, peak_flops_per_s
from profiler.measure.cuda import CudaEvents, GpuScalars
from profiler.measure.cuda_timer import CudaTimer
from profiler.measure.peak import Peak, measure_bandwidth, measure_products, memory_given_back
from profiler.measure.probes import GpuWish
from profiler.measure.ranks import GpuChoice, Place
from profiler.measure.recorder import Memory
from profiler.measure.session import RunFacts

MEMORY_PERIOD_S = 1.0

_TORCH_DTYPE: dict[DType, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}

_PRECISIONS: Mapping[str, DType] = {"bf16": "bf16", "16": "fp16", "32": "fp32", "64": "fp64"}
"""What Lightning's precisions begin with."""


def compute_dtype(precision: str | int | None, device: torch.device) -> DType | None:
    """The dtype of matrix products under a Lightning precision; None for those without a peak of their own."""
    text = str(precision).partition("-")[0]
    dtype = _PRECISIONS.get(text)
    return "tf32" if dtype == "fp32" and _rounds_to_tf32(device) else dtype


def _rounds_to_tf32(device: torch.device) -> bool:
    """Whether products of float32 run in the tensor cores of an Ampere or newer GPU."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] < 8:
        return False
    setting = getattr(
        torch.backends.cuda.matmul, "fp32_precision", None
    )  # PyTorch 2.9 and newer; asking for the
    if setting is None:  # older setting there raises once a user has set the newer one
        return torch.get_float32_matmul_precision() != "highest"
    return bool(setting == "tf32")


def phase_clock(device: torch.device) -> dict[str, Any]:
    """What a session takes to follow a device that works while the host goes on; nothing for the CPU."""
    if device.type != "cuda":
        return {}
    return {"timer_on": partial(CudaTimer, events=CudaEvents(device)), "scalars": GpuScalars()}


def phase_note(device: torch.device) -> dict[str, str]:
    """What the times of phases are on a device; why they are null, where they are."""
    if device.type == "cpu":
        return {}
    if device.type == "cuda":
        return {
            "phases": "timed on the GPU, from its passing one hook to the next; its waits for the host are part of them"
        }
    return {
        "phases": f"forward, backward and optimizer run asynchronously on {device.type}, and are not timed there"
    }


def find_peak(
    wanted: float | Literal["measure"] | None,
    device: torch.device,
    precision: str | int | None,
    world_size: int,
) -> tuple[Peak | None, dict[str, str]]:
    """The peak of all devices of a run together, or None, with notes that say what is unknown and why."""
    dtype = compute_dtype(precision, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this machine's {device.type}"
    flops, bandwidth = _peaks(wanted, device, dtype, name)
    notes = {}
    if flops is None:
        notes["mfu"] = _why_no_peak(precision, dtype, name)
    if bandwidth is None:
        notes["peak_bytes_per_s"] = (
            f'No memory bandwidth is known for "{name}", so the run has no place on a roofline. Pass'
            ' peak_flops_per_s="measure".'
        )
    if flops is None and bandwidth is None:
        return None, notes
    return Peak(
        flops_per_s=flops and flops[0] * world_size,
        dtype=str(dtype),
        source=flops and flops[1],
        bytes_per_s=bandwidth and bandwidth[0] * world_size,
        bytes_source=bandwidth and bandwidth[1],
    ), notes


_Known = tuple[float, str] | None


def _peaks(
    wanted: float | Literal["measure"] | None, device: torch.device, dtype: DType | None, name: str
) -> tuple[_Known, _Known]:
    """FLOP/s and bytes/s of one device, each with its source."""
    if wanted == "measure" and dtype is not None:
        with memory_given_back(device):
            product = measure_products(device, _TORCH_DTYPE[dtype])
            moved = measure_bandwidth(device)
        return (product.per_s, product.how), (moved.per_s, moved.how)
    printed = None if dtype is None else peak_flops_per_s(name, dtype)
    flops = (float(wanted), "given") if isinstance(wanted, int | float) else _from_sheet(printed)
    return flops, _from_sheet(peak_bytes_per_s(name))


def _from_sheet(found: _Known) -> _Known:
    return found and (found[0], f"datasheet: {found[1]}")


def _why_no_peak(precision: str | int | None, dtype: DType | None, name: str) -> str:
    if dtype is None:
        return f"no peak is kept for precision {precision!r}, so MFU is null. Pass peak_flops_per_s="
    why = f'No dense {dtype} peak is known for "{name}", so MFU is null for this run.'
    return why + ' Pass peak_flops_per_s=, or peak_flops_per_s="measure".'


def place_of(trainer: pl.Trainer) -> Place:
    """Where this process stands among the ranks, and which share of the data it is given."""
    shares = trainer.distributed_sampler_kwargs or {}
    return Place(
        rank=trainer.global_rank,
        local_rank=trainer.local_rank,
        world_size=trainer.world_size,
        replica=shares.get("rank"),
        strategy=type(trainer.strategy).__name__ if shares else None,
    )


def gpu_wish(choice: GpuChoice, device: torch.device) -> GpuWish:
    """The GPUs to measure for a process that trains on `device`."""
    if device.type != "cuda":
        return GpuWish(choice=choice)
    index = torch.cuda.current_device() if device.index is None else device.index
    return GpuWish(choice=choice, used=(index,), torch_uuid=_torch_uuid, hip=torch.version.hip is not None)


class SlowMemory:
    """Memory of this process, read at most once a second: the allocator's statistics cost tens of microseconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._read_at_s = -math.inf

    def read(self) -> Memory | None:
        """Bytes, or None if it was read less than a second ago."""
        now = time.monotonic()
        if now - self._read_at_s < MEMORY_PERIOD_S:
            return None
        self._read_at_s = now
        rss = int(self._process.memory_info().rss)
        if self._device.type != "cuda":
            return Memory(host_rss=rss)
        known = torch.cuda.memory_stats(
            self._device
        )  # once: each of torch's shorter questions asks for all of it
        return Memory(
            allocated=known.get("allocated_bytes.all.current", 0),
            reserved=known.get("reserved_bytes.all.current", 0),
            peak=known.get("allocated_bytes.all.peak", 0),
            peak_reserved=known.get("reserved_bytes.all.peak", 0),
            host_rss=rss,
        )


def full_batch(trainer: pl.Trainer) -> int | None:
    """Samples in the first batch by the loader's own word, of several loaders together; None if they do not say."""
    sizes = [_full_batch(loader) for loader in tree_leaves(trainer.train_dataloader)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _full_batch(loader: Any) -> int | None:
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return None
    size = int(loader.batch_size)
    return min(size, len(loader.sampler)) if isinstance(loader.sampler, Sized) else size


def next_logging_step(trainer: pl.Trainer, step: int) -> int:
    """The first of Lightning's own logging steps after `step`; -1 if there is none."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector
    return (step // every + 1) * every if every else -1


def logged_numbers(trainer: pl.Trainer) -> dict[str, float]:
    """What the module has logged; values on a GPU are left there."""
    return {name: float(value) for name, value in trainer.logged_metrics.items() if _is_here(value)}


def _is_here(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or (value.device.type == "cpu" and value.numel() == 1)


def _torch_uuid(index: int) -> str | None:
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def with_params(facts: RunFacts, module: torch.nn.Module) -> RunFacts:
    """The facts with the number of the module's parameters, embeddings and frozen ones included, if none is given."""
    if facts.params is not None:
        return facts
    parameters = list(module.parameters())
    if any(isinstance(parameter, UninitializedParameter) for parameter in parameters):
        return replace(
            facts, notes={**facts.notes, "params": "some parameters get their shape in the first batch"}
        )
    return replace(facts, params=sum(parameter.numel() for parameter in parameters))
