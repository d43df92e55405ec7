"""CPU seconds by phase: what the clock tells is booked once and whole, however seldom it is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.measure.cpu_shares import Account, CpuShares
from profiler.records import STEP_PHASES, StepPhase

SPELLS = st.lists(
    st.tuples(
        st.sampled_from(STEP_PHASES),
        st.integers(0, 64),  # wall, in 1/64 s
        st.integers(0, 256),  # CPU, likewise
        st.booleans(),  # whether the clock is read at the end
    ),
    max_size=40,
)


@given(spells=SPELLS)
def test_all_that_the_clock_tells_is_booked_once(spells: list[tuple[StepPhase, int, int, bool]]):
    shares, accounts, used_s, told_s = CpuShares(), [], 0.0, 0.0
    for phase, wall, cpu, is_read in spells:
        accounts.append(Account())
        shares.spend(accounts[-1], phase, wall / 64)
        used_s += cpu / 64
        if is_read:
            told_s = used_s
            shares.read(used_s)
    booked = [sum(account.seconds.values()) for account in accounts]
    assert all(seconds >= 0.0 for seconds in booked)
    assert sum(booked) == pytest.approx(told_s)
    last_read = max((i for i, spell in enumerate(spells) if spell[3]), default=-1)
    assert [account.open for account in accounts] == [i > last_read for i in range(len(spells))]


def test_what_is_read_at_both_ends_is_exact():
    shares, account = CpuShares(), Account()
    shares.read(5.0)
    for phase, cpu_s in (("forward", 5.5), ("backward", 9.5), ("forward", 9.75)):
        shares.spend(account, phase, 1.0)  # type: ignore[arg-type]
        shares.read(cpu_s)
    assert account.seconds == {"forward": 0.75, "backward": 4.0}


@given(
    uses=st.fixed_dictionaries({phase: st.integers(0, 8) for phase in STEP_PHASES}),
    spells=st.lists(st.tuples(st.sampled_from(STEP_PHASES), st.integers(0, 64)), min_size=1, max_size=20),
)
def test_phases_that_use_what_they_used_get_it_however_long_they_had_to_wait(
    uses: dict[StepPhase, int], spells: list[tuple[StepPhase, int]]
):
    shares, cpu_s = CpuShares(), 0.0
    for phase in STEP_PHASES:
        shares.spend(Account(), phase, 1.0)
        cpu_s += uses[phase]
        shares.read(cpu_s)
    account = Account()
    for phase, wall in spells:
        shares.spend(account, phase, wall / 64)
    shares.read(cpu_s + sum(uses[phase] for phase, _ in spells))
    for phase, _ in spells:
        truth = uses[phase] * sum(name == phase for name, _ in spells)
        assert account.seconds[phase] == pytest.approx(truth, abs=1e-9)


def test_before_anything_was_seen_each_phase_has_one_busy_thread():
    shares, account = CpuShares(), Account()
    shares.spend(account, "forward", 1.0)
    shares.spend(account, "backward", 3.0)
    shares.read(8.0)
    assert account.seconds == {"forward": 2.0, "backward": 6.0}


def test_what_is_seen_anew_counts_for_more():
    shares, account = CpuShares(), Account()
    cpu_s = 0.0
    for threads in [1.0] * 10 + [4.0] * 40:  # another model, another number of threads
        shares.spend(Account(), "forward", 1.0)
        cpu_s += threads
        shares.read(cpu_s)
        shares.spend(Account(), "data", 1.0)
        shares.read(cpu_s + 1.0)
        cpu_s += 1.0
    shares.spend(account, "forward", 1.0)
    shares.spend(account, "data", 1.0)
    shares.read(cpu_s + 5.0)
    assert account.seconds["forward"] == pytest.approx(4.0, abs=0.05)
