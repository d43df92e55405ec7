"""Ranks of a made run: process files with a place, and steps whose phases a test gives.

Used as a plain module (`from fixtures_ranks import made_rank`): there is no pytest fixture here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from profiler.records import SCHEMAS
from profiler.store.folder import writable_runs_dir
from profiler.store.manifest import Manifest, ProcessFile, write_json
from profiler.store.node import boot_id
from profiler.store.process import StoredProcess
from profiler.store.tables import HeldTables

PID_OF_NOBODY = 2**22 + 1  # above the kernel's highest pid
LONG_AGO_S = 1000.0


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def made_run(runs_dir: Path, name: str = "made", *, status: str = "finished", world_size: int = 4) -> Path:
    folder = writable_runs_dir(runs_dir) / name
    folder.mkdir()
    known = {"created_at": ago(LONG_AGO_S), "heartbeat": ago(1), "world_size": world_size}
    write_json(folder / "run.json", Manifest(run_id=name, status=status, **known))  # type: ignore[arg-type]
    return folder


def place(rank: int = 0, **facts: Any) -> ProcessFile:
    known: dict[str, Any] = {
        "host": socket.gethostname(),
        "boot_id": boot_id(),
        "rank": rank,
        "local_rank": rank,
        "world_size": 4,
        "pid": os.getpid(),
        "attempt": 1,
        "clock": {"wall_unix_s": datetime.now(UTC).timestamp() - LONG_AGO_S, "monotonic_s": 0.0},
        "status": "finished",
        "heartbeat": ago(1),
    }
    return ProcessFile(**(known | facts))


def made_process(run: Path, rank: int = 0, **facts: Any) -> Path:
    """Its folder, with nothing but its file."""
    file = place(rank, **facts)
    folder = run / f"attempt-{file.attempt}" / f"{file.host}-{rank}-{file.pid}"
    folder.mkdir(parents=True)
    write_json(folder / "process.json", file)
    return folder


def made_rank(
    rank: int,
    phases: Sequence[Mapping[str, float]],
    *,
    start_s: float = 0.0,
    readings: pl.DataFrame | None = None,
    **facts: Any,
) -> StoredProcess:
    """A rank in memory, with a step for each mapping of phases to seconds."""
    rows, at_s = [], start_s
    for number, seconds in enumerate(phases, start=1):
        whole = dict.fromkeys(("data", "forward", "backward", "optimizer", "other"), 0.0) | dict(seconds)
        times = {f"{phase}_s": duration for phase, duration in whole.items()}
        duration_s = sum(whole.values())
        rows.append(
            {"rank": rank, "step": number, "start_s": at_s, "duration_s": duration_s, "samples": 4, **times}
        )
        at_s += duration_s
    steps = pl.DataFrame(rows, schema=SCHEMAS["steps"]) if rows else pl.DataFrame(schema=SCHEMAS["steps"])
    held = HeldTables(steps=steps, **({} if readings is None else {"readings": readings}))
    return StoredProcess(folder=Path(f"/made/{rank}"), facts=place(rank, **facts), tables=held)


def of_attempt(process: StoredProcess, attempt: int) -> StoredProcess:
    return replace(process, facts=replace(process.facts, attempt=attempt))
