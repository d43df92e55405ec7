"""What an experiment showed and cost: arms are charged with their training, curves up to each point, seeds together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fixtures_phenomena import CRITERION, Played, experiment_run, two_arms
from fixtures_scripted import gpu_and_cpu, nothing

from profiler.metrics.phenomena import NOT_CONCLUDED, over_seeds, phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.report.phenomenon_rows import cost_texts, figure_texts, seeds_sentence
from profiler.report.terminal import run_table
from profiler.store.manifest import Manifest
from profiler.store.run import StoredRun

CPU_W = 4.0
"""Of the scripted processor with one busy thread."""


def found(run: StoredRun) -> dict[str, Any]:
    verdict: dict[str, Any] = summarize(run)["phenomenon"]
    return verdict


def test_an_arm_is_charged_with_its_training_and_not_with_evaluations(tmp_path: Path):
    teacher, student = found(experiment_run(tmp_path, two_arms))["arms"]
    assert (teacher["arm"], teacher["source"], teacher["facts"]) == (
        "teacher",
        "estimated",
        {"steps": 2, "params": 100},
    )
    assert teacher["duration_s"] == pytest.approx(4.0)
    assert teacher["energy_j"] == pytest.approx(4.0 * CPU_W)
    assert student["energy_j"] == pytest.approx(1.0 * CPU_W)
    assert teacher["plus_minus_j"] > student["plus_minus_j"] > 0.0


def test_where_a_sensor_measures_joules_are_the_sensors(tmp_path: Path):
    teacher, _ = found(experiment_run(tmp_path, two_arms, counters=gpu_and_cpu))["arms"]
    assert teacher["source"] == "measured"
    assert teacher["energy_j"] == pytest.approx(4.0 * 200.0)


def test_where_nothing_tells_joules_they_are_unknown_and_seconds_are_not(tmp_path: Path):
    run = experiment_run(tmp_path, two_arms, counters=nothing)
    teacher, _ = found(run)["arms"]
    assert (teacher["energy_j"], teacher["plus_minus_j"], teacher["source"]) == (None, None, None)
    assert teacher["duration_s"] == pytest.approx(4.0)
    assert phenomenon_curves(run)["accuracy"]["energy_j"].to_list() == [None, None]


def test_points_of_a_curve_cost_what_their_arm_had_cost_until_then(tmp_path: Path):
    curves = phenomenon_curves(experiment_run(tmp_path, two_arms))
    accuracy = curves["accuracy"]
    assert accuracy.columns[:5] == ["arm", "time_s", "step", "train", "validation"]
    assert accuracy["energy_j"].to_list() == pytest.approx([2.0 * CPU_W, 4.0 * CPU_W])
    assert accuracy["duration_s"].to_list() == pytest.approx([2.0, 4.0])
    assert accuracy["source"].to_list() == ["estimated"] * 2
    assert curves["answers"].row(0, named=True)["energy_j"] is None, "a point of no arm has no price"


def test_a_second_training_of_one_name_goes_on_with_its_cost(tmp_path: Path):
    def play(played: Played) -> None:
        for step in (1, 2):
            played.arm = "same"
            played.train(1.0)
            played.point("accuracy", step=step)
            played.end_arm()

    accuracy = phenomenon_curves(experiment_run(tmp_path, play))["accuracy"]
    assert accuracy["energy_j"].to_list() == pytest.approx([CPU_W, 2 * CPU_W])


def test_values_that_come_late_or_change_their_kind_are_kept(tmp_path: Path):
    def play(played: Played) -> None:
        played.point("width", width=1, test_error=1)
        played.point("width", width=2, test_error=0.25, standard_error=0.1)

    width = phenomenon_curves(experiment_run(tmp_path, play))["width"]
    assert width["test_error"].to_list() == [1.0, 0.25]
    assert width["standard_error"].to_list() == [None, 0.1]


def test_costs_are_windows_and_what_had_not_come_is_a_bound(tmp_path: Path):
    verdict = found(experiment_run(tmp_path, two_arms))
    costs = {cost["cost"]: cost for cost in verdict["costs"]}
    assert costs["joules to grok"]["energy_j"] == pytest.approx(4.0 * CPU_W)
    assert costs["joules to memorise"]["energy_j"] == pytest.approx(2.0 * CPU_W)
    assert [cost["is_bound"] for cost in verdict["costs"]] == [False, True]
    texts = cost_texts(verdict)
    assert texts["joules to grok"].startswith("~ 16 ± ")
    assert texts["joules to grok"].endswith("J (estimated)")
    assert texts["joules to memorise"].startswith("> ~ 8")


def test_the_verdict_is_told_with_its_criterion_and_figures(tmp_path: Path):
    verdict = found(experiment_run(tmp_path, partial(two_arms, seeds=5, shown_in=3)))
    assert (verdict["outcome"], verdict["reason"]) == ("shown", "by script: shown")
    assert verdict["criterion"] == CRITERION
    assert figure_texts(verdict["figures"]) == {
        "t_mem (step)": "1",
        "validation accuracy at the end": "0.9",
        "seen": "yes",
        "unknown": "unknown",
    }
    assert seeds_sentence(verdict) == "one seed of 5: the phenomenon counts as shown if it does in 3 of them"


def test_an_experiment_that_did_not_come_to_its_end_cannot_tell(tmp_path: Path):
    def play(played: Played) -> None:
        played.arm = "teacher"
        played.train(2.0)
        played.end_arm(steps=1)

    run = experiment_run(tmp_path, play, status="interrupted")
    verdict = found(run)
    assert (verdict["outcome"], verdict["reason"]) == ("can't tell", NOT_CONCLUDED)
    assert (verdict["figures"], verdict["costs"], verdict["seeds"]) == ({}, [], None)
    assert verdict["arms"][0]["energy_j"] == pytest.approx(2.0 * CPU_W)
    assert seeds_sentence(verdict) is None
    run_table(summarize(run))


def test_marks_of_somebody_else_are_no_experiment(tmp_path: Path):
    def play(played: Played) -> None:
        for kind in ("curve", "arm", "phenomenon"):
            played.mark(kind, {"mine": 1})
            played.mark(kind, {})
        played.point("accuracy", step=1)

    run = experiment_run(tmp_path, play)
    assert (found(run)["outcome"], found(run)["arms"]) == ("can't tell", [])
    assert len(phenomenon_curves(run)["accuracy"]) == 1


def test_a_run_without_a_criterion_has_no_verdict(tmp_path: Path):
    run = experiment_run(tmp_path, two_arms, criterion=None)
    assert summarize(run)["phenomenon"] is None
    assert len(phenomenon_curves(run)["accuracy"]) == 2


# -- over seeds --------------------------------------------------------------------------------------------------


def verdict_of(outcome: str, *, seeds: int | None = 5, shown_in: int | None = 3, criterion: str = "c") -> Any:
    return {"outcome": outcome, "criterion": criterion, "seeds": seeds, "shown_in": shown_in}


NOT_ENDED = verdict_of("can't tell", seeds=None, shown_in=None)


def seeds_of(
    *outcomes: str | dict[str, Any], first: int = 0, **manifest: Any
) -> list[tuple[str, Manifest, Any]]:
    return [
        (
            f"r{seed}",
            Manifest(run_id=f"r{seed}", workload="grokking", preset="cpu", seed=seed, **manifest),
            verdict_of(outcome) if isinstance(outcome, str) else outcome,
        )
        for seed, outcome in enumerate(outcomes, first)
    ]


S, N, C = "shown", "not shown", "can't tell"


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        ([S, S, S, S, S], S),
        ([S, S, S, N, N], S),
        ([S, S, N, N, N], N),
        ([N, N, N], N),
        ([S, S, S], C),
        ([S, N, S, N], C),
        ([S, S, C, C, N], C),
        ([S, S, S, C, C], S),
        ([S, S, S, NOT_ENDED, NOT_ENDED], C),
        ([NOT_ENDED], C),
        ([C] * 5, C),
        ([S, S, S, N, N, N, N, N, N, N], N),
        ([S] * 6 + [N] * 4, S),
        ([S] * 5 + [C] * 5, C),
    ],
)
def test_seeds_are_judged_together(outcomes: list[Any], together: str):
    (one,) = over_seeds(seeds_of(*outcomes))
    assert one["outcome"] == together
    assert one["shown"] == outcomes.count(S)
    assert one["seeds"] == list(range(len(outcomes)))
    assert one["runs"] == [f"r{seed}" for seed in range(len(outcomes))]


def test_of_one_seed_the_newest_that_concluded_counts():
    (one,) = over_seeds(seeds_of(N) + seeds_of(S) + seeds_of(NOT_ENDED))
    assert (one["shown"], one["seeds"]) == (1, [0])
    (other,) = over_seeds(seeds_of(NOT_ENDED) + seeds_of(N))
    assert (other["shown"], other["asked_seeds"]) == (0, 5)


def test_other_settings_or_criteria_are_other_experiments():
    found = [
        *seeds_of(S, settings={"d": (1, 2)}),
        *seeds_of(S, first=1, settings={"d": [1, 2]}),
        *seeds_of(S, settings={"d": [3]}),
        *seeds_of(verdict_of(S, criterion="other"), settings={"d": [3]}),
    ]
    assert [one["seeds"] for one in over_seeds(found)] == [[0, 1], [0], [0]]


def test_of_nothing_there_is_no_verdict():
    assert over_seeds([]) == []
