"""A journal gives back its whole frames, names a bad one, and takes an unfinished one for what it is."""

from __future__ import annotations

import errno
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.records import SCHEMA_VERSION, Mark, Step
from profiler.store import wal
from profiler.store.columns import batch_of
from profiler.store.wal import Journal, read_journal


def _journal(path: Path, counts: list[int]) -> list[int]:
    """Write frames of so many marks; where each of them ends."""
    journal, ends, number = Journal(path), [], 0
    ends.append(journal.size)
    for count in counts:
        rows = [Mark(rank=0, kind="note", start_s=float(number + i)) for i in range(count)]
        number += count
        journal.append([("marks", batch_of("marks", rows))])
        ends.append(journal.size)
    return ends


def _times(path: Path) -> list[float]:
    return [t for batch in read_journal(path).batches["marks"] for t in batch["start_s"].to_pylist()]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 5), max_size=5), cut=st.floats(0.0, 1.0))
def test_what_is_cut_off_is_the_end_and_its_bytes_are_counted(tmp_path: Path, counts: list[int], cut: float):
    path = tmp_path / "wal"
    path.unlink(missing_ok=True)
    ends = _journal(path, counts)
    length = round(cut * ends[-1])
    path.write_bytes(path.read_bytes()[:length])
    whole = [end for end in ends if end <= length]
    found = read_journal(path)
    assert found.damage is None
    assert _times(path) == [float(i) for i in range(sum(counts[: max(len(whole) - 1, 0)]))]
    if whole:
        assert found.unfinished_bytes == length - whole[-1]


def test_no_flipped_bit_is_silent(tmp_path: Path):
    path = tmp_path / "wal"
    ends = _journal(path, [3, 3, 3])
    data, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        at = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        found, before = read_journal(path), sum(3 for end in ends[1:] if end <= at)
        assert found.damage is not None
        assert _times(path) == [float(i) for i in range(before)]


def test_frames_in_another_order_or_twice_or_missing_are_damage(tmp_path: Path):
    path = tmp_path / "wal"
    ends = _journal(path, [1, 1, 1])
    data = path.read_bytes()
    head, frames = data[: ends[0]], [data[a:b] for a, b in pairwise(ends)]
    for order in ([1, 0, 2], [0, 0, 1], [0, 2], [2]):
        path.write_bytes(head + b"".join(frames[i] for i in order))
        assert "the checksum of a frame does not match" in (read_journal(path).damage or ""), order
    assert "last" in (read_journal(path).damage or "")


def test_blocks_that_a_power_cut_left_blank_are_unfinished(tmp_path: Path):
    path = tmp_path / "wal"
    ends = _journal(path, [2])
    path.write_bytes(path.read_bytes() + bytes(4096))
    found = read_journal(path)
    assert (found.damage, found.unfinished_bytes, len(_times(path))) == (None, 4096, 2)
    path.write_bytes(path.read_bytes()[: ends[-1]] + b"junk")
    assert "the head of a frame is damaged; its last 4 of" in (read_journal(path).damage or "")


def test_a_journal_of_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wal, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    _journal(tmp_path / "wal", [1])
    monkeypatch.undo()
    damage = read_journal(tmp_path / "wal").damage or ""
    assert (
        f"it has schema {SCHEMA_VERSION + 1}, this version reads up to {SCHEMA_VERSION} (upgrade joulescale"
        in damage
    )


def test_a_frame_that_the_disk_refused_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "wal"
    journal = Journal(path)
    rows = [("steps", batch_of("steps", [Step(rank=0, step=1, start_s=0.0, duration_s=1.0)]))]
    journal.append(rows)
    real = wal.os.write

    written = []

    def half(descriptor: int, data: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(descriptor, data[:100]))
        return written[0]

    monkeypatch.setattr(wal.os, "write", half)
    with pytest.raises(OSError, match="No space"):
        journal.append(rows)
    monkeypatch.undo()
    assert path.stat().st_size == journal.size
    journal.append(rows)
    found = read_journal(path)
    assert (found.damage, found.unfinished_bytes) == (None, 0)
    assert len(found.batches["steps"]) == 2


def test_a_journal_that_cannot_be_begun_leaves_no_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Journal(tmp_path / "none" / "wal")
    Journal(tmp_path / "wal")
    with pytest.raises(FileExistsError):  # two writers never share one
        Journal(tmp_path / "wal")
