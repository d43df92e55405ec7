"""NVIDIA GPUs through NVML: which there are, and the sensors of those that are asked for.

Devices are opened by UUID. NVML's own index is never used for that: it is not CUDA's, and need not survive
a reboot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import pynvml

from profiler.errors import SensorError
from profiler.measure.sensors.base import EnergyCounter, Meter, Probe
from profiler.measure.sensors.integrated import IntegratedPower
from profiler.measure.sensors.nvml_counter import NvmlEnergy
from profiler.measure.sensors.nvml_device import Handle, NvmlDevice, NvmlSession, QuantityRefused
from profiler.measure.sensors.nvml_fields import NvmlFields, PowerScopes, find_power_scopes, power_reader
from profiler.measure.sensors.nvml_gauge import NvmlGauge
from profiler.measure.sensors.nvml_gpm import GPM, NvmlGpm
from profiler.measure.sensors.nvml_limits import believable
from profiler.measure.sensors.nvml_tenants import find_co_tenants
from profiler.units import W_PER_MILLIWATT

T = TypeVar("T")

UPDATE_PERIOD_S = 0.1
GAIN_ERROR = 0.05
GAIN_SOURCE = (
    "arXiv 2312.02741 (Part-time power measurements, SC'24): steady error of about 5 % against an external "
    "meter on uncalibrated cards; a gain per card, it does not average out"
)


MODULE_NOTE = (
    "NVML tells the power of the whole module only: processor, GPU and memory together, so no processor is measured "
    "beside it. GPUs that share one module each tell all of it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU of this machine.

    Attributes:
        uuid: `GPU-...`; `GPU-unreadable-<index>` when it does not tell, so that the others keep their places.
        name: NVML's product name; None when it does not tell.
        mig_uuids: Its MIG instances, in NVML's order.
    """

    uuid: str
    name: str | None
    mig_uuids: tuple[str, ...] = ()


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs of this machine, visible to CUDA or not, in NVML's order, which is that of the PCI bus.

    Raises:
        SensorError: NVML cannot be used at all.
    """
    session = NvmlSession()
    try:
        return tuple(_gpu_at(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        raise SensorError(f"NVML did not count the GPUs: {error} (code {error.value}).") from error
    finally:
        session.close()


def _gpu_at(index: int) -> Gpu:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError:
        return Gpu(uuid=f"GPU-unreadable-{index}", name=None)
    name = None
    with suppress(pynvml.NVMLError):
        name = str(pynvml.nvmlDeviceGetName(handle))
    return Gpu(uuid=uuid, name=name, mig_uuids=_mig_uuids(handle))


def _mig_uuids(handle: Handle) -> tuple[str, ...]:
    """The MIG instances of a GPU; their indices may have holes. None of them when MIG is off or unknown."""
    uuids: list[str] = []
    with suppress(pynvml.NVMLError):
        for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with suppress(pynvml.NVMLError_NotFound):
                uuids.append(
                    str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)))
                )
    return tuple(uuids)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProbes:
    """Opened GPUs. Whoever opened them closes them, once nothing reads them any more.

    Attributes:
        probes: One a GPU, each GPU once, in the order asked for.
        reasons: A sentence for every device or quantity that could not be opened.
        opened: What the driver holds for us.
    """

    probes: tuple[Probe, ...]
    reasons: tuple[str, ...]
    opened: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Free buffers and give NVML back; the user's own use of it goes on. Further calls do nothing."""
        self.opened.close()


