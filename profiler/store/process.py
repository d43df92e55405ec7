"""What one process left in its folder: its facts and its tables; what of them is damaged is named, never skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import polars as pl

from profiler.errors import StoredDataError
from profiler.records import SCHEMAS, TableName
from profiler.store.manifest import ProcessFile, read_process
from profiler.store.recovery import read_pieces, unfinished
from profiler.store.tables import FolderTables, Shelf, Tables


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProcess:
    """What one process of one attempt left: its facts, and its tables, which are read when they are asked for."""

    folder: Path
    facts: ProcessFile
    tables: Tables

    @property
    def steps(self) -> pl.DataFrame:
        """All columns of its steps; `columns` takes less memory."""
        return self.tables.frame("steps")

    @property
    def readings(self) -> pl.DataFrame:
        """All columns of its readings; `columns` takes less memory."""
        return self.tables.frame("readings")

    @property
    def marks(self) -> pl.DataFrame:
        """Its marks."""
        return self.tables.frame("marks")

    def columns(self, table: TableName, *names: str) -> pl.DataFrame:
        """Some columns of a table, all rows."""
        return self.tables.frame(table, names)

    def pieces(self, table: TableName, *names: str) -> Iterator[pl.DataFrame]:
        """Some columns of a table, a bounded number of rows at a time; all rows at once where they are few."""
        return self.tables.pieces(table, names)

    @property
    def damaged(self) -> tuple[str, ...]:
        """One sentence for each part or journal that could not be read."""
        every = (sentence for sentences in self.tables.damage().values() for sentence in sentences)
        return tuple(dict.fromkeys(every))  # a journal holds rows of all tables

    @property
    def incomplete(self) -> frozenset[TableName]:
        """The tables that these parts belong to: sums over them are not the run's."""
        return frozenset(table for table, sentences in self.tables.damage().items() if sentences)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """One sentence for each journal that was not closed: the process was killed, or is writing."""
        return unfinished(self.folder)


def read_process_folder(folder: Path, shelf: Shelf) -> StoredProcess | None:
    """What a process's folder holds; None if nobody can tell whose it is."""
    try:
        facts = read_process(folder)
    except StoredDataError:
        return None
    return StoredProcess(folder=folder, facts=facts, tables=FolderTables(folder, read_pieces, shelf))


def marks_of(processes: Sequence[StoredProcess], kind: str) -> pl.DataFrame:
    """All marks of one kind, in order of time, with their process's number in column `process`."""
    frames = [
        p.marks.filter(pl.col("kind") == kind).with_columns(pl.lit(number, pl.Int64).alias("process"))
        for number, p in enumerate(processes)
    ]
    empty = pl.DataFrame(schema={**SCHEMAS["marks"], "process": pl.Int64})
    return pl.concat([empty, *frames]).sort("process", "start_s")
