"""What a run did over time, for charts: power and gauges by device, work and losses by step.

Of a long run the rows are not all read into memory, let alone drawn: each row is then a slice of time, with the mean of
every quantity and its least and most (`_low`, `_high`).

Attempts follow each other without the time between them, which is none of the run's: each is moved by the lengths of
those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

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

_GAUGES = ("utilization", "memory_used_bytes")
_DEVICE = ("component", "device")


def _schema(*values: str) -> pl.Schema:
    texts = dict.fromkeys((*_DEVICE, "name", "source"), pl.String())
    ranges = [f"{value}{end}" for value in values for end in ("", "_low", "_high")]
    place = {"host": pl.String(), "rank": pl.Int64(), "attempt": pl.Int64()}
    numbers = {"relative_uncertainty": pl.Float64(), "time_s": pl.Float64()}
    return pl.Schema({**texts, **place, **numbers, **dict.fromkeys(ranges, pl.Float64())})


POWER_SCHEMA = _schema("power_w")
GAUGES_SCHEMA = _schema(*_GAUGES)

_STEPS = ("rank", "step", "start_s", "duration_s", "loss", "tokens", "samples")
_MEMORY = ("memory_allocated_bytes", "host_rss_bytes")
_DRAWN = ("step", "loss", "tokens_per_s", "samples_per_s", *_MEMORY)


def power_timeline(run: StoredRun) -> pl.DataFrame:
    """Power of every device over seconds of the run's attempts, one after the other.

    Power is what the device itself told, where it does; else the mean between two changes of its energy counter, at the
    later one. These instants are known to a sampling period only, so a short stretch can show a peak that never was.
    """
    return _timeline(run, _told_power, _or_by_counter, POWER_SCHEMA)


def gauge_timeline(run: StoredRun) -> pl.DataFrame:
    """Use and memory of every device, as they were read, over the same seconds."""
    return _timeline(run, _told_gauges, lambda own, _: own.drop_nulls("time_s"), GAUGES_SCHEMA)


def _timeline(
    run: StoredRun,
    read: Callable[[StoredProcess], pl.DataFrame],
    complete: Callable[[pl.DataFrame, DeviceCurve], pl.DataFrame],
    schema: pl.Schema,
) -> pl.DataFrame:
    """What all processes read, device by device, on the clock of the run."""
    with ThreadPoolExecutor(_THREADS) as pool:
        told = dict(zip(map(id, run.processes), pool.map(read, run.processes), strict=True))
    shifts, frames = _shifts(run), [pl.DataFrame(schema=schema)]
    for curve in device_curves(run.processes):
        own = complete(_own(told[id(curve.process)], curve, schema), curve)
        labels = {key: pl.lit(str(curve.meter[key])) for key in (*_DEVICE, "name", "source")}
        facts, share = curve.process.facts, float(curve.meter["relative_uncertainty"])
        told_of = {"host": facts.host, "rank": facts.rank, "relative_uncertainty": share}
        labels |= {key: pl.lit(value) for key, value in told_of.items()}
        moved = _moved(own.with_columns(**labels), curve.process, shifts)
        frames.append(moved.select(schema.names()).cast(schema).sort("time_s"))
    return pl.concat(frames)


def _own(told: pl.DataFrame, curve: DeviceCurve, schema: pl.Schema) -> pl.DataFrame:
    """The rows of one device."""
    if told.is_empty():
        return pl.DataFrame(schema=schema)
    return told.filter(*(pl.col(key) == curve.meter[key] for key in _DEVICE))


def step_timeline(run: StoredRun) -> pl.DataFrame:
    """Steps with their rates: `time_s` is the end of the step; rates are per rank; `lost` is what was thrown away."""
    shifts, until = _shifts(run), kept_until(run.processes)
    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(lambda p: _steps(p, until[p.facts.attempt]), run.processes)
        frames = [
            _moved(frame, p, shifts) for p, frame in zip(run.processes, made, strict=True) if len(frame)
        ]
    return pl.concat(frames, how="vertical_relaxed").sort("rank", "time_s") if frames else pl.DataFrame()


def length_s(run: StoredRun) -> float:
    """Seconds of all attempts, one after the other, the last to its last rank: where a timeline of the run ends."""
    shifts = _shifts(run)
    return max((shifts[p.facts.attempt] + _end_s(p) for p in run.processes), default=0.0)


def _shifts(run: StoredRun) -> dict[int, float]:
    """Seconds by which each attempt's clock is moved: the lengths of the attempts before it, by rank 0's fit."""
    leaders = [min(of, key=lambda p: p.facts.rank) for of in by_attempt(run.processes).values()]
    begun_s = accumulate(map(_end_s, leaders), initial=0.0)
    return {leader.facts.attempt: start_s for leader, start_s in zip(leaders, begun_s, strict=False)}


def _end_s(process: StoredProcess) -> float:
    """When its fit ended, in seconds of its attempt."""
    window = fit_window(process)
    return window[1] if window else 0.0


def _moved(frame: pl.DataFrame, process: StoredProcess, shifts: Mapping[int, float]) -> pl.DataFrame:
    attempt = process.facts.attempt
    return frame.with_columns(pl.col("time_s") + shifts[attempt], pl.lit(attempt, pl.Int64).alias("attempt"))


def _told_power(process: StoredProcess) -> pl.DataFrame:
    """Power as the devices tell it, or, where one tells no momentary power, its average."""
    power = pl.coalesce("power_w", "average_power_w").alias("power_w")
    pieces = process.pieces("readings", *_DEVICE, "time_s", "power_w", "average_power_w")
    return _few_rows(process, (piece.with_columns(power) for piece in pieces), ("power_w",), _DEVICE)


def _told_gauges(process: StoredProcess) -> pl.DataFrame:
    pieces = process.pieces("readings", *_DEVICE, "time_s", *_GAUGES)
    return _few_rows(process, pieces, _GAUGES, _DEVICE)


def _steps(process: StoredProcess, until: int | None) -> pl.DataFrame:
    pieces = (_rates(piece, until) for piece in process.pieces("steps", *_STEPS, *_MEMORY))
    return _few_rows(process, pieces, _DRAWN, ("rank", "lost"))


def _rates(steps: pl.DataFrame, until: int | None) -> pl.DataFrame:
    return steps.select(
        "rank",
        (pl.lit(False) if until is None else pl.col("step") > until).alias("lost"),
        "step",
        (pl.col("start_s") + pl.col("duration_s")).alias("time_s"),
        pl.col("loss").fill_nan(math.inf),  # in means of slices it stays what it is: not finite
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


def _or_by_counter(told: pl.DataFrame, curve: DeviceCurve) -> pl.DataFrame:
    """What a device told, or, if it did not, the power between changes of its counter."""
    if told["power_w"].count() >= 2 or not curve.curve.known:
        return told
    time_s, _ = curve.curve.changes()
    power = pl.DataFrame({"time_s": time_s[1:], "power_w": curve.curve.power_w()})
    return _few_rows(curve.process, iter([power]), ("power_w",), ())
