"""What a run did over time, for charts: power and gauges by device, work and losses by step."""

from __future__ import annotations

import polars as pl

from profiler.metrics.devices import DeviceCurve, device_curves
from profiler.store.run import StoredRun

_GAUGES = ("utilization", "memory_used_bytes", "temperature_c", "throttle_reasons")

POWER_SCHEMA = pl.Schema(
    {
        "component": pl.String,
        "device": pl.String,
        "name": pl.String,
        "source": pl.String,
        "time_s": pl.Float64,
        "power_w": pl.Float64,
        "utilization": pl.Float64,
        "memory_used_bytes": pl.Int64,
        "temperature_c": pl.Float64,
        "throttle_reasons": pl.Int64,
    }
)


def power_timeline(run: StoredRun) -> pl.DataFrame:
    """Power and gauges of every device over seconds of its process's clock.

    Power is what the device itself told, where it does; else the mean between two changes of its energy counter, at the
    later one. These instants are known to a sampling period only, so a short stretch can show a peak that never was.
    Gauges are as they were read.
    """
    frames = [_device_timeline(curve) for curve in device_curves(run.processes)]
    return pl.concat([pl.DataFrame(schema=POWER_SCHEMA), *frames])


def step_timeline(run: StoredRun) -> pl.DataFrame:
    """Steps with their rates: `time_s` is the end of the step; rates are per rank."""
    frames = [p.steps for p in run.processes]
    steps = pl.concat(frames) if frames else pl.DataFrame()
    if steps.is_empty():
        return steps
    return steps.sort("rank", "start_s").select(
        "rank",
        "step",
        (pl.col("start_s") + pl.col("duration_s")).alias("time_s"),
        "loss",
        (pl.col("tokens") / pl.col("duration_s")).alias("tokens_per_s"),
        (pl.col("samples") / pl.col("duration_s")).alias("samples_per_s"),
        pl.col("duration_s").alias("step_s"),
        "data_s",
        "forward_s",
        "backward_s",
        "optimizer_s",
        "other_s",
        "memory_allocated_bytes",
        "memory_reserved_bytes",
        "host_rss_bytes",
    )


def _device_timeline(curve: DeviceCurve) -> pl.DataFrame:
    device, component = curve.meter["device"], curve.meter["component"]
    readings = curve.process.readings.filter(
        (pl.col("device") == device) & (pl.col("component") == component)
    )
    told = pl.coalesce("power_w", "average_power_w").alias("power_w")
    gauges = readings.select("time_s", *_GAUGES, told)
    if gauges["power_w"].count() < 2 and curve.curve.known:
        time_s, _ = curve.curve.changes()
        power = pl.DataFrame({"time_s": time_s[1:], "power_w": curve.curve.power_w()})
        gauges = gauges.drop("power_w").join(power, on="time_s", how="full", coalesce=True)
    labels = {
        "component": component,
        "device": device,
        "name": curve.meter["name"],
        "source": curve.meter["source"],
    }
    labelled = gauges.with_columns(pl.lit(value, pl.String).alias(key) for key, value in labels.items())
    return labelled.select(POWER_SCHEMA.names()).cast(POWER_SCHEMA).sort("time_s")
