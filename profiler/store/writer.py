"""The writer of one process: takes rows from hooks and sampler, and puts them on disk from its own thread.

`append` is all that the training pays for: one append to a deque. A daemon thread drains it into the journal, twice a
second, so that what a kill -9 loses stays below one; syncs the journal every ten seconds, which is what a power cut
loses; and makes parts of the journal's rows every minute.

A disk that is full, read-only or gone costs the training nothing: rows wait in memory (`WaitingRows`), and are tried
again every half minute. A disk that hangs holds this thread only, and the end of the training for `END_WAIT_S`: rows
that were only noted so far are made on a second thread, which no disk holds up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, final

import pyarrow as pa

from profiler.records import SCHEMAS, Row, TableName
from profiler.store.columns import batch_of, fits
from profiler.store.folder import NO_SPACE
from profiler.store.merge import Merger
from profiler.store.parts import part_name, write_batches
from profiler.store.waiting import WaitingRows
from profiler.store.wal import Journal, journal_name

GATHER_INTERVAL_S = 0.1
"""Often enough that each turn takes the interpreter for a fraction of a millisecond only."""
FRAME_INTERVAL_S = 0.5
"""Half of what a kill may lose: the other half is for a machine that is busy."""
SYNC_INTERVAL_S = 9.0
BEAT_INTERVAL_S = 15.0
PART_INTERVAL_S = 60.0
PART_BYTES = 10 * 2**20
RETRY_INTERVAL_S = 30.0
END_WAIT_S = 10.0
"""So long the end of a training waits for a disk that hangs: SLURM kills what takes 30 s."""
MAX_BATCH_ROWS = 2_000
"""After a disk was away many rows come at once: making columns of 20,000 holds the interpreter for up to 0.1 s."""


class RowSink(Protocol):
    """Where a recorder's rows go."""

    def append(self, row: Row) -> None:
        """Take a row; returns at once, from any thread."""
        ...

    def close(self) -> None:
        """Store everything that was taken."""
        ...


