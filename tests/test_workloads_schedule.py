"""The trunk and its branches, as arithmetic."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import InvalidValueError
from workloads.schedule import Schedule, make_schedule, steps_of

Case = tuple[Schedule, list[int], int]  # with its budgets and the tokens of a step


@st.composite
def schedules(draw: st.DrawFn) -> Case:
    tokens_per_step = draw(st.integers(1, 5000))
    steps = sorted(draw(st.sets(st.integers(1, 3000), min_size=1, max_size=6)))
    budgets = [step * tokens_per_step for step in steps]
    warmup_steps = draw(st.integers(0, 50))
    fraction = draw(st.floats(0.01, 0.9))
    schedule = make_schedule(
        token_budgets=budgets,
        tokens_per_step=tokens_per_step,
        warmup_steps=warmup_steps,
        cooldown_fraction=fraction,
    )
    return schedule, budgets, tokens_per_step


@given(schedules())
def test_trunk_so_far_and_own_cooldown_make_up_each_budget(case: Case) -> None:
    schedule, budgets, tokens_per_step = case
    trunk_steps, points = 0, []
    for segment in schedule.segments:
        if segment.kind == "trunk":
            trunk_steps += segment.num_steps
        else:
            points.append((segment.budget_tokens, trunk_steps + segment.num_steps))
    assert points == [(budget, budget // tokens_per_step) for budget in budgets]


@given(schedules())
def test_each_segment_reads_on_where_the_trunk_stopped(case: Case) -> None:
    schedule, _, _ = case
    trunk_position = 0
    for segment in schedule.segments:
        assert segment.first_position == trunk_position
        assert segment.num_steps >= 1
        if segment.kind == "trunk":
            trunk_position = segment.end_position


@given(schedules())
def test_steps_are_the_segments_laid_end_to_end(case: Case) -> None:
    schedule, _, _ = case
    assert len(list(schedule.steps())) == schedule.num_steps
    assert [position for _, position in schedule.steps()] == [
        position for segment in schedule.segments for position in segment.positions
    ]


@given(schedules())
def test_the_rate_rises_once_then_holds_and_only_cooldowns_fall(case: Case) -> None:
    schedule, _, _ = case
    for segment in schedule.segments:
        factors = [schedule.lr_factor(segment, position) for position in segment.positions]
        assert all(0.0 < factor <= 1.0 for factor in factors)
        if segment.kind == "trunk":
            assert factors == sorted(factors)
            assert factors[-1] == 1.0 or segment.end_position < schedule.warmup_steps
        elif segment.first_position >= schedule.warmup_steps:
            assert all(a > b for a, b in itertools.pairwise(factors))
            assert factors[0] < 1.0


def test_the_default_gives_a_fifth_to_the_cooldown() -> None:
    schedule = make_schedule(token_budgets=(1000, 2000), tokens_per_step=10, warmup_steps=4)
    laid_out = [(s.kind, s.budget_tokens, s.first_position, s.num_steps) for s in schedule.segments]
    assert laid_out == [
        ("trunk", 1000, 0, 80),
        ("cooldown", 1000, 80, 20),
        ("trunk", 2000, 80, 80),
        ("cooldown", 2000, 160, 40),
    ]
    trunk, cooldown = schedule.segments[0], schedule.segments[1]
    assert [schedule.lr_factor(trunk, position) for position in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert schedule.lr_factor(cooldown, 80) == pytest.approx(20 / 21)
    assert schedule.lr_factor(cooldown, 99) == pytest.approx(1 / 21)


def test_doubling_budgets_cost_what_the_docstring_says() -> None:
    budgets = [2**exponent * 1000 for exponent in range(4)]
    schedule = make_schedule(token_budgets=budgets, tokens_per_step=10)
    assert schedule.num_steps == pytest.approx((0.8 + 0.2 * (1 + 1 / 2 + 1 / 4 + 1 / 8)) * 800, abs=2)


def test_a_budget_is_rounded_to_the_nearest_step() -> None:
    assert [steps_of(tokens, 100) for tokens in (100, 149, 151, 1000)] == [1, 1, 2, 10]


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ((), r"token_budgets is empty, so nothing would be trained. Give at least one budget."),
        ((99,), r"token budget 99 is smaller than one step of 100 tokens .* Give larger token_budgets"),
        ((0,), r"token budget 0 is smaller than one step of 100 tokens"),
        ((500, 400), r"token_budgets = 500\+400 do not rise by at least one step of 100 tokens each"),
        ((500, 540), r"token_budgets = 500\+540 do not rise .* Give them in rising order, further apart."),
    ],
)
def test_impossible_budgets_are_refused(budgets: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        make_schedule(token_budgets=budgets, tokens_per_step=100)
