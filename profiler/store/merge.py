"""Many small parts become few large ones, while the training goes on and at its end.

A day of parts of a minute would be 4,300 files for each process. Sixty are merged at a time, and sixty of what was
merged again, up to as many rows as a reader may well hold at once: a day of a GPU's readings ends in two files. The
merged part is whole under its name before the first of the others goes, and wins over all from its first to its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from profiler.errors import StoredDataError
from profiler.records import SCHEMAS, TableName
from profiler.store.parts import merge_parts, part_name

PARTS_AT_ONCE = 60
MAX_BYTES = 128 * 2**20
"""In memory, of the rows of a merged part: far below what a reader refuses, whatever they hold."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The rows of the generations from `first` to `last`: so many bytes in memory, merged so many times."""

    first: int
    last: int
    row_bytes: int
    times_merged: int


@final
class Merger:
    """Merges the parts of one process's folder, as they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[TableName, list[_Part]] = {table: [] for table in SCHEMAS}
        """Parts that may yet become one: no other of their table lies between them."""

    def add(self, table: TableName, number: int, row_bytes: int) -> None:
        """A part was written, whose rows take so many bytes in memory."""
        waiting = self._waiting[table]
        if row_bytes + sum(part.row_bytes for part in waiting) > MAX_BYTES:
            self._close(table)
        waiting.append(_Part(first=number, last=number, row_bytes=row_bytes, times_merged=0))
        while _are_due(waiting[-PARTS_AT_ONCE:]):
            self._merge(table, PARTS_AT_ONCE)

    def finish(self) -> None:
        """Nothing more comes."""
        for table in SCHEMAS:
            self._close(table)

    def _close(self, table: TableName) -> None:
        """Merge all that wait; what comes next is no part of it."""
        self._merge(table, len(self._waiting[table]))
        self._waiting[table].clear()

    def _merge(self, table: TableName, count: int) -> None:
        """Make one of the last so many that wait. If that fails they stay, and nothing is merged across them."""
        waiting = self._waiting[table]
        parts = waiting[-count:]
        if len(parts) < 2:
            return
        merged = _Part(
            first=parts[0].first,
            last=parts[-1].last,
            row_bytes=sum(part.row_bytes for part in parts),
            times_merged=parts[0].times_merged + 1,
        )
        paths = [self._path(table, part) for part in parts]
        try:
            merge_parts(self._path(table, merged), paths)
            for path in paths:
                path.unlink()
            waiting[-count:] = [merged]
        except (OSError, StoredDataError):
            waiting.clear()

    def _path(self, table: TableName, part: _Part) -> Path:
        return self._folder / part_name(table, part.first, part.last)


def _are_due(parts: Sequence[_Part]) -> bool:
    """Whether so many were merged as often as each other."""
    return len(parts) == PARTS_AT_ONCE and len({part.times_merged for part in parts}) == 1
