"""What a run's tables say of how it went: shares and gauges for the verdict, unknown ones None."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from profiler.metrics.devices import fit_windows
from profiler.records import STEP_PHASES, StepPhase
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun

_STEPS = (
    *("step", "duration_s", "samples", "memory_allocated_bytes"),
    *(f"{phase}_{seconds}" for phase in STEP_PHASES for seconds in ("s", "cpu_s")),
)

_GAUGES = ("power_w", "power_limit_w", "utilization", "sm_activity", "tensor_activity")

WARM_UP_STEPS = 3
"""Left out of every share: loader workers start, kernels are chosen, and FLOPs are counted in the first ones."""

MOSTLY = 0.9
"""The share of the steps whose phases must be known for their shares to stand for the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuGauges:
    """Means over the readings of rank 0's GPUs inside the fit, as fractions.

    Attributes:
        kernel_running: Share of the time in which any kernel ran (NVML's "utilization").
        sm_activity: Share of the multiprocessors that had work, on average.
        tensor_activity: Share of the time in which the tensor pipes worked.
        power_share: Mean power / power limit.
    """

    kernel_running: float | None = None
    sm_activity: float | None = None
    tensor_activity: float | None = None
    power_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Of rank 0, after its first steps.

    Attributes:
        steps: Steps that the shares rest on.
        step_s: Their seconds.
        shares: Phase to its share of the time inside steps; empty where phases were not timed.
        halves: The same of the first and of the second half of the steps: what holds in one only is a passing state.
        busy_threads: Phase to CPU seconds / wall seconds of this process; empty where phases were not timed.
        gpu: None if the run used none.
        samples_per_step: On this rank; None if unknown.
    """

    steps: int
    step_s: float
    shares: Mapping[StepPhase, float] = field(default_factory=dict)
    halves: Sequence[Mapping[StepPhase, float]] = ()
    busy_threads: Mapping[StepPhase, float] = field(default_factory=dict)
    gpu: GpuGauges | None = None
    samples_per_step: float | None = None


def gather(run: StoredRun) -> Evidence:
    """The evidence of a run's tables; one that left no steps has none."""
    leaders = [p for p in run.processes if p.facts.rank == 0]
    every = [p.columns("steps", *_STEPS).sort("step").slice(WARM_UP_STEPS) for p in leaders]
    steps = pl.concat(every) if every else pl.DataFrame({"duration_s": []}, schema={"duration_s": pl.Float64})
    on_gpu = "memory_allocated_bytes" in steps.columns and steps["memory_allocated_bytes"].count() > 0
    gpu = _gauges(leaders) if on_gpu else None  # a GPU that is only looked at says nothing of the training
    evidence = Evidence(steps=len(steps), step_s=float(steps["duration_s"].sum()), gpu=gpu)
    if not evidence.steps:
        return evidence
    half = len(steps) // 2
    return Evidence(
        steps=evidence.steps,
        step_s=evidence.step_s,
        shares=_shares(steps),
        halves=(_shares(steps.head(half)), _shares(steps.tail(half))),
        busy_threads=_busy_threads(steps),
        gpu=evidence.gpu,
        samples_per_step=_mean(steps["samples"]),
    )


def _shares(steps: pl.DataFrame) -> dict[StepPhase, float]:
    """Of the steps whose phases were timed, if that is most of them: on a GPU a step may go untimed now and then."""
    timed = steps.drop_nulls([f"{phase}_s" for phase in STEP_PHASES])
    if len(timed) < MOSTLY * len(steps):
        return {}
    steps = timed
    seconds = {phase: steps[f"{phase}_s"] for phase in STEP_PHASES}
    total_s = sum(float(column.sum()) for column in seconds.values())
    if total_s <= 0.0:
        return {}
    return {phase: float(column.sum()) / total_s for phase, column in seconds.items()}


def _busy_threads(steps: pl.DataFrame) -> dict[StepPhase, float]:
    sums = steps.select(pl.col(f"{p}_s", f"{p}_cpu_s").sum() for p in STEP_PHASES).row(0, named=True)
    known = [p for p in STEP_PHASES if not steps[f"{p}_cpu_s"].null_count() and sums[f"{p}_s"] > 0.0]
    return {phase: sums[f"{phase}_cpu_s"] / sums[f"{phase}_s"] for phase in known}


def _gauges(leaders: Sequence[StoredProcess]) -> GpuGauges | None:
    means = [gauges for p in leaders for window in fit_windows(p) for gauges in _sums(p, window)]
    if not means:
        return None
    told = pl.concat(means).sum()
    mean = {name: _ratio(told[name][0], told[f"{name}_count"][0]) for name in _GAUGES}
    return GpuGauges(
        kernel_running=mean["utilization"],
        sm_activity=mean["sm_activity"],
        tensor_activity=mean["tensor_activity"],
        power_share=_ratio(mean["power_w"], mean["power_limit_w"]),
    )


def _sums(process: StoredProcess, window: tuple[float, float]) -> Iterator[pl.DataFrame]:
    """Sum and count of what the GPUs told within a window, for each piece of the readings in which they told any."""
    inside = pl.col("component").is_in(["gpu", "module"]) & pl.col("time_s").is_between(*window)
    power = pl.coalesce("power_w", "average_power_w").alias("power_w")
    for piece in process.pieces("readings", "component", "time_s", "average_power_w", *_GAUGES):
        rows = piece.filter(inside).with_columns(power)
        if len(rows):
            yield rows.select(pl.col(_GAUGES).sum(), pl.col(_GAUGES).count().name.suffix("_count"))


def _mean(column: pl.Series) -> float | None:
    mean: Any = column.mean()
    return None if mean is None else float(mean)


def _ratio(amount: float | None, per: float | None) -> float | None:
    return None if amount is None or not per else amount / per
