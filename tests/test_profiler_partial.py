"""How the processes of a run stand, seen from outside, and which ranks are missing."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from fixtures_ranks import PID_OF_NOBODY, ago, made_process, made_run
from fixtures_scripted import scripted_run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from profiler.measure.peak import Peak
from profiler.metrics.overview import overview
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.report.facts import energy_per_text, of_record, status_text, throughput_text, work_text
from profiler.report.tables import bounded_cell, overview_table, status_cell
from profiler.report.terminal import run_table
from profiler.store.lease import Lease
from profiler.store.ranks import named, state_of
from profiler.store.runs import open_run, scan_runs

DEAD = {"status": "running", "pid": PID_OF_NOBODY}


def states(runs_dir: Path) -> dict[int, str]:
    run = open_run(runs_dir, "made")
    return {p.facts.rank: state_of(p, run.manifest) for p in run.processes}


def test_a_whole_run_is_not_partial(tmp_path: Path):
    run = made_run(tmp_path)
    for rank in range(4):
        made_process(run, rank)
    assert open_run(tmp_path, "made").partial is None


def test_a_dead_rank_makes_a_run_partial_and_is_named_with_its_host(tmp_path: Path):
    run = made_run(tmp_path, status="interrupted")
    for rank in range(3):
        made_process(run, rank, status="interrupted")
    made_process(run, 3, host="node-b", boot_id="another", **DEAD, heartbeat=ago(600))
    partial = open_run(tmp_path, "made").partial
    assert partial
    assert partial.ranks_missing == (3,)
    assert partial.world_size == 4
    assert partial.why.startswith("rank 3 on node-b ended without saying so, last sign of life 20")


def test_ranks_that_never_came_are_missing_too(tmp_path: Path):
    run = made_run(tmp_path)
    made_process(run, 0)
    partial = open_run(tmp_path, "made").partial
    assert partial
    assert partial.ranks_missing == (1, 2, 3)
    assert partial.why == "ranks 1-3 left no readable record"


def test_a_rank_whose_file_is_damaged_is_missing(tmp_path: Path):
    run = made_run(tmp_path, world_size=2)
    made_process(run, 0, world_size=2)
    (made_process(run, 1, world_size=2) / "process.json").write_text("{")
    partial = open_run(tmp_path, "made").partial
    assert partial
    assert partial.ranks_missing == (1,)


def test_ranks_that_may_still_come_are_waited_for(tmp_path: Path):
    run = made_run(tmp_path, status="running")
    made_process(run, 0, status="running", clock={"wall_unix_s": time.time() - 5.0, "monotonic_s": 0.0})
    assert open_run(tmp_path, "made").partial is None


def test_where_all_are_gone_the_run_is_lost_and_when_each_host_was_last_seen_is_said(tmp_path: Path):
    run = made_run(tmp_path, status="running", world_size=12)
    for rank in range(12):
        far = {"host": f"node-{rank // 2}", "boot_id": f"boot-{rank // 2}"}
        made_process(run, rank, world_size=12, **DEAD, **far, heartbeat=ago(600 - 60 * (rank % 2)))
    stored = open_run(tmp_path, "made")
    assert stored.partial
    assert stored.partial.ranks_missing == tuple(range(12))
    assert re.match(
        r"ranks 0-1 on node-0 ended without saying so, last signs of life \S+ \S+ UTC to \S+ \S+ UTC; ranks 2-3 on",
        stored.partial.why,
    )
    assert stored.partial.why.endswith("; likewise ranks on 2 more hosts")


def test_one_process_that_is_gone_is_lost_and_nothing_is_partial(tmp_path: Path):
    run = made_run(tmp_path, status="running", world_size=1)
    made_process(run, 0, world_size=1, **DEAD)
    stored = open_run(tmp_path, "made")
    assert stored.status == "lost"
    assert stored.partial is None


def test_one_that_died_in_an_older_attempt_is_not_missing(tmp_path: Path):
    run = made_run(tmp_path, world_size=2)
    made_process(run, 0, world_size=2, status="interrupted")
    made_process(run, 1, world_size=2, **DEAD)
    for rank in range(2):
        made_process(run, rank, world_size=2, attempt=2)
    assert open_run(tmp_path, "made").partial is None


def test_files_of_before_stand_as_their_run_does(tmp_path: Path):
    run = made_run(tmp_path)
    for rank in range(4):
        made_process(run, rank, status=None, boot_id=None, heartbeat="")
    assert set(states(tmp_path).values()) == {"finished"}
    assert open_run(tmp_path, "made").partial is None


def test_on_this_machine_the_lease_tells_at_once(tmp_path: Path):
    run = made_run(tmp_path, status="running")
    held = made_process(run, 0, status="running", heartbeat=ago(3600))
    left = made_process(run, 1, status="running", heartbeat=ago(1))
    lease = Lease(held)
    Lease(left).release()
    assert states(tmp_path) == {0: "running", 1: "lost"}
    lease.release()


def test_a_lease_tells_nothing_of_another_machine(tmp_path: Path):
    run = made_run(tmp_path, status="running")
    far = {"boot_id": "another", "host": "node-b", "status": "running"}
    for rank, age_s in enumerate((1.0, 600.0)):
        Lease(made_process(run, rank, heartbeat=ago(age_s), **far)).release()
    assert states(tmp_path) == {0: "running", 1: "lost"}


def test_partial_is_said_wherever_a_run_is_named(tmp_path: Path):
    run = made_run(tmp_path, status="interrupted", world_size=2)
    made_process(run, 0, world_size=2, status="interrupted")
    made_process(run, 1, world_size=2, **DEAD)
    summary = summarize(open_run(tmp_path, "made"))
    assert ", partial: rank 1 on" in status_text(summary)
    assert summary["partial"]["ranks_missing"] == (1,)
    (row,) = overview(scan_runs(tmp_path)).iter_rows(named=True)
    assert status_cell(row) == "interrupted, partial"
    assert scale_points(scan_runs(tmp_path)).is_empty()


def text_of(table: RenderableType) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_sums_of_a_run_that_lacks_ranks_are_what_they_were_at_least(tmp_path: Path):
    peak = Peak(flops_per_s=1e12, dtype="fp32", source="given")
    run = scripted_run(tmp_path, name="made", peak=peak)
    whole, lacking = summarize(run), summarize(run) | {"partial": {"ranks_missing": (1,), "why": "it went"}}
    for text in (work_text, throughput_text):
        assert text(lacking) == f"at least {text(whole)}"
    shown = [" ".join(line.split()) for line in text_of(run_table(lacking)).splitlines()]
    for name in ("work", "throughput", "energy", "FLOP/s", "MFU"):
        assert [line for line in shown if line.startswith(f"{name} at least ")], name
    assert f"energy per token {energy_per_text(whole)[1]}, of what was recorded" in shown
    assert (of_record(whole, "measured"), of_record(lacking, "unknown")) == ("measured", "unknown")
    (row,) = overview([run]).iter_rows(named=True)
    assert bounded_cell(row, "1 J") == "1 J"
    assert [bounded_cell(row | {"partial": True}, text) for text in ("1 J", "-")] == ["≥ 1 J", "-"]
    listed = overview([run]).with_columns(partial=True)
    assert "≥ " in text_of(overview_table(listed))
    assert "sums over ranks are what they were at least (≥)" in text_of(overview_table(listed))


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([0], "rank 0"), ([2, 1], "ranks 1-2"), ([0, 1, 2, 5, 7, 8], "ranks 0-2, 5, 7-8")],
)
def test_ranks_are_named_in_few_words(ranks: list[int], words: str):
    assert named(ranks) == words


@given(st.sets(st.integers(0, 200), min_size=1))
def test_a_name_of_ranks_means_these_and_no_others(ranks: set[int]):
    spans = named(ranks).partition(" ")[2].split(", ")
    meant = {
        rank
        for first, _, last in (span.partition("-") for span in spans)
        for rank in range(int(first), int(last or first) + 1)
    }
    assert meant == ranks
