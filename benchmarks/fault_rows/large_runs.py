"""Makes one run of 10^8 rows, and 10,000 small runs, in seconds: by hard links to parts that are written once.

A sealed part is valid wherever it lies, so the ranks of the large run share their parts and differ in their hosts, and
the small runs share everything but the manifest. Parts of an hour are put together by the writer's own `Merger`: the
large run lies on disk as one that ended well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from profiler.measure.sensors.base import Meter
from profiler.metrics.entries import entry_of, frame_of
from profiler.metrics.listing import run_index
from profiler.records import Mark, Reading, Row, Step, TableName
from profiler.store.columns import batch_of
from profiler.store.folder import writable_runs_dir
from profiler.store.index import state_of
from profiler.store.manifest import Manifest, ProcessFile, read_manifest, write_json
from profiler.store.merge import Merger
from profiler.store.parts import part_name, write_batches, write_part

RANKS = 64
PERIOD_S = 0.1
PART_ROWS = 36_000
"""An hour: the writer merges its parts of a minute by sixties."""
STEP_S = 1.0
TOKENS = 4096
GPU = "GPU-00000000-0000-0000-0000-000000000000"
_MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_LONG_AGO_S = _MOMENT.timestamp() + 3600.0
RUN_ID = "20260102-030405-large-0001"


def power_w(time_s: np.ndarray) -> np.ndarray:
    """What each GPU draws: hours of work and pauses, and what steps do to it."""
    return 400.0 + 200.0 * np.sin(time_s / 5000.0) + 50.0 * np.sin(time_s)


def energy_j(time_s: np.ndarray) -> np.ndarray:
    """The integral of `power_w` since 0, exactly."""
    return 400.0 * time_s + 1e6 * (1.0 - np.cos(time_s / 5000.0)) + 50.0 * (1.0 - np.cos(time_s))


def make_large_run(runs_dir: Path, rows: int) -> Path:
    """One finished run of `rows` readings on 64 hosts, each with one Grace Hopper module read at 10 Hz.

    A module is its node's, while a GPU of the same UUID would be one and the same wherever it is read.
    """
    run = writable_runs_dir(runs_dir) / RUN_ID
    first = run / "attempt-1" / "node-00-0-4000"
    first.mkdir(parents=True)
    start_s, end_s, steps = window_of(rows)
    merger = Merger(first)
    for number in range(_hours(rows)):
        _write_part(first, merger, "readings", number, list(_readings(number)))
    for number, start in enumerate(range(0, steps, PART_ROWS)):
        _write_part(first, merger, "steps", number, list(_steps(start, min(start + PART_ROWS, steps))))
    _write_part(first, merger, "marks", 0, [Mark(rank=0, kind="fit", start_s=start_s, end_s=end_s)])
    merger.finish()
    for rank in range(RANKS):
        folder = first.with_name(f"node-{rank:02d}-{rank}-{4000 + rank}")
        if rank:
            folder.mkdir()
            for path in sorted(first.glob("*.parquet")):
                (folder / path.name).hardlink_to(path)
        write_json(folder / "process.json", _process(rank, RANKS))
    write_json(run / "run.json", _manifest(RUN_ID, RANKS))
    return run


def make_small_runs(runs_dir: Path, count: int) -> None:
    """So many finished runs of a few seconds, each with a manifest of its own, that ended an hour ago."""
    folder = writable_runs_dir(runs_dir)
    first = _small_run(folder, 0)
    parts = sorted(first.glob("attempt-1/*/*"))
    for number in range(1, count):
        run = folder / f"lm-{number:05d}"
        process = run / parts[0].parent.relative_to(first)
        process.mkdir(parents=True)
        for path in parts:
            (process / path.name).hardlink_to(path)
        manifest = _manifest(run.name, 1, _MOMENT + timedelta(minutes=number))
        (run / "run.json").write_text(json.dumps(asdict(manifest)), encoding="utf-8")  # 10,000 need no fsync
    for run in folder.glob("lm-*"):
        for path in (run, *run.rglob("*")):
            os.utime(path, (_LONG_AGO_S, _LONG_AGO_S))


def remember_small_runs(runs_dir: Path) -> None:
    """Put all of them into the index, as the process of each does at its end (`entries.remember`).

    They differ in their manifests only, so what there is to say of the first is computed, and the rest follows.
    """
    folders = sorted(runs_dir.glob("lm-*"))
    first = entry_of(folders[0])
    known = [
        {**first, "run_id": folder.name, "created_at": read_manifest(folder).created_at}
        | {"points": [{**point, "run_id": folder.name} for point in first["points"]]}
        | dict(zip(("names", "digest"), state_of(folder), strict=True))
        for folder in folders
    ]
    run_index(runs_dir).add(frame_of(known))


def window_of(rows: int) -> tuple[float, float, int]:
    """First and last second of the fit of a large run of so many readings, and the steps of each rank."""
    seconds = _hours(rows) * PART_ROWS * PERIOD_S
    return 1.0, seconds - 1.0, int(seconds / STEP_S)


def _hours(rows: int) -> int:
    return -(-rows // (RANKS * PART_ROWS))


def _write_part(folder: Path, merger: Merger, table: TableName, number: int, rows: Sequence[Row]) -> None:
    """As the writer does."""
    batch = batch_of(table, rows)
    write_batches(folder / part_name(table, number), table, [batch])
    merger.add(table, number, batch.nbytes)


def _small_run(folder: Path, number: int) -> Path:
    run = folder / f"lm-{number:05d}"
    process = run / "attempt-1" / "node-00-0-4000"
    process.mkdir(parents=True)
    write_part(process / part_name("readings", 0), "readings", list(_readings(0))[:300])
    write_part(process / part_name("steps", 0), "steps", list(_steps(0, 28)))
    write_part(process / part_name("marks", 0), "marks", [Mark(rank=0, kind="fit", start_s=1.0, end_s=29.0)])
    write_json(process / "process.json", _process(0, 1))
    write_json(run / "run.json", _manifest(run.name, 1))
    return run


def _readings(number: int) -> Iterator[Reading]:
    time_s = (np.arange(PART_ROWS) + number * PART_ROWS + 1) * PERIOD_S
    joules, watts = np.round(energy_j(time_s), 3), np.round(power_w(time_s), 3)
    gauges = {
        "utilization": 0.97,
        "memory_used_bytes": 60 << 30,
        "temperature_c": 61.0,
        "throttle_reasons": 0,
    }
    for row, (at_s, total_j, now_w) in enumerate(zip(time_s, joules, watts, strict=True)):
        yield Reading(
            time_s=float(at_s),
            component="module",
            device=GPU,
            source="counter",
            energy_j=float(total_j),
            power_w=float(now_w),
            **(gauges if row % 10 == 0 else {}),
        )


def _steps(first: int, last: int) -> Iterator[Step]:
    for number in range(first, last):
        phases = {"data_s": 0.05, "forward_s": 0.3, "backward_s": 0.5, "optimizer_s": 0.1, "other_s": 0.05}
        yield Step(
            rank=0, step=number, start_s=number * STEP_S + 1.0, duration_s=STEP_S, num_microbatches=1, samples=8,
            tokens=TOKENS, model_flops=1e15, loss=2.0 + 1.0 / (1.0 + number), memory_peak_bytes=60 << 30,
            host_rss_bytes=8 << 30, **phases,
        )  # fmt: skip


def _process(rank: int, world_size: int) -> ProcessFile:
    meter = Meter(
        component="module", device=GPU, name="NVIDIA GH200 480GB", source="counter", update_period_s=None,
        relative_uncertainty=0.05, uncertainty_source="made", power_max_w=700.0,
    )  # fmt: skip
    return ProcessFile(
        host=f"node-{rank:02d}", rank=rank, local_rank=0, world_size=world_size, pid=4000 + rank, attempt=1,
        clock={"wall_unix_s": 1767323045.0, "monotonic_s": 0.0}, meters=(asdict(meter),),
    )  # fmt: skip


def _manifest(run_id: str, world_size: int, created: datetime | None = None) -> Manifest:
    moment = (created or _MOMENT).isoformat(timespec="milliseconds")
    return Manifest(
        run_id=run_id, workload="lm", preset="gpu", seed=0, status="finished", created_at=moment, heartbeat=moment,
        ended_at=moment, params=7_000_000_000, world_size=world_size, flops_source="formula",
        peak_flops_per_s=1e15 * world_size, peak_source="given", peak_dtype="bf16",
    )  # fmt: skip
