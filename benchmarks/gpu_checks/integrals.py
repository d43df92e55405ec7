"""The energy counter against the integral of both powers, idle and under matrix products."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl

from gpu_checks.bench import Bench
from profiler.metrics.energy import EnergyCurve


def counter_against_power(bench: Bench) -> dict[str, Any]:
    """Joules of one minute by the counter and by two integrals, and their ratios."""
    time.sleep(bench.seconds(2.0))
    idle = _compare(bench, bench.poll(bench.seconds(60.0), 0.1))
    with bench.load.in_background():
        time.sleep(bench.seconds(2.0))
        busy = _compare(bench, bench.poll(bench.seconds(60.0), 0.1))
    return {"idle": idle, "matrix_products": busy}


def _compare(bench: Bench, readings: pl.DataFrame) -> dict[str, Any]:
    start_s, end_s = float(readings["time_s"][5]), float(readings["time_s"][-5])
    meter = bench.probe.counter.meter
    curve = EnergyCurve(
        readings.select("time_s", "energy_j"),
        {
            "update_period_s": meter.update_period_s,
            "relative_uncertainty": 0.0,
            "power_max_w": meter.power_max_w,
        },
    )
    counted = curve.windows([(start_s, end_s)])
    found: dict[str, Any] = {
        "seconds": end_s - start_s,
        "counter_j": counted.energy_j if counted else None,
        "counter_w": counted.energy_j / (end_s - start_s) if counted else None,
        "plus_minus_j_without_gain": counted.plus_minus_j if counted else None,
    }
    inside = readings.filter(pl.col("time_s").is_between(start_s, end_s))
    for name in ("power_w", "average_power_w"):
        known = inside.select("time_s", name).drop_nulls()
        joules = float(np.trapezoid(known[name], known["time_s"])) if len(known) > 2 else None
        found[f"{name}_integral_j"] = joules
        found[f"counter_over_{name}"] = counted.energy_j / joules if counted and joules else None
    return found
