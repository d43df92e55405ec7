"""Our own sensors and sampler over the fake library on a virtual clock: exact, and quick for a thousand traces."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pynvml
from fake_nvml.build import FakeNvml, build_library

from accuracy.traces import LENGTH_S, UUID, Rng, Trace
from profiler.measure.guard import Guard
from profiler.measure.sampler import SAMPLING_PERIOD_S, Sampler
from profiler.measure.sensors.nvml import open_gpus
from profiler.records import SCHEMAS, Reading

ENERGY_CALL = "nvmlDeviceGetTotalEnergyConsumption"
GPU_IS_LOST = 15


def load_library() -> FakeNvml:
    """The fake library behind the real pynvml binding of this process."""
    folder = Path(tempfile.mkdtemp(prefix="fake-nvml-"))
    library = FakeNvml(build_library(folder, soname="libfake-nvml-accuracy.so"))
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library.handle
    return library


def record(library: FakeNvml, trace: Trace, rng: Rng) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What our sampler stored of a trace, and the meter beside it."""
    library.reset()
    library.tell(trace.script(0))
    library.tell(trace.power_script(0))
    library.set_time(0.5)
    gpus = open_gpus([UUID.format(0)], clock=library.time)
    rows: list[Reading] = []
    sampler = Sampler(
        gpus.probes, clock=library.time, emit=rows.append, on_lost=lambda *_: None, guard=Guard()
    )
    lost = False
    for time_s in instants(trace, rng):
        library.set_time(time_s)
        if trace.lost and lost != (trace.lost[0] <= time_s < trace.lost[1]):
            lost = not lost
            library.tell(f"error {ENERGY_CALL} {GPU_IS_LOST}" if lost else f"clear {ENERGY_CALL}")
        sampler.sample()
    meter = asdict(gpus.probes[0].counter.meter)
    gpus.close()
    return pl.DataFrame([asdict(row) for row in rows], schema=SCHEMAS["readings"]), meter


def instants(trace: Trace, rng: Rng) -> list[float]:
    """When the sampler's thread gets to read: every period, late by chance, not at all while it stalls."""
    pauses = SAMPLING_PERIOD_S + rng.exponential(trace.jitter_s, int(LENGTH_S / SAMPLING_PERIOD_S))
    pauses[rng.random(len(pauses)) < 0.01] += rng.uniform(0.05, 0.4)
    times = rng.uniform(0.5, 0.6) + np.cumsum(pauses)
    free = np.ones(len(times), bool)
    for start, end in trace.stalls:
        free &= ~((start < times) & (times < end))
    return [float(t) for t in times[free & (times < LENGTH_S - 1)]]
