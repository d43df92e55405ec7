"""What stands beside the joules of a device: source words, aliasing, idle baseline, the counter against its powers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fixtures_scripted import NEVER_S, FakeClock, Script, cpu_only, gpu, gpu_and_cpu, play, spend

from profiler.errors import InvalidValueError
from profiler.measure.guard import Guard
from profiler.measure.idle import checked_idle_s
from profiler.measure.ranks import Place
from profiler.measure.recorder import Recorder
from profiler.measure.sensors.base import GaugeReading, Probe
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts, Session
from profiler.metrics.aliasing import MOST_OFF, aliasing
from profiler.metrics.cross_check import cross_check
from profiler.metrics.energy import EnergyCurve
from profiler.metrics.summary import summarize
from profiler.store.runs import open_run

Counters = Callable[[FakeClock], Sequence[Any]]


class Watts:
    """A gauge that says one power."""

    def __init__(self, watts: float) -> None:
        self._watts = watts

    def read(self) -> GaugeReading:
        return GaugeReading(power_w=self._watts)


def _summary(
    folder: Path,
    counters: Counters,
    *,
    before: Callable[[Session, FakeClock], None] = lambda session, clock: None,
    meter: dict[str, Any] | None = None,
    gauge_w: float | None = None,
    script: Script | None = None,
) -> dict[str, Any]:
    clock = FakeClock(now_s=3.0)
    gauge = Watts(gauge_w) if gauge_w is not None else None
    probes = [Probe(counter=counter, gauge=gauge) for counter in counters(clock)]
    for probe in probes:
        for key, value in (meter or {}).items():
            object.__setattr__(probe.counter.meter, key, value)
    session = Session(
        folder,
        RunFacts(),
        place=Place(rank=0, local_rank=0, world_size=1),
        probes=probes,
        guard=Guard(),
        name="run",
        clock=clock,
        sampling_period_s=NEVER_S,
    )
    session.recorder = Recorder(session.emit, clock=session.now, cpu_clock=clock.cpu, rank=0)
    before(session, clock)
    play(session, clock, script or Script(steps=12))
    session.close("finished")
    return summarize(open_run(folder, "run"))


# -- source words ------------------------------------------------------------------------------------------------


def _others(session: Session, clock: FakeClock) -> None:
    note = {"device": "GPU-a", "processes": 2, "memory_bytes": None}
    session.recorder.mark("co_tenants", session.now(), note=note)


@pytest.mark.parametrize(
    ("meter", "before", "word"),
    [
        ({}, None, "counter"),
        ({"source": "integrated"}, None, "integrated"),
        ({"scope": "module"}, None, "module_scope"),
        ({"scope": "module"}, _others, "shared_gpu"),
        ({"scope": "parent_of_mig"}, _others, "parent_of_mig"),
    ],
)
def test_the_worst_of_what_is_true_of_a_meter_is_its_source(
    tmp_path: Path, meter: dict[str, Any], before: Any, word: str
):
    energy = _summary(tmp_path, gpu(), meter=meter, before=before or (lambda s, c: None))["energy"]
    (component,) = energy["components"]
    assert component["source"] == energy["measured_source"] == word
    assert component["co_tenants"] == (2 if before else None)


def test_other_processes_are_said(tmp_path: Path):
    notes = _summary(tmp_path, gpu(), before=_others)["notes"]
    assert notes["energy.components GPU-a shared"] == (
        "up to 2 other processes were on this GPU; their joules are part of its energy"
    )


def test_the_worst_source_is_the_sums_and_the_estimate_is_in_no_sum(tmp_path: Path):
    def counters(clock: FakeClock) -> Sequence[Any]:
        return [*gpu_and_cpu(clock), *gpu(device="GPU-b", source="integrated")(clock)]

    energy = _summary(tmp_path, counters)["energy"]
    assert energy["measured_source"] == "integrated"
    assert [c["source"] for c in energy["components"]] == ["counter", "estimated", "integrated"]


def test_a_gpu_lost_midway_has_no_energy_but_a_lower_bound(tmp_path: Path):
    summary = _summary(tmp_path, gpu(fails_at_s=6.0), meter={"power_max_w": 700.0})
    (component,) = summary["energy"]["components"]
    assert component["energy_j"] is None
    assert summary["energy"]["measured_j"] is None
    assert 400.0 < summary["energy"]["measured_at_least_j"] < 200.0 * 3.0
    assert component["coverage"] < 0.4
    reason = summary["notes"]["energy.components GPU-a"]
    assert "which is no knowledge: its counter told" in reason
    assert f"It used at least {component['at_least_j']:.4g} J" in reason


def test_a_counter_that_stands_still_all_along_is_unknown_and_its_powers_are_named(tmp_path: Path):
    summary = _summary(tmp_path, gpu(0.0), gauge_w=310.0)
    assert summary["energy"]["measured_j"] is None
    assert summary["notes"]["energy.components GPU-a"] == (
        "its counter was read less than twice, or never moved, while its power readings averaged 310 W"
    )


def test_readings_that_make_no_counter_are_unknown_with_the_fault(tmp_path: Path):
    class Falling(ScriptedEnergy):
        def read(self) -> float:
            return super().read() % 100.0

    def counters(clock: FakeClock) -> Sequence[Any]:
        return [Falling([(1.0, 200.0)], clock=clock, device="GPU-a")]

    summary = _summary(tmp_path, counters)
    assert summary["energy"]["measured_j"] is None
    assert summary["notes"]["energy.components GPU-a"] == "its readings make no counter"
    assert "(reset, or time going backwards)" in summary["notes"]["energy.components GPU-a counter"]


# -- aliasing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step_s", "jitter", "flagged"),
    [
        (0.1, 0.0, True),
        (0.05, 0.01, True),
        (0.109, 0.01, True),
        (0.046, 0.01, True),
        (0.1, 0.3, False),
        (0.112, 0.01, False),
        (0.06, 0.01, False),
        (0.2, 0.01, False),
        (0.8, 0.0, False),
    ],
)
def test_steps_near_the_period_or_its_half_alias(step_s: float, jitter: float, flagged: bool):
    durations = step_s * (1.0 + jitter * np.random.default_rng(0).normal(size=500))
    assert (aliasing(durations, 0.1) is not None) == flagged


def test_no_period_or_few_steps_do_not_alias():
    assert aliasing([0.1] * 100, None) is None
    assert aliasing([0.1] * 5, 0.1) is None
    assert aliasing([0.0] * 100, 0.1) is None


def test_the_term_averages_out_over_beats():
    """Steps of 104 ms against 100 ms meet again after 2.6 s; at most half of that is seen at one side."""
    found = aliasing([0.104] * 100, 0.1)
    assert found is not None
    assert found.coherent_s == pytest.approx(1.3)
    assert found.share(1.0) == MOST_OFF
    assert found.share(130.0) == pytest.approx(0.1 * MOST_OFF)


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.05, 0.08])
@pytest.mark.parametrize("period_s", [0.1, 0.05, 0.104])
def test_a_part_time_sensor_that_aliases_stays_inside_the_wider_bar(period_s: float, phase: float):
    """The sensor sees 25 of every 100 ms of a square wave of its own pace."""
    fine = np.arange(0.0, 60.0, 0.001)
    watts = np.where((fine - phase) % period_s < 0.5 * period_s, 500.0, 200.0)
    seen_w = watts.reshape(-1, 100)[:, :25].mean(axis=1)
    told_j = np.concatenate([[0.0], np.cumsum(seen_w * 0.1)])
    time_s = np.arange(0.03, 59.9, 0.1003)
    meter = {"update_period_s": 0.1, "relative_uncertainty": 0.0, "power_max_w": 700.0}
    readings = pl.DataFrame({"time_s": time_s, "energy_j": told_j[(time_s / 0.1 + 1e-9).astype(int)]})
    curve, found = EnergyCurve(readings, meter), aliasing([period_s] * 100, 0.1)
    assert found is not None
    window = (5.0, 55.0)
    plain = curve.windows([window])
    assert plain is not None
    wide = curve.windows([window], found.share(50.0) * plain.energy_j)
    assert wide is not None
    true_j = float(np.sum(watts[5000:55000]) * 0.001)
    assert abs(wide.energy_j - true_j) <= wide.plus_minus_j
    if period_s == 0.1 and phase == 0.0:
        assert abs(plain.energy_j - true_j) > plain.plus_minus_j, "without the term the bar is wrong"


def test_aliasing_shows_in_the_component_the_bar_and_the_notes(tmp_path: Path):
    script = Script(steps=60)
    plain = _summary(tmp_path / "a", gpu(), script=script)
    flagged = _summary(tmp_path / "b", gpu(), script=script, meter={"update_period_s": 0.81})
    assert [s["energy"]["components"][0]["aliased"] for s in (plain, flagged)] == [False, True]
    assert (
        "nearly keep the pace of the sensor's 810 ms"
        in (flagged["notes"]["energy.components GPU-a aliasing"])
    )
    assert "energy.components GPU-a aliasing" not in plain["notes"]


# -- idle baseline -----------------------------------------------------------------------------------------------


def _idle(session: Session, clock: FakeClock) -> None:
    start_s = session.now()
    spend(session, clock, 5.0)
    session.recorder.mark("idle", start_s, session.now())


def test_the_idle_baseline_is_shown_and_never_subtracted(tmp_path: Path):
    def counters(clock: FakeClock) -> Sequence[Any]:
        trace = [(8.0, 60.0), (1.0, 300.0)]  # the clock starts at 3 s
        return [ScriptedEnergy(trace, clock=clock, device="GPU-a", relative_uncertainty=0.05)]

    summary = _summary(tmp_path, counters, before=_idle)
    energy, idle = summary["energy"], summary["energy"]["idle"]
    assert idle["power_w"] == pytest.approx(60.0, abs=3.0)
    assert 0.05 * 60.0 <= idle["plus_minus_w"] < 12.0
    assert idle["energy_j"] == pytest.approx(idle["power_w"] * summary["duration_s"])
    assert energy["measured_j"] == pytest.approx(300.0 * summary["duration_s"], rel=0.01)
    assert idle["share"] == pytest.approx(idle["energy_j"] / energy["measured_j"])


def test_an_idle_baseline_that_was_not_asked_for_is_null_with_the_way_to_it(tmp_path: Path):
    summary = _summary(tmp_path, gpu())
    assert summary["energy"]["idle"] is None
    assert summary["notes"]["energy.idle"] == (
        "the idle baseline was not measured: ask for it with EfficiencyMonitor(idle_s=30) or --idle-s 30"
    )


def test_an_idle_baseline_without_a_sensor_says_so(tmp_path: Path):
    summary = _summary(tmp_path, cpu_only, before=_idle)
    assert summary["energy"]["idle"] is None
    assert summary["notes"]["energy.idle"].startswith("no energy sensor told the idle power")


@pytest.mark.parametrize("idle_s", [0.0, -1.0, 1e6, float("nan"), float("inf")])
def test_a_time_that_nobody_waits_is_refused(idle_s: float):
    with pytest.raises(InvalidValueError, match=r"idle_s = .* is no number of seconds above 0 and up to 600"):
        checked_idle_s(idle_s)


def test_a_sound_idle_time_is_taken():
    assert (checked_idle_s(None), checked_idle_s(30)) == (None, 30)


# -- the counter against its own powers ----------------------------------------------------------------------------


def test_agreement_is_a_ratio_and_no_warning(tmp_path: Path):
    summary = _summary(tmp_path, gpu(), gauge_w=196.0)
    (component,) = summary["energy"]["components"]
    assert component["counter_over_integrated"] == pytest.approx(200.0 / 196.0, rel=0.01)
    assert "energy.components GPU-a cross-check" not in summary["notes"]


def test_disagreement_is_said_with_both_numbers(tmp_path: Path):
    summary = _summary(tmp_path, gpu(), gauge_w=350.0)
    (component,) = summary["energy"]["components"]
    assert component["counter_over_integrated"] == pytest.approx(200.0 / 350.0, rel=0.01)
    warning = summary["notes"]["energy.components GPU-a cross-check"]
    assert warning.startswith("WARNING: its counter and its power readings disagree: 20")
    assert "by integrating instantaneous power over the same time (ratio 0.57)" in warning


def _course(power_column: str, count: int = 300) -> pl.DataFrame:
    time_s = np.arange(count) * 0.1 + 0.03
    columns = {"power_w": [None] * count, "average_power_w": [None] * count} | {power_column: [250.0] * count}
    schema = {"power_w": pl.Float64, "average_power_w": pl.Float64}
    powers = pl.DataFrame(columns, schema=schema)
    return powers.with_columns(
        time_s=pl.Series(time_s), energy_j=pl.Series(200.0 * np.floor(time_s * 10) / 10)
    )


def test_averaged_power_stands_in_where_there_is_no_instantaneous():
    meter = {"update_period_s": 0.1, "relative_uncertainty": 0.0, "power_max_w": 700.0}
    readings = _course("average_power_w")
    check = cross_check(EnergyCurve(readings, meter), readings, [(0.0, 30.0)])
    assert check is not None
    assert (check.kind, check.ratio) == ("averaged", pytest.approx(0.8, rel=0.02))


def test_too_few_powers_say_nothing():
    meter = {"update_period_s": 0.1, "relative_uncertainty": 0.0, "power_max_w": 700.0}
    readings = _course("power_w", count=90)
    assert cross_check(EnergyCurve(readings, meter), readings, [(0.0, 30.0)]) is None
