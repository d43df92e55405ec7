"""What a process's folder holds, whether its process ended well, was killed, or is writing at this moment.

Rows are in parts, and in journals of which no part was made yet. A part wins over the journal of its number, and a
merged part over those that it was made of, so no row is read twice. Nothing is changed here: every reader looks through
these functions, and `joulescale recover` writes down what they find.

Parts appear and journals vanish while somebody reads. A part is there before its journal goes, so a listing that two
looks in a row agree on misses nothing; and where a file is gone when it is opened, it is looked again for what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from profiler.errors import StoredDataError
from profiler.records import SCHEMAS, TableName
from profiler.store.parts import part_numbers, read_listed_part
from profiler.store.wal import read_journal
from profiler.words import counted

_JOURNAL = re.compile(r"wal-(\d{6,})\.(open|rest)")
_LOOKS = 20
"""A writer makes parts once a minute; so many changes in a row are no writer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file that holds rows of a table.

    Attributes:
        first: The first generation of rows in it.
        last: The last, in a part that was merged of several.
        is_journal: Whether it is a journal, not a part.
        in_parts: Whether these rows are in a part as well: then only what is wrong with a journal matters.
    """

    path: Path
    first: int
    last: int
    is_journal: bool = False
    in_parts: bool = False


def read_pieces(
    folder: Path, table: TableName, columns: Sequence[str] | None, on_damage: Callable[[str], None]
) -> Iterator[pl.DataFrame]:
    """The rows of a table, file by file, with all columns or some, each file checked whole in either case.

    Args:
        folder: A process's own.
        table: Which of its tables.
        columns: None for all; none of them to check the files only.
        on_damage: Takes a sentence for each file that is damaged; the others are read.
    """
    given: dict[int, int] = {}  # rows by the first generation of the piece that they were in
    done = -1
    for _ in range(_LOOKS):
        try:
            for piece in pieces_of(folder, table):
                if piece.last <= done and not piece.in_parts:
                    continue
                frame = _read(piece, table, columns, on_damage)
                if piece.in_parts:
                    continue
                again = sum(given.pop(first) for first in sorted(given) if first >= piece.first)
                given[piece.first], done = len(frame), piece.last
                yield frame[again:] if again else frame  # what was merged while it was read
            return
        except FileNotFoundError:
            continue
    on_damage(
        f"The files in {folder} changed {_LOOKS} times while they were read; the rest of {table} is left out."
    )


def unfinished(folder: Path) -> tuple[str, ...]:
    """A sentence for each journal that nobody closed: its process was killed, or is writing."""
    return tuple(
        f"{path.name} was not closed: rows of the last second may be missing{_of_last_frame(left)}."
        for path, left in _open_journals(folder)
    )


def _of_last_frame(unfinished_bytes: int) -> str:
    return (
        f"; {counted(unfinished_bytes, 'byte')} of its last frame were not finished"
        if unfinished_bytes
        else ""
    )


def pieces_of(folder: Path, table: TableName) -> list[Piece]:
    """The parts and journals of a table, as they are at one moment, in the order of their rows."""
    names = _listed(folder)
    parts = {name: numbers for name in names if (numbers := part_numbers(name, table))}
    whole = {name: numbers for name, numbers in parts.items() if not _is_inside(numbers, parts.values())}
    pieces = [Piece(path=folder / name, first=first, last=last) for name, (first, last) in whole.items()]
    for name in names:
        if known := _JOURNAL.fullmatch(name):
            number = int(known[1])
            in_parts = any(first <= number <= last for first, last in whole.values())
            pieces.append(
                Piece(path=folder / name, first=number, last=number, is_journal=True, in_parts=in_parts)
            )
    return sorted(pieces, key=lambda piece: (piece.first, piece.path.name))


def _open_journals(folder: Path) -> list[tuple[Path, int]]:
    try:
        paths = [folder / name for name in sorted(_listed(folder)) if name.endswith(".open")]
        return [
            (path, read_journal(path).unfinished_bytes) for path in paths if _JOURNAL.fullmatch(path.name)
        ]
    except FileNotFoundError:  # closed at this moment
        return []


def _listed(folder: Path) -> frozenset[str]:
    """The names in a folder, as two looks in a row saw them; none if there is no such folder."""
    if not folder.is_dir():
        return frozenset()
    names = _names(folder)
    for _ in range(_LOOKS):
        again = _names(folder)
        if again == names:
            break
        names = again
    return names


def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


def _is_inside(numbers: tuple[int, int], others: Collection[tuple[int, int]]) -> bool:
    """Whether a merged part holds these generations."""
    return any(
        first <= numbers[0] and numbers[1] <= last and (first, last) != numbers for first, last in others
    )


def _read(
    piece: Piece, table: TableName, columns: Sequence[str] | None, on_damage: Callable[[str], None]
) -> pl.DataFrame:
    names = SCHEMAS[table].names() if columns is None else columns
    schema = pl.Schema({name: SCHEMAS[table][name] for name in names})
    try:
        if piece.is_journal:
            return _journal_rows(piece, table, schema, on_damage)
        return read_listed_part(piece.path, table, schema.names())
    except StoredDataError as error:
        on_damage(str(error))
        return pl.DataFrame(schema=schema)


def _journal_rows(
    piece: Piece, table: TableName, schema: pl.Schema, on_damage: Callable[[str], None]
) -> pl.DataFrame:
    found = read_journal(piece.path)
    if found.damage:
        on_damage(f"The journal {piece.path} is damaged: {found.damage}.")
    batches = [] if piece.in_parts else found.batches[table]
    if not batches:
        return pl.DataFrame(schema=schema)
    frame = pl.from_arrow(pa.Table.from_batches(batches))
    assert isinstance(frame, pl.DataFrame)
    return frame.select(
        pl.col(name) if name in frame.columns else pl.repeat(None, frame.height, dtype=dtype).alias(name)
        for name, dtype in schema.items()
    )
