"""Workload `gates`: its skills against arithmetic, its FLOPs against torch's count, the rules of gates on made-up
readings, its verdict, and a short run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler import open_run, summarize
from profiler.errors import InvalidValueError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.workload import RunRequest
from workloads.gatekeeper import Gatekeeper, GateResult, GateRules, Reading, forecast
from workloads.gates import (
    ASK,
    DIGITS,
    FIRST_TAG,
    HELD_OUT,
    NO_TOKEN,
    PRESETS,
    SKILLS,
    WORKLOAD,
    GatesSettings,
    draw,
    examine,
    examples,
    judge,
)
from workloads.transformer import Transformer

RULES = GateRules(first_flops=100.0)
X = NO_TOKEN


def test_each_skill_answers_as_arithmetic_does() -> None:
    number = torch.tensor([451_279]).repeat(len(SKILLS))  # its digits from the ones on: 9 7 2 1 5 4
    tokens, wanted = examples(number, torch.arange(len(SKILLS)))
    assert dict(zip(SKILLS, wanted.tolist(), strict=True)) == {
        "copy": [9, 7, 2, 1, 5, 4],
        "reverse": [4, 5, 1, 2, 7, 9],
        "sort": [1, 2, 4, 5, 7, 9],
        "add": [0, 3, 7, 0, X, X],  # 279 + 451 = 730, ones first
        "sum modulo 10": [8, X, X, X, X, X],
    }
    assert tokens[3].tolist() == [FIRST_TAG + 3, 9, 7, 2, 1, 5, 4, ASK, 0, 3, 7, 0, 0]


def test_questions_for_examinations_are_never_trained() -> None:
    generator = torch.Generator().manual_seed(0)
    trained = draw(20_000, generator, held_out=False)
    assert (trained % HELD_OUT != 0).all()
    assert (draw(2000, generator, held_out=True) % HELD_OUT == 0).all()
    assert trained.max() < 10**DIGITS


def test_flops_are_those_that_torch_counts() -> None:
    settings = GatesSettings(d_model=32, batch_size=4)
    model = Transformer(settings.config())
    tokens, wanted = examples(torch.arange(4), torch.arange(4))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(tokens, last=DIGITS)
        F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=X).backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == pytest.approx(settings.flops_per_step, rel=0.01)


class Oracle(torch.nn.Module):
    """Knows how to copy, and nothing else: it says what it is shown in the place of the digit."""

    def forward(self, tokens: torch.Tensor, last: int) -> torch.Tensor:
        return 100.0 * F.one_hot(tokens[:, 1 : 1 + DIGITS], ASK + 1).float()


def test_an_examination_counts_exact_answers_and_ignores_what_is_no_answer() -> None:
    numbers = torch.tensor([451_279, 111_111, 0])
    found = examine(Oracle(), numbers)  # type: ignore[arg-type]
    assert {skill: reading.successes for skill, reading in found.items()} == {
        "copy": 3,
        "reverse": 2,  # 111111 and 000000 are their own reverse
        "sort": 2,
        "add": 1,  # 0 + 0
        "sum modulo 10": 1,
    }
    assert found["copy"].cross_entropy == pytest.approx(0.0, abs=1e-6)
    assert found["sum modulo 10"].cross_entropy == pytest.approx(100.0 * 2 / 3)


@pytest.mark.parametrize(
    ("successes", "state"),
    [(0, "clear"), (180, "clear"), (181, "warn"), (371, "warn"), (372, "trip"), (400, "trip")],
)
def test_states_go_by_the_interval_and_not_by_the_share(successes: int, state: str) -> None:
    assert RULES.state_of(Reading(successes, 400)) == state


def test_what_was_not_evaluated_is_unknown() -> None:
    assert RULES.state_of(None) == "unknown"


def test_gates_lie_at_every_fourfold_and_a_hair_short_is_there() -> None:
    keeper = Gatekeeper(RULES)
    due = []
    for step in range(1, 1001):
        flops = sum([0.1] * 10) * step * 10  # 9.999999999999998 a step
        if keeper.is_due(flops):
            keeper.enter(step, flops, {"a": Reading(1, 10)})
            due.append(step)
    assert due == [10, 40, 160, 640]
    assert [result.gate for result in keeper.results] == [0, 1, 2, 3]


def test_of_gates_that_were_leapt_over_only_the_last_is_entered() -> None:
    keeper = Gatekeeper(RULES)
    assert [result.gate for result in keeper.enter(1, 1700.0, {"a": Reading(1, 10)})] == [2]
    assert keeper.next_flops == 6400.0


def test_a_keeper_goes_on_after_the_gates_of_an_earlier_attempt() -> None:
    first = Gatekeeper(RULES)
    first.enter(1, 100.0, {"a": Reading(1, 10, 4.0)})
    first.enter(4, 400.0, {"a": Reading(1, 10, 2.0)})
    second = Gatekeeper(RULES, first.results)
    assert not second.is_due(1500.0)
    assert second.enter(16, 1600.0, {"a": Reading(1, 10, 1.0)})[0].forecast_cross_entropy == pytest.approx(
        1.0
    )


def test_a_power_law_is_forecast_without_error_from_two_gates_on() -> None:
    keeper = Gatekeeper(RULES)
    for gate in range(5):
        flops = RULES.flops_at(gate)
        keeper.enter(gate, flops, {"law": Reading(0, 10, 3.0 * flops**-0.3)})
    errors = [result.forecast_error for result in keeper.results]
    assert errors[:2] == [None, None]
    assert errors[2:] == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


def test_an_ability_that_comes_between_two_gates_was_not_forecast() -> None:
    keeper = Gatekeeper(RULES)
    for gate, nats in enumerate((2.0, 2.0, 2.0, 0.2)):
        keeper.enter(gate, RULES.flops_at(gate), {"sudden": Reading(0, 10, nats)})
    assert keeper.results[-1].forecast_error == pytest.approx(math.log(0.1))


def test_nothing_is_forecast_of_less_than_two_known_gates() -> None:
    assert forecast([], 1.0) is None
    assert forecast([(1.0, 2.0), (4.0, 0.0)], 16.0) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"first_flops": 0.0}, "give no gates"),
        ({"first_flops": 1.0, "factor": 1.0}, "a factor above 1"),
        ({"first_flops": 1.0, "buffer": 0.95}, "a buffer lies before the red line"),
    ],
)
def test_rules_without_meaning_are_refused(values: Mapping[str, float], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        GateRules(**values)


def results_of(
    accuracies: Mapping[str, list[int]], nats: list[float | None] | None = None
) -> list[GateResult]:
    """Results of gates at which skills had so many of 400 answers right."""
    keeper = Gatekeeper(RULES)
    gates = len(next(iter(accuracies.values())))
    for gate in range(gates):
        loss = nats[gate] if nats else 2.0 / (gate + 1)
        readings = {skill: Reading(right[gate], 400, loss) for skill, right in accuracies.items()}
        keeper.enter(2 * 4**gate, RULES.flops_at(gate), readings)
    return keeper.results


STAGGERED = {
    "copy": [0, 0, 300, 400, 400],
    "reverse": [0, 0, 300, 400, 400],
    "sort": [0, 0, 100, 340, 400],
    "add": [0, 0, 0, 0, 0],
    "sum modulo 10": [40, 36, 41, 39, 40],
}


def test_shown_when_skills_cross_the_red_line_one_after_the_other() -> None:
    verdict = judge(results_of(STAGGERED), examined_share=0.02)
    assert verdict.outcome == "shown"
    assert verdict.figures["copy: red line crossed at gate"] == 3
    assert verdict.figures["sort: red line crossed at gate"] == 4
    assert verdict.figures["add: red line crossed at gate"] == "none"
    assert verdict.figures["red lines crossed straight from clear"] == 0


def test_a_skill_that_comes_between_two_gates_was_not_announced() -> None:
    sudden = {skill: [0, 0, 100, 400, 400] for skill in SKILLS}
    words = "red lines crossed straight from clear"
    assert judge(results_of(sudden)).figures[words] == 5
    assert judge(results_of({**sudden, "copy": [0, 0, 300, 400, 400]})).figures[words] == 4


def test_figures_tell_how_good_forecasts_were() -> None:
    verdict = judge(results_of(STAGGERED), examined_share=0.02)
    assert verdict.figures["forecasts"] == 3 * len(SKILLS)
    assert verdict.figures["largest rise of an accuracy from gate to gate"] == 0.75
    assert verdict.figures["examinations, share of the time"] == 0.02


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"copy": [0] * 5, "reverse": [0] * 5}, "not: at least two skills"),
        ({"sort": [0] * 5}, "not: not all of them at the same gate"),
        ({"sort": [0] * 5, "reverse": [0] * 5}, "not: at least two skills"),
        (
            {skill: [0, 0, 300, 390 if skill == "sort" else 340, 400] for skill in SKILLS},
            "not: another was still clear",
        ),
    ],
)
def test_not_shown_when_skills_come_together_or_not_at_all(changes: dict[str, list[int]], why: str) -> None:
    verdict = judge(results_of({**STAGGERED, **changes}))
    assert verdict.outcome == "not shown"
    assert why in verdict.reason


def test_without_forecasts_it_cannot_be_told() -> None:
    verdict = judge(results_of(STAGGERED, [None] * 5))
    assert verdict.outcome == "can't tell"
    assert verdict.figures["forecast error, median |ln(seen / forecast)|"] is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"items": 30}, "cannot show that the red line of 0.9 is crossed"),
        ({"steps": 31}, "end before the third gate"),
        ({"factor": 1.0}, "a factor above 1"),
        ({"efficiency": 0.0}, "efficiency = 0.0 is not a positive number"),
    ],
)
def test_settings_without_meaning_are_refused(values: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        GatesSettings(**values)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_trained(preset: str) -> None:
    WORKLOAD.preset(preset)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    settings = PRESETS["smoke"]
    return WORKLOAD.train(
        RunRequest(runs_dir=runs_dir, workload=WORKLOAD.name, preset="smoke", seed=3, settings=settings)
    )


def test_a_short_run_claims_nothing_and_stores_everything(run_dir: Path) -> None:
    found = summarize(open_run(run_dir.parent, run_dir.name))["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert [arm["facts"]["steps"] for arm in found["arms"]] == [32]
    costs = {cost["cost"]: cost["is_bound"] for cost in found["costs"]}
    assert costs == {**{f"{skill}: until the red line": True for skill in SKILLS}, "examinations": False}


def test_curves_have_the_columns_that_charts_read(run_dir: Path) -> None:
    gates = phenomenon_curves(open_run(run_dir.parent, run_dir.name))["gates"]
    asked = {"gate", "step", "effective_flops", "skill", "accuracy", "low", "high", "cross_entropy", "state"}
    assert asked | {"forecast_cross_entropy", "red_line", "buffer"} <= set(gates.columns)
    assert gates["step"].unique().sort().to_list() == [2, 8, 32]
    per_step = PRESETS["smoke"].flops_per_step
    assert (gates["effective_flops"] / per_step).to_list() == gates["step"].to_list()
    assert gates["skill"].to_list() == list(SKILLS) * 3
    assert gates["forecast_cross_entropy"].null_count() == 2 * len(SKILLS)
