"""`make phenomena`: what is run and what is reused, lm's verdict, and a page on which failures stand as failures."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from fixtures_phenomena import experiment_run, play_curves
from fixtures_runs import ROOT, make_points

sys.path.insert(0, str(ROOT / "benchmarks"))
import phenomena
from phenomenon_runs import jobs, scaling
from phenomenon_runs.board import GUESS_S, Board
from phenomenon_runs.page import duration_by_run, entry, page

from profiler.carbon.factors import CarbonFactors
from profiler.cli.point_process import PointFailed
from profiler.store.run import StoredRun
from profiler.store.runs import open_run, scan_runs

NO_FACTORS = CarbonFactors()


# -- lm's verdict ------------------------------------------------------------------------------------------------


def points(change: Any = None) -> pl.DataFrame:
    table = make_points(seeds=(0,))
    return table if change is None else table.with_columns(loss=change)


def test_a_loss_that_falls_both_ways_is_shown():
    verdict = scaling.judge(points())
    assert verdict["outcome"] == "shown"
    assert verdict["figures"]["sizes"] == verdict["figures"]["token budgets"] == 3
    assert verdict["figures"]["least fall between neighbours (error bars)"] > 1.0


def test_a_rise_within_the_error_bars_is_allowed_and_one_beyond_is_not():
    middle = (pl.col("params") == 49_000) & (pl.col("budget_tokens") == 131_072)
    before = points().filter(params=49_000, budget_tokens=65_536)["loss"].item()
    bars = 0.01 * 2**0.5
    for rise, outcome in ((0.9 * bars, "shown"), (1.1 * bars, "not shown")):
        verdict = scaling.judge(points(pl.when(middle).then(before + rise).otherwise("loss")))
        assert verdict["outcome"] == outcome, verdict
    assert "between neighbours the loss falls by -1.1 error bars at least" in verdict["reason"]


def test_a_loss_that_stays_is_not_shown():
    assert scaling.judge(points(pl.lit(2.0)))["outcome"] == "not shown"


@pytest.mark.parametrize(
    "kept",
    [
        pl.col("params") > 12_000,
        pl.col("budget_tokens") > 65_536,
        pl.col("loss") < pl.col("loss").max(),
        pl.lit(False),
    ],
)
def test_too_few_or_missing_points_cannot_tell(kept: pl.Expr):
    verdict = scaling.judge(points().filter(kept))
    assert verdict["outcome"] == "can't tell"
    assert "too few to judge" in verdict["reason"]


# -- what is run -------------------------------------------------------------------------------------------------


def test_lm_runs_its_sweep_and_an_experiment_its_seeds():
    assert [job.point.label for job in jobs.jobs_of("lm", "smoke")] == [
        "lm d_model=16 seed 0",
        "lm d_model=32 seed 0",
    ]
    grokking = jobs.jobs_of("grokking", "cpu")
    assert [job.point.seed for job in grokking] == [0, 1, 2, 3, 4]
    assert all(job.is_single for job in grokking)
    assert not any(job.is_single for job in jobs.jobs_of("lm", "smoke"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Instead of a process: a run by script. Seed 1 fails."""
    asked: list[Any] = []

    def run_point(point: Any, runs_dir: Path, board: Any) -> str:
        asked.append(point)
        board.show(point.label, {"step": 5, "steps": 10, "loss": 1.0})
        if point.seed == 1:
            raise PointFailed("out of memory (exit status 1)")
        return made(runs_dir, point).run_id

    monkeypatch.setattr(jobs, "run_point", run_point)
    return asked


def made(runs_dir: Path, point: Any, status: str = "finished") -> StoredRun:
    return experiment_run(
        runs_dir,
        partial(play_curves, "grokking", seeds=5, shown_in=3),
        name=f"seed-{point.seed}",
        seed=point.seed,
        settings=dataclasses.asdict(point.settings),
        criterion=jobs.load_workload("grokking").criterion,  # type: ignore[attr-defined]
        status=status,
    )


def run_jobs(runs_dir: Path, *, shares: bool = False) -> list[jobs.Done]:
    asked = [job for job in jobs.jobs_of("grokking", "cpu") if job.point.seed < 3]
    asked = [jobs.replace(job, identity={"criterion": job.identity["criterion"]}) for job in asked]
    runs = scan_runs(runs_dir) if runs_dir.exists() else []
    with Board({}, 1) as board:
        return list(jobs.run_all(asked, runs, runs_dir, board, shares=shares))


@pytest.mark.parametrize("shares", [False, True])
def test_finished_runs_are_reused_and_failures_are_kept(tmp_path: Path, trained: list[Any], shares: bool):
    first = run_jobs(tmp_path / "runs", shares=shares)
    assert {one.job.point.seed: one.status for one in first} == {0: "finished", 1: "failed", 2: "finished"}
    assert [one.message for one in first if one.status == "failed"] == ["out of memory (exit status 1)"]
    again = run_jobs(tmp_path / "runs", shares=shares)
    assert {one.job.point.seed: one.status for one in again} == {0: "reused", 1: "failed", 2: "reused"}
    assert [point.seed for point in trained[3:]] == [1]


