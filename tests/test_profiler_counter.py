"""What a counter's readings can do wrong: each fault is said, and widens the bar or makes a gap; none makes a 0."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from profiler.metrics.counter import course_of
from profiler.metrics.energy import Energy, EnergyCurve

METER = {"update_period_s": 0.1, "relative_uncertainty": 0.05, "power_max_w": 700.0}
WATTS = 300.0
WINDOW = (2.0, 18.0)
TRUE_J = WATTS * 16.0


def _readings(watts: float = WATTS, seconds: float = 20.0, power: bool = True) -> pl.DataFrame:
    time_s = np.arange(0.03, seconds, 0.1)
    columns = {"time_s": time_s, "energy_j": 5e6 + watts * (np.floor(time_s / 0.1 + 1e-9) * 0.1)}
    return pl.DataFrame(columns | ({"power_w": np.full(len(time_s), watts)} if power else {}))


def _energy(readings: pl.DataFrame, window: tuple[float, float] = WINDOW) -> tuple[Energy, str]:
    curve = EnergyCurve(readings, METER)
    found = curve.windows([window])
    assert found is not None
    return found, "; ".join(curve.faults)


def _from(time_s: float, change: pl.Expr, until_s: float = 1e9) -> pl.Expr:
    return (
        pl.when(pl.col("time_s").is_between(time_s, until_s))
        .then(change)
        .otherwise("energy_j")
        .alias("energy_j")
    )


def test_sound_readings_have_no_faults():
    found, faults = _energy(_readings())
    assert faults == ""
    assert found.energy_j == pytest.approx(TRUE_J)
    assert found.coverage == 1.0
    assert 0.9 * TRUE_J < found.at_least_j < TRUE_J


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_values_that_no_counter_has_are_a_gap(bad: float):
    found, faults = _energy(_readings().with_columns(_from(9.0, pl.lit(bad), 11.0)))
    assert faults == "20 readings of its counter were negative or not finite, and left out"
    assert found.energy_j == pytest.approx(TRUE_J)
    assert found.coverage < 0.9


def test_a_gap_inside_the_window_widens_nothing_and_one_at_its_edge_does():
    """What was used meanwhile was told afterwards; only how it spread over the gap is not known."""
    holed = _readings().filter(~pl.col("time_s").is_between(9.0, 13.0))
    inside, _ = _energy(holed, (2.0, 18.0))
    across, _ = _energy(holed, (2.0, 11.0))
    assert inside.plus_minus_j == pytest.approx(_energy(_readings())[0].plus_minus_j, rel=0.02)
    assert inside.coverage < 0.8
    assert across.plus_minus_j >= _energy(_readings(), (2.0, 11.0))[0].plus_minus_j


@pytest.mark.parametrize("only_nan", [True, False])
def test_a_counter_without_a_believable_reading_is_unknown(only_nan: bool):
    value = float("nan") if only_nan else -5.0
    readings = _readings().with_columns(pl.lit(value).alias("energy_j"))
    assert EnergyCurve(readings, METER).windows([WINDOW]) is None


def test_time_going_backwards_shows_as_many_falls_and_is_unknown():
    late = _readings().with_columns(
        pl.when(pl.col("time_s") > 10.0).then(pl.col("time_s") - 0.45).otherwise("time_s").alias("time_s")
    )
    curve = EnergyCurve(late, METER)
    assert "times (reset, or time going backwards)" in curve.faults[0]
    assert curve.windows([WINDOW]) is None


def test_a_reset_is_bridged_and_said():
    found, faults = _energy(_readings().with_columns(_from(10.0, pl.col("energy_j") - 5e6)))
    assert faults == "its counter fell 1 time (reset, or time going backwards)"
    assert abs(found.energy_j - TRUE_J) <= found.plus_minus_j


def test_a_leap_that_no_device_could_draw_is_no_energy():
    found, faults = _energy(_readings().with_columns(_from(10.0, pl.col("energy_j") + 1e9)))
    assert faults == "its counter rose 1 time by more than can be drawn"
    assert abs(found.energy_j - TRUE_J) <= found.plus_minus_j


@pytest.mark.parametrize(
    ("power", "witness"), [(True, "power readings"), (False, "its course before and after")]
)
def test_a_frozen_counter_is_flagged_and_its_joules_are_not_taken_for_0(power: bool, witness: str):
    """From 8 to 12 s it stands still, and goes on from there: 1200 J that nothing told."""
    frozen_j = 5e6 + WATTS * 8.0
    frozen = _readings(power=power).with_columns(
        pl.when(pl.col("time_s") < 8.0)
        .then("energy_j")
        .otherwise(pl.max_horizontal(pl.col("energy_j") - WATTS * 4.0, pl.lit(frozen_j)))
        .alias("energy_j")
    )
    found, faults = _energy(frozen)
    assert faults.startswith("its counter stood still for 4")
    assert faults.endswith(f"in which {witness} say that the device drew power")
    assert abs(found.energy_j - TRUE_J) <= found.plus_minus_j
    assert found.coverage < 0.8


def test_a_counter_that_catches_up_after_a_pause_is_not_frozen():
    late = _readings().with_columns(_from(8.0, pl.lit(5e6 + WATTS * 7.9), 11.95))
    found, faults = _energy(late)
    assert faults == ""
    assert found.energy_j == pytest.approx(TRUE_J)


def test_a_device_that_really_draws_nothing_is_not_frozen():
    time_s = np.arange(0.03, 20.0, 0.1)
    watts = np.where((time_s > 8.0) & (time_s < 12.0), 0.0, WATTS)
    readings = pl.DataFrame({"time_s": time_s, "energy_j": np.cumsum(watts * 0.1), "power_w": watts})
    _, faults = _energy(readings)
    assert faults == ""


def test_a_sensor_that_vanishes_and_comes_back_is_told_afterwards():
    holed = _readings().with_columns(_from(5.0, pl.lit(None, pl.Float64), 9.0))
    found, faults = _energy(holed)
    assert faults == ""
    assert found.energy_j == pytest.approx(TRUE_J)
    assert found.coverage == pytest.approx(0.75, abs=0.02)


def test_a_sensor_lost_for_good_leaves_a_lower_bound():
    found, _ = _energy(_readings().filter(pl.col("time_s") < 7.0))
    assert not found.is_knowledge
    assert 0.85 * WATTS * 5.0 < found.at_least_j < WATTS * 5.0


@pytest.mark.parametrize("update_s", [0.01, 0.02, 0.05, 0.1])
def test_a_close_look_tells_the_update_period(update_s: float):
    """The meter says 100 ms, and cannot know better; changes are then known to the true period."""
    time_s = np.concatenate([np.arange(0.0, 0.5, 0.0051), np.arange(0.5, 10.0, 0.1031)])
    told_j = WATTS * np.floor(time_s / update_s + 1e-9) * update_s
    course, _ = course_of(pl.DataFrame({"time_s": time_s, "energy_j": told_j}), METER)
    assert course is not None
    assert np.max(course.late_s) == pytest.approx(min(update_s, 0.1), rel=0.15)


def test_of_two_readings_at_one_instant_the_later_counts_whatever_their_order():
    twice = pl.concat([_readings(), _readings().with_columns(pl.col("energy_j") - 10.0)])
    one, other = (_energy(frame)[0] for frame in (twice, twice.reverse()))
    assert one == other
    assert one.energy_j == pytest.approx(TRUE_J)


@pytest.mark.parametrize("update_s", [0.01, 0.1])
def test_in_a_short_run_the_close_look_makes_no_gaps_of_what_follows_it(update_s: float):
    """Most of its readings are 5 ms apart: those at 10 Hz are the rule all the same."""
    time_s = np.concatenate([np.arange(0.0, 0.5, 0.0051), np.arange(0.5, 6.0, 0.1031)])
    told_j = WATTS * np.floor(time_s / update_s + 1e-9) * update_s
    power_w = np.where(np.arange(len(time_s)) % 2, WATTS, None)
    readings = pl.DataFrame({"time_s": time_s, "energy_j": told_j, "power_w": power_w.astype(float)})
    found, faults = _energy(readings, (0.3, 5.9))
    assert faults == ""
    assert found.coverage == 1.0
    assert found.energy_j == pytest.approx(WATTS * 5.6, abs=0.06 * WATTS)
    assert found.plus_minus_j < 0.05 * found.energy_j + 0.12 * WATTS


def test_a_gap_in_integrated_power_was_never_told():
    """A counter goes on while nobody reads it; an integral does not, and its straight line is a guess."""
    holed = _readings().filter(~pl.col("time_s").is_between(9.0, 13.0))
    counted = EnergyCurve(holed, METER | {"source": "counter"}).windows([WINDOW])
    integrated = EnergyCurve(holed, METER | {"source": "integrated"}).windows([WINDOW])
    assert counted is not None
    assert integrated is not None
    assert counted.plus_minus_j < 0.06 * TRUE_J
    assert integrated.plus_minus_j >= 4.0 * 700.0
    assert integrated.at_least_j < 0.8 * TRUE_J < counted.at_least_j


def _read_slowly(random: np.random.Generator, period_s: float | None) -> pl.DataFrame:
    """A counter of 300 W whose driver takes up to 0.4 s to answer, and tells what was at some moment meanwhile."""
    took_s = random.uniform(0.0, 0.4, 60)
    end_s = np.cumsum(took_s + 0.1)
    told_s = end_s - took_s * random.random(len(took_s))
    seen_s = np.floor(told_s / period_s) * period_s if period_s else told_s
    return pl.DataFrame({"time_s": end_s - took_s / 2.0, "energy_j": WATTS * seen_s, "took_s": took_s})


@pytest.mark.parametrize("period_s", [None, 0.1])
def test_what_a_slow_call_told_is_of_some_moment_of_it(period_s: float | None):
    random, meter = (
        np.random.default_rng(0),
        METER | {"relative_uncertainty": 0.0, "update_period_s": period_s},
    )
    inside = {True: 0, False: 0}
    for _ in range(500):
        readings = _read_slowly(random, period_s)
        start_s = random.uniform(1.0, 6.0)
        for known in inside:
            curve = EnergyCurve(readings if known else readings.drop("took_s"), meter)
            found = curve.windows([(start_s, start_s + 8.0)])
            assert found is not None
            inside[known] += abs(found.energy_j - WATTS * 8.0) <= found.plus_minus_j
    assert inside[True] >= 475
    assert inside[False] < 425


def test_a_call_cannot_have_taken_longer_than_there_was_room():
    """Of a damaged or made-up file."""
    readings = _readings().with_columns(took_s=pl.when(pl.col("time_s") > 18.0).then(1e300).otherwise(0.0))
    found, _ = _energy(readings)
    assert found.energy_j == pytest.approx(TRUE_J, abs=0.2 * WATTS)
    assert found.plus_minus_j < 0.06 * TRUE_J


def test_a_duration_that_no_call_has_is_no_reading():
    bad = _readings().with_columns(took_s=pl.when(pl.col("time_s") > 19.0).then(float("nan")).otherwise(0.0))
    found, faults = _energy(bad)
    assert faults == "10 readings of its counter were negative or not finite, and left out"
    assert found.energy_j == pytest.approx(TRUE_J)
