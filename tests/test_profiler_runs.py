"""Reading runs back: what is there, what is lost, what is damaged, and which run a name means."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures_scripted import Script, scripted_run

from profiler.errors import InvalidValueError, RunNotFoundError, RunsFolderError, StoredDataError
from profiler.metrics.overview import overview
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.store.folder import (
    MARK_NAME,
    check_run_name,
    new_run_id,
    readable_runs_dir,
    writable_runs_dir,
)
from profiler.store.manifest import (
    Manifest,
    ProcessFile,
    read_manifest,
    read_process,
    write_json,
    write_manifest,
)
from profiler.store.process import marks_of
from profiler.store.runs import open_run, scan_runs

PID_OF_NOBODY = 2**22 + 1  # above the kernel's highest pid


def _ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def _run(runs_dir: Path, name: str, **facts: object) -> Path:
    folder = writable_runs_dir(runs_dir) / name
    folder.mkdir()
    known = {"created_at": _ago(60), "heartbeat": _ago(1), **facts}
    write_json(folder / "run.json", Manifest(run_id=name, **known))  # type: ignore[arg-type]
    return folder


def _process(run: Path, *, pid: int, host: str | None = None, rank: int = 0, attempt: int = 1) -> Path:
    folder = run / f"attempt-{attempt}" / f"node-{rank}-{pid}"
    folder.mkdir(parents=True)
    facts = ProcessFile(
        host=host or socket.gethostname(),
        rank=rank,
        local_rank=rank,
        world_size=1,
        pid=pid,
        attempt=attempt,
        clock={"wall_unix_s": 0.0, "monotonic_s": 0.0},
    )
    write_json(folder / "process.json", facts)
    return folder


# -- status ------------------------------------------------------------------------------------------------------


def test_a_run_whose_process_lives_is_running(tmp_path: Path):
    _process(_run(tmp_path, "a"), pid=os.getpid())
    assert open_run(tmp_path, "a").status == "running"


@pytest.mark.parametrize("pid", [PID_OF_NOBODY, 2**80])
def test_a_run_whose_process_is_gone_is_lost(tmp_path: Path, pid: int):
    _process(_run(tmp_path, "a"), pid=pid)
    assert open_run(tmp_path, "a").status == "lost"


def test_a_process_on_another_host_is_judged_by_its_heart(tmp_path: Path):
    _process(_run(tmp_path, "fresh"), pid=PID_OF_NOBODY, host="far-away")
    _process(_run(tmp_path, "stale", heartbeat=_ago(600)), pid=os.getpid(), host="far-away")
    assert open_run(tmp_path, "fresh").status == "running"
    assert open_run(tmp_path, "stale").status == "lost"


@pytest.mark.parametrize("heart", ["", "yesterday", "2026-01-01T00:00:00"])
def test_a_heart_that_tells_nothing_recent_is_lost(tmp_path: Path, heart: str):
    _run(tmp_path, "a", heartbeat=heart, created_at=heart)
    assert open_run(tmp_path, "a").status == "lost"


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_run_that_ended_stays_as_it_ended(tmp_path: Path, status: str):
    _process(_run(tmp_path, "a", status=status, heartbeat=_ago(10_000)), pid=PID_OF_NOBODY)
    assert open_run(tmp_path, "a").status == status


# -- damage ------------------------------------------------------------------------------------------------------


def test_a_damaged_part_is_named_and_the_rest_is_kept(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=4))
    steps = next(run.path.glob("attempt-1/*/steps-*.parquet"))
    steps.write_bytes(steps.read_bytes()[:-20])
    run = open_run(tmp_path, "scripted")
    (sentence,) = run.damaged
    assert re.match(rf"The part {steps} cannot be read \(.*\); its rows are missing\.$", sentence)
    assert len(run.processes[0].steps) == 0
    assert len(run.processes[0].readings) > 10
    summary = summarize(run)
    assert summary["notes"]["damaged file 1"] == sentence
    assert summary["steps"] is None
    assert summary["tokens"] is None
    assert summary["notes"]["tokens"] == "files of the run's steps are damaged"


def test_an_empty_part_does_not_hide_the_next_one(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=4))
    steps = next(run.path.glob("attempt-1/*/steps-*.parquet"))
    steps.with_name("steps-000001.parquet").write_bytes(b"")
    run = open_run(tmp_path, "scripted")
    assert len(run.processes[0].steps) == 4
    assert len(run.damaged) == 1


def test_temporary_files_of_a_killed_writer_are_not_read(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=4))
    steps = next(run.path.glob("attempt-1/*/steps-*.parquet"))
    (steps.parent / ".steps-000001.parquet.7.tmp").write_bytes(b"half")
    assert open_run(tmp_path, "scripted").damaged == ()


def test_a_process_without_its_file_is_named(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=2))
    folder = run.processes[0].folder
    (folder / "process.json").write_text("{}")
    run = open_run(tmp_path, "scripted")
    assert run.processes == ()
    assert run.damaged == (f"{folder} has no readable process.json; its tables are left out.",)
    assert summarize(run)["duration_s"] is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read"),
        ('{"run_id": "a", "cre', "cannot be read"),
        ("\x00\x01", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[1, 2]", "does not hold a JSON object"),
        ("{}", "lacks what a Manifest needs"),
        ('{"run_id": "a", "schema_version": 99}', "has schema 99. Upgrade joulescale to read it"),
        (
            '{"run_id": "a", "schema_version": "1"}',
            "holds something else than expected as 'schema_version': '1'",
        ),
        ('{"run_id": "a", "created_at": 5}', "holds something else than expected as 'created_at': '5'"),
        ('{"run_id": "a", "params": "many"}', "holds something else than expected as 'params': 'many'"),
        ('{"run_id": "a", "notes": ["no"]}', "holds something else than expected as 'notes'"),
    ],
)
def test_a_damaged_manifest_is_listed_with_its_reason(tmp_path: Path, text: str, why: str):
    _run(tmp_path, "whole", status="finished")
    (_run(tmp_path, "torn") / "run.json").write_text(text)
    runs = {run.run_id: run for run in scan_runs(tmp_path)}
    assert set(runs) == {"whole", "torn"}
    assert runs["torn"].status == "damaged"
    assert why in runs["torn"].manifest.notes["manifest"]
    assert overview(list(runs.values()))["run_id"].to_list() == ["whole", "torn"]


def test_a_process_file_of_the_wrong_shape_is_damage(tmp_path: Path):
    folder = _process(_run(tmp_path, "a"), pid=1)
    known = json.loads((folder / "process.json").read_text())
    (folder / "process.json").write_text(json.dumps({**known, "attempt": "first"}))
    with pytest.raises(StoredDataError, match="holds something else than expected as 'attempt': 'first'"):
        read_process(folder)


def test_fields_of_a_later_version_are_left_out(tmp_path: Path):
    folder = _run(tmp_path, "a")
    known = json.loads((folder / "run.json").read_text())
    del known["checksum"]
    (folder / "run.json").write_text(json.dumps({**known, "colour": "blue"}))
    assert read_manifest(folder).run_id == "a"


def test_an_earlier_attempt_that_wakes_up_does_not_take_the_run_back(tmp_path: Path):
    folder = _run(tmp_path, "a", attempt=2, seed=2)
    write_manifest(folder, Manifest(run_id="a", attempt=1, seed=1))
    assert read_manifest(folder).seed == 2
    write_manifest(folder, Manifest(run_id="a", attempt=2, seed=3))
    write_manifest(folder, Manifest(run_id="a", attempt=3, seed=4))
    assert read_manifest(folder).seed == 4


@pytest.mark.parametrize("name", ["run.json", "process.json"])
def test_no_changed_character_of_a_manifest_is_silent(tmp_path: Path, name: str):
    run = _run(tmp_path, "a", settings={"d_model": 64}, seed=3)
    folder = run if name == "run.json" else _process(run, pid=1)
    read = read_manifest if name == "run.json" else read_process
    text, true, told = (folder / name).read_text(), read(folder), 0
    for at in range(0, len(text), 7):
        (folder / name).write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
        try:
            assert read(folder) == true
        except StoredDataError:
            told += 1
    assert told > 20


def test_settings_that_json_cannot_hold_are_stored_as_it_can(tmp_path: Path):
    odd = {
        "clip": float("inf"),
        "where": Path("x/y"),
        "sizes": (1, 2),
        "inner": {"nan": float("nan")},
        "on": True,
    }
    manifest = read_manifest(_run(tmp_path, "a", settings=odd))
    assert manifest.settings == {
        "clip": None,
        "where": "x/y",
        "sizes": [1, 2],
        "inner": {"nan": None},
        "on": True,
    }


# -- which run a name means --------------------------------------------------------------------------------------


def test_a_name_means_the_exact_run_or_the_only_one_that_contains_it(tmp_path: Path):
    for minutes, name in enumerate(["lm-small", "lm-small-2", "vision"]):
        _run(tmp_path, name, created_at=_ago(600 - 60 * minutes))
    assert open_run(tmp_path, "lm-small").run_id == "lm-small"
    assert open_run(tmp_path, "vis").run_id == "vision"
    assert open_run(tmp_path, "latest").run_id == "vision"
    assert open_run(tmp_path, str(tmp_path / "vision")).run_id == "vision"
    assert [run.run_id for run in scan_runs(tmp_path)] == ["lm-small", "lm-small-2", "vision"]


def test_a_name_that_means_two_runs_is_refused(tmp_path: Path):
    for name in ("lm-a", "lm-b"):
        _run(tmp_path, name)
    with pytest.raises(RunNotFoundError, match=r"^'lm' could be lm-a, lm-b\. Give more of the name\.$"):
        open_run(tmp_path, "lm")


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path):
    _run(tmp_path, "lm-small")
    with pytest.raises(
        RunNotFoundError, match=r"There is no run named 'lm-smoll'\. Did you mean 'lm-small'"
    ) as told:
        open_run(tmp_path, "lm-smoll")
    assert str(told.value).endswith(f"All are shown by 'joulescale list --runs-dir {tmp_path}'.")


@pytest.mark.parametrize(
    "name", ["../../etc", "..", "/", "", ".", "../outside", "*", "%2e%2e", "a/../../outside"]
)
def test_no_name_leads_out_of_the_runs_folder(tmp_path: Path, name: str):
    _run(tmp_path / "runs", "inside")
    (tmp_path / "outside").mkdir()
    write_json(tmp_path / "outside" / "run.json", Manifest(run_id="outside"))
    with pytest.raises(RunNotFoundError, match="There is no run named"):
        open_run(tmp_path / "runs", name)


def test_an_empty_runs_folder_says_how_to_fill_it(tmp_path: Path):
    with pytest.raises(
        RunNotFoundError,
        match=r"There are no runs in '.*' yet. Fill it with 'joulescale sweep lm --preset cpu",
    ):
        open_run(tmp_path, "latest")


# -- the folder --------------------------------------------------------------------------------------------------


def test_a_new_folder_is_made_and_marked(tmp_path: Path):
    made = writable_runs_dir(tmp_path / "deep" / "runs")
    assert (made / MARK_NAME).exists()
    assert readable_runs_dir(made) == made
    assert writable_runs_dir(made) == made


def test_a_missing_folder_is_said_to_readers(tmp_path: Path):
    with pytest.raises(
        RunsFolderError, match=r"^There is no runs folder '.*/gone'\. Fill it with 'joulescale sweep lm"
    ):
        readable_runs_dir(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_file_is_no_runs_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for check in (readable_runs_dir, writable_runs_dir):
        with pytest.raises(
            RunsFolderError, match=r"^The runs folder '.*file' is a file\. Name a folder with --runs-dir"
        ):
            check(tmp_path / "file")


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RunsFolderError, match=r"cannot be written to \(Not a directory\), so nothing could be recorded"
    ):
        writable_runs_dir(tmp_path / "file" / "runs")


def test_a_name_too_long_for_the_file_system_is_said(tmp_path: Path):
    with pytest.raises(RunsFolderError, match=r"cannot be read: File name too long\."):
        readable_runs_dir(tmp_path / ("r" * 300))
    with pytest.raises(RunsFolderError, match=r"cannot be written to \(File name too long\)"):
        writable_runs_dir(tmp_path / ("r" * 300))


def test_a_read_only_file_system_is_said():
    """/proc takes no folders, not even from root."""
    with pytest.raises(RunsFolderError, match=r"The runs folder '/proc/joulescale' cannot be written to"):
        writable_runs_dir(Path("/proc/joulescale"))


def test_a_foreign_folder_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    for check in (readable_runs_dir, writable_runs_dir):
        with pytest.raises(
            RunsFolderError, match="holds other things and no joulescale runs, so it is left alone"
        ):
            check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_runs_without_its_mark_is_still_ours(tmp_path: Path):
    _run(tmp_path, "a")
    (tmp_path / MARK_NAME).unlink()
    assert [run.run_id for run in scan_runs(tmp_path)] == ["a"]


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "x" * 101, "-rf", "a\n"])
def test_a_run_name_that_could_be_no_folder_is_refused(name: str):
    with pytest.raises(InvalidValueError, match=r"cannot be a folder's name. Use up to 100 letters, digits"):
        check_run_name(name)


def test_made_names_sort_by_time_and_differ():
    now = datetime(2026, 11, 22, 5, 3, 52, tzinfo=UTC)
    names = {new_run_id("lm", now=now) for _ in range(20)}
    assert len(names) > 10
    assert all(name.startswith("20261122-050352-lm-") and check_run_name(name) for name in names)


# -- attempts ----------------------------------------------------------------------------------------------------


def test_a_second_start_is_a_second_attempt_even_if_the_first_was_deleted(tmp_path: Path):
    first = scripted_run(tmp_path, Script(steps=2), status="interrupted")
    second = scripted_run(tmp_path, Script(steps=2), status="interrupted")
    assert [p.facts.attempt for p in second.processes] == [1, 2]
    (first.path / "attempt-1").rename(tmp_path.parent / f"{tmp_path.name}-taken-away")
    third = scripted_run(tmp_path, Script(steps=2), status="interrupted")
    assert [p.facts.attempt for p in third.processes] == [2, 3]
    assert marks_of(third.processes, "fit")["process"].to_list() == [0, 1]


def test_marks_of_no_process_are_an_empty_frame():
    assert marks_of([], "fit").columns[-1] == "process"
    assert replace(Manifest(run_id="x")).status == "running"


def test_a_run_with_damaged_steps_is_named_and_has_no_point(tmp_path: Path):
    for name in ("whole", "torn"):
        scripted_run(tmp_path, name=name)
    part = next((tmp_path / "torn").glob("attempt-*/*/steps-*.parquet"))
    part.write_bytes(part.read_bytes()[:200])
    runs = {run.run_id: run for run in scan_runs(tmp_path)}
    assert runs["torn"].incomplete == {"steps"}
    assert not runs["whole"].is_damaged
    assert dict(overview(list(runs.values())).select("run_id", "damaged").rows()) == {
        "torn": True,
        "whole": False,
    }
    assert set(scale_points(list(runs.values()))["run_id"]) == {"whole"}
    summary = summarize(runs["torn"])
    assert summary["phases"] == []
    for key in ("steps", "tokens", "loss", "verdict"):
        assert summary[key] is None
        assert "damaged" in summary["notes"][key], key
    assert summary["throughput"]["tokens_per_s"] is None
    assert "damaged" in summary["notes"]["throughput.tokens_per_s"]
    assert summary["energy"]["measured_j"] == pytest.approx(summarize(runs["whole"])["energy"]["measured_j"])


def test_a_process_without_its_facts_makes_every_table_incomplete(tmp_path: Path):
    run = scripted_run(tmp_path)
    next(run.path.glob("attempt-*/*/process.json")).unlink()
    assert scan_runs(tmp_path)[0].incomplete == {"steps", "readings", "marks"}


def test_a_run_without_its_manifest_gives_no_reason_that_nobody_recorded(tmp_path: Path):
    run = scripted_run(tmp_path)
    (run.path / "run.json").write_text("{}")
    notes = summarize(scan_runs(tmp_path)[0])["notes"]
    assert notes["workload"] == notes["params"] == "the run's manifest cannot be read"
    assert "lacks what a Manifest needs" in notes["manifest"]


def test_a_folder_that_a_full_disk_left_without_its_mark_is_ours_by_its_runs(tmp_path: Path):
    (tmp_path / "lm-1" / "attempt-1").mkdir(parents=True)
    assert writable_runs_dir(tmp_path) == tmp_path
    assert readable_runs_dir(tmp_path) == tmp_path


def test_a_refusal_without_a_number_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError("a driver of somebody's")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(RunsFolderError, match=r"cannot be written to .a driver of somebody's., so nothing"):
        writable_runs_dir(tmp_path)


def test_a_folder_that_another_training_makes_in_this_moment_is_no_foreign_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It was seen without its mark, and then with something in it: that is the mark."""
    listing = Path.iterdir

    def made_meanwhile(path: Path):
        (path / ".joulescale").touch()
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", made_meanwhile)
    for check in (readable_runs_dir, writable_runs_dir):
        runs = tmp_path / check.__name__
        runs.mkdir()
        assert check(runs) == runs
