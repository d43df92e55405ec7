"""The writer of one process: takes rows from hooks and sampler, and puts them on disk from its own thread.

`append` is all that the training pays for: one append to a deque. A daemon thread drains it, writes one part
per table every `FLUSH_INTERVAL_S`, and beats the manifest's heart. What was flushed survives kill -9.

The seam for a journal: whatever has `append` and `close` can stand here (`RowSink`).
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from profiler.records import SCHEMAS, Row, TableName, table_of
from profiler.store.parts import fits, part_name, write_part

FLUSH_INTERVAL_S = 15.0
GATHER_INTERVAL_S = 0.1
"""Often enough that each turn takes the interpreter for a fraction of a millisecond only."""

MAX_PENDING_ROWS = 200_000
"""About 100 MB of rows: past that the oldest are dropped (the disk has been gone for hours) and counted."""


class RowSink(Protocol):
    """Where a recorder's rows go."""

    def append(self, row: Row) -> None:
        """Take a row; returns at once, from any thread."""
        ...

    def close(self) -> None:
        """Store everything that was taken."""
        ...


class PartWriter:
    """Writes the parts of one process's folder.

    Args:
        folder: The process's own folder, made on the first flush.
        gather: Called ten times a second on the writer's thread: makes and appends rows that were only noted so far.
        on_flush: Called after each flush on the writer's thread (the manifest's heartbeat).
        on_error: Called with an error of the file system, once each time it starts; rows are kept and retried.
        on_lost: Called at the end with the number of rows that could not be stored.
        interval_s: Seconds between flushes.
        max_pending: Rows that are kept in memory, for each table.

    Attributes:
        dropped: Rows that were lost because more than that waited for the disk, or because they fit no table.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gather: Callable[[], None] = lambda: None,
        on_flush: Callable[[], None] = lambda: None,
        on_error: Callable[[OSError], None] = lambda _: None,
        on_lost: Callable[[int], None] = lambda _: None,
        interval_s: float = FLUSH_INTERVAL_S,
        max_pending: int = MAX_PENDING_ROWS,
    ) -> None:
        self.dropped = 0
        self._max_pending = max_pending
        self._folder = folder
        self._gather = gather
        self._on_flush = on_flush
        self._on_error = on_error
        self._on_lost = on_lost
        self._interval_s = interval_s
        self._rows: deque[Row] = deque(maxlen=max_pending)
        self._unwritten: dict[TableName, list[Row]] = {table: [] for table in SCHEMAS}
        self._parts: dict[TableName, int] = dict.fromkeys(SCHEMAS, 0)
        self._failing = False
        self._stop = threading.Event()
        self._flushing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="joulescale-writer", daemon=True)

    def start(self) -> None:
        """Start flushing in the background."""
        self._thread.start()

    def append(self, row: Row) -> None:
        """Take a row; returns at once, from any thread."""
        if len(self._rows) == self._max_pending:  # the thread is stuck in the file system
            self.dropped += 1
        self._rows.append(row)

    def close(self) -> None:
        """Stop the thread and flush what is left."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)
        if not self._thread.is_alive():  # else it is stuck in the file system, and so should we be
            self.flush()
        lost = sum(map(len, self._unwritten.values())) + len(self._rows)
        if lost:
            self._on_lost(lost)

    def flush(self) -> None:
        """Write every row taken so far, one part a table; on an error keep them for the next time."""
        with self._flushing:
            self._sort_pending()
            try:
                for table, rows in self._unwritten.items():
                    self._write(table, rows)
                self._on_flush()
                self._failing = False
            except OSError as error:
                if not self._failing:
                    self._on_error(error)
                self._failing = True

    def _run(self) -> None:
        turns = max(round(self._interval_s / GATHER_INTERVAL_S), 1)
        for turn in itertools.count(1):
            if self._stop.wait(self._interval_s / turns):
                return
            self._gather()
            if turn % turns == 0:
                self.flush()

    def _sort_pending(self) -> None:
        while self._rows:
            row = self._rows.popleft()
            self._unwritten[table_of(row)].append(row)
        for rows in self._unwritten.values():
            too_many = max(len(rows) - self._max_pending, 0)
            self.dropped += too_many
            del rows[:too_many]

    def _write(self, table: TableName, rows: list[Row]) -> None:
        if not rows:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            write_part(self._folder / part_name(table, self._parts[table]), table, rows)
        except ValueError:  # a value that fits no column: only its own row is lost
            kept = [row for row in rows if fits(table, row)]
            self.dropped += len(rows) - len(kept)
            rows[:] = kept if len(kept) < len(rows) else []
            self._write(table, rows)
            return
        self._parts[table] += 1
        rows.clear()
