"""Our own sensors and sampler over the fake library on a virtual clock: exact, and quick for a thousand traces."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pynvml
from fake_nvml.build import FakeNvml, build_library

from accuracy.realtime import PEER_NVML, ROOT
from accuracy.scores import Window
from accuracy.traces import LENGTH_S, UUID, Rng, Trace, seeded, true_joules
from profiler.measure.guard import Guard
from profiler.measure.lane import CLOSE_LOOK_S, CLOSE_PERIOD_S
from profiler.measure.sampler import SAMPLING_PERIOD_S, Sampler
from profiler.measure.sensors.nvml import open_gpus
from profiler.metrics.energy import EnergyCurve
from profiler.records import SCHEMAS, Reading

ENERGY_CALL = "nvmlDeviceGetTotalEnergyConsumption"
GPU_IS_LOST = 15


def load_library() -> FakeNvml:
    """The fake library behind the real pynvml binding of this process."""
    folder = Path(tempfile.mkdtemp(prefix="fake-nvml-"))
    library = FakeNvml(build_library(folder, soname="libfake-nvml-accuracy.so", extra=[PEER_NVML]))
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library.handle
    return library


def ours(library: FakeNvml, seed: int, traces: int, *, part_time: bool, marked: bool = False) -> list[Window]:
    """Every window of every trace, by our estimator over what our sampler stored.

    With `marked`, the sensors are read at both ends of each window, too, as `EfficiencyMonitor.mark` does.
    """
    found = []
    for number in range(traces):
        trace, windows, rng = seeded(seed, number, part_time)
        readings, meter = record(
            library, trace, rng, [t for _, *ends in windows for t in ends] if marked else []
        )
        curve = EnergyCurve(readings, meter)
        for group, start_s, end_s in windows:
            said = curve.windows([(start_s, end_s)])
            assert said is not None, f"trace {number} is unknown"
            true_j = float(np.diff(true_joules(trace, np.array([start_s, end_s])))[0])
            found.append(
                Window(
                    group=group,
                    trouble=trace.trouble,
                    true_j=true_j,
                    said_j=said.energy_j,
                    bar_j=said.plus_minus_j,
                )
            )
    return found


def zeus(python: Path, seed: int, traces: int, *, part_time: bool, approx: bool) -> tuple[list[Window], int]:
    """The same windows by the real `ZeusMonitor` in the peers' environment; and how many it gave no answer to."""
    words = [str(python), str(Path(__file__).with_name("virtual_zeus.py"))]
    words += [str(seed), str(traces), str(int(part_time)), str(int(approx))]
    paths = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "tests")])
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    rows = json.loads(done.stdout.splitlines()[-1])
    known = [row for row in rows if row[3] is not None]
    return [Window(group=g, trouble=k, true_j=t, said_j=s) for g, k, t, s in known], len(rows) - len(known)


def record(
    library: FakeNvml, trace: Trace, rng: Rng, also: Sequence[float] | None = None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What our sampler stored of a trace, asked to read at some instants, too; and the meter beside it."""
    library.reset()
    library.tell(trace.script(0))
    library.tell(trace.power_script(0))
    library.set_time(0.5)
    gpus = open_gpus([UUID.format(0)], clock=library.time)
    rows: list[Reading] = []
    sampler = Sampler(
        gpus.probes,
        clock=library.time,
        emit=rows.append,
        on_lost=lambda *_: None,
        on_news=lambda *_: None,
        on_co_tenants=lambda *_: None,
        guard=Guard(),
    )
    lost = False
    for time_s in sorted({*instants(trace, rng), *also}):
        library.set_time(time_s)
        if trace.lost and lost != (trace.lost[0] <= time_s < trace.lost[1]):
            lost = not lost
            library.tell(f"error {ENERGY_CALL} {GPU_IS_LOST}" if lost else f"clear {ENERGY_CALL}")
        sampler.sample()
    meter = asdict(gpus.probes[0].counter.meter)
    gpus.close()
    return pl.DataFrame(rows, schema=SCHEMAS["readings"]), meter


def instants(trace: Trace, rng: Rng) -> list[float]:
    """When the sampler's thread gets to read: every period, late by chance, not at all while it stalls."""
    pauses = SAMPLING_PERIOD_S + rng.exponential(trace.jitter_s, int(LENGTH_S / SAMPLING_PERIOD_S))
    pauses[rng.random(len(pauses)) < 0.01] += rng.uniform(0.05, 0.4)
    look = np.arange(0.0, CLOSE_LOOK_S, CLOSE_PERIOD_S) + rng.exponential(
        0.0003, int(CLOSE_LOOK_S / CLOSE_PERIOD_S)
    )
    times = rng.uniform(0.5, 0.6) + np.concatenate([look, CLOSE_LOOK_S + np.cumsum(pauses)])
    free = np.ones(len(times), bool)
    for start, end in trace.stalls:
        free &= ~((start < times) & (times < end))
    return [float(t) for t in times[free & (times < LENGTH_S - 1)]]
