"""Metrics of runs recorded by the real Session, Recorder and store, over scripted sensors and a fake clock."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fixtures_scripted import (
    JOULES_PER_CPU_S,
    NEVER_S,
    FakeClock,
    Script,
    ScriptedCpu,
    cpu_only,
    gpu,
    gpu_and_cpu,
    nothing,
    scripted_run,
    spend,
    waiting_run,
)

from profiler.carbon.factors import CarbonFactors
from profiler.measure.guard import Guard
from profiler.measure.peak import Peak
from profiler.measure.ranks import Place
from profiler.measure.recorder import Memory, Work
from profiler.measure.sensors.base import Probe
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts, Session
from profiler.metrics.attribution import REST, WHOLE_STEP
from profiler.metrics.overview import OVERVIEW_SCHEMA, overview
from profiler.metrics.points import POINT_SCHEMA, scale_points
from profiler.metrics.summary import summarize
from profiler.metrics.timeline import power_timeline, step_timeline
from profiler.store.manifest import write_json
from profiler.store.run import StoredRun
from profiler.store.runs import open_run, scan_runs
from profiler.store.tables import HeldTables

STEP_S = 0.8
SHOWN = {
    "": "run_id workload preset status steps tokens samples duration_s energy phases throughput efficiency memory"
    " carbon phenomenon notes",
    "energy": "measured_j measured_plus_minus_j estimated_j estimated_plus_minus_j components",
    "throughput": "tokens_per_s samples_per_s step_s_p50 step_s_p95",
    "efficiency": "model_flops flops_source flops_per_s peak_flops_per_s peak_source mfu hfu tokens_per_j"
    " energy_per_token_j",
    "memory": "peak_allocated_bytes peak_reserved_bytes peak_host_rss_bytes",
    "carbon": "carbon_intensity_g_per_kwh carbon_intensity_source pue facility_energy_kwh emissions_g"
    " emissions_low_g emissions_high_g embodied_g water_l cost",
}
"""The list of `show --json` in the architecture."""


def _phases(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {phase["phase"]: phase for phase in summary["phases"]}


def _check_keys_and_notes(summary: dict[str, Any]) -> None:
    for where, names in SHOWN.items():
        part = summary[where] if where else summary
        assert set(names.split()) <= set(part)
        for name, value in part.items():
            key = f"{where}.{name}" if where else name
            assert value is not None or summary["notes"].get(key), f"{key} is null without a reason"
            assert value is not None or summary["notes"][key] != "not recorded", key
    for component in summary["energy"]["components"]:
        assert {"component", "device", "energy_j", "plus_minus_j", "source", "coverage"} <= set(component)
    for phase in summary["phases"]:
        assert {"phase", "duration_s", "energy_j", "plus_minus_j"} <= set(phase)
        assert phase["energy_j"] is not None or summary["notes"]["phases.energy_j"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


# -- one run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counters", [gpu_and_cpu, gpu(), cpu_only, nothing])
@pytest.mark.parametrize("steps", [8, 0])
def test_every_key_is_there_and_what_is_null_has_a_reason(tmp_path: Path, counters: Any, steps: int):
    facts = RunFacts(
        workload=None, params=1, seed=0, notes={"mfu": "no peak", "tokens": "elements of input_ids"}
    )
    run = scripted_run(
        tmp_path, Script(steps=steps, model_flops=None, loss=1.0), counters=counters, facts=facts
    )
    run.manifest.notes.setdefault("model_flops", "the model is compiled")  # type: ignore[attr-defined]
    summary = summarize(run)
    _check_keys_and_notes(summary)
    notes = summary["notes"]
    if steps:
        assert notes["efficiency.mfu"] == notes["efficiency.model_flops"] == "the model is compiled"
    else:
        assert notes["throughput.tokens_per_s"] == "no training step was recorded"
    if counters is nothing and steps:
        assert notes["efficiency.tokens_per_j"] == "nothing was estimated"
    if counters is cpu_only:
        assert notes["energy.measured_j"] == "no energy sensor could be read"
    assert notes["carbon.emissions_g"] != notes["carbon.cost"]


def test_measured_is_never_added_to_estimated(tmp_path: Path):
    summary = summarize(scripted_run(tmp_path, Script(steps=10)))
    energy, run_s = summary["energy"], 0.5 + 10 * STEP_S
    assert summary["duration_s"] == pytest.approx(run_s)
    assert energy["measured_j"] == pytest.approx(200.0 * run_s, abs=1e-6)
    assert energy["estimated_j"] == pytest.approx(JOULES_PER_CPU_S * run_s, abs=1e-6)
    assert energy["estimated_plus_minus_j"] >= 0.4 * energy["estimated_j"]
    assert energy["headline"] == "measured"
    assert {(c["component"], c["source"], c["coverage"]) for c in energy["components"]} == {
        ("gpu", "counter", 1.0),
        ("cpu", "estimated", 1.0),
    }
    assert summary["efficiency"]["energy_per_token_j"] == pytest.approx(200.0 * run_s / 10_000)


def test_without_a_sensor_the_estimate_is_the_headline(tmp_path: Path):
    summary = summarize(scripted_run(tmp_path, counters=cpu_only))
    assert summary["energy"]["headline"] == "estimated"
    assert summary["energy"]["measured_j"] is None
    assert summary["efficiency"]["tokens_per_j"] == pytest.approx(10_000 / summary["energy"]["estimated_j"])


def test_a_device_without_energy_leaves_no_sum(tmp_path: Path):
    def counters(clock: Any) -> Any:
        return [*gpu()(clock), *gpu(device="GPU-lost", fails_at_s=0.0)(clock)]

    summary = summarize(scripted_run(tmp_path, counters=counters))
    assert summary["energy"]["measured_j"] is None
    assert summary["notes"]["energy.measured_j"] == (
        "the energy of a device is unknown, and a sum with a hole is no sum"
    )
    assert (
        summary["notes"]["energy.components GPU-lost"]
        == "its counter was read less than twice, or never moved"
    )
    assert summary["notes"]["sensor GPU-lost"] == "the scripted sensor is lost"
    assert summary["efficiency"]["energy_per_token_j"] is None
    assert summary["notes"]["efficiency.energy_per_token_j"] == summary["notes"]["energy.measured_j"]


def test_throughput_counts_time_inside_steps_only(tmp_path: Path):
    summary = summarize(
        scripted_run(tmp_path, Script(steps=10, validation_after=[2, 5], checkpoint_after=[10]))
    )
    assert summary["throughput"]["tokens_per_s"] == pytest.approx(1000 / STEP_S)
    assert summary["throughput"]["samples_per_s"] == pytest.approx(8 / STEP_S)
    assert summary["throughput"]["step_s_p50"] == pytest.approx(STEP_S)
    assert summary["duration_s"] == pytest.approx(0.5 + 10 * STEP_S + 3 * 0.6)


def test_mfu_is_a_share_of_the_peak(tmp_path: Path):
    peak = Peak(flops_per_s=1e10, dtype="fp32", source="given")
    efficiency = summarize(scripted_run(tmp_path, peak=peak))["efficiency"]
    assert efficiency["mfu"] == pytest.approx(1e9 / STEP_S / 1e10)
    assert (efficiency["peak_flops_per_s"], efficiency["peak_source"]) == (1e10, "given")


def test_an_mfu_above_1_is_refused_with_the_cause(tmp_path: Path):
    peak = Peak(flops_per_s=1e9, dtype="fp32", source="given")
    run = scripted_run(tmp_path, peak=peak)
    summary = summarize(run)
    assert summary["efficiency"]["mfu"] is None
    assert summary["notes"]["efficiency.mfu"] == (
        "1.25e+09 FLOP/s is 1.25x the peak of 1e+09, which cannot be: peak_flops_per_s= is too low for these devices or"
        " this dtype. It is one device's dense peak; leave it out for the datasheet's. MFU is null."
    )
    assert scale_points([run])["mfu"].to_list() == [None]


def test_tokens_unknown_in_one_step_are_unknown_in_the_sum(tmp_path: Path):
    summary = summarize(scripted_run(tmp_path, Script(tokens=None)))
    assert summary["tokens"] is None
    assert summary["throughput"]["tokens_per_s"] is None
    assert summary["samples"] == 80


def test_memory_is_the_most_that_was_seen(tmp_path: Path):
    memory = Memory(allocated=1, reserved=2, peak=3, peak_reserved=4, host_rss=5)
    found = summarize(scripted_run(tmp_path, Script(memory=memory)))["memory"]
    assert found == {"peak_allocated_bytes": 3, "peak_reserved_bytes": 4, "peak_host_rss_bytes": 5}


# -- phases ------------------------------------------------------------------------------------------------------


def test_estimated_phases_add_up_to_the_run(tmp_path: Path):
    script = Script(steps=10, validation_after=[3], checkpoint_after=[10])
    summary = summarize(scripted_run(tmp_path, script, counters=cpu_only))
    phases = _phases(summary)
    assert set(phases) == {"data", "forward", "backward", "optimizer", "validation", "checkpoint", REST}
    assert sum(p["energy_j"] for p in phases.values()) == pytest.approx(
        summary["energy"]["estimated_j"], rel=1e-9
    )
    assert sum(p["duration_s"] for p in phases.values()) == pytest.approx(summary["duration_s"])
    assert phases["backward"]["energy_j"] == pytest.approx(10 * 0.4 * JOULES_PER_CPU_S)
    assert phases["validation"]["energy_j"] == pytest.approx(0.6 * JOULES_PER_CPU_S)
    assert all(p["source"] == "estimated" for p in phases.values())


def test_phases_that_claim_more_cpu_time_than_the_counter_saw_are_cut_to_it(tmp_path: Path):
    """The counter was read late, or lost: half of the joules that the phases' own CPU seconds stand for."""

    class Half(ScriptedCpu):
        def read(self) -> float:
            return super().read() / 2.0

    summary = summarize(scripted_run(tmp_path, counters=lambda clock: [Half(clock)]))
    phases = [p["energy_j"] for p in summary["phases"]]
    assert sum(phases) == pytest.approx(summary["energy"]["estimated_j"])


