"""Rows reach the disk exactly once, whatever the disk and the process do."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from profiler.measure.guard import Guard
from profiler.records import Mark, Reading, Step
from profiler.store.process import read_pieces
from profiler.store.recovery import unfinished
from profiler.store.waiting import WaitingRows
from profiler.store.writer import JournalWriter

TIMES = {"marks": "start_s", "readings": "time_s", "steps": "start_s"}


def _mark(number: float) -> Mark:
    return Mark(rank=0, kind="note", start_s=float(number))


def _reading(number: float, device: str = "a", energy_j: float | None = 1.0) -> Reading:
    return Reading(time_s=float(number), component="gpu", device=device, source="counter", energy_j=energy_j)


def _stored(folder: Path, table: str = "marks") -> list[float]:
    damage: list[str] = []
    frames = list(read_pieces(folder, table, None, damage.append))  # type: ignore[arg-type]
    assert damage == []
    return [time for frame in frames for time in frame[TIMES[table]].to_list()]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Disk:
    """A folder that is full, by the file system's own words, for as long as a test says so: its name is a file's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._aside = folder, folder.with_name("aside")

    def fill(self) -> None:
        self.folder.rename(self._aside)
        self.folder.write_text("in the way")

    def empty(self) -> None:
        self.folder.unlink()
        self._aside.rename(self.folder)


