"""Energy by phase of stored processes with a measured counter: adds up to the run, says how it was got, or why not."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fixtures_phases import Course, Trace, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.measure.sensors.base import Meter
from profiler.metrics.attribution import PhaseShare, phase_shares
from profiler.metrics.devices import DeviceCurve, device_curves, fit_windows
from profiler.metrics.measured_phases import ALIASED, INTEGRATED, PhaseEnergy, device_phases
from profiler.metrics.phase_clock import REST, WHOLE_STEP
from profiler.records import SCHEMAS, STEP_PHASES, Source
from profiler.store.manifest import ProcessFile
from profiler.store.process import StoredProcess
from profiler.store.tables import HeldTables


def _device(
    made: Trace, *, gain: float = 0.05, source: Source = "counter", device: str = "GPU-a"
) -> DeviceCurve:
    """One device of one process, as a reader of the store meets it."""
    meter = asdict(
        Meter(
            component="gpu", device=device, name="scripted", source=source, power_max_w=700.0,
            update_period_s=made.readings.period_s, relative_uncertainty=gain, uncertainty_source="scripted",
        )
    )  # fmt: skip
    readings = pl.DataFrame({"time_s": made.readings.time_s, "energy_j": made.readings.energy_j})
    readings = readings.with_columns(device=pl.lit(device), component=pl.lit("gpu"))
    fit = [("fit", float(made.readings.time_s[0]) + 0.5, float(made.readings.time_s[-1]))]
    marks = [(kind, start, end) for kind, windows in made.pauses.items() for start, end in windows]
    process = StoredProcess(
        folder=Path("nowhere"),
        facts=ProcessFile(
            host="a", rank=0, local_rank=0, world_size=1, pid=1, attempt=1,
            clock={"wall_unix_s": 0.0, "monotonic_s": 0.0}, meters=(meter,),
        ),
        tables=HeldTables(
            steps=made.steps,
            readings=readings,
            marks=pl.DataFrame(
                [dict(zip(("kind", "start_s", "end_s"), mark, strict=True)) | {"note": "{}"} for mark in fit + marks],
                schema_overrides={"start_s": pl.Float64, "end_s": pl.Float64},
            ),
        ),
    )  # fmt: skip
    (found,) = device_curves([process])
    return found


def _run_j(device: DeviceCurve) -> float:
    found = device.energy(fit_windows(device.process))
    assert found is not None
    return found.energy_j


def _shares(*devices: DeviceCurve) -> dict[str, PhaseShare]:
    return {share.phase: share for share in phase_shares([devices[0].process], devices)}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    step_s=st.sampled_from([0.03, 0.2, 1.0]),
    duration_s=st.sampled_from([10.0, 40.0]),
)
def test_phases_add_up_to_the_run_exactly(seed: int, step_s: float, duration_s: float):
    course = Course(step_s=step_s, period_s=0.1, duration_s=duration_s, stalls=0.02, pause_every_s=9.0)
    device = _device(trace(course, np.random.default_rng(seed)))
    found = device_phases(device)
    assert sum(energy.energy_j for energy in found.values()) == pytest.approx(_run_j(device), rel=1e-9)
    assert all(energy.plus_minus_j >= 0.0 for energy in found.values())


def test_known_powers_are_found_within_their_bars_and_the_method_is_said():
    made = trace(
        Course(step_s=0.4, period_s=0.1, duration_s=120.0, pause_every_s=30.0), np.random.default_rng(11)
    )
    phases = _shares(_device(made))
    for name in ("forward", "backward", "validation"):
        share = phases[name]
        assert share.energy_j is not None
        assert share.plus_minus_j is not None
        assert abs(share.energy_j - made.joules[name]) <= share.plus_minus_j
        assert share.source == "measured"
    assert (phases["backward"].method, phases["validation"].method) == ("regression", "windows")
    known = [share.energy_j for share in phases.values()]
    assert all(joules is not None or phases[name].reason for name, joules in zip(phases, known, strict=True))


def test_the_meters_gain_is_in_the_bar():
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=60.0), np.random.default_rng(11))
    exact, rough = (_shares(_device(made, gain=gain))["backward"] for gain in (0.0, 0.2))
    assert exact.energy_j == rough.energy_j
    assert rough.energy_j is not None
    assert rough.plus_minus_j == pytest.approx(np.hypot(exact.plus_minus_j or 0.0, 0.2 * rough.energy_j))


def test_what_the_regression_refuses_keeps_the_worst_case_of_time():
    """Half a minute is too short here, but nearly all of a step is backward."""
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=10.0), np.random.default_rng(11))
    steps = made.steps.with_columns(
        backward_s=pl.col("duration_s"), forward_s=pl.lit(0.0), data_s=pl.lit(0.0)
    )
    steps = steps.with_columns(optimizer_s=pl.lit(0.0), other_s=pl.lit(0.0))
    alone = Trace(steps=steps, pauses=made.pauses, readings=made.readings, joules=made.joules)
    found = device_phases(_device(alone, gain=0.0))["backward"]
    assert found.method == "bound"
    assert found.reason is not None
    assert found.plus_minus_j < 1e-6 * found.energy_j
    mixed = _shares(_device(made))["optimizer"]
    assert (mixed.energy_j, mixed.method) == (None, None)
    assert mixed.reason == "the counter was read for 11 s, and it takes 24 s to tell phases apart"


def test_energy_added_up_from_power_is_not_divided():
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=60.0), np.random.default_rng(11))
    found = device_phases(_device(made, source="integrated"))
    assert {energy.reason for name, energy in found.items() if name in STEP_PHASES} == {INTEGRATED}


def test_steps_in_a_part_time_sensors_pace_are_not_divided():
    made = trace(
        Course(step_s=0.1, period_s=0.1, duration_s=60.0, step_jitter=0.001), np.random.default_rng(11)
    )
    found = device_phases(_device(made))
    assert {energy.reason for name, energy in found.items() if name in STEP_PHASES} == {ALIASED}


def test_what_a_frozen_counter_did_not_tell_moves_no_phase():
    """It stands still for 12 s; what it had counted meanwhile is lost."""
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=480.0), np.random.default_rng(11))
    time_s, energy_j = made.readings.time_s, made.readings.energy_j.copy()
    still = (time_s >= 50.0) & (time_s < 62.0)
    lost_j = energy_j[still][-1] - energy_j[still][0]
    energy_j[still] = energy_j[still][0]
    energy_j[time_s >= 62.0] -= lost_j
    frozen = replace(made, readings=replace(made.readings, energy_j=energy_j))
    before, after = _shares(_device(made))["backward"], _shares(_device(frozen))["backward"]
    assert before.energy_j is not None
    assert after.energy_j is not None
    assert after.method == "regression"
    assert after.energy_j == pytest.approx(before.energy_j * (1.0 - 12.0 / 481.0), rel=0.01)


def test_devices_of_one_process_are_added_with_their_bars():
    random = np.random.default_rng(11)
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=60.0), random)
    one, two = _device(made), _device(made, device="GPU-b")
    single, both = _shares(one)["backward"], _shares(one, two)["backward"]
    assert single.energy_j is not None
    assert single.plus_minus_j is not None
    assert both.energy_j == pytest.approx(2 * single.energy_j)
    assert both.plus_minus_j == pytest.approx(2 * single.plus_minus_j)


def test_steps_without_phases_beside_steps_with_them_are_a_row_of_their_own():
    """On CUDA an event may never come: that step keeps its duration only."""
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=60.0), np.random.default_rng(11))
    odd = pl.int_range(pl.len()) % 10 == 0
    steps = made.steps.with_columns(
        pl.when(odd).then(None).otherwise(pl.col(f"{phase}_s")).alias(f"{phase}_s") for phase in STEP_PHASES
    )
    device = _device(Trace(steps=steps, pauses=made.pauses, readings=made.readings, joules=made.joules))
    found = device_phases(device)
    assert found[WHOLE_STEP].method == "windows"
    assert sum(energy.energy_j for energy in found.values()) == pytest.approx(_run_j(device), rel=1e-9)
    phases = _shares(device)
    assert phases[WHOLE_STEP].duration_s == pytest.approx(
        steps.filter(pl.col("data_s").is_null())["duration_s"].sum()
    )
    assert phases["backward"].duration_s == pytest.approx(steps["backward_s"].sum())


def test_a_counter_that_never_moved_is_named():
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=10.0), np.random.default_rng(11))
    device = _device(made)
    still = device.process.readings.with_columns(energy_j=pl.lit(5.0))
    held = HeldTables(steps=device.process.steps, readings=still, marks=device.process.marks)
    (dead,) = device_curves([replace(device.process, tables=held)])
    reasons = {share.reason for share in _shares(dead).values()}
    assert reasons == {"the counter of GPU-a was read less than twice, or never moved"}


def test_a_run_without_pauses_and_steps_is_all_rest():
    made = trace(Course(step_s=0.4, period_s=0.1, duration_s=10.0), np.random.default_rng(11))
    none = pl.DataFrame(schema=SCHEMAS["steps"])
    device = _device(Trace(steps=none, pauses={}, readings=made.readings, joules=made.joules))
    found = device_phases(device)
    assert list(found) == [REST]
    assert isinstance(found[REST], PhaseEnergy)
    assert found[REST].energy_j == pytest.approx(_run_j(device))