@pytest.mark.parametrize("fit_mark", [True, False])
def test_phases_never_exceed_the_run(tmp_path: Path, fit_mark: bool):
    """Killed runs have no fit mark; pauses then still belong to the run."""
    script = Script(steps=6, validation_after=[6], checkpoint_after=[2, 6], fit_mark=fit_mark)
    for name, counters, kind in (("cpu", cpu_only, "estimated"), ("gpu", gpu(), "measured")):
        summary = summarize(scripted_run(tmp_path, script, name=name, counters=counters))
        known = [p["energy_j"] for p in summary["phases"] if p["energy_j"] is not None]
        assert sum(known) <= summary["energy"][f"{kind}_j"] * (1 + 1e-9)


def test_a_measured_phase_as_mixed_as_a_step_is_null_and_a_pause_is_known(tmp_path: Path):
    def bursts(clock: Any) -> Any:
        return [ScriptedEnergy([(5.0, 20.0), (0.5, 700.0), (1.0, 20.0)], clock=clock)]

    summary = summarize(scripted_run(tmp_path, Script(steps=10, validation_after=[9]), counters=bursts))
    phases = _phases(summary)
    assert phases["backward"]["energy_j"] is None
    assert phases["optimizer"]["energy_j"] is None
    assert summary["notes"]["phases.energy_j"] == (
        "backward, forward, optimizer, data: the counter changed 91 times, and it takes 100 to tell phases apart"
    )


