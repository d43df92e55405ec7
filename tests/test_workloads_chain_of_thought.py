"""Workload `chain-of-thought`: its task against arithmetic, its FLOPs against torch's count, its verdict on made-up
scores, and a short run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler import open_run, summarize
from profiler.errors import InvalidValueError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.workload import RunRequest
from workloads.chain_of_thought import (
    PRESETS,
    WORKLOAD,
    ChainSettings,
    Score,
    Trained,
    generate,
    judge,
    score,
)
from workloads.sparse_parity import EQUALS, HELD_OUT, Task, examples, make_task
from workloads.transformer import Transformer
from workloads.transformer_config import model_flops_per_sequence

CPU = torch.device("cpu")
TASK = Task(8, torch.tensor([6, 1, 3, 0]))
"""The parity of bits 6, 1, 3 and 0, in this order."""


def test_a_chain_is_the_running_parity_and_ends_in_the_answer() -> None:
    told = TASK.told(torch.tensor([0b01000010, 0b00000001]))
    assert told.tolist() == [[0, 1, 0, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert TASK.chain(told).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_equals_takes_the_place_of_the_last_token_that_is_gone() -> None:
    numbers = torch.tensor([0b01000000])
    whole, places, wanted = examples(TASK, numbers, 0)
    assert whole[0, 8:].tolist() == [EQUALS, 1, 1]
    assert (places[8:].tolist(), wanted.tolist()) == ([8, 9, 10], [[1, 1, 1]])
    short, places, wanted = examples(TASK, numbers, 1)
    assert short[0, 8:].tolist() == [EQUALS, 1]
    assert (places[8:].tolist(), wanted.tolist()) == ([9, 10], [[1, 1]])
    bare, places, wanted = examples(TASK, numbers, 2)
    assert (bare[0, 8:].tolist(), places[8:].tolist(), wanted.tolist()) == ([EQUALS], [10], [[1]])


def test_questions_for_judging_are_never_trained() -> None:
    generator = torch.Generator().manual_seed(0)
    trained = TASK.draw(5000, generator, held_out=False)
    judged = TASK.draw(500, generator, held_out=True)
    assert (trained % HELD_OUT != 0).all()
    assert (judged % HELD_OUT == 0).all()
    assert max(trained.max(), judged.max()) < 2**TASK.bits
    assert len(set(trained.tolist())) > 240


def test_the_secret_follows_from_the_seed() -> None:
    secrets = [make_task(20, 5, seed=seed, device=CPU).secret.tolist() for seed in (0, 0, 1)]
    assert secrets[0] == secrets[1] != secrets[2]
    assert len(set(secrets[0])) == 5


def tiny() -> tuple[ChainSettings, Task, Transformer]:
    settings = PRESETS["smoke"]
    torch.manual_seed(0)
    model = Transformer(settings.config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that it says different things
    return settings, make_task(settings.bits, settings.parity_bits, seed=0, device=CPU), model


@pytest.mark.parametrize("removed", [0, 1])
def test_generation_with_the_cache_is_that_of_whole_passes(removed: int) -> None:
    _, task, model = tiny()
    told = task.told(torch.arange(64))
    tokens, places = task.prompt(told, removed)
    for _ in range(len(task.secret) - 1 - removed):
        tokens = torch.cat((tokens, model(tokens, places)[:, -1:].argmax(dim=-1)), dim=1)
        places = torch.cat((places, places[-1:] + 1))
    assert torch.equal(generate(model, task, told, removed), tokens[:, task.bits + 1 :])


def test_a_score_counts_answers_and_not_the_chain() -> None:
    _, task, model = tiny()
    numbers = torch.arange(2000)
    found = score(model, task, numbers, 0)
    said = generate(model, task, task.told(numbers), 0)[:, -1]
    assert found.right == int((said == task.chain(task.told(numbers))[:, -1]).sum())
    assert (found.asked, found.tokens_per_answer) == (2000, len(task.secret) - 1)
    assert score(model, task, numbers, 1).tokens_per_answer == 1


@pytest.mark.parametrize("removed", [0, 2, 3])
def test_flops_are_those_that_torch_counts(removed: int) -> None:
    settings = ChainSettings(d_model=32)
    model = Transformer(settings.config())
    task = make_task(settings.bits, settings.parity_bits, seed=0, device=CPU)
    tokens, places, chain = examples(task, torch.arange(4), removed)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(tokens, places, last=chain.shape[1])
        F.cross_entropy(logits.flatten(0, 1), chain.flatten()).backward()  # type: ignore[no-untyped-call]
    formula = 4 * model_flops_per_sequence(model.config, tokens.shape[1], chain.shape[1])
    assert counter.get_total_flops() == pytest.approx(formula, rel=0.01)


def trained(right: int, *, steps: int = 300, tokens: int = 900_000, written: int = 1) -> Trained:
    return Trained(score=Score(right, 1000, written), steps=steps, tokens=tokens)


EXPLICIT, BARE = trained(990, written=4), trained(960)
CHANCE = trained(510, steps=600, tokens=1_800_000)


def test_shown_when_the_chain_is_gone_and_the_answers_stay() -> None:
    verdict = judge(EXPLICIT, BARE, CHANCE, chain_asked_again=0.5)
    assert verdict.outcome == "shown"
    assert verdict.figures["internalised: accuracy, low"] == pytest.approx(0.946, abs=1e-3)
    assert verdict.figures["explicit: tokens per answer"] == 4


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ((trained(940), BARE, CHANCE), "not: with the chain it answers"),
        ((EXPLICIT, trained(910), CHANCE), "not: without it"),  # the interval begins at 0.891
        (
            (EXPLICIT, BARE, trained(580, steps=600, tokens=1_800_000)),
            "not: trained directly",
        ),  # ends at 0.610
    ],
)
def test_not_shown_when_one_part_fails(found: tuple[Trained, Trained, Trained], why: str) -> None:
    verdict = judge(*found)
    assert verdict.outcome == "not shown"
    assert why in verdict.reason


@pytest.mark.parametrize(("steps", "tokens"), [(599, 1_800_000), (600, 1_799_999)])
def test_a_direct_training_that_was_shorter_proves_nothing(steps: int, tokens: int) -> None:
    assert judge(EXPLICIT, BARE, trained(500, steps=steps, tokens=tokens)).outcome == "can't tell"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"parity_bits": 2}, "a chain takes 3 secret bits at least"),
        ({"parity_bits": 21}, "Give 3 <= parity_bits <= bits"),
        ({"bits": 14}, "it would know most by heart"),
        ({"test_questions": 60}, "Give 100 or more"),
        ({"stage_steps": 0}, "stage_steps = 0 is not a positive number"),
    ],
)
def test_settings_without_meaning_are_refused(values: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        ChainSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_trained(preset: str) -> None:
    WORKLOAD.preset(preset)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    request = RunRequest(
        runs_dir=tmp_path_factory.mktemp("runs"),
        workload=WORKLOAD.name,
        preset="smoke",
        seed=3,
        settings=dataclasses.replace(PRESETS["smoke"], stage_steps=20),
    )
    return WORKLOAD.train(request)


def test_a_short_run_claims_nothing_and_stores_everything(run_dir: Path) -> None:
    found = summarize(open_run(run_dir.parent, run_dir.name))["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert [arm["arm"] for arm in found["arms"]] == ["explicit", "internalised", "direct"]
    explicit, internalised, direct = (arm["facts"] for arm in found["arms"])
    assert direct["steps"] >= explicit["steps"] + internalised["steps"]
    assert direct["tokens"] >= explicit["tokens"] + internalised["tokens"]
    assert [cost["cost"] for cost in found["costs"]] == [
        "explicit: 64 answers, 32 at a time",
        "internalised: 64 answers, 32 at a time",
        "explicit: 8 answers, 1 at a time",
        "internalised: 8 answers, 1 at a time",
    ]
    assert (found["seeds"], found["shown_in"]) == (3, 2)


def test_curves_have_the_columns_that_charts_read(run_dir: Path) -> None:
    curves = phenomenon_curves(open_run(run_dir.parent, run_dir.name))
    stages = curves["stages"]
    assert {"step", "removed", "accuracy", "accuracy_without_chain"} <= set(stages.columns)
    assert stages["removed"].is_sorted()
    assert stages["step"].is_sorted()
    assert {"step", "accuracy"} <= set(curves["direct"].columns)
    answers = curves["answers"]
    assert answers["kind"].to_list() == ["explicit", "internalised", "direct"]
    assert answers["tokens_per_answer"].to_list() == [2, 1, 1]
    assert answers.filter(
        (pl.col("low") > pl.col("accuracy")) | (pl.col("high") < pl.col("accuracy"))
    ).is_empty()
