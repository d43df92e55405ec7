"""Rows that wait for the disk: a bounded number of them, whatever the disk does.

Where too many readings wait, every second one of each device is left out. A counter's first and last value stay, so
every total stays right, and what is in between gets coarser. Steps and marks are kept whole until there are too many.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from profiler.records import SCHEMAS, Reading, Row, TableName, table_of

MAX_WAITING: dict[TableName, int] = {"steps": 100_000, "readings": 50_000, "marks": 20_000}
"""About 100 MB of rows in all. Ten minutes of readings of 8 GPUs, before any is left out."""


class WaitingRows:
    """Takes rows from any thread, and gives them to the one that stores them.

    Attributes:
        thinned: Readings that were left out so far.
        dropped: Steps and marks likewise, oldest first.
    """

    def __init__(self, most: Mapping[TableName, int] = MAX_WAITING) -> None:
        self.thinned = 0
        self.dropped = 0
        self._most = most
        self._rows: dict[TableName, deque[Row]] = {table: deque() for table in SCHEMAS}
        self._room = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def append(self, row: Row) -> None:
        """Take a row; returns at once."""
        table = table_of(row)
        rows = self._rows[table]
        if len(rows) >= self._most[table]:
            self._make_room(table)
        rows.append(row)

    def take(self) -> dict[TableName, list[Row]]:
        """All rows that wait, in the order in which they came; they wait no longer."""
        with self._room:
            return {table: _emptied(rows) for table, rows in self._rows.items()}

    def _make_room(self, table: TableName) -> None:
        with self._room:
            rows = self._rows[table]
            if len(rows) < self._most[table]:
                return
            if table == "readings":
                every = _emptied(rows)
                kept = thinned(every)  # type: ignore[arg-type]
                rows.extendleft(reversed(kept))
                self.thinned += len(every) - len(kept)
            while len(rows) >= self._most[table]:  # of as many devices as there is room for
                rows.popleft()
                self.dropped += 1


def thinned(readings: Sequence[Reading]) -> list[Reading]:
    """Every second reading of each device, with the first and the last that know its counter."""
    of_device: dict[tuple[str, str, bool], list[int]] = {}
    for index, reading in enumerate(readings):
        key = (reading.component, reading.device, reading.energy_j is None)
        of_device.setdefault(key, []).append(index)
    kept = {index for indexes in of_device.values() for index in (*indexes[::2], indexes[-1])}
    return [reading for index, reading in enumerate(readings) if index in kept]


def _emptied(rows: deque[Row]) -> list[Row]:
    taken = []
    while rows:
        taken.append(rows.popleft())
    return taken
