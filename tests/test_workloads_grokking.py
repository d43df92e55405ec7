"""Workload `grokking`: its tables, its gradients, its FLOPs, and when it says that a model has grokked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler.errors import InvalidValueError, UnknownNameError
from profiler.metrics.summary import summarize
from profiler.store.runs import open_run
from profiler.workload import RunRequest, load_workload
from workloads.grokking import (
    PRESETS,
    WORKLOAD,
    Evaluation,
    GrokkingSettings,
    Method,
    SlowGradients,
    gradient_change,
    judge,
    make_model,
    make_perpendicular,
    make_tables,
    stablemax_loss,
)
from workloads.transformer_config import model_flops_per_sequence

SMALL = GrokkingSettings(modulus=11, d_model=16)

# -- data


@pytest.mark.parametrize(
    ("operation", "rows", "holds"),
    [
        ("subtract", 121, lambda a, b, c: (a - b - c) % 11 == 0),
        ("divide", 110, lambda a, b, c: (c * b - a) % 11 == 0),
        ("add", 121, lambda a, b, c: (a + b - c) % 11 == 0),
        ("multiply", 121, lambda a, b, c: (a * b - c) % 11 == 0),
    ],
)
def test_tables_hold_the_operation_once_each(operation: Any, rows: int, holds: Any) -> None:
    train, validation = make_tables(
        dataclasses.replace(SMALL, operation=operation, split="unordered"), seed=3
    )
    pairs = torch.cat((train.pairs, validation.pairs))
    answers = torch.cat((train.answers, validation.answers))
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs) == rows
    assert set(pairs[:, 2].tolist()) == {11}
    for (a, b, _), c in zip(pairs.tolist(), answers.tolist(), strict=True):
        assert 0 <= c < 11
        assert holds(a, b, c)


def test_an_unordered_split_keeps_a_pair_and_its_mirror_together() -> None:
    train, validation = make_tables(dataclasses.replace(SMALL, operation="add", split="unordered"), seed=0)
    trained = {frozenset(pair[:2]) for pair in train.pairs.tolist()}
    assert trained.isdisjoint(frozenset(pair[:2]) for pair in validation.pairs.tolist())


def test_the_split_is_the_seeds() -> None:
    first, again, other = (make_tables(SMALL, seed)[0].pairs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert first.tolist() != other.tolist()


# -- model and methods


def test_flops_agree_with_the_flop_counter() -> None:
    settings = GrokkingSettings()
    train, _ = make_tables(settings, seed=0)
    model = make_model(settings)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(train.pairs, last=1)[:, 0], train.answers).backward()  # type: ignore[no-untyped-call]
    expected = len(train) * model_flops_per_sequence(settings.config(), 3, 1)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


def test_weights_begin_with_variance_1_over_the_width_and_small_norm_with_half_the_scale() -> None:
    methods: list[tuple[Method, float]] = [("plain", 1.0), ("small-norm", 0.5)]
    for method, factor in methods:
        for weight in make_model(GrokkingSettings(method=method)).parameters():
            assert float(weight.detach().std()) == pytest.approx(factor / 8, rel=0.15)


def test_stablemax_is_a_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[1.0, -1.0, 0.0]])  # s = 2, 1/2, 1
    assert float(stablemax_loss(logits, torch.tensor([0]))) == pytest.approx(
        -torch.tensor(2 / 3.5).log().item()
    )
    # Where softmax has long rounded the others away, it still has a gradient.
    far = torch.tensor([[200.0, 0.0]], requires_grad=True)
    stablemax_loss(far, torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None
    assert float(far.grad.abs().min()) > 0


def test_a_perpendicular_gradient_keeps_its_length() -> None:
    w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    w.grad = torch.tensor([1.0, 1.0])
    make_perpendicular([w])
    assert not w.grad.requires_grad
    assert float(w.grad @ w.detach()) == pytest.approx(0, abs=1e-6)
    assert float(w.grad.norm()) == pytest.approx(2**0.5)


def test_grokfast_adds_the_moving_average_that_begins_with_the_first_gradient() -> None:
    w = torch.zeros(1, requires_grad=True)
    slow = SlowGradients([w], alpha=0.5, factor=2.0)
    seen = []
    for gradient in (1.0, 0.0):
        w.grad = torch.tensor([gradient])
        slow.amplify()
        seen.append(float(w.grad))
    assert seen == [3.0, 1.0]  # averages 1 and 0.5


def test_methods_change_gradients_or_leave_them() -> None:
    weights = list(make_model(SMALL).parameters())
    changes = {m: gradient_change(dataclasses.replace(SMALL, method=m), weights) for m in Method.__args__}
    assert {method for method, change in changes.items() if change} == {"grokfast", "stablemax"}


# -- the detector


def curve(*points: tuple[int, float, float]) -> list[Evaluation]:
    return [Evaluation(*point) for point in points]


def windows_of(points: list[Evaluation]) -> dict[int, list[tuple[float, float]]]:
    return {point.step: [(0.0, float(point.step))] for point in points}


LATE = curve(
    (100, 0.5, 0.02), (200, 1.0, 0.1), (300, 1.0, 0.2), (400, 1.0, 0.96), (500, 1.0, 0.97), (600, 1.0, 0.99)
)


def test_late_generalisation_is_grokking_and_is_priced_until_then() -> None:
    verdict = judge(LATE, windows_of(LATE))
    assert verdict.outcome == "shown"
    assert (verdict.figures["t_mem (step)"], verdict.figures["t_gen (step)"]) == (200, 400)
    assert verdict.figures["delay (steps)"] == 200
    assert verdict.costs["joules to grok"].windows == [(0.0, 400.0)]
    assert not verdict.costs["joules to grok"].is_bound
    assert verdict.costs["joules to memorise"].windows == [(0.0, 200.0)]


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (LATE[:3], "not: it generalised (by step 300)"),
        ([*LATE[:4], Evaluation(500, 1.0, 0.5)], "not: it generalised (by step 500)"),  # a slingshot
        (
            curve((100, 0.5, 0.4), (200, 1.0, 0.4), (400, 1.0, 1.0), (500, 1.0, 1.0), (600, 1.0, 1.0)),
            "not: validation was at chance by then (at most 0.30)",
        ),
        (
            curve((200, 1.0, 0.1), (300, 1.0, 1.0), (400, 1.0, 1.0), (500, 1.0, 1.0)),
            "not: the delay was at least 100 steps and t_mem",
        ),
    ],
    ids=["never", "falls back", "half known", "too soon"],
)
def test_what_is_not_grokking(points: list[Evaluation], reason: str) -> None:
    verdict = judge(points, windows_of(points))
    assert verdict.outcome == "not shown"
    assert reason in verdict.reason


def test_what_was_not_reached_costs_more_than_was_spent() -> None:
    verdict = judge(LATE[:3], windows_of(LATE[:3]))
    assert verdict.costs["joules to grok"].is_bound
    assert verdict.costs["joules to grok"].windows == [(0.0, 300.0)]


def test_a_model_that_never_memorised_has_no_delay() -> None:
    points = curve((100, 0.5, 0.02), (200, 0.6, 0.02))
    verdict = judge(points, windows_of(points))
    assert verdict.figures["delay (steps)"] is None
    assert "not: the training set was known by heart (by step 200)" in verdict.reason
    assert "joules to memorise" not in verdict.costs


# -- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"operation": "add"}, "gives \\(a, b\\) and \\(b, a\\) the same answer.*split=unordered"),
        ({"train_fraction": 1.0}, "train_fraction = 1.0 of 2809 pairs leaves too few"),
        ({"train_fraction": 0.001}, "too few to judge by: fewer than 20"),
        ({"modulus": 51}, "modulus = 51 is not a prime from 5 on"),
        ({"modulus": 3}, "modulus = 3 is not a prime from 5 on"),
        ({"max_steps": 100}, "max_steps = 100 ends before a delay of 100 steps.*Give 160 or more"),
        ({"eval_every": 500}, "eval_every = 500 is longer than the delay of 100 steps"),
        ({"grokfast_alpha": 1.0}, "grokfast_alpha = 1.0 is no momentum"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0 is negative"),
        ({"lr": 0.0}, "lr = 0.0 is not a positive number"),
        ({"head_dim": 24}, "cannot be cut into heads"),
    ],
)
def test_settings_that_make_no_test_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        GrokkingSettings(**wrong)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="grokfast"):
        GrokkingSettings(method="grokfst")  # type: ignore[arg-type]


# -- the whole path


def test_the_command_finds_it() -> None:
    assert load_workload("grokking") is WORKLOAD


@pytest.mark.parametrize("method", Method.__args__)
def test_a_smoke_run_learns_and_claims_nothing(method: Any, tmp_path: Path) -> None:
    settings = dataclasses.replace(PRESETS["smoke"], method=method)
    request = RunRequest(runs_dir=tmp_path, workload="grokking", preset="smoke", seed=0, settings=settings)
    run = open_run(tmp_path, WORKLOAD.train(request).name)
    found = summarize(run)["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert found["reason"].startswith("the smoke preset tries the path")
    assert (found["seeds"], found["shown_in"]) == (5, 3)
    (arm,) = found["arms"]
    train, _ = make_tables(settings, seed=0)
    assert (arm["arm"], arm["facts"]["steps"]) == (method, 160)
    flops = 160 * len(train) * model_flops_per_sequence(settings.config(), 3, 1)
    assert arm["facts"]["model_flops"] == pytest.approx(flops)
