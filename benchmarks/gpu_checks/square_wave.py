"""Does the energy counter see all of the time? A load of exactly 100 ms period, shifted in phase.

A sensor that looks at 25 of every 100 ms sees such a load always at the same place, so what it counts depends on
the phase. One that looks at everything counts the same whatever the phase. A load of 137 ms drifts through the
sensor's rhythm and is the control. After arXiv 2312.02741, without its external meter.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl

from gpu_checks.bench import Bench
from profiler.metrics.energy import EnergyCurve

PERIODS_S = (0.100, 0.137)
PHASES = 10


def phase_shift(bench: Bench) -> dict[str, Any]:
    """Mean power by the counter for each phase of the load, and its spread, for both periods."""
    origin_s = time.monotonic()
    return {f"{1e3 * period_s:g} ms": _scan(bench, period_s, origin_s) for period_s in PERIODS_S}


def _scan(bench: Bench, period_s: float, origin_s: float) -> dict[str, Any]:
    powers = []
    for number in range(PHASES):
        powers.append(_mean_power_w(bench, period_s, origin_s + number * period_s / PHASES))
    known = np.asarray([p for p in powers if p is not None])
    return {
        "mean_power_w": powers,
        "spread": float((known.max() - known.min()) / known.mean()) if len(known) > 1 else None,
        "relative_sd": float(known.std() / known.mean()) if len(known) > 1 else None,
    }


def _mean_power_w(bench: Bench, period_s: float, origin_s: float) -> float | None:
    """Watts by the counter under a load that is on for the first half of every period counted from `origin_s`."""
    products = max(round(period_s / 2 / bench.load.product_s), 1)
    rows, cycles = [], max(round(bench.seconds(4.0) / period_s), 4)
    first = np.ceil((time.monotonic() - origin_s) / period_s) + 1
    for cycle in range(cycles):
        start_s = origin_s + (first + cycle) * period_s
        time.sleep(max(start_s - time.monotonic(), 0.0))
        bench.load.launch(products)
        for part in range(1, 5):  # read while the products run, and after
            time.sleep(max(start_s + 0.2 * part * period_s - time.monotonic(), 0.0))
            rows.append((time.monotonic(), bench.probe.counter.read()))
    return _slope_w(rows, period_s, cycles)


def _slope_w(rows: list[tuple[float, float]], period_s: float, cycles: int) -> float | None:
    """Mean watts over whole periods, the first two left out."""
    readings = pl.DataFrame(rows, schema={"time_s": pl.Float64, "energy_j": pl.Float64}, orient="row")
    meter = {"update_period_s": 0.1, "relative_uncertainty": 0.0, "power_max_w": None}
    start_s = rows[0][0] + 2 * period_s
    end_s = start_s + (cycles - 3) * period_s
    found = EnergyCurve(readings, meter).windows([(start_s, end_s)])
    return None if found is None else found.energy_j / (end_s - start_s)
