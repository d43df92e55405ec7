"""What a killed process left: read as it is by everybody, and made whole on disk by `joulescale recover`."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from fixtures_runs import run_joulescale

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from fault_rows.made_run import GENERATIONS, made_run

from profiler.cli.recover import recover
from profiler.errors import RunsFolderError, UsageError
from profiler.metrics.summary import summarize
from profiler.records import SCHEMAS
from profiler.store import recovery
from profiler.store.lease import Lease
from profiler.store.parts import merge_parts
from profiler.store.recover import recover_run
from profiler.store.recovery import read_pieces
from profiler.store.runs import open_run

STEPS = 100 * GENERATIONS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The process's folder of a killed run named "made": parts of three generations, and a journal of the fourth."""
    (folder,) = made_run(tmp_path, "made").glob("attempt-1/*")
    assert [path.name for path in folder.glob("wal-*")] == [f"wal-{GENERATIONS - 1:06d}.open"]
    return folder


def _steps(folder: Path) -> list[int]:
    damage: list[str] = []
    steps = [n for piece in read_pieces(folder, "steps", ["step"], damage.append) for n in piece["step"]]
    assert damage == []
    return steps


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_killed_run_is_read_whole_and_says_how_it_ended(tmp_path: Path, folder: Path):
    before = _names(folder)
    run = open_run(tmp_path, "made")
    assert run.status == "lost"
    assert run.damaged == ()
    assert run.processes[0].steps["step"].to_list() == list(range(1, STEPS + 1))
    assert len(run.processes[0].readings) == 2 * STEPS
    sentence = summarize(run)["notes"]["journal 1"]
    assert sentence == "wal-000003.open was not closed: rows of the last second may be missing."
    assert _names(folder) == before  # reading changes nothing


def test_a_frame_that_was_not_finished_is_said_in_bytes(tmp_path: Path, folder: Path):
    journal = folder / "wal-000003.open"
    journal.write_bytes(journal.read_bytes()[:-7])
    (sentence,) = open_run(tmp_path, "made").unfinished
    assert re.search(r"may be missing; \d+ bytes of its last frame were not finished\.$", sentence)


def test_recovery_makes_the_same_rows_whole_and_a_second_time_does_nothing(tmp_path: Path, folder: Path):
    before = {table: getattr(open_run(tmp_path, "made").processes[0], table) for table in SCHEMAS}
    (recovered,) = recover_run(open_run(tmp_path, "made"))
    assert recovered.rows == {"steps": 100, "readings": 200, "marks": 10}
    assert not any(name.startswith("wal-") for name in _names(folder))
    after = open_run(tmp_path, "made")
    assert after.unfinished == ()
    for table, frame in before.items():
        order = frame.columns[:3]
        assert getattr(after.processes[0], table).sort(order).equals(frame.sort(order)), table
    assert recover_run(after) == []


def test_what_could_not_be_read_is_kept_and_still_said(tmp_path: Path, folder: Path):
    journal = folder / "wal-000003.open"
    data = bytearray(journal.read_bytes())
    data[-2000] ^= 1
    journal.write_bytes(data)
    said = open_run(tmp_path, "made").damaged
    assert len(said) == 1
    assert "bytes could not be read" in said[0]
    steps = _known(folder)
    (recovered,) = recover_run(open_run(tmp_path, "made"))
    assert recovered.kept == folder / "wal-000003.rest"
    assert recovered.kept.read_bytes() == data
    assert _known(folder) == steps
    run = open_run(tmp_path, "made")
    assert run.damaged == (said[0].replace(".open", ".rest"),)
    assert run.incomplete == set(SCHEMAS)
    assert recover_run(run) == []


def _known(folder: Path) -> list[int]:
    return [n for piece in read_pieces(folder, "steps", ["step"], lambda _: None) for n in piece["step"]]


def test_a_part_wins_over_the_journal_of_its_number(tmp_path: Path, folder: Path):
    journal = (folder / "wal-000003.open").read_bytes()
    recover_run(open_run(tmp_path, "made"))
    (folder / "wal-000003.open").write_bytes(journal)  # killed after the parts were made, before it went
    assert _steps(folder) == list(range(1, STEPS + 1))
    (folder / "steps-000003.parquet").unlink()  # killed before the last of them
    assert _steps(folder) == list(range(1, STEPS + 1))


def test_a_merged_part_wins_over_those_that_it_was_made_of(folder: Path, tmp_path: Path):
    names = sorted(path.name for path in folder.glob("steps-*"))
    assert names == ["steps-000000.parquet", "steps-000001.parquet", "steps-000002.parquet"]
    merge_parts(folder / "steps-000000-000002.parquet", [folder / name for name in names])
    assert _steps(folder) == list(range(1, STEPS + 1))


def test_what_is_merged_while_it_is_read_is_read_once(folder: Path):
    """The reader has had the first of three parts when the writer merges them."""
    names = [f"steps-{number:06d}.parquet" for number in range(3)]
    pieces = read_pieces(folder, "steps", ["step"], lambda _: None)
    steps = next(pieces)["step"].to_list()
    merge_parts(folder / "steps-000000-000002.parquet", [folder / name for name in names])
    for name in names:
        (folder / name).unlink()
    steps += [n for piece in pieces for n in piece["step"]]
    assert steps == list(range(1, STEPS + 1))


def test_a_folder_that_never_stays_the_same_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(recovery, "read_listed_part", gone)
    damage: list[str] = []
    assert list(read_pieces(folder, "steps", None, damage.append)) == []
    assert "changed 20 times while they were read; the rest of steps is left out" in damage[0]


def test_a_run_that_is_still_written_is_left_alone(tmp_path: Path, folder: Path):
    before, lease = _names(folder) | {"lease"}, Lease(folder)
    with pytest.raises(UsageError, match=r"The run 'made' is still being written, so nothing was changed\."):
        recover_run(open_run(tmp_path, "made"))
    lease.release()
    assert _names(folder) == before


def test_the_command_says_what_it_did(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(tmp_path, tmp_path / "again")
    recover("made", tmp_path)
    assert capsys.readouterr().out == (
        "made: 100 steps, 200 readings, 10 marks from node-a-0-4242/wal-000003.open.\n"
    )
    recover("made", tmp_path)
    assert capsys.readouterr().out == "made: nothing to recover, all of it is in whole files.\n"
    done = run_joulescale("recover", "made", "--runs-dir", str(tmp_path / "again"), "--json")
    (journal,) = json.loads(done.stdout)["journals"]
    assert journal["rows"] == {"steps": 100, "readings": 200, "marks": 10}
    assert (journal["kept"], journal["why_kept"]) == (None, None)


def test_without_room_recovery_says_so_and_loses_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(run: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("profiler.cli.recover.recover_run", full)
    with pytest.raises(RunsFolderError, match=r"cannot be recovered here .No space left.*nothing was lost"):
        recover("made", tmp_path)
    assert _steps(folder) == list(range(1, STEPS + 1))
