"""Stored runs, as every reader sees them: whole parts only, and what is damaged is named, never skipped silently."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from profiler.errors import RunNotFoundError, StoredDataError, UnknownNameError
from profiler.records import SCHEMAS, TableName
from profiler.store.folder import readable_runs_dir
from profiler.store.manifest import (
    MANIFEST_NAME,
    PROCESS_NAME,
    Manifest,
    ProcessFile,
    read_manifest,
    read_process,
)
from profiler.store.parts import read_part

LOST_AFTER_S = 120.0
"""A run that says "running" and whose heart has not beaten for so long is lost (it beats every 15 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProcess:
    """What one process of one attempt left: its facts, its tables, and what of them is damaged.

    Attributes:
        damaged: One sentence for each part that could not be read.
        incomplete: The tables that these parts belong to: sums over them are not the run's.
    """

    folder: Path
    facts: ProcessFile
    steps: pl.DataFrame
    readings: pl.DataFrame
    marks: pl.DataFrame
    damaged: tuple[str, ...]
    incomplete: frozenset[TableName]


class StoredRun:
    """One run in a runs folder. The manifest is read at once, tables when they are first asked for."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def run_id(self) -> str:
        """The run's name, which is its folder's."""
        return self.path.name

    @cached_property
    def status(self) -> str:
        """running, finished, interrupted, lost (it says running, but its process is gone), or damaged (no manifest)."""
        return "lost" if self.manifest.status == "running" and self._is_lost() else self.manifest.status

    @cached_property
    def processes(self) -> tuple[StoredProcess, ...]:
        """Every process that recorded a part of this run, ordered by attempt and rank."""
        folders = sorted(self.path.glob("attempt-*/*/"))
        read = [_read_process_folder(folder) for folder in folders]
        return tuple(
            sorted((p for p in read if p is not None), key=lambda p: (p.facts.attempt, p.facts.rank))
        )

    @cached_property
    def damaged(self) -> tuple[str, ...]:
        """One sentence for each file that could not be read."""
        orphans = tuple(
            f"{folder} has no readable {PROCESS_NAME}; its tables are left out."
            for folder in sorted(self.path.glob("attempt-*/*/"))
            if not any(p.folder == folder for p in self.processes)
        )
        return orphans + tuple(sentence for p in self.processes for sentence in p.damaged)

    @property
    def is_damaged(self) -> bool:
        """Whether anything of it could not be read."""
        return self.manifest.status == "damaged" or bool(self.damaged)

    @cached_property
    def incomplete(self) -> frozenset[TableName]:
        """The tables of which a part is damaged; all of them if a process's folder has lost its `process.json`."""
        if len(self.damaged) > sum(len(p.damaged) for p in self.processes):
            return frozenset(SCHEMAS)
        return frozenset[TableName]().union(*(p.incomplete for p in self.processes))

    def _is_lost(self) -> bool:
        age_s = _age_s(self.manifest.heartbeat or self.manifest.created_at)
        if age_s is None or age_s > LOST_AFTER_S:
            return True
        here = [
            p.facts.pid for p in self.processes if p.facts.host == socket.gethostname() and p.facts.rank == 0
        ]
        return bool(here) and not _is_alive(here[-1])


def scan_runs(runs_dir: Path) -> list[StoredRun]:
    """All runs of a runs folder, oldest first. A folder whose manifest is damaged is listed with what is known.

    Raises:
        RunsFolderError: There is no such folder, or it is not one of ours.
    """
    folders = [path.parent for path in readable_runs_dir(runs_dir).glob(f"*/{MANIFEST_NAME}")]
    return sorted(
        (_open(folder) for folder in folders), key=lambda run: (run.manifest.created_at, run.run_id)
    )


def open_run(runs_dir: Path, run_id: str) -> StoredRun:
    """The run called `run_id`, or whose name is the only one to begin with or contain it; `latest` is the newest.

    Raises:
        RunsFolderError: There is no such folder, or it is not one of ours.
        RunNotFoundError: No run, or more than one, is meant.
    """
    runs = scan_runs(runs_dir)
    if not runs:
        raise RunNotFoundError(
            f"The runs folder {str(runs_dir)!r} holds no runs yet. Make one with"
            f" 'joulescale run lm --preset smoke --runs-dir {runs_dir}'."
        )
    if run_id == "latest":
        return runs[-1]
    name = Path(run_id).name
    exact = [run for run in runs if run.run_id == name]
    near = exact or [run for run in runs if name and name in run.run_id]
    if len(near) == 1:
        return near[0]
    if near:
        raise RunNotFoundError(
            f"{run_id!r} could be {', '.join(r.run_id for r in near[:5])}. Give more of the name."
        )
    raise RunNotFoundError(
        str(UnknownNameError("run", run_id, [r.run_id for r in runs])) + f" Runs folder: {runs_dir}."
    )


def _open(folder: Path) -> StoredRun:
    try:
        return StoredRun(folder, read_manifest(folder))
    except StoredDataError as error:
        return StoredRun(
            folder, Manifest(run_id=folder.name, status="damaged", notes={"manifest": str(error)})
        )


def _read_process_folder(folder: Path) -> StoredProcess | None:
    try:
        facts = read_process(folder)
    except StoredDataError:
        return None
    tables: dict[TableName, pl.DataFrame] = {}
    damaged: dict[TableName, list[str]] = {}
    for table in SCHEMAS:
        tables[table], damaged[table] = _read_table(folder, table)
    return StoredProcess(
        folder=folder,
        facts=facts,
        damaged=tuple(sentence for sentences in damaged.values() for sentence in sentences),
        incomplete=frozenset(table for table, sentences in damaged.items() if sentences),
        **tables,
    )


def _read_table(folder: Path, table: TableName) -> tuple[pl.DataFrame, list[str]]:
    """The rows of all whole parts, and a sentence for each part that is damaged."""
    frames, damaged = [pl.DataFrame(schema=SCHEMAS[table])], []
    for path in sorted(folder.glob(f"{table}-*.parquet")):
        try:
            frames.append(read_part(path, table))
        except StoredDataError as error:
            damaged.append(str(error))
    return pl.concat(frames), damaged


def _age_s(moment: str) -> float | None:
    """Seconds since a label of wall time; None if it is none."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment).astimezone(UTC)).total_seconds()
    except ValueError:
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the latter for a number that no process ever had
        return False
    except PermissionError:
        return True
    return True


def marks_of(processes: Sequence[StoredProcess], kind: str) -> pl.DataFrame:
    """All marks of one kind, in order of time, with their process's number in column `process`."""
    frames = [
        p.marks.filter(pl.col("kind") == kind).with_columns(pl.lit(number, pl.Int64).alias("process"))
        for number, p in enumerate(processes)
    ]
    empty = pl.DataFrame(schema={**SCHEMAS["marks"], "process": pl.Int64})
    return pl.concat([empty, *frames]).sort("process", "start_s")
