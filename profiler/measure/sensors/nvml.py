"""NVIDIA GPUs through NVML: which there are, and the sensors of those that are asked for.

Devices are opened by UUID. NVML's own index is never used for that: it is not CUDA's, and need not survive
a reboot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TypeVar, final

import pynvml

from profiler.errors import SensorError
from profiler.measure.sensors.base import EnergyCounter, Meter, Probe
from profiler.measure.sensors.integrated import IntegratedPower
from profiler.measure.sensors.nvml_device import Handle, NvmlDevice, NvmlSession, QuantityRefused
from profiler.measure.sensors.nvml_gauge import NvmlGauge
from profiler.records import Source
from profiler.units import J_PER_MILLIJOULE, W_PER_MILLIWATT

__all__ = ["Gpu", "GpuProbes", "NvmlEnergy", "NvmlGauge", "list_gpus", "open_gpus"]

T = TypeVar("T")

UPDATE_PERIOD_S = 0.1
GAIN_ERROR = 0.05
GAIN_SOURCE = (
    "arXiv 2312.02741 (Part-time power measurements, SC'24): steady error of about 5 % against an external "
    "meter on uncalibrated cards; a gain per card, it does not average out"
)


@final
class NvmlEnergy:
    """The GPU's own energy counter: joules since the driver was loaded. Volta and newer."""

    def __init__(self, device: NvmlDevice, meter: Meter) -> None:
        """Read `device`, described by `meter`."""
        self._device = device
        self._meter = meter

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Joules since the driver was loaded, in steps of about 100 ms; falls when the driver is reloaded.

        Raises:
            SensorError: NVML refused.
        """
        millijoules = self._device.ask("energy_j", pynvml.nvmlDeviceGetTotalEnergyConsumption)
        return float(millijoules * J_PER_MILLIJOULE)


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
        session: Our share of NVML; None when no GPU was asked for.
    """

    probes: tuple[Probe, ...]
    reasons: tuple[str, ...]
    session: NvmlSession | None

    def close(self) -> None:
        """Give NVML back; the user's own use of it goes on. Further calls do nothing."""
        if self.session is not None:
            self.session.close()


def open_gpus(uuids: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> GpuProbes:
    """Open the GPUs with these UUIDs; a MIG instance stands for the whole GPU that it is part of.

    Args:
        uuids: `GPU-...` or `MIG-...`, whole; `ranks.visible_uuids` and `ranks.select_gpus` find them.
        clock: Monotonic seconds, for the slow quantities and for integrating power.

    Raises:
        SensorError: NVML cannot be used at all. A single GPU that fails is a reason, not an error.
    """
    if not uuids:
        return GpuProbes(probes=(), reasons=(), session=None)
    session = NvmlSession()
    with ExitStack() as undo:
        undo.callback(session.close)
        parents, reasons = _whole_gpus(session, uuids)
        probes = []
        for uuid, mig_uuids in parents.items():
            try:
                probe, missing = _open_gpu(NvmlDevice(session, uuid), mig_uuids, clock)
            except SensorError as refusal:
                reasons.append(f"{refusal} This GPU is not measured.")
            else:
                probes.append(probe)
                reasons.extend(missing)
        undo.pop_all()
    return GpuProbes(probes=tuple(probes), reasons=tuple(reasons), session=session)


def _whole_gpus(session: NvmlSession, uuids: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Whole GPUs, each once, with the MIG instances that were asked for; and why some were not found."""
    parents: dict[str, list[str]] = {}
    reasons = []
    for uuid in uuids:
        if not uuid.startswith("MIG-"):
            parents.setdefault(uuid, [])
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
    device: NvmlDevice, mig_uuids: Sequence[str], clock: Callable[[], float]
) -> tuple[Probe, list[str]]:
    """The sensors of one GPU, and a sentence for each quantity that it does not give.

    What refuses now is not tried as a counter again in this run: a sum that changes its origin is no sum.
    """
    gauge = NvmlGauge(device, clock=clock)
    refusals = dict(gauge.refusals())
    name = _ask_once(device, "name", lambda gpu: str(pynvml.nvmlDeviceGetName(gpu)), refusals)
    power_max_w = _ask_once(device, "power_max_w", _power_max_w, refusals)

    def meter(source: Source, *notes: str) -> Meter:
        return Meter(
            component="gpu",
            device=device.uuid,
            name=name or "NVIDIA GPU of unknown name",
            source=source,
            update_period_s=UPDATE_PERIOD_S,
            relative_uncertainty=GAIN_ERROR,
            uncertainty_source=GAIN_SOURCE,
            power_max_w=power_max_w,
            notes=(*_mig_notes(mig_uuids), *notes),
        )

    counter: EnergyCounter = NvmlEnergy(device, meter("counter"))
    reasons = [f"{reason} It stays null." for reason in refusals.values()]
    try:
        counter.read()
    except QuantityRefused as refusal:
        counter = IntegratedPower(meter("integrated", _integration_note(refusals)), gauge.power, clock=clock)
        _check_power(gauge, refusal)
        reasons.append(f"{refusal} Its power is integrated instead.")
    return Probe(counter=counter, gauge=gauge), reasons


def _ask_once(
    device: NvmlDevice, quantity: str, call: Callable[[Handle], T], refusals: dict[str, str]
) -> T | None:
    try:
        return device.ask(quantity, call)
    except QuantityRefused as refusal:
        refusals[quantity] = str(refusal)
        return None


def _power_max_w(gpu: Handle) -> float:
    _, most_mw = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu)
    return float(most_mw * W_PER_MILLIWATT)


def _mig_notes(mig_uuids: Sequence[str]) -> tuple[str, ...]:
    if not mig_uuids:
        return ()
    instances = ", ".join(mig_uuids)
    return (
        f"MIG: the energy is that of the whole parent GPU, of which this run used {instances}. The hardware "
        "does not meter instances, so no share is claimed.",
    )


def _integration_note(refusals: dict[str, str]) -> str:
    kind = "its mean power over the last second" if "power_w" in refusals else "its instantaneous power"
    return f"This GPU has no energy counter: {kind} is integrated, so changes between two readings go unseen."


def _check_power(gauge: NvmlGauge, no_counter: QuantityRefused) -> None:
    try:
        gauge.power()
    except QuantityRefused as no_power:
        raise QuantityRefused(f"{no_counter} Nor can its power be integrated: {no_power}") from no_power
