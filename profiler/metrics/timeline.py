"""What a run did over time, for charts: power and gauges by device, work and losses by step.

Of a long run the rows are not all read into memory, let alone drawn: each row is then a slice of time, with the mean of
every quantity and its least and most (`_low`, `_high`).

Attempts follow each other without the time between them, which is none of the run's: each is moved by the lengths of
those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from profiler.metrics.devices import DeviceCurve, device_curves, fit_window
from profiler.metrics.kept import by_attempt, kept_until
from profiler.metrics.slices import in_slices, slice_width_s
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun

MOST_ROWS = 20_000
"""A table of a process with more rows than this is cut into slices."""

_THREADS = 2
"""Reading leaves the interpreter most of the time."""

_GAUGES = ("power_w", "utilization", "memory_used_bytes")
_RANGES = {f"{gauge}_{end}": pl.Float64() for gauge in _GAUGES for end in ("low", "high")}

POWER_SCHEMA = pl.Schema(
    {
        "component": pl.String(),
        "device": pl.String(),
        "name": pl.String(),
        "source": pl.String(),
        "attempt": pl.Int64(),
        "time_s": pl.Float64(),
        **dict.fromkeys(_GAUGES, pl.Float64()),
        **_RANGES,
    }
)

_STEPS = ("rank", "step", "start_s", "duration_s", "loss", "tokens", "samples")
_MEMORY = ("memory_allocated_bytes", "host_rss_bytes")
_DRAWN = ("step", "loss", "tokens_per_s", "samples_per_s", *_MEMORY)


def power_timeline(run: StoredRun) -> pl.DataFrame:
    """Power and gauges of every device over seconds of the run's attempts, one after the other.

    Power is what the device itself told, where it does; else the mean between two changes of its energy counter, at the
    later one. These instants are known to a sampling period only, so a short stretch can show a peak that never was.
    Gauges are as they were read.
    """
    curves = device_curves(run.processes)
    with ThreadPoolExecutor(_THREADS) as pool:
        told = dict(zip(map(id, run.processes), pool.map(_told, run.processes), strict=True))
    shifts = _shifts(run)
    frames = [_moved(_device_timeline(c, told[id(c.process)]), c.process, shifts) for c in curves]
    return pl.concat([pl.DataFrame(schema=POWER_SCHEMA), *frames])


def step_timeline(run: StoredRun) -> pl.DataFrame:
    """Steps with their rates: `time_s` is the end of the step; rates are per rank; `lost` is what was thrown away."""
    shifts, until = _shifts(run), kept_until(run.processes)
    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(lambda p: _steps(p, until[p.facts.attempt]), run.processes)
        frames = [
            _moved(frame, p, shifts) for p, frame in zip(run.processes, made, strict=True) if len(frame)
        ]
    return pl.concat(frames, how="vertical_relaxed").sort("rank", "time_s") if frames else pl.DataFrame()


def _shifts(run: StoredRun) -> dict[int, float]:
    """Seconds by which each attempt's clock is moved: the lengths of the attempts before it, by rank 0's fit."""
    shifts, begun_s = {}, 0.0
    for number, processes in by_attempt(run.processes).items():
        shifts[number] = begun_s
        window = fit_window(min(processes, key=lambda p: p.facts.rank))
        begun_s += window[1] if window else 0.0
    return shifts


def _moved(frame: pl.DataFrame, process: StoredProcess, shifts: Mapping[int, float]) -> pl.DataFrame:
    attempt = process.facts.attempt
    return frame.with_columns(pl.col("time_s") + shifts[attempt], pl.lit(attempt, pl.Int64).alias("attempt"))


def _told(process: StoredProcess) -> pl.DataFrame:
    """What the devices of a process told: power, their own where they tell it, and gauges."""
    asked = ("component", "device", "time_s", "average_power_w", *_GAUGES)
    pieces = (_with_average(piece) for piece in process.pieces("readings", *asked))
    return _few_rows(process, pieces, _GAUGES, ("component", "device"))


def _with_average(readings: pl.DataFrame) -> pl.DataFrame:
    """Where a device tells no momentary power, its average."""
    if readings["average_power_w"].null_count() < len(readings):
        readings = readings.with_columns(pl.coalesce("power_w", "average_power_w").alias("power_w"))
    return readings.drop("average_power_w")


def _steps(process: StoredProcess, until: int | None) -> pl.DataFrame:
    pieces = (_rates(piece, until) for piece in process.pieces("steps", *_STEPS, *_MEMORY))
    return _few_rows(process, pieces, _DRAWN, ("rank", "lost"))


def _rates(steps: pl.DataFrame, until: int | None) -> pl.DataFrame:
    return steps.select(
        "rank",
        (pl.lit(False) if until is None else pl.col("step") > until).alias("lost"),
        "step",
        (pl.col("start_s") + pl.col("duration_s")).alias("time_s"),
        "loss",
        (pl.col("tokens") / pl.col("duration_s")).alias("tokens_per_s"),
        (pl.col("samples") / pl.col("duration_s")).alias("samples_per_s"),
        *_MEMORY,
    )


def _few_rows(
    process: StoredProcess, pieces: Iterator[pl.DataFrame], values: Sequence[str], keys: Sequence[str]
) -> pl.DataFrame:
    """All rows of a short table as they are; those of a long one in slices."""
    first, second = next(pieces, pl.DataFrame()), next(pieces, None)
    if second is None and len(first) <= MOST_ROWS:
        ranges = {f"{name}_{end}": pl.col(name) for name in values for end in ("low", "high")}
        return first.with_columns(**ranges) if len(first) else first
    window = fit_window(process) or (0.0, 1.0)
    some = [first] if second is None else [first, second]
    return in_slices((*some, *pieces), slice_width_s(*window), values, keys)


def _device_timeline(curve: DeviceCurve, told: pl.DataFrame) -> pl.DataFrame:
    device, component = curve.meter["device"], curve.meter["component"]
    labels = {
        "component": component,
        "device": device,
        "name": curve.meter["name"],
        "source": curve.meter["source"],
    }
    own = pl.DataFrame(schema=POWER_SCHEMA)
    if len(told):
        own = told.filter((pl.col("device") == device) & (pl.col("component") == component))
    if (own.is_empty() or own["power_w"].count() < 2) and curve.curve.known:
        own = _with_power(own, curve)
    labelled = own.with_columns(
        pl.lit(curve.process.facts.attempt, pl.Int64).alias("attempt"),
        *(pl.lit(value, pl.String).alias(key) for key, value in labels.items()),
    )
    return labelled.select(POWER_SCHEMA.names()).cast(POWER_SCHEMA).sort("time_s")


def _with_power(told: pl.DataFrame, curve: DeviceCurve) -> pl.DataFrame:
    """The gauges with the power between changes of the counter."""
    time_s, _ = curve.curve.changes()
    power = pl.DataFrame({"time_s": time_s[1:], "power_w": curve.curve.power_w()})
    drawn = _few_rows(curve.process, iter([power]), ("power_w",), ())
    gauges = told.drop("power_w", "power_w_low", "power_w_high")
    if len(drawn) < len(power):
        told_any = gauges.filter(pl.any_horizontal(pl.col("utilization", "memory_used_bytes").is_not_null()))
        return pl.concat([told_any, drawn], how="diagonal_relaxed")
    return gauges.join(drawn, on="time_s", how="full", coalesce=True)
