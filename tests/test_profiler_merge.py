"""Parts are put together until few are left: every row stays, once and in its place, whatever the disk does."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.records import Reading
from profiler.store import merge, parts, writer
from profiler.store.columns import batch_of
from profiler.store.merge import Merger
from profiler.store.parts import part_name, read_part, write_batches
from profiler.store.recovery import read_pieces
from profiler.store.writer import JournalWriter

ROWS = 4


@pytest.fixture(autouse=True)
def three_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merge, "PARTS_AT_ONCE", 3)


def _rows(number: int) -> list[Reading]:
    """Of a device of its own, so that a merged part has the texts of several."""
    return [
        Reading(
            time_s=float(number * ROWS + row), component="gpu", device=f"GPU-{number % 4}", source="counter"
        )
        for row in range(ROWS)
    ]


def _write(folder: Path, merger: Merger, count: int, first: int = 0) -> int:
    """So many parts, as the writer makes them; the bytes of each part's rows."""
    for number in range(first, first + count):
        batch = batch_of("readings", _rows(number))
        write_batches(folder / part_name("readings", number), "readings", [batch])
        merger.add("readings", number, batch.nbytes)
    return batch.nbytes


def _names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".parquet").removeprefix("readings-") for path in folder.iterdir())


def _read(folder: Path) -> tuple[list[tuple[float, str]], list[str]]:
    damage: list[str] = []
    frames = list(read_pieces(folder, "readings", ("time_s", "device"), damage.append))
    return [row for frame in frames for row in frame.rows()], damage


def _expected(*numbers: int) -> list[tuple[float, str]]:
    return [(row.time_s, row.device) for number in numbers for row in _rows(number)]


def test_what_was_merged_is_merged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "_ROW_GROUP_ROWS", ROWS)
    merger = Merger(tmp_path)
    _write(tmp_path, merger, 8)
    assert _names(tmp_path) == ["000000-000002", "000003-000005", "000006", "000007"]
    _write(tmp_path, merger, 1, first=8)
    assert _names(tmp_path) == ["000000-000008"]
    assert _read(tmp_path) == (_expected(*range(9)), [])


@pytest.mark.parametrize("count", [2, 5, 9, 14, 25, 26])
def test_one_part_is_left_at_the_end(tmp_path: Path, count: int):
    merger = Merger(tmp_path)
    _write(tmp_path, merger, count)
    merger.finish()
    assert _names(tmp_path) == [f"000000-{count - 1:06d}"]
    assert _read(tmp_path) == (_expected(*range(count)), [])


def test_no_part_is_larger_than_a_reader_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    size = _write(tmp_path, Merger(tmp_path), 1)
    monkeypatch.setattr(merge, "MAX_BYTES", 5 * size)
    merger = Merger(tmp_path)
    _write(tmp_path, merger, 20)
    merger.finish()
    lengths = [len(read_part(path, "readings")) for path in sorted(tmp_path.iterdir())]
    assert lengths == [5 * ROWS] * 4
    assert _read(tmp_path) == (_expected(*range(20)), [])


@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        (1, ["000000", "000001", "000002", "000003-000019"]),
        (4, ["000000-000002", "000003", "000004", "000005"]),
    ],
)
def test_nothing_is_merged_across_a_damaged_part(tmp_path: Path, damaged: int, left: list[str]):
    """A merged part stands for all from its first to its last: those between would be hidden."""
    merger = Merger(tmp_path)
    _write(tmp_path, merger, damaged + 1)
    path = tmp_path / part_name("readings", damaged)
    path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])
    _write(tmp_path, merger, 19 - damaged, first=damaged + 1)
    merger.finish()
    assert _names(tmp_path)[:4] == left
    found, damage = _read(tmp_path)
    assert found == _expected(*(number for number in range(20) if number != damaged))
    assert [str(path) in sentence for sentence in damage] == [True]


def test_the_writer_leaves_one_part_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "PART_INTERVAL_S", 0.0)
    rows = JournalWriter(tmp_path)
    for number in range(11):
        for row in _rows(number):
            rows.append(row)
        rows.flush()
    assert len(_names(tmp_path)) < 11
    rows.close()
    assert _names(tmp_path) == ["000000-000010"]
    assert _read(tmp_path) == (_expected(*range(11)), [])
