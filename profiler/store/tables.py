"""The tables of one process, read when they are asked for, column by column: a day of 64 GPUs has 10^8 rows.

`FolderTables` reads them from disk, `HeldTables` has them in memory. Every byte of a file is checked whenever a column
of it is read, and `damage` goes once through what nobody has read yet, without keeping it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import polars as pl

from profiler.records import SCHEMAS, TableName

Pieces = Callable[[Path, TableName, Sequence[str] | None, Callable[[str], None]], Iterator[pl.DataFrame]]
"""Reads a folder's table piece by piece: folder, table, columns (None: all), and where a damaged piece is told."""

SMALL_BYTES = 512 << 10
"""A table whose files are smaller is read whole, once, whatever is asked of it."""

KEPT_BYTES = 64 << 20


class Tables(Protocol):
    """What one process recorded."""

    def pieces(self, table: TableName, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The rows in the order of writing, a bounded number at a time; `columns` None is all of them."""
        ...

    def frame(self, table: TableName, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All rows at once."""
        ...

    def damage(self) -> Mapping[TableName, Sequence[str]]:
        """One sentence for each piece that cannot be read, by the table that it is missing from."""
        ...


@final
class Shelf:
    """The frames of a run that were used last, so many bytes of them: what fits is read once, what does not, again."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._frames: OrderedDict[object, pl.DataFrame] = OrderedDict()
        self._bytes = 0.0

    def get(self, key: object, read: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        """The frame under `key`, read if it is not there."""
        if key in self._frames:
            self._frames.move_to_end(key)
            return self._frames[key]
        frame = read()
        self._frames[key] = frame
        self._bytes += frame.estimated_size()
        while self._bytes > self._most_bytes:
            _, oldest = self._frames.popitem(last=False)
            self._bytes -= oldest.estimated_size()
        return frame


@final
class FolderTables:
    """The tables in a process's folder.

    Args:
        folder: The process's own.
        read: How a table is read piece by piece.
        shelf: Where frames are kept; shared by the processes of a run.
    """

    def __init__(self, folder: Path, read: Pieces, shelf: Shelf) -> None:
        self._folder = folder
        self._read = read
        self._shelf = shelf
        self._damage: dict[TableName, dict[str, None]] = {table: {} for table in SCHEMAS}
        self._seen: set[TableName] = set()

    def pieces(self, table: TableName, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """See `Tables`."""
        if self._is_small(table):
            yield self.frame(table, columns)
        else:
            yield from self._from_disk(table, columns)

    def frame(self, table: TableName, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """See `Tables`."""
        whole = columns is None or self._is_small(table)
        asked = None if whole or columns is None else tuple(columns)
        frame = self._shelf.get((self._folder, table, asked), lambda: self._concat(table, asked))
        return frame if columns is None else frame.select(columns)

    def damage(self) -> Mapping[TableName, Sequence[str]]:
        """See `Tables`."""
        for table in SCHEMAS.keys() - self._seen:
            for _ in self.pieces(table, ()):
                pass
        return {table: tuple(sentences) for table, sentences in self._damage.items()}

    def _concat(self, table: TableName, columns: Sequence[str] | None) -> pl.DataFrame:
        schema = SCHEMAS[table]
        empty = pl.DataFrame(schema=schema if columns is None else {name: schema[name] for name in columns})
        return pl.concat([empty, *self._from_disk(table, columns)])

    def _from_disk(self, table: TableName, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        damaged = self._damage[table]
        yield from self._read(self._folder, table, columns, lambda sentence: damaged.update({sentence: None}))
        self._seen.add(table)

    def _is_small(self, table: TableName) -> bool:
        return sum(_bytes(path) for path in self._folder.glob(f"{table}-*")) < SMALL_BYTES


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it went while we looked: a running process puts parts together
        return 0


_EMPTY = {table: pl.DataFrame(schema=schema) for table, schema in SCHEMAS.items()}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTables:
    """Tables in memory; a column that a frame lacks is left out where it is asked for."""

    steps: pl.DataFrame = field(default_factory=lambda: _EMPTY["steps"])
    readings: pl.DataFrame = field(default_factory=lambda: _EMPTY["readings"])
    marks: pl.DataFrame = field(default_factory=lambda: _EMPTY["marks"])

    def pieces(self, table: TableName, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """See `Tables`."""
        yield self.frame(table, columns)

    def frame(self, table: TableName, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """See `Tables`."""
        whole: pl.DataFrame = {"steps": self.steps, "readings": self.readings, "marks": self.marks}[table]
        return whole if columns is None else whole.select(c for c in columns if c in whole.columns)

    def damage(self) -> Mapping[TableName, Sequence[str]]:
        """See `Tables`."""
        return {}