def test_steps_whose_phases_are_unknown_are_one_phase(tmp_path: Path):
    script = Script(steps=10, checkpoint_after=[5], phases_known=False)
    phases = _phases(summarize(scripted_run(tmp_path, script, counters=gpu())))
    assert phases[WHOLE_STEP]["energy_j"] == pytest.approx(10 * STEP_S * 200.0, abs=1e-6)
    assert phases["checkpoint"]["energy_j"] == pytest.approx(0.6 * 200.0, abs=1e-6)


def test_a_pause_between_microbatches_is_not_counted_twice(tmp_path: Path):
    """A step's row has a start and a duration: with a pause inside, its end is later than their sum."""
    clock = FakeClock()
    sensor = ScriptedEnergy([(1.0, 100.0), (5.0, 500.0), (4.0, 100.0)], clock=clock)
    place = Place(rank=0, local_rank=0, world_size=1)
    session = Session(
        tmp_path, RunFacts(), place=place, probes=[Probe(counter=sensor)], guard=Guard(), name="r", clock=clock,
        phases_known=False, sampling_period_s=NEVER_S,
    )  # fmt: skip
    session.recorder.enter("forward")
    spend(session, clock, 1.0)
    with session.recorder.within("validation"):
        spend(session, clock, 5.0)
    spend(session, clock, 1.0)
    session.recorder.end_step(1, Work())
    session.recorder.enter("forward")
    spend(session, clock, 2.0)
    session.recorder.end_step(2, Work())
    session.recorder.enter(None)
    session.recorder.mark("fit", 0.0, session.now())
    session.close("finished")
    phases = _phases(summarize(open_run(tmp_path, "r")))
    assert phases["validation"]["energy_j"] == pytest.approx(2500.0, rel=0.03)
    assert phases[WHOLE_STEP]["energy_j"] == pytest.approx(400.0, rel=0.1)