@final
class JournalWriter:
    """Writes the journal and the parts of one process's folder.

    Args:
        folder: The process's own folder.
        prepare: Makes the folder; called before the first row is written, and again after an error.
        gather: Called ten times a second on a thread of its own, and by the writer's before it stores: makes and
            appends rows that were only noted so far.
        on_beat: Called every `BEAT_INTERVAL_S` and at the end on the writer's thread: the manifest's heartbeat.
        on_error: Called with an error of the file system, once each time it starts; rows are kept and retried.
        on_recovered: Called when rows can be written again, with the number of readings that were left out meanwhile.
        on_lost: Called at the end with the number of rows that could not be stored.
        guarded: Runs what the thread does, and survives it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prepare: Callable[[], None] = lambda: None,
        gather: Callable[[], None] = lambda: None,
        on_beat: Callable[[], None] = lambda: None,
        on_error: Callable[[OSError], None] = lambda _: None,
        on_recovered: Callable[[int], None] = lambda _: None,
        on_lost: Callable[[int], None] = lambda _: None,
        guarded: Callable[[Callable[[], None]], object] = lambda work: work(),
        waiting: WaitingRows | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._prepare, self._gather, self._on_beat = prepare, gather, on_beat
        self._on_error, self._on_recovered, self._on_lost = on_error, on_recovered, on_lost
        self._waiting = waiting or WaitingRows()
        self._misfits = 0
        self._prepared = False
        self._journal: Journal | None = None
        self._generation = 0
        self._rows: dict[TableName, list[pa.RecordBatch]] = {table: [] for table in SCHEMAS}
        self._unjournaled = 0  # of these rows, how many are nowhere but in memory
        self._merger = Merger(folder)
        self._sync = _Timer(SYNC_INTERVAL_S, clock, first_s=SYNC_INTERVAL_S)
        self._part = _Timer(PART_INTERVAL_S, clock, first_s=PART_INTERVAL_S)
        self._beat = _Timer(BEAT_INTERVAL_S, clock)
        self._retry = _Timer(RETRY_INTERVAL_S, clock)
        self._thinned_before: int | None = None  # known while the disk fails
        self._stop, self._wake = threading.Event(), threading.Event()
        self._asked: deque[threading.Event] = deque()
        self._flushing = threading.Lock()
        self._ended = False
        self._thread, self._gatherer = (
            threading.Thread(target=guarded, args=(run,), name=f"joulescale-{name}", daemon=True)
            for name, run in (("writer", self._run), ("gatherer", self._gather_often))
        )

    @property
    def dropped(self) -> int:
        """Rows that were lost because too many waited for the disk, or because they fit no table."""
        return self._waiting.dropped + self._misfits

    def open(self) -> None:
        """Prepare now, on the caller's thread; a disk that is full is tried again later.

        Raises:
            OSError: Any other refusal.
        """
        try:
            self._prepare()
            self._prepared = True
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._fail(error)

    def start(self) -> None:
        """Start writing in the background."""
        self._thread.start()
        self._gatherer.start()

    def append(self, row: Row) -> None:
        """Take a row; returns at once, from any thread."""
        self._waiting.append(row)

    def store_soon(self, wait_s: float) -> bool:
        """Have the thread store what was taken so far at once; whether that was tried within `wait_s`."""
        if not self._thread.is_alive():
            return False
        tried = threading.Event()
        self._asked.append(tried)
        self._wake.set()
        return tried.wait(wait_s)

    def close(self) -> None:
        """Store what is left and make whole parts of it; a disk that hangs is left behind after `END_WAIT_S`."""
        self._stop.set()
        self._wake.set()
        for thread in (self._gatherer, self._thread):
            if thread.is_alive():
                thread.join(timeout=END_WAIT_S)
        if not self._thread.is_alive() and not self._ended:  # it never ran, or died of a fault
            self.flush(last=True)
        if lost := len(self._waiting) + self._only_here():
            self._on_lost(lost)

    def _only_here(self) -> int:
        """Rows that are in no part, and in no journal that anybody could read."""
        if self._journal is None or self._journal.is_there:
            return self._unjournaled
        return sum(len(batch) for batches in self._rows.values() for batch in batches)

    def flush(self, *, last: bool = False) -> None:
        """Bring every row taken so far to the disk; if it refuses, keep them for the next time."""
        with self._flushing:
            if self._failing and not last and not self._retry.is_due():
                return
            try:
                self._store(last)
            except OSError as error:
                self._fail(error)

    def _run(self) -> None:
        while True:
            self._wake.wait(FRAME_INTERVAL_S)
            if self._stop.is_set():
                break
            self._wake.clear()
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            self._gather()
            self.flush()
            for tried in asked:
                tried.set()
        self.flush(last=True)
        self._ended = True

    def _gather_often(self) -> None:
        while not self._stop.wait(GATHER_INTERVAL_S):
            self._gather()

    @property
    def _failing(self) -> bool:
        return self._thinned_before is not None

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            self._thinned_before = self._waiting.thinned
            self._on_error(error)
        self._prepared = False  # somebody may have deleted the folder
        self._retry.restart()

    def _store(self, last: bool) -> None:
        if not self._prepared:
            self._prepare()
            self._prepared = True
        if self._failing:
            self._write_parts()
            self._recover()
        self._write_frame()
        if last or self._part.is_due() or self._is_large():
            self._write_parts()
        elif self._journal and self._sync.is_due():
            self._journal.sync()
        if last:
            self._merger.finish()
        if last or self._beat.is_due():
            self._on_beat()

    def _recover(self) -> None:
        assert self._thinned_before is not None
        thinned, self._thinned_before = self._waiting.thinned - self._thinned_before, None
        self._on_recovered(thinned)

    def _write_frame(self) -> None:
        batches = [
            (table, batch)
            for table, rows in self._waiting.take().items()
            for batch in self._batches(table, rows)
        ]
        if not batches:
            return
        for table, batch in batches:
            self._rows[table].append(batch)
            self._unjournaled += len(batch)
        if self._journal is None:
            self._journal = Journal(self._folder / journal_name(self._generation))
        self._journal.append(batches)
        self._unjournaled = 0

    def _batches(self, table: TableName, rows: list[Row]) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(rows), MAX_BATCH_ROWS):
            some = rows[start : start + MAX_BATCH_ROWS]
            try:
                yield batch_of(table, some)
            except ValueError:  # a value that fits no column: only its own row is lost
                fitting = [row for row in some if fits(table, row)]
                self._misfits += len(some) - len(fitting)
                if fitting:
                    yield batch_of(table, fitting)

    def _write_parts(self) -> None:
        """Make parts of the rows of this generation; the journal goes when all are whole."""
        for table, batches in self._rows.items():
            if batches:
                write_batches(self._folder / part_name(table, self._generation), table, batches)
                row_bytes = sum(batch.nbytes for batch in batches)
                batches.clear()
                self._merger.add(table, self._generation, row_bytes)
        self._unjournaled = 0
        if self._journal is not None:
            self._journal.remove()
            self._journal = None
        self._generation += 1

    def _is_large(self) -> bool:
        return self._journal is not None and self._journal.size > PART_BYTES


@final
class _Timer:
    """Is due once in every interval."""

    def __init__(self, interval_s: float, clock: Callable[[], float], *, first_s: float = 0.0) -> None:
        self._interval_s, self._clock, self._next_s = interval_s, clock, clock() + first_s

    def is_due(self) -> bool:
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._interval_s
        return True

    def restart(self) -> None:
        self._next_s = self._clock() + self._interval_s
