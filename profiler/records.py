"""What is stored: one frozen dataclass a table, and the Polars schema that follows from it.

A record is plain data with units in its field names. Times are seconds on the recording process's
monotonic clock, counted from the start of its attempt. `None` means "not known", never zero.

Schema history
    1   first version: steps, readings, marks
    2   steps: num_microbatches, executed_flops, operator_bytes; readings: sm_occupancy, PCIe and NVLink traffic
        (older rows: null)
    3   parts: whole thousandths in energy_mj, power_mw and average_power_mw, readings device by device, several
        generations in one; journals; a checksum in manifests; marks: gap
    4   readings: took_s (older rows: null, taken as 0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, get_type_hints

import polars as pl

SCHEMA_VERSION = 4

Component = Literal["gpu", "cpu", "dram", "module", "node"]
Source = Literal["counter", "integrated", "estimated"]
Scope = Literal["device", "module", "parent_of_mig"]
StepPhase = Literal["data", "forward", "backward", "optimizer", "other"]
RunPhase = Literal["validation", "checkpoint"]
Phase = StepPhase | RunPhase
TableName = Literal["steps", "readings", "marks"]

STEP_PHASES: tuple[StepPhase, ...] = ("data", "forward", "backward", "optimizer", "other")
RUN_PHASES: tuple[RunPhase, ...] = ("validation", "checkpoint")


class Step(NamedTuple):
    """One optimizer update, with everything since the update before it.

    A named tuple, unlike the other records: it is made inside the training, and a frozen dataclass takes five
    times as long (5.5 against 1.1 µs).

    `*_s` are wall seconds by phase, `*_cpu_s` the CPU seconds that this process spent in the same phase
    (all threads; not its DataLoader workers); the latter are null where the phases are a GPU's. Where steps take less
    than 0.15 s their sum over some steps is exact, and its division is by what some of them were seen to use.
    `num_microbatches` counts the forward passes. `samples`, `tokens` and `model_flops` count all microbatches of the
    step on this rank. `model_flops` leaves recomputation out, `executed_flops` has it in. `operator_bytes` is what the
    operators read and wrote, as if none was fused and nothing stayed in a cache.
    """

    rank: int
    step: int
    start_s: float
    duration_s: float
    num_microbatches: int | None = None
    data_s: float | None = None
    forward_s: float | None = None
    backward_s: float | None = None
    optimizer_s: float | None = None
    other_s: float | None = None
    data_cpu_s: float | None = None
    forward_cpu_s: float | None = None
    backward_cpu_s: float | None = None
    optimizer_cpu_s: float | None = None
    other_cpu_s: float | None = None
    samples: int | None = None
    tokens: int | None = None
    model_flops: float | None = None
    executed_flops: float | None = None
    operator_bytes: float | None = None
    loss: float | None = None
    memory_allocated_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_peak_bytes: int | None = None
    memory_peak_reserved_bytes: int | None = None
    host_rss_bytes: int | None = None
    metrics: Mapping[str, float] = MappingProxyType({})


class Reading(NamedTuple):
    """What the sensors of one device said at one instant; a named tuple as `Step` is: it is made 80 times a second.

    `energy_j` is cumulative from an arbitrary origin; only differences mean anything. `power_w` is the
    instantaneous power where the device tells it apart from an average. `utilization` is the share of time
    in which the device did anything at all: it is not efficiency. `*_activity` are shares of the time in which the
    streaming multiprocessors, any tensor pipe, or the memory interface worked, over the time since the last reading.
    `took_s` is how long the call took that told `energy_j`, in whole milliseconds: the joules are those of some moment
    of it, and `time_s` is its middle.
    """

    time_s: float
    component: Component
    device: str
    source: Source
    energy_j: float | None = None
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
    took_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An interval or an instant of the run, with a JSON note.

    Kinds in use: fit, epoch, validation, checkpoint, budget, idle, co_tenants, second_opinion, sensor_lost, sensor_gap
    (a driver did not answer), suspended (the machine slept, somewhere between start and end, for the note's `slept_s`),
    gap (the disk took nothing), arm (one training of an experiment), curve (a point of one), phenomenon (its verdict),
    note.
    An instant has `end_s` null.
    """

    rank: int
    kind: str
    start_s: float
    end_s: float | None = None
    note: str = "{}"


Row = Step | Reading | Mark

_METRICS = pl.List(pl.Struct({"name": pl.String, "value": pl.Float64}))
_COLUMN_TYPES: dict[object, pl.DataType] = {
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    int | None: pl.Int64(),
    float | None: pl.Float64(),
    Component: pl.String(),
    Source: pl.String(),
    Mapping[str, float]: _METRICS,
}


def _schema(record: type) -> pl.Schema:
    """The table schema of a record class: its fields in order, counters as Int64 (an Int32 sum wraps)."""
    return pl.Schema({name: _COLUMN_TYPES[hint] for name, hint in get_type_hints(record).items()})


SCHEMAS: Mapping[TableName, pl.Schema] = {
    "steps": _schema(Step),
    "readings": _schema(Reading),
    "marks": _schema(Mark),
}


def table_of(row: Row) -> TableName:
    """The name of the table that a record belongs to."""
    if isinstance(row, Step):
        return "steps"
    return "readings" if isinstance(row, Reading) else "marks"
