"""A committed run whose metrics no refactoring may change: floats to 1e-9, everything else exactly."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from profiler.records import SCHEMA_VERSION
from profiler.store.runs import scan_runs

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import golden_run  # noqa: E402


def _differences(found: Any, expected: Any, where: str = "") -> list[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted(expected.keys() | found.keys())
        return [
            d
            for k in keys
            for d in _differences(found.get(k, "missing"), expected.get(k, "missing"), f"{where}.{k}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [d for i, e in enumerate(expected) for d in _differences(found[i], e, f"{where}[{i}]")]
    if isinstance(expected, float) and isinstance(found, int | float):
        return (
            []
            if found == pytest.approx(expected, rel=1e-9, abs=0.0)
            else [f"{where}: {found} was {expected}"]
        )
    return [] if found == expected else [f"{where}: {found!r} was {expected!r}"]


@pytest.mark.parametrize("name", ["show.json", "points.json"])
def test_metrics_are_what_they_were(name: str):
    expected = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    assert _differences(golden_run.metrics()[name], expected) == []


def test_the_comparison_can_fail():
    found, expected = {"a": [1.0, None]}, {"a": [1.0 + 1e-8, 0]}
    assert _differences(found, expected) == [".a[0]: 1.0 was 1.00000001", ".a[1]: None was 0"]
    assert _differences({"a": 1}, {"b": 1}) == [".a: 1 was 'missing'", ".b: 'missing' was 1"]


def test_the_script_still_records_the_committed_run():
    """Recorder and sensors, too: the rows made today are those that were stored."""
    run = golden_run.open_run(golden_run.STORED, golden_run.RUN_ID)
    made = golden_run.Golden().train()
    steps = [row for row in made if isinstance(row, golden_run.Step)]
    assert run.processes[0].steps["duration_s"].to_list() == [step.duration_s for step in steps]
    assert run.processes[0].steps["loss"].to_list() == [step.loss for step in steps]
    energies = [row.energy_j for row in made if isinstance(row, golden_run.Reading)]
    assert run.processes[0].readings["energy_j"].to_list() == energies


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_every_version_of_the_schema_reads_back(version: int):
    """Each was written by the version that had that schema."""
    first, run = (golden_run.open_run(GOLDEN / f"schema-{v}", golden_run.RUN_ID) for v in (1, version))
    assert run.manifest.schema_version == version
    assert run.damaged == ()
    assert replace(run.manifest, schema_version=1) == first.manifest
    (one,), (other,) = first.processes, run.processes
    assert replace(one.facts, meters=()) == replace(other.facts, meters=())
    for meter, later in zip(one.facts.meters, other.facts.meters, strict=True):
        assert meter.items() <= later.items()
    for table, order in {
        "steps": ["step"],
        "marks": ["start_s", "kind"],
        "readings": ["time_s", "device"],
    }.items():
        expected = getattr(one, table).sort(order)
        known = [column.name for column in expected if column.null_count() < len(column)]
        assert len(known) > 3
        assert getattr(other, table).sort(order).select(known).equals(expected.select(known)), table


def test_the_newest_version_has_a_golden_run_with_a_journal():
    assert list((GOLDEN / f"schema-{SCHEMA_VERSION}").glob("*/*/*/wal-*.open"))


def test_a_newer_version_is_refused_and_the_rest_of_the_folder_is_read(tmp_path: Path):
    for version in (1, SCHEMA_VERSION):
        shutil.copytree(GOLDEN / f"schema-{version}", tmp_path / "runs", dirs_exist_ok=True)
        (tmp_path / "runs" / golden_run.RUN_ID).rename(tmp_path / "runs" / f"of-{version}")
    newer = tmp_path / "runs" / f"of-{SCHEMA_VERSION}" / "run.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "schema_version": SCHEMA_VERSION + 1}))
    runs = {run.run_id: run for run in scan_runs(tmp_path / "runs")}
    assert runs["of-1"].status == "finished"
    assert runs[f"of-{SCHEMA_VERSION}"].status == "damaged"
    said = runs[f"of-{SCHEMA_VERSION}"].manifest.notes["manifest"]
    assert f"has schema {SCHEMA_VERSION + 1}. Upgrade joulescale to read it" in said


def test_the_golden_runs_are_small_and_name_no_machine():
    files = [path for path in GOLDEN.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for folder in GOLDEN.glob("schema-*"):
        assert sum(path.stat().st_size for path in files if folder in path.parents) < 100_000
    for path in files:
        if path.suffix == ".json":
            assert "/work" not in path.read_text(encoding="utf-8")
            assert "/home" not in path.read_text(encoding="utf-8")
