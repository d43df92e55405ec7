"""Opens the sensors that this process reads, and says of each that is missing why.

GPUs through NVML; processors through RAPL where it can be read (once a node: by local rank 0), else estimated
from this process tree's CPU time. A processor that is measured is never estimated beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from profiler.errors import InvalidValueError, SensorError
from profiler.measure.aside import CLOSING_S, OPENING_S, at_most, within
from profiler.measure.optional_probes import open_optional
from profiler.measure.ranks import GpuChoice, Place, TorchUuid, order_note, select_gpus, visible_uuids
from profiler.measure.sensors.amd_device import visible_amd
from profiler.measure.sensors.base import Probe
from profiler.measure.sensors.cpu_time import CpuGauge, CpuTimeEnergy, ProcessTreeTime, descendants_time
from profiler.measure.sensors.nvml import GpuProbes, list_gpus, open_gpus
from profiler.measure.sensors.rapl import POWERCAP, open_rapl


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenProbes:
    """The sensors found, the reasons for those that were not, and how to let go of them."""

    probes: tuple[Probe, ...]
    notes: dict[str, str]
    close: Callable[[], None]


def _nothing() -> None:
    """Nothing is open."""


NO_PROBES = OpenProbes(probes=(), notes={}, close=_nothing)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWish:
    """Which GPUs to measure.

    Attributes:
        choice: `"auto"`, `"visible"`, or positions and UUIDs.
        used: PyTorch's indices of the devices that this process trains on.
        torch_uuid: PyTorch's word on an index.
        hip: Whether the indices are HIP's, so that AMD GPUs are meant; otherwise NVIDIA's are.
    """

    choice: GpuChoice = "auto"
    used: Sequence[int] = ()
    torch_uuid: TorchUuid | None = None
    hip: bool = False


def open_probes(
    place: Place, wish: GpuWish, *, rapl_root: Path = POWERCAP, of_children: bool = False
) -> OpenProbes:
    """Open the sensors of the wished GPUs and of the processor; never raises for one that is missing.

    Args:
        place: Which process this is.
        wish: Which GPUs.
        rapl_root: The powercap folder.
        of_children: What is measured is what this process started, not itself.
    """
    with ExitStack() as opened:
        gpus, notes = (
            _open_gpus(place, wish, opened) if wish.choice == "visible" or not wish.hip else ((), {})
        )
        others = _open_others(place, wish, opened, notes)
        cpus: tuple[Probe, ...] = ()
        if not _is_in_module(gpus, notes):
            cpus = _open_cpus(place, rapl_root, others, notes, of_children=of_children)
        let_go = partial(at_most, CLOSING_S, opened.pop_all().close)
        return OpenProbes(probes=(*gpus, *others, *cpus), notes=notes, close=let_go)


def _open_gpus(place: Place, wish: GpuWish, opened: ExitStack) -> tuple[tuple[Probe, ...], dict[str, str]]:
    try:
        uuids, order, gpus = within(OPENING_S, "NVML", lambda: _find_and_open(place, wish))
    except (SensorError, InvalidValueError) as refusal:
        return (), {"gpu": str(refusal)}
    opened.callback(gpus.close)
    notes = {f"gpu {number}": reason for number, reason in enumerate(gpus.reasons, start=1)}
    if not uuids:
        notes["gpu"] = _why_none(wish)
    return gpus.probes, notes | ({"gpu order": order} if order and uuids else {})


def _open_others(place: Place, wish: GpuWish, opened: ExitStack, notes: dict[str, str]) -> tuple[Probe, ...]:
    """What optional libraries give. A node's devices are local rank 0's to measure, as NVIDIA's are."""
    is_first = place.local_rank == 0
    amd = is_first if wish.choice == "visible" else wish.hip
    choose = partial(_choose_amd, wish) if amd else None
    return open_optional(opened, notes, choose_amd=choose, apple=is_first)


def _choose_amd(wish: GpuWish, uuids: Sequence[str]) -> tuple[str, ...]:
    visible = visible_amd(os.environ, uuids)
    return select_gpus(
        wish.choice, visible=visible, all_uuids=uuids, used=wish.used, torch_uuid=wish.torch_uuid
    )


def _is_in_module(gpus: Sequence[Probe], notes: dict[str, str]) -> bool:
    """Whether the processor's joules are in those of a module already, and must not be counted beside them."""
    modules = [probe.counter.meter.device for probe in gpus if probe.counter.meter.scope == "module"]
    if modules:
        notes["cpu"] = (
            f"the processor is not measured of its own: NVML tells {', '.join(modules)} as a whole module, with the "
            "processor in it"
        )
    return bool(modules)


def _why_none(wish: GpuWish) -> str:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wish.choice == "visible" and shown is not None:
        return f"CUDA_VISIBLE_DEVICES={shown!r} leaves no NVIDIA GPU visible, so none is measured"
    if wish.choice == "visible":
        return "no NVIDIA GPU is visible to this process, so none is measured"
    return "this process trains on no NVIDIA GPU, so none is measured"


def _find_and_open(place: Place, wish: GpuWish) -> tuple[tuple[str, ...], str | None, GpuProbes]:
    uuids, order = _wished_uuids(place, wish)
    return uuids, order, open_gpus(uuids)


def _wished_uuids(place: Place, wish: GpuWish) -> tuple[tuple[str, ...], str | None]:
    """UUIDs to measure, and a warning if indices are ambiguous. Visible GPUs are local rank 0's to measure."""
    if wish.choice == "auto" and not wish.used:
        return (), None
    if wish.choice == "visible" and place.local_rank > 0:
        return (), None
    gpus = list_gpus()
    uuids = [gpu.uuid for gpu in gpus]
    mig = {gpu.uuid: gpu.mig_uuids for gpu in gpus}
    visible = visible_uuids(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids, mig)
    everything = [*uuids, *(instance for instances in mig.values() for instance in instances)]
    chosen = select_gpus(
        wish.choice, visible=visible, all_uuids=everything, used=wish.used, torch_uuid=wish.torch_uuid
    )
    return chosen, order_note(os.environ, [gpu.name for gpu in gpus])


def _open_cpus(
    place: Place, rapl_root: Path, others: Sequence[Probe], notes: dict[str, str], *, of_children: bool
) -> tuple[Probe, ...]:
    gauge = CpuGauge(own_memory=not of_children)
    if any(probe.counter.meter.component == "cpu" for probe in others):
        return ()
    counters, reasons = open_rapl(rapl_root)
    if not any(counter.meter.component == "cpu" for counter in counters):
        notes["cpu"] = " ".join([*reasons, "The processor's energy is estimated from CPU time instead."])
        tree = descendants_time() if of_children else ProcessTreeTime()
        return (Probe(counter=CpuTimeEnergy(tree=tree), gauge=gauge, driver="the process table"),)
    if place.local_rank > 0:
        notes["cpu"] = "the node's processors are measured by local rank 0"
        return ()
    notes.update({f"cpu {number}": reason for number, reason in enumerate(reasons, start=1)})
    return tuple(
        Probe(counter=c, gauge=gauge if number == 0 else None, driver="RAPL")
        for number, c in enumerate(counters)
    )