def test_rows_of_several_threads_arrive_exactly_once(tmp_path: Path):
    writer = JournalWriter(tmp_path)
    writer.start()
    threads = [
        threading.Thread(target=lambda first=first: [writer.append(_mark(first + i)) for i in range(2000)])
        for first in range(0, 8000, 2000)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(_stored(tmp_path)) == [float(i) for i in range(8000)]


def test_rows_are_in_the_journal_first_and_in_parts_at_the_end(tmp_path: Path):
    writer = JournalWriter(tmp_path)
    writer.flush()
    assert _names(tmp_path) == []
    writer.append(_mark(1))
    writer.flush()
    writer.append(Step(rank=0, step=1, start_s=5.0, duration_s=1.0))
    writer.flush()
    assert _names(tmp_path) == ["wal-000000.open"]
    assert _stored(tmp_path) == [1.0]
    assert _stored(tmp_path, "steps") == [5.0]
    writer.close()
    assert _names(tmp_path) == ["marks-000000.parquet", "steps-000000.parquet"]
    assert _stored(tmp_path) == [1.0]


def test_a_part_is_made_every_minute_and_the_parts_are_one_in_the_end(tmp_path: Path):
    clock = Clock()
    writer = JournalWriter(tmp_path, clock=clock)
    for number in range(4):
        writer.append(_mark(number))
        writer.flush()
        clock.now_s += 61.0
    clock.now_s -= 60.0
    writer.append(_mark(4))
    writer.flush()
    assert _names(tmp_path) == [
        "marks-000000.parquet",
        "marks-000001.parquet",
        "marks-000002.parquet",
        "wal-000003.open",
    ]
    writer.close()
    assert _names(tmp_path) == ["marks-000000-000003.parquet"]
    assert _stored(tmp_path) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_journal_of_ten_megabytes_becomes_parts_at_once(tmp_path: Path):
    writer = JournalWriter(tmp_path, clock=Clock())
    writer.append(Mark(rank=0, kind="note", start_s=0.0, note="x" * 11 * 2**20))
    writer.flush()
    assert _names(tmp_path) == ["marks-000000.parquet"]


def test_a_disk_that_fails_is_said_once_and_its_rows_come_later(tmp_path: Path):
    folder, errors, thinned, clock = tmp_path / "p", list[OSError](), list[int](), Clock()
    folder.mkdir()
    disk = Disk(folder)
    writer = JournalWriter(folder, on_error=errors.append, on_recovered=thinned.append, clock=clock)
    disk.fill()
    for number in range(3):
        writer.append(_mark(number))
        writer.flush()
    assert [type(error) for error in errors] == [NotADirectoryError]
    disk.empty()
    writer.flush()
    assert _names(folder) == []  # it is not tried at every turn
    clock.now_s += 30.0
    writer.append(_mark(3))
    writer.flush()
    assert thinned == [0]
    assert _stored(folder) == [0.0, 1.0, 2.0, 3.0]
    disk.fill()
    clock.now_s += 61.0
    writer.append(_mark(4))
    writer.flush()
    assert len(errors) == 2
    disk.empty()
    writer.close()
    assert _stored(folder) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_disk_that_is_full_at_the_start_is_prepared_when_it_has_room(tmp_path: Path):
    clock, tried = Clock(), []

    def prepare() -> None:
        tried.append(clock.now_s)
        if len(tried) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = JournalWriter(tmp_path, prepare=prepare, clock=clock)
    writer.open()
    writer.append(_mark(1))
    for _ in range(3):
        writer.flush()
        clock.now_s += 30.0
    assert len(tried) == 3
    writer.close()
    assert _stored(tmp_path) == [1.0]


def test_a_folder_that_may_not_be_made_is_refused_at_the_start(tmp_path: Path):
    def prepare() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        JournalWriter(tmp_path, prepare=prepare).open()


def test_an_error_after_one_table_was_written_writes_nothing_twice(tmp_path: Path):
    def beat() -> None:
        if failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    failing = True
    writer = JournalWriter(tmp_path, on_beat=beat)
    writer.append(_mark(1))
    writer.flush()
    failing = False
    writer.append(_mark(2))
    writer.close()
    assert _stored(tmp_path) == [1.0, 2.0]


def test_what_cannot_be_stored_at_the_end_is_counted(tmp_path: Path):
    folder, lost = tmp_path / "p", list[int]()
    folder.mkdir()
    writer = JournalWriter(folder, on_lost=lost.append, clock=Clock())
    Disk(folder).fill()
    writer.append(_mark(1))
    writer.flush()
    writer.append(_mark(2))
    writer.close()
    assert lost == [2]


def test_what_is_in_the_journal_is_not_lost_if_no_parts_can_be_made(tmp_path: Path):
    folder, lost = tmp_path / "p", list[int]()
    folder.mkdir()
    writer = JournalWriter(folder, on_lost=lost.append)
    writer.append(_mark(1))
    writer.flush()
    Disk(folder).fill()
    writer.append(_mark(2))
    writer.close()
    assert lost == []
    assert _stored(tmp_path / "aside") == [1.0, 2.0]


def test_a_folder_that_is_deleted_under_it_is_made_again(tmp_path: Path):
    folder, clock = tmp_path / "p", Clock()
    writer = JournalWriter(folder, prepare=lambda: folder.mkdir(exist_ok=True), clock=clock)
    writer.open()
    for number in range(3):
        writer.append(_mark(number))
        writer.flush()
        if number == 0:
            shutil.rmtree(folder)
        clock.now_s += 61.0
    writer.close()
    assert _stored(folder) == [0.0, 1.0, 2.0]


def test_readings_get_coarser_and_keep_their_ends_and_steps_are_kept(tmp_path: Path):
    waiting = WaitingRows({"steps": 100, "readings": 10, "marks": 3})
    for number in range(100):
        waiting.append(_reading(number, "ab"[number % 2], float(number)))
        waiting.append(_reading(number, "ab"[number % 2], None))
        waiting.append(Step(rank=0, step=number, start_s=float(number), duration_s=1.0))
        waiting.append(_mark(number))
    assert len(waiting) <= 113
    assert waiting.dropped == 97
    rows = waiting.take()
    assert len(rows["steps"]) == 100
    assert [mark.start_s for mark in rows["marks"]] == [97.0, 98.0, 99.0]
    times = [row.time_s for row in rows["readings"]]
    assert times == sorted(times)
    for device, last in (("a", 98.0), ("b", 99.0)):
        known = [
            row.energy_j for row in rows["readings"] if row.device == device and row.energy_j is not None
        ]
        assert known[0] == float(device == "b")
        assert known[-1] == last
    assert waiting.thinned == 200 - len(rows["readings"])
    assert len(waiting) == 0


def test_more_devices_than_there_is_room_for_stay_within_it():
    waiting = WaitingRows({"steps": 1, "readings": 10, "marks": 1})
    for number in range(50):
        waiting.append(_reading(number, str(number)))
    assert len(waiting) == 10
    assert waiting.dropped == 40


def test_a_row_with_a_value_that_fits_no_column_is_lost_alone(tmp_path: Path):
    writer = JournalWriter(tmp_path)
    for value in (1.0, "two", 3.0):
        writer.append(Mark(rank=0, kind="note", start_s=value))  # type: ignore[arg-type]
    writer.append(Mark(rank=1.5, kind="note", start_s=4.0))  # type: ignore[arg-type]
    writer.append(Mark(rank=0, kind="\ud800", start_s=5.0))
    writer.close()
    assert _stored(tmp_path) == [1.0, 3.0]
    assert writer.dropped == 3


_VICTIM = """
import sys
from pathlib import Path
from profiler.records import Mark
from profiler.store.writer import JournalWriter
writer = JournalWriter(Path(sys.argv[1]))
flushed = 0
while True:
    for _ in range(50):
        writer.append(Mark(rank=0, kind="note", start_s=float(flushed)))
        flushed += 1
    writer.flush()
    print(flushed, flush=True)
"""


def test_kill_9_keeps_everything_that_was_flushed(tmp_path: Path):
    words = [sys.executable, "-c", _VICTIM, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        told = [int(victim.stdout.readline()) for _ in range(300)]
        os.kill(victim.pid, signal.SIGKILL)
        told += [int(line) for line in victim.stdout.read().split()]
    stored = _stored(tmp_path)
    assert stored == [float(i) for i in range(len(stored))]  # no gap, nothing twice
    assert len(stored) - told[-1] in (0, 50)
    assert "wal-000000.open was not closed" in unfinished(tmp_path)[0]


def test_rows_that_were_only_noted_are_made_while_the_disk_hangs(tmp_path: Path):
    hung, made, freed = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        hung.set()
        assert freed.wait(10.0)

    def gather() -> None:
        if hung.is_set() and not made.is_set():
            writer.append(_mark(1))
            made.set()

    writer = JournalWriter(tmp_path, prepare=hang, gather=gather)
    writer.start()
    assert made.wait(10.0)
    freed.set()
    writer.close()
    assert _stored(tmp_path) == [1.0]


_LEAN = """
import sys
from pathlib import Path
from profiler.records import Mark, Reading, Step
from profiler.store.writer import JournalWriter
writer = JournalWriter(Path(sys.argv[1]))
for number in range(2):
    writer.append(Step(rank=0, step=1, start_s=0.0, duration_s=1.0, metrics={"lr": 0.1}))
    writer.append(Reading(time_s=0.0, component="gpu", device="d", source="counter", energy_j=0.001 * number))
    writer.append(Mark(rank=0, kind="note", start_s=0.0))
    writer.flush()
writer.close()
assert "pandas" not in sys.modules, "its import takes a quarter of a second of the interpreter, in the midst of a step"
"""


def test_storing_never_imports_pandas(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _LEAN, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(_names(tmp_path)) == 3


def test_a_writer_whose_thread_died_of_a_fault_stores_everything_at_the_end(tmp_path: Path) -> None:
    guard = Guard()

    def breaks() -> None:
        raise MemoryError

    writer = JournalWriter(tmp_path, gather=breaks, guarded=partial(guard.call, "storing"))
    writer.open()
    writer.start()
    writer._thread.join(10.0)
    writer.append(_mark(1.0))
    writer.close()
    assert guard.notes == {"storing": "switched off after MemoryError"}
    assert _stored(tmp_path) == [1.0]