def test_what_cannot_be_gone_on_with_is_begun_anew(tmp_path: Path, trained: list[Any]):
    made(tmp_path / "runs", jobs.jobs_of("grokking", "cpu")[0].point, status="interrupted")
    run_jobs(tmp_path / "runs")
    assert trained[0].resume is None


def test_time_left_is_what_runs_took_before_or_a_guess():
    with Board({"a": 30.0, "b": None}, 1) as board:
        assert board.eta_s == 30.0 + GUESS_S
        board.begin("a")
        board.end("a")
        assert board.eta_s == GUESS_S
    assert Board({"a": 30.0, "b": 30.0}, 2).eta_s == 30.0


# -- what is written ---------------------------------------------------------------------------------------------


def result(tmp_path: Path, trained: list[Any]) -> dict[str, Any]:
    done = run_jobs(tmp_path / "runs")
    runs = {one.run_id: open_run(tmp_path / "runs", one.run_id) for one in done if one.run_id}
    return {
        "goes": [
            {
                "command": "python benchmarks/phenomena.py",
                "began_at": "10:00",
                "runs": 3,
                "wall_s": 60.0,
                "note": "why",
            }
        ],
        "grid": None,
        "date": "2026-11-22",
        "machine": "a machine",
        "preset": "cpu",
        "how": "One run at a time.",
        "not_installed": ["gates"],
        "phenomena": [entry("grokking", done, runs, NO_FACTORS)],
    }


def test_an_entry_holds_verdicts_by_seed_and_together_with_their_price(tmp_path: Path, trained: list[Any]):
    whole = result(tmp_path, trained)
    (one,) = whole["phenomena"]
    assert (one["outcome"], one["shown"], one["asked_seeds"], one["failed"]) == ("can't tell", 2, 5, 1)
    assert one["criterion"].startswith("train accuracy reaches")
    assert [row["outcome"] for row in one["runs"]] == ["shown", None, "shown"]
    assert one["energy_j"] == pytest.approx(2 * 20 * 0.5 * 4.0, rel=0.01)
    assert (one["source"], one["emissions_g"]) == ("estimated", None)
    assert one["runs"][0]["costs"][0]["energy_j"] is not None
    json.dumps(whole)
    assert duration_by_run(whole).keys() == {"grokking seed 0", "grokking seed 2"}


def test_the_page_says_what_failed_and_what_is_estimated(tmp_path: Path, trained: list[Any]):
    text = page(result(tmp_path, trained))
    assert "| grokking | **can't tell** | 2 of 2 seeds | ~ " in text
    assert (
        "| grokking seed 1 | **failed** | unknown | unknown | unknown | out of memory (exit status 1) |"
        in text
    )
    assert "Criterion: train accuracy reaches" in text
    assert "Not installed, so not run: gates." in text
    assert "| `python benchmarks/phenomena.py` | 10:00 | 3 | 1 min | why |" in text
    assert "(estimated)" in text


def test_grams_follow_from_a_country(tmp_path: Path, trained: list[Any]):
    done = run_jobs(tmp_path / "runs")
    runs = {one.run_id: open_run(tmp_path / "runs", one.run_id) for one in done if one.run_id}
    one = entry("grokking", done, runs, CarbonFactors(country="FRA"))
    assert one["emissions_g"] > 0.0


def test_what_was_not_asked_for_now_stays_in_the_days_file(tmp_path: Path, trained: list[Any]):
    whole = result(tmp_path, trained)
    other = {**whole["phenomena"][0], "workload": "diffusion"}
    earlier = {**whole["goes"][0], "began_at": "09:00"}
    phenomena._write(tmp_path / "out", {**whole, "phenomena": [other], "goes": [earlier]})
    for _ in range(2):  # once after each workload
        phenomena._write(tmp_path / "out", whole)
    stored = json.loads((tmp_path / "out" / "phenomena-2026-11-22.json").read_text())
    assert [go["began_at"] for go in stored["goes"]] == ["09:00", "10:00"]
    assert [one["workload"] for one in stored["phenomena"]] == ["grokking", "diffusion"]
    assert "## diffusion" in (tmp_path / "out" / "phenomena-2026-11-22.md").read_text()
    assert phenomena._earlier(tmp_path / "out")["grokking seed 0"] > 0.0
    assert phenomena._earlier(tmp_path) == {}


def test_an_unknown_workload_is_refused_and_one_that_is_not_here_is_skipped(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit, match=r"There is no reference workload groking\. They are: lm, grokking"):
        phenomena._installed(["groking"])

    def load(name: str) -> Any:
        if name == "gates":
            raise ModuleNotFoundError(name)
        return SimpleNamespace()

    monkeypatch.setattr(phenomena, "load_workload", load)
    assert phenomena._installed(["gates", "lm"]) == (["lm"], ["gates"])
    assert phenomena._installed(None)[0] == [name for name in phenomena.NAMES if name != "gates"]
