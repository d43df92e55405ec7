"""The two seams that every sensor fits: a cumulative energy counter, and a gauge of everything else.

A sensor is asked, it never calls. It may be slow, vanish or fail: it then raises `SensorError`, and the
sampler records the reason. Nothing here knows about runs, steps or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from profiler.records import Component, Scope, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What an energy counter measures, and how well.

    Attributes:
        component: Which part of the machine the joules belong to.
        device: A UUID where the hardware has one, else a name that is unique on the host.
        name: The product's name, for people.
        source: `counter` (read from hardware), `integrated` (from sampled power) or `estimated`.
        update_period_s: Seconds between two changes of the counter; None when it follows continuously.
        relative_uncertainty: Half-width of the error of the gain, as a fraction. It does not average out.
        uncertainty_source: Where that fraction comes from.
        power_max_w: The most that this part can draw, if known.
        joules_per_cpu_s: For CPU-time estimates only: joules booked per CPU second.
        scope: What the joules are of: the `device` itself, the whole `module` (Grace and Hopper together), or the
            `parent_of_mig`, of which the run used a part.
        notes: What a reader of the number must know (scope, assumption).
    """

    component: Component
    device: str
    name: str
    source: Source
    update_period_s: float | None
    relative_uncertainty: float
    uncertainty_source: str
    power_max_w: float | None = None
    joules_per_cpu_s: float | None = None
    scope: Scope = "device"
    notes: tuple[str, ...] = ()


class EnergyCounter(Protocol):
    """Joules since some fixed moment, never falling except when the hardware resets."""

    @property
    def meter(self) -> Meter:
        """What is measured; constant for the life of the counter."""
        ...

    def read(self) -> float:
        """Cumulative energy in joules.

        Raises:
            SensorError: The hardware refused, with its reason.
        """
        ...


class GaugeReading(NamedTuple):
    """Momentary values of one device; what it does not offer is None. Units and order as in `records.Reading`.

    Attributes:
        news: What a reader should know from now on, by quantity: why it went missing, is asked less often or changed.
    """

    power_w: float | None = None
    average_power_w: float | None = None
    utilization: float | None = None
    sm_activity: float | None = None
    tensor_activity: float | None = None
    sm_occupancy: float | None = None
    dram_activity: float | None = None
    pcie_sent_bytes_per_s: float | None = None
    pcie_received_bytes_per_s: float | None = None
    nvlink_sent_bytes_per_s: float | None = None
    nvlink_received_bytes_per_s: float | None = None
    memory_used_bytes: int | None = None
    temperature_c: float | None = None
    sm_clock_hz: float | None = None
    power_limit_w: float | None = None
    throttle_reasons: int | None = None
    news: Mapping[str, str] = MappingProxyType({})


class Gauge(Protocol):
    """Momentary values of one device."""

    def read(self) -> GaugeReading:
        """Read all that the device offers.

        Raises:
            SensorError: The device did not answer at all.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CoTenants:
    """Who else computes on a device that this run uses: its energy is then theirs as well.

    Attributes:
        processes: How many processes of others; None when the device does not tell.
        memory_bytes: Device memory that they hold together; None when it is not known.
        note: How far the count can be trusted; None when there is nothing to add.
    """

    processes: int | None
    memory_bytes: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The sensors of one device: polled together, stored as one row.

    Attributes:
        counter: Its energy.
        gauge: Everything else; None when there is nothing else.
        driver: Who answers for it. A call that hangs holds up the other probes of its driver, and no one else's.
        co_tenants: Asks who else uses the device, or raises `SensorError`. It is slow, so asked at the start and the
            end only; None for a device that nobody shares, or that cannot tell.
    """

    counter: EnergyCounter
    gauge: Gauge | None = None
    driver: str = "the driver"
    co_tenants: Callable[[], CoTenants] | None = None