def open_gpus(uuids: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> GpuProbes:
    """Open the GPUs with these UUIDs; a MIG instance stands for the whole GPU that it is part of.

    Args:
        uuids: `GPU-...` or `MIG-...`, whole; `ranks.visible_uuids` and `ranks.select_gpus` find them.
        clock: Monotonic seconds, for the slow quantities and for integrating power.

    Raises:
        SensorError: NVML cannot be used at all. A single GPU that fails is a reason, not an error.
    """
    if not uuids:
        return GpuProbes(probes=(), reasons=())
    with ExitStack() as opened:
        session = NvmlSession()
        opened.callback(session.close)
        parents, reasons = _whole_gpus(session, uuids)
        probes = []
        for uuid, mig_uuids in parents.items():
            try:
                probe, missing = _open_gpu(NvmlDevice(session, uuid), mig_uuids, clock, opened)
            except SensorError as refusal:
                reasons.append(f"{refusal} This GPU is not measured.")
            else:
                probes.append(probe)
                reasons.extend(missing)
        return GpuProbes(probes=tuple(probes), reasons=tuple(reasons), opened=opened.pop_all())


def _whole_gpus(session: NvmlSession, uuids: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Whole GPUs, each once, with the MIG instances that were asked for; and why some were not found.

    A GPU that is asked for as a whole and is cut into instances stands for all of them: a process uses one.
    """
    parents: dict[str, list[str]] = {}
    reasons = []
    for uuid in uuids:
        if not uuid.startswith("MIG-"):
            with suppress(SensorError):  # which opening it tells again
                parents.setdefault(uuid, []).extend(
                    NvmlDevice(session, uuid).ask("its instances", _mig_uuids)
                )
            continue
        try:
            parent = NvmlDevice(session, uuid).ask("the parent GPU", _parent_uuid)
        except SensorError as refusal:
            reasons.append(f"{refusal} This instance is not measured.")
        else:
            parents.setdefault(parent, []).append(uuid)
    return parents, reasons


def _parent_uuid(mig: Handle) -> str:
    return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)))


def _open_gpu(
    device: NvmlDevice, mig_uuids: Sequence[str], clock: Callable[[], float], opened: ExitStack
) -> tuple[Probe, list[str]]:
    """The sensors of one GPU, and a sentence for each quantity that it does not give.

    What refuses now is not tried as a counter again in this run: a sum that changes its origin is no sum.
    """
    refusals: dict[str, str] = {}
    scopes = find_power_scopes(device)
    meter = _meter(device, mig_uuids, scopes, refusals)
    fields = NvmlFields(device, clock=clock, of_module=scopes.is_only_module)
    with ExitStack() as undo:
        gpm = _open_gpm(device, clock, refusals, undo)
        gauge = NvmlGauge(device, fields, gpm, clock=clock)
        refusals = {**gauge.refusals(), **refusals}
        counter, reason = _open_counter(device, fields, scopes, meter, clock)
        opened.callback(undo.pop_all().close)
    reasons = [f"{sentence} It stays null." for sentence in dict.fromkeys(refusals.values())]
    probe = Probe(counter=counter, gauge=gauge, driver="NVML", co_tenants=partial(find_co_tenants, device))
    return probe, [*reasons, *([reason] if reason else [])]


def _open_counter(
    device: NvmlDevice, fields: NvmlFields, scopes: PowerScopes, meter: Meter, clock: Callable[[], float]
) -> tuple[EnergyCounter, str | None]:
    """The energy counter, or its power integrated, with the reason."""
    if scopes.has_both:
        why = (
            f"{device.uuid} is part of a module with a processor, whose joules its counter may hold as well."
        )
        return _integrated(fields, meter, clock, why), f"{why} The GPU's own power is integrated instead."
    counter = NvmlEnergy(device, fields, meter, clock=clock)
    try:
        counter.read()
    except QuantityRefused as refusal:
        stand_in = _integrated(fields, meter, clock, "This GPU has no energy counter.")
        try:
            power_reader(fields)()
        except QuantityRefused as no_power:
            raise QuantityRefused(f"{refusal} Nor can its power be integrated: {no_power}") from no_power
        return stand_in, f"{refusal} Its power is integrated instead."
    return counter, None


def _integrated(fields: NvmlFields, meter: Meter, clock: Callable[[], float], why: str) -> IntegratedPower:
    is_mean = "power_w" not in fields.after(None).values
    kind = "mean power over the last second" if is_mean else "instantaneous power"
    note = f"{why} Its {kind} is integrated, so changes between two readings go unseen."
    meter = replace(meter, source="integrated", notes=(*meter.notes, note))
    return IntegratedPower(meter, power_reader(fields), clock=clock)


def _open_gpm(
    device: NvmlDevice, clock: Callable[[], float], refusals: dict[str, str], opened: ExitStack
) -> NvmlGpm | None:
    try:
        gpm = NvmlGpm(device, clock=clock)
    except QuantityRefused as refusal:
        refusals[GPM] = str(refusal)
        return None
    opened.callback(gpm.close)
    return gpm


def _meter(
    device: NvmlDevice, mig_uuids: Sequence[str], scopes: PowerScopes, refusals: dict[str, str]
) -> Meter:
    name = _ask_once(device, "name", lambda gpu: str(pynvml.nvmlDeviceGetName(gpu)), refusals)
    of_module = scopes.is_only_module
    return Meter(
        component="module" if of_module else "gpu",
        device=device.uuid,
        name=name or "NVIDIA GPU of unknown name",
        source="counter",
        update_period_s=UPDATE_PERIOD_S,
        relative_uncertainty=GAIN_ERROR,
        uncertainty_source=GAIN_SOURCE,
        power_max_w=None
        if of_module
        else _ask_once(device, "power_max_w", partial(_power_max_w, device.uuid), refusals),
        scope="module" if of_module else "parent_of_mig" if mig_uuids else "device",
        notes=(*((MODULE_NOTE,) if of_module else ()), *_mig_notes(mig_uuids)),
    )


def _ask_once(
    device: NvmlDevice, quantity: str, call: Callable[[Handle], T], refusals: dict[str, str]
) -> T | None:
    try:
        return device.ask(quantity, call)
    except QuantityRefused as refusal:
        refusals[quantity] = str(refusal)
        return None


def _power_max_w(uuid: str, gpu: Handle) -> float:
    _, most_mw = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)
    return believable(uuid, "power_max_w", float(most_mw * W_PER_MILLIWATT))


def _mig_notes(mig_uuids: Sequence[str]) -> tuple[str, ...]:
    if not mig_uuids:
        return ()
    instances = ", ".join(mig_uuids)
    return (
        f"MIG: the energy is that of the whole parent GPU, of which this run had {instances}. The hardware "
        "does not meter instances, so no share is claimed.",
    )