# -- points, overview, timelines ---------------------------------------------------------------------------------


def test_points_of_budgets_use_their_windows_only(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=10, budget_after=[4, 8], validation_after=[9]), counters=gpu())
    points = scale_points([run], CarbonFactors(intensity_g_per_kwh=100.0))
    assert points.schema == POINT_SCHEMA
    assert points["budget_tokens"].to_list() == [4000, 8000]
    assert points["duration_s"].to_list() == pytest.approx([4 * STEP_S, 8 * STEP_S])
    assert points["energy_j"].to_list() == pytest.approx([4 * STEP_S * 200, 8 * STEP_S * 200], abs=1e-6)
    assert points["energy_per_token_j"].to_list() == pytest.approx([0.16, 0.16], abs=1e-6)
    assert points["flops_per_s"].to_list() == pytest.approx([1e9 / STEP_S] * 2)
    assert points["loss"].to_list() == pytest.approx([2.6, 2.2])
    assert points["energy_source"].to_list() == ["measured"] * 2
    assert (points["emissions_low_g"] <= points["emissions_g"]).all()


def test_a_run_without_budgets_is_one_point_and_one_without_steps_none(tmp_path: Path):
    runs = [
        scripted_run(tmp_path, name="whole", counters=cpu_only),
        scripted_run(tmp_path, Script(steps=0), name="empty"),
    ]
    points = scale_points(runs)
    assert points["run_id"].to_list() == ["whole"]
    assert points["energy_source"].to_list() == ["estimated"]
    assert points["tokens"].to_list() == [10_000]
    assert points["loss"].to_list() == [2.5]
    assert scale_points([]).schema == POINT_SCHEMA


def test_the_overview_has_one_row_a_run_newest_first(tmp_path: Path):
    for name in ("one", "two"):
        scripted_run(tmp_path, name=name)
    frame = overview(scan_runs(tmp_path))
    assert frame.schema == OVERVIEW_SCHEMA
    assert frame["run_id"].to_list() == ["two", "one"]
    assert frame["energy_source"].to_list() == ["measured"] * 2
    assert overview([]).schema == OVERVIEW_SCHEMA


def test_timelines_show_power_and_rates(tmp_path: Path):
    run = scripted_run(tmp_path)
    power = power_timeline(run).filter(pl.col("device") == "GPU-a")["power_w"].drop_nulls()
    assert len(power) > 50
    assert power.to_list() == pytest.approx([200.0] * len(power), abs=1e-3)
    steps = step_timeline(run)
    assert steps["tokens_per_s"].to_list() == pytest.approx([1000 / STEP_S] * 10)
    assert power_timeline(scripted_run(tmp_path, name="none", counters=nothing)).is_empty()


# -- many ranks --------------------------------------------------------------------------------------------------


