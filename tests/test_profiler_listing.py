"""Runs listed from the index are as if it was not there; whatever is stale, damaged or foreign in it is passed over."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from fixtures_scripted import Script, scripted_run
from polars.testing import assert_frame_equal

from profiler.carbon.factors import CarbonFactors
from profiler.metrics import entries
from profiler.metrics.listing import Listing, list_folder, run_index, runs_by_name
from profiler.metrics.overview import OVERVIEW_SCHEMA, overview
from profiler.metrics.points import POINT_SCHEMA, scale_points
from profiler.store.index import INDEX_NAME, MAX_FILES, RunIndex, is_unchanged, state_of
from profiler.store.lease import Lease
from profiler.store.manifest import read_manifest, write_json
from profiler.store.runs import scan_runs


def _let_rest(runs_dir: Path) -> None:
    """As if everything had happened an hour ago."""
    for path in sorted(runs_dir.glob("*"), reverse=True):
        if path.name != INDEX_NAME:
            for one in (*path.rglob("*"), path):
                os.utime(one, (time.time() - 3600.0,) * 2)


@pytest.fixture
def rested(tmp_path: Path) -> Path:
    for number in range(3):
        scripted_run(tmp_path, Script(steps=3 + number, budget_after=(3,)), name=f"run-{number}")
    _let_rest(tmp_path)
    return tmp_path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are read instead of known."""
    names: list[str] = []
    entry_of = entries.entry_of

    def counting(folder: Path) -> dict[str, object]:
        names.append(folder.name)
        return entry_of(folder)

    monkeypatch.setattr(entries, "entry_of", counting)
    return names


def _same(one: Listing, other: Listing) -> None:
    assert_frame_equal(one.runs, other.runs, check_exact=True)
    assert_frame_equal(one.points, other.points, check_exact=True)


def test_a_listing_is_what_overview_and_points_say(rested: Path):
    listing, runs = list_folder(rested), scan_runs(rested)
    by = ["run_id"]
    assert_frame_equal(listing.runs.sort(by), overview(runs).sort(by), check_exact=True)
    by = ["run_id", "tokens"]
    assert_frame_equal(listing.points.sort(by), scale_points(runs).sort(by), check_exact=True)
    assert listing.runs.schema == OVERVIEW_SCHEMA
    assert listing.points.schema == POINT_SCHEMA


def test_a_second_reader_reads_no_run_and_says_the_same(rested: Path, read: list[str]):
    first = list_folder(rested)
    assert sorted(read) == ["run-0", "run-1", "run-2"]
    read.clear()
    _same(list_folder(rested), first)
    assert read == []


def test_names_need_no_tables(rested: Path, read: list[str]):
    newest_first = ["run-2", "run-1", "run-0"]
    assert list(runs_by_name(rested)) == newest_first
    assert read == []
    list_folder(rested)
    found = runs_by_name(rested)
    assert list(found) == newest_first
    assert found["run-1"] == rested / "run-1"


@pytest.mark.parametrize("change", ["truncate", "flip", "touch", "add", "remove", "attempt", "manifest"])
def test_a_run_that_changed_is_read_again(rested: Path, read: list[str], change: str):
    list_folder(rested)
    read.clear()
    part = next((rested / "run-1").glob("attempt-1/*/steps-*.parquet"))
    data = bytearray(part.read_bytes())
    data[10] ^= 1
    match change:
        case "truncate":
            part.write_bytes(part.read_bytes()[:-20])
        case "flip":
            part.write_bytes(data)
        case "touch":
            part.touch()
        case "add":
            (part.parent / "marks-000009.parquet").write_bytes(b"")
        case "remove":
            part.unlink()
        case "attempt":
            (rested / "run-1" / "attempt-2" / "node-0-1").mkdir(parents=True)
        case "manifest":
            write_json(
                rested / "run-1" / "run.json", replace(read_manifest(rested / "run-1"), preset="other")
            )
    again = list_folder(rested)
    assert read == ["run-1"]
    assert dict(again.runs.select("run_id", "damaged").rows())["run-1"] == (
        change in ("truncate", "flip", "add", "attempt")
    )


def test_runs_that_go_or_come_are_seen(rested: Path, read: list[str]):
    list_folder(rested)
    read.clear()
    (rested / "run-1").rename(rested / "renamed")
    listing = list_folder(rested)
    assert set(listing.runs["run_id"]) == {"run-0", "renamed", "run-2"}
    assert read == ["renamed"]


