"""Rows reach the disk exactly once, whatever the disk and the process do."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl

from profiler.records import Mark, Reading, Step
from profiler.store.parts import read_part
from profiler.store.writer import PartWriter


def _mark(number: int) -> Mark:
    return Mark(rank=0, kind="note", start_s=float(number))


def _stored(folder: Path, table: str = "marks") -> list[float]:
    parts = [read_part(path, table) for path in sorted(folder.glob(f"{table}-*.parquet"))]  # type: ignore[arg-type]
    return pl.concat(parts)[{"marks": "start_s", "readings": "time_s", "steps": "start_s"}[table]].to_list()


def test_rows_of_several_threads_arrive_exactly_once(tmp_path: Path):
    writer = PartWriter(tmp_path / "p", interval_s=0.01)
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
    assert sorted(_stored(tmp_path / "p")) == [float(i) for i in range(8000)]


def test_parts_are_numbered_by_table_and_made_only_when_there_are_rows(tmp_path: Path):
    writer = PartWriter(tmp_path)
    writer.flush()
    writer.append(_mark(1))
    writer.flush()
    writer.append(Step(rank=0, step=1, start_s=0.0, duration_s=1.0))
    writer.append(_mark(2))
    writer.flush()
    writer.append(Reading(time_s=0.0, component="gpu", device="d", source="counter"))
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "marks-000000.parquet",
        "marks-000001.parquet",
        "readings-000000.parquet",
        "steps-000000.parquet",
    ]


def test_the_folder_is_not_made_before_there_is_a_row(tmp_path: Path):
    writer = PartWriter(tmp_path / "p")
    writer.close()
    assert not (tmp_path / "p").exists()


def test_a_disk_that_fails_is_said_once_and_its_rows_come_later(tmp_path: Path):
    """The folder's name is taken by a file: the file system itself refuses."""
    folder, errors = tmp_path / "p", list[OSError]()
    folder.write_text("in the way")
    writer = PartWriter(folder, on_error=errors.append)
    for number in range(3):
        writer.append(_mark(number))
        writer.flush()
    assert [type(error) for error in errors] == [FileExistsError]
    folder.unlink()
    writer.append(_mark(3))
    writer.flush()
    assert _stored(folder) == [0.0, 1.0, 2.0, 3.0]
    folder.rename(tmp_path / "moved")
    folder.write_text("in the way again")
    writer.append(_mark(4))
    writer.flush()
    assert len(errors) == 2


def test_an_error_after_one_table_was_written_writes_nothing_twice(tmp_path: Path):
    def beat() -> None:
        if failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    failing = True
    writer = PartWriter(tmp_path, on_flush=beat)
    writer.append(_mark(1))
    writer.flush()
    failing = False
    writer.append(_mark(2))
    writer.close()
    assert _stored(tmp_path) == [1.0, 2.0]


def test_what_waits_too_long_is_dropped_oldest_first_and_counted(tmp_path: Path):
    folder = tmp_path / "p"
    folder.write_text("in the way")
    writer = PartWriter(folder, max_pending=10)
    for number in range(14):
        writer.append(_mark(number))
        writer.flush()
    assert writer.dropped == 4
    for number in range(14, 26):  # nobody flushes: the queue itself is bounded
        writer.append(_mark(number))
    assert writer.dropped == 6
    folder.unlink()
    writer.close()
    assert _stored(folder) == [float(number) for number in range(16, 26)]
    assert writer.dropped == 16


_VICTIM = """
import sys
from pathlib import Path
from profiler.records import Mark
from profiler.store.writer import PartWriter
flushed = 0
def told():
    print(flushed, flush=True)
writer = PartWriter(Path(sys.argv[1]), on_flush=told)
while True:
    for _ in range(50):
        writer.append(Mark(rank=0, kind="note", start_s=float(flushed)))
        flushed += 1
    writer.flush()
"""


def test_kill_9_keeps_everything_that_was_flushed(tmp_path: Path):
    for trial in range(3):
        folder = tmp_path / str(trial)
        with subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(folder)], stdout=subprocess.PIPE, text=True
        ) as victim:
            assert victim.stdout is not None
            told = [int(victim.stdout.readline()) for _ in range(5 + 3 * trial)]
            os.kill(victim.pid, signal.SIGKILL)
            told += [int(line) for line in victim.stdout.read().split()]
        stored = _stored(folder)
        assert stored == [float(i) for i in range(len(stored))]  # no gap, nothing twice
        assert len(stored) - told[-1] in (0, 50)


def test_rows_that_were_only_noted_are_made_on_the_writers_thread(tmp_path: Path):
    made, threads = threading.Event(), set()

    def gather() -> None:
        threads.add(threading.current_thread().name)
        writer.append(Mark(rank=0, kind="note", start_s=float(len(threads))))
        made.set()

    writer = PartWriter(tmp_path / "p", gather=gather, interval_s=0.01)
    writer.start()
    assert made.wait(10.0)
    writer.close()
    assert threads == {"joulescale-writer"}
    assert set(_stored(tmp_path / "p")) == {1.0}