def _two_ranks(tmp_path: Path) -> StoredRun:
    for rank in (0, 1):
        scripted_run(tmp_path, Script(steps=10), counters=gpu_and_cpu, rank=rank, world_size=2, name="ddp")
    return open_run(tmp_path, "ddp")


def test_ranks_add_work_and_share_time(tmp_path: Path):
    summary = summarize(_two_ranks(tmp_path))
    assert (summary["tokens"], summary["samples"], summary["steps"]) == (20_000, 160, 10)
    assert summary["duration_s"] == pytest.approx(0.5 + 10 * STEP_S)
    assert summary["throughput"]["tokens_per_s"] == pytest.approx(2000 / STEP_S)


def test_a_gpu_that_two_ranks_read_is_counted_once_and_each_ranks_cpu_time_is_its_own(tmp_path: Path):
    energy = summarize(_two_ranks(tmp_path))["energy"]
    run_s = 0.5 + 10 * STEP_S
    assert energy["measured_j"] == pytest.approx(200.0 * run_s, abs=1e-6)
    assert energy["estimated_j"] == pytest.approx(2 * JOULES_PER_CPU_S * run_s, abs=1e-6)
    assert [c["device"] for c in energy["components"]].count("GPU-a") == 1


def test_a_rank_whose_tables_are_lost_leaves_no_sum(tmp_path: Path):
    for rank in (0, 1):
        counters = gpu(device=f"GPU-{rank}")
        scripted_run(tmp_path, counters=counters, rank=rank, world_size=2, name="ddp")
    run = open_run(tmp_path, "ddp")
    whole_j = summarize(run)["energy"]["measured_j"]
    assert whole_j == pytest.approx(2 * 200.0 * (0.5 + 10 * STEP_S), abs=1e-6)
    for part in run.processes[1].folder.glob("*.parquet"):
        part.write_bytes(b"")
    assert summarize(open_run(tmp_path, "ddp"))["energy"]["measured_j"] is None


def test_a_resumed_run_adds_its_attempts(tmp_path: Path):
    for status in ("interrupted", "finished"):
        scripted_run(tmp_path, Script(steps=5), counters=gpu(), status=status)
    summary = summarize(open_run(tmp_path, "scripted"))
    assert summary["energy"]["measured_j"] == pytest.approx(2 * 200.0 * (0.5 + 5 * STEP_S), abs=1e-6)
    assert summary["duration_s"] == pytest.approx(2 * (0.5 + 5 * STEP_S))


def test_a_manifest_that_lost_its_seed_is_still_listed(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=2))
    write_json(run.path / "run.json", replace(run.manifest, seed=None, params=None))
    assert overview(scan_runs(tmp_path))["seed"].to_list() == [None]


@pytest.mark.parametrize("column", ["power_w", "average_power_w"])
def test_the_timeline_shows_the_power_that_the_device_told(tmp_path: Path, column: str):
    run = scripted_run(tmp_path, counters=gpu(), name="told")
    process = run.processes[0]
    unknown = process.readings.with_columns(pl.lit(None, pl.Float64).alias("power_w"))
    told = unknown.with_columns(pl.lit(333.0).alias(column))
    held = HeldTables(steps=process.steps, readings=told, marks=process.marks)
    run.__dict__["processes"] = (replace(process, tables=held),)
    assert set(power_timeline(run)["power_w"].drop_nulls()) == {333.0}


def test_a_loss_that_became_nan_is_null_and_says_since_when(tmp_path: Path):
    summary = summarize(waiting_run(tmp_path, steps=4, data_s=0.1, losses=(1.5, 1.4, math.nan, math.nan)))
    assert summary["loss"] is None
    why = "the training loss is nan from step 2 to the end; the last finite one was 1.4, of step 1"
    assert summary["notes"]["loss"] == why


def test_a_single_nan_on_the_way_is_passed_over(tmp_path: Path):
    summary = summarize(waiting_run(tmp_path, steps=3, data_s=0.1, losses=(1.5, math.inf, 1.2)))
    assert summary["loss"] == 1.2
    assert "loss" not in summary["notes"]
