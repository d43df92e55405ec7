"""Many small parts become few large ones, while the training goes on and at its end.

A day of parts of a minute would be 4,300 files for each process. Sixty are merged at a time, which takes the writer's
thread a tenth of a second an hour and the memory of one row group; so at most 59 of a table are left at the end. The
merged part is whole under its name before the first of the others goes, and wins over them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import final

from profiler.errors import StoredDataError
from profiler.records import SCHEMAS, TableName
from profiler.store.parts import merge_parts, part_name

PARTS_AT_ONCE = 60
MAX_ROWS = 2_500_000
"""Of a merged part: well within what a reader takes for one of ours."""


@final
class Merger:
    """Merges the parts of one process's folder, as they come."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[TableName, list[int]] = {table: [] for table in SCHEMAS}
        self._rows: dict[TableName, int] = dict.fromkeys(SCHEMAS, 0)

    def add(self, table: TableName, number: int, rows: int) -> None:
        """A part was written."""
        if self._rows[table] + rows > MAX_ROWS:
            self._merge(table)
        self._parts[table].append(number)
        self._rows[table] += rows
        if len(self._parts[table]) >= PARTS_AT_ONCE:
            self._merge(table)

    def finish(self) -> None:
        """Nothing more comes."""
        for table in SCHEMAS:
            self._merge(table)

    def _merge(self, table: TableName) -> None:
        numbers, self._parts[table], self._rows[table] = self._parts[table], [], 0
        if len(numbers) < 2:
            return
        small = [self._folder / part_name(table, number) for number in numbers]
        with contextlib.suppress(OSError, StoredDataError):  # then they stay as they are, which is as good
            merge_parts(self._folder / part_name(table, numbers[0], numbers[-1]), small)
            for path in small:
                path.unlink()
