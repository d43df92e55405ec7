"""The machine sleeps: it is seen by two clocks, marked, and what counters say of it is no part of the energy."""

from __future__ import annotations

import polars as pl
import pytest
from fixtures_scripted import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from profiler.measure.suspends import LEAST_S, Suspends
from profiler.metrics.energy import EnergyCurve

METER = {"update_period_s": None, "relative_uncertainty": 0.0, "power_max_w": 200.0, "source": "counter"}


class Machine:
    """Looks at a fake clock and at what the machine says of its sleeps."""

    def __init__(self) -> None:
        self.clock, self.slept_s, self.told = FakeClock(), 1000.0, []
        self.suspends = Suspends(
            self.clock, lambda *sleep: self.told.append(sleep), asleep=lambda: self.slept_s
        )

    def look(self) -> None:
        self.clock.advance(0.1)
        self.suspends.look()


def test_a_sleep_is_told_once_between_the_looks_around_it():
    machine = Machine()
    machine.look()
    machine.slept_s += 3600.0
    machine.look()
    machine.look()
    assert machine.told == [(pytest.approx(0.1), pytest.approx(0.2), 3600.0)]


def test_a_thread_that_was_held_up_between_two_clocks_is_no_sleep():
    machine = Machine()
    for late_s in (0.4, -0.4, 0.3):
        machine.slept_s = 1000.0 + late_s
        machine.look()
    assert machine.told == []


@given(st.lists(st.one_of(st.just(0.0), st.floats(LEAST_S + 0.1, 1e6)), max_size=20))
def test_all_sleeps_are_told_and_nothing_else(sleeps: list[float]):
    machine = Machine()
    for slept_s in sleeps:
        machine.slept_s += slept_s
        machine.look()
    assert [slept_s for _, _, slept_s in machine.told] == pytest.approx([s for s in sleeps if s], abs=1e-3)


def course(leap_j: float, reset: bool = False) -> pl.DataFrame:
    """100 W for 60 s, read at 10 Hz; between 30.0 and 30.1 s the counter leaps, or starts anew."""
    rows = []
    for tick in range(601):
        energy_j = 10.0 * tick + 5000.0
        if tick > 300:
            energy_j = energy_j + leap_j - (8000.0 if reset else 0.0)
        rows.append({"time_s": tick / 10.0, "energy_j": energy_j})
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("leap_j", "reset"), [(0.0, False), (15.0, False), (50.0, False), (1e6, False), (0.0, True)]
)
def test_what_a_counter_says_of_a_sleep_is_left_out(leap_j: float, reset: bool):
    curve = EnergyCurve(course(leap_j, reset), METER, asleep=[(29.95, 30.05)])
    found = curve.windows([(0.0, 60.0)])
    assert found is not None
    assert found.energy_j == pytest.approx(6000.0)
    assert 0.0 < found.plus_minus_j < 50.0  # of 0.1 s at no more than 200 W
    assert curve.faults == ()


def test_without_the_mark_a_leap_that_could_be_is_believed():
    """Why it is marked: half a second of power is no impossible rise."""
    found = EnergyCurve(course(50.0), METER).windows([(0.0, 60.0)])
    assert found is not None
    assert found.energy_j == pytest.approx(6050.0)


def test_a_laptop_that_sleeps_often_keeps_its_energy():
    """A counter that falls more than three times is none, but at a sleep it may."""
    rows = [{"time_s": tick / 10.0, "energy_j": 10.0 * (tick % 100)} for tick in range(1000)]
    asleep = [(10.0 * n - 0.05, 10.0 * n - 0.01) for n in range(1, 10)]
    assert EnergyCurve(pl.DataFrame(rows), METER).windows([(0.0, 99.0)]) is None
    found = EnergyCurve(pl.DataFrame(rows), METER, asleep).windows([(0.0, 99.0)])
    assert found is not None
    assert found.energy_j == pytest.approx(9900.0)