def test_a_run_that_goes_on_or_has_just_ended_is_not_kept(tmp_path: Path, read: list[str]):
    scripted_run(tmp_path, name="just-ended")
    scripted_run(tmp_path, name="goes-on")
    alive = scripted_run(tmp_path, name="a-rank-is-alive")
    _let_rest(tmp_path)
    now = replace(read_manifest(tmp_path / "goes-on"), status="running")
    write_json(tmp_path / "goes-on" / "run.json", now)
    (tmp_path / "just-ended" / "run.json").touch()
    lease = Lease(alive.processes[0].folder)
    _let_rest(tmp_path / "a-rank-is-alive")
    for _ in range(2):
        read.clear()
        list_folder(tmp_path)
        assert sorted(read) == ["a-rank-is-alive", "goes-on", "just-ended"]
    lease.release()
    list_folder(tmp_path)
    read.clear()
    list_folder(tmp_path)
    assert "a-rank-is-alive" not in read


def test_the_writer_of_a_run_may_keep_it_at_once(tmp_path: Path, read: list[str]):
    run = scripted_run(tmp_path)
    entries.remember(run.path)
    read.clear()
    assert list_folder(tmp_path).runs["run_id"].to_list() == ["scripted"]
    assert read == []


@pytest.mark.parametrize(
    "factors",
    [CarbonFactors(), CarbonFactors(country="FRA"), CarbonFactors(intensity_g_per_kwh=50.0, pue=1.2)],
)
def test_emissions_follow_the_readers_factors(rested: Path, read: list[str], factors: CarbonFactors):
    stored = read_manifest(rested / "run-2")
    write_json(rested / "run-2" / "run.json", replace(stored, carbon={"country": "DEU", "pue": 1.5}))
    _let_rest(rested)
    list_folder(rested)
    read.clear()
    listing, runs = list_folder(rested, factors), scan_runs(rested)
    assert read == []
    assert_frame_equal(listing.runs.sort("run_id"), overview(runs, factors).sort("run_id"), check_exact=True)
    by = ["run_id", "tokens"]
    assert_frame_equal(listing.points.sort(by), scale_points(runs, factors).sort(by), check_exact=True)


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty", "folder"])
def test_a_damaged_index_is_made_anew(rested: Path, read: list[str], damage: str):
    first = list_folder(rested)
    (file,) = (rested / INDEX_NAME).iterdir()
    data = file.read_bytes()
    match damage:
        case "torn":
            file.write_bytes(data[: len(data) // 2])
        case "flipped":
            middle = len(data) // 2
            file.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
        case "foreign":
            file.write_bytes(b"PK" + data)
        case "empty":
            file.write_bytes(b"")
        case "folder":
            file.unlink()
            file.mkdir()
    read.clear()
    _same(list_folder(rested), first)
    assert len(read) == 3


def test_an_index_of_other_code_is_not_read(rested: Path):
    list_folder(rested)
    assert run_index(rested).read() is not None
    assert RunIndex(rested, "another").read() is None


def test_a_folder_that_takes_no_index_does_without(rested: Path):
    (rested / INDEX_NAME).write_text("in the way")
    assert len(list_folder(rested).runs) == 3
    assert (rested / INDEX_NAME).read_text() == "in the way"


def test_many_files_become_one(tmp_path: Path):
    index = RunIndex(tmp_path, "stamp")
    for number in range(MAX_FILES + 5):
        index.add(pl.DataFrame({"run_id": [f"run-{number}", "often"], "value": [number, number]}))
    assert len(list((tmp_path / INDEX_NAME).iterdir())) == 5
    known = index.read()
    assert known is not None
    assert len(known) == MAX_FILES + 6
    assert known.filter(pl.col("run_id") == "often")["value"].to_list() == [MAX_FILES + 4]


def test_a_state_holds_until_something_changes(tmp_path: Path):
    folder = tmp_path / "run" / "deep"
    folder.mkdir(parents=True)
    (folder / "file").write_text("a")
    state = state_of(tmp_path / "run")
    assert is_unchanged(tmp_path / "run", state)
    (folder / "file").write_text("bb")
    assert not is_unchanged(tmp_path / "run", state)
    assert not is_unchanged(tmp_path / "gone", state)
