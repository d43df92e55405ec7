"""What a process's folder holds, whether its process ended well, was killed, or is writing at this moment.

Rows are in parts, and in journals of which no part was made yet. A part wins over the journal of its number, and a
merged part over those that it was made of, so no row is read twice. Nothing is changed here: every reader looks through
these functions, and `joulescale recover` writes down what they find.

Parts appear and journals vanish while somebody reads. A part is there before its journal goes, so a listing that two
looks in a row agree on misses nothing; and where a file is gone when it is opened, all is looked at again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from profiler.errors import StoredDataError
from profiler.records import SCHEMAS, TableName
from profiler.store.parts import part_numbers, read_listed_part
from profiler.store.wal import JournalRows, read_journal

_JOURNAL = re.compile(r"wal-(\d{6,})\.(open|rest)")
_LOOKS = 20
"""A writer makes parts once a minute; so many changes in a row are no writer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """The rows of one table of one process, and what is to be said of them.

    Attributes:
        damaged: One sentence for each file of which rows could not be read.
        unfinished: One for each journal that nobody closed: its process was killed, or is writing.
    """

    frame: pl.DataFrame
    damaged: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files that hold a table's rows, in the order of their rows."""

    parts: tuple[Path, ...]
    journals: tuple[Path, ...]
    covered: frozenset[int]
    """Journals that are listed for what is wrong with them only: their rows are in parts."""


def read_table(folder: Path, table: TableName, columns: Sequence[str] | None = None) -> TableRows:
    """All rows of a table, or some of their columns; changes nothing."""
    for _ in range(_LOOKS):
        try:
            return _read(files_of(folder, table), table, columns)
        except FileNotFoundError:
            continue
    sentence = f"The files in {folder} changed {_LOOKS} times while they were read; its {table} are left out."
    return TableRows(frame=pl.DataFrame(schema=_schema(table, columns)), damaged=(sentence,))


def files_of(folder: Path, table: TableName) -> Files:
    """The parts and journals of a table, as they are at one moment.

    Raises:
        FileNotFoundError: The folder is gone.
    """
    names = _listed(folder)
    parts = {name: numbers for name in names if (numbers := part_numbers(name, table))}
    whole = [name for name, numbers in parts.items() if not _is_inside(numbers, parts.values())]
    whole.sort(key=lambda name: parts[name])
    journals = {int(known[1]): name for name in sorted(names) if (known := _JOURNAL.fullmatch(name))}
    covered = {n for n in journals if any(first <= n <= last for first, last in map(parts.get, whole))}  # type: ignore[misc]
    return Files(
        parts=tuple(folder / name for name in whole),
        journals=tuple(folder / journals[number] for number in sorted(journals)),
        covered=frozenset(covered),
    )


def journal_number(path: Path) -> int:
    """The number of the generation whose rows a journal holds."""
    known = _JOURNAL.fullmatch(path.name)
    assert known is not None
    return int(known[1])


def _listed(folder: Path) -> frozenset[str]:
    """The names in a folder, as two looks in a row saw them."""
    names = frozenset(os.listdir(folder))
    for _ in range(_LOOKS):
        again = frozenset(os.listdir(folder))
        if again == names:
            break
        names = again
    return names


def _is_inside(numbers: tuple[int, int], others: Sequence[tuple[int, int]] | object) -> bool:
    first, last = numbers
    return any(o != numbers and o[0] <= first and last <= o[1] for o in others)  # type: ignore[attr-defined]


def _read(files: Files, table: TableName, columns: Sequence[str] | None) -> TableRows:
    frames, damaged, unfinished = [pl.DataFrame(schema=_schema(table, columns))], [], []
    for path in files.parts:
        try:
            frames.append(read_listed_part(path, table, columns))
        except StoredDataError as error:
            damaged.append(str(error))
    for path in files.journals:
        rows = read_journal(path)
        if rows.damage:
            damaged.append(f"The journal {path} is damaged: {rows.damage}.")
        elif path.suffix == ".open":
            unfinished.append(_unfinished(path, rows))
        if journal_number(path) not in files.covered:
            frames.append(_frame(rows.batches[table], table, columns))
    return TableRows(frame=pl.concat(frames), damaged=tuple(damaged), unfinished=tuple(unfinished))


def _unfinished(path: Path, rows: JournalRows) -> str:
    return (
        f"{path.name} was not closed: rows of the last second may be missing, and {rows.unfinished_bytes} bytes"
        " of its last frame were not finished."
    )


def _frame(batches: Sequence[pa.RecordBatch], table: TableName, columns: Sequence[str] | None) -> pl.DataFrame:
    schema = _schema(table, columns)
    if not batches:
        return pl.DataFrame(schema=schema)
    frame = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(frame, pl.DataFrame)
    return frame.select(
        pl.col(name) if name in frame.columns else pl.repeat(None, pl.len(), dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )


def _schema(table: TableName, columns: Sequence[str] | None) -> pl.Schema:
    return pl.Schema({name: SCHEMAS[table][name] for name in columns or SCHEMAS[table].names()})
