"""What one process left in its folder: its facts and its tables; what of them is damaged is named, never skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from profiler.errors import StoredDataError
from profiler.records import SCHEMAS, TableName
from profiler.store.manifest import ProcessFile, read_process
from profiler.store.parts import read_part


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


def read_process_folder(folder: Path) -> StoredProcess | None:
    """Everything that a process's folder holds; None if nobody can tell whose it is."""
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


def marks_of(processes: Sequence[StoredProcess], kind: str) -> pl.DataFrame:
    """All marks of one kind, in order of time, with their process's number in column `process`."""
    frames = [
        p.marks.filter(pl.col("kind") == kind).with_columns(pl.lit(number, pl.Int64).alias("process"))
        for number, p in enumerate(processes)
    ]
    empty = pl.DataFrame(schema={**SCHEMAS["marks"], "process": pl.Int64})
    return pl.concat([empty, *frames]).sort("process", "start_s")
