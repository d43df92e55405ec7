"""The verdict: each finding speaks when its numbers are there and clear, and is silent otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_scripted import gpu_and_cpu, waiting_run

from profiler.metrics.evidence import Evidence, GpuGauges
from profiler.metrics.findings import JUDGES, Case, Finding
from profiler.metrics.summary import summarize
from profiler.metrics.verdict import TOO_SHORT
from profiler.report.terminal import run_table

SHARES = {"data": 0.02, "forward": 0.3, "backward": 0.6, "optimizer": 0.05, "other": 0.03}
SUMMARY: dict[str, Any] = {
    "duration_s": 10.0,
    "world_size": 1,
    "energy": {
        "headline": "measured",
        "measured_j": 1000.0,
        "idle": None,
        "components": [
            {"rank": 0, "source": "counter", "energy_j": 1000.0},
            {"rank": 0, "source": "estimated", "energy_j": 77.0},
            {"rank": 1, "source": "counter", "energy_j": 1000.0},
        ],
    },
    "phases": [
        {"phase": "backward", "duration_s": 5.4, "energy_j": 600.0, "source": "measured"},
        {"phase": "forward", "duration_s": 2.7, "energy_j": 300.0, "source": "measured"},
        {"phase": "outside steps", "duration_s": 1.0, "energy_j": None, "source": None},
    ],
    "throttling": [],
    "efficiency": {"mfu": 0.5, "roofline": None},
}
WELL = Case(
    evidence=Evidence(
        steps=100,
        step_s=9.0,
        shares=SHARES,  # type: ignore[arg-type]
        halves=(SHARES, SHARES),  # type: ignore[arg-type]
        busy_threads={"data": 1.0, "forward": 1.0},
        gpu=GpuGauges(kernel_running=0.97, sm_activity=0.8, tensor_activity=0.5, power_share=0.9),
        samples_per_step=8.0,
    ),
    summary=SUMMARY,
    peak_dtype="bf16",
    openmp_policy="ACTIVE",
)


def _found(case: Case) -> dict[str, Finding]:
    found = [finding for judge in JUDGES if (finding := judge(case))]
    return {finding.finding: finding for finding in found}


def _with(
    case: Case = WELL, *, summary: dict[str, Any] | None = None, dtype: str | None = "bf16", **evidence: Any
) -> Case:
    return replace(
        case,
        evidence=replace(case.evidence, **evidence),
        summary={**case.summary, **(summary or {})},
        peak_dtype=dtype,
    )  # fmt: skip


def _waits(share: float, last_half: float | None = None) -> dict[str, Any]:
    shares = {**SHARES, "data": share}
    return {
        "shares": shares,
        "halves": (shares, {**SHARES, "data": share if last_half is None else last_half}),
    }


def test_a_healthy_run_hears_only_where_its_time_and_joules_went():
    found = _found(WELL)
    assert set(found) == {"where"}
    assert (
        found["where"].says == "54% of the time went into the backward pass, 60% of the joules into the same."
    )
    assert found["where"].first_try is None


FAULTS = {
    "data_bound": (_with(**_waits(0.4)), "Data-bound: 40% of the step time"),
    "launch_bound": (_with(gpu=GpuGauges(kernel_running=0.45)), "no kernel ran on the GPU in 55%"),
    "small_batch": (
        _with(gpu=GpuGauges(kernel_running=0.99, sm_activity=0.12)),
        "only 12% of its multiprocessors had work at 8 samples a step",
    ),
    "throttled": (
        _with(summary={"throttling": [{"device": "a", "reason": "hardware thermal slowdown", "share": 0.3}]}),
        "held the clocks back in 30% of readings (hardware thermal slowdown)",
    ),
    "power_capped": (
        _with(summary={"throttling": [{"device": "a", "reason": "software power cap", "share": 0.8}]}),
        "in 80% of readings",
    ),
    "spinning": (
        _with(busy_threads={"data": 7.6}),
        "7.6 threads of this process were busy (OMP_WAIT_POLICY=ACTIVE)",
    ),
    "idle_draw": (
        _with(summary={"energy": {**SUMMARY["energy"], "idle": {"share": 0.45}}}),
        "45% of the energy",
    ),
    "validation": (
        _with(
            summary={
                "phases": [{"phase": "validation", "duration_s": 4.0, "energy_j": 90.0, "source": "measured"}]
            }
        ),
        "40% of the time went into validation (4 s of 10 s, 90 J)",
    ),
    "outside": (
        _with(
            summary={
                "phases": [{"phase": "outside steps", "duration_s": 3.0, "energy_j": None, "source": None}]
            }
        ),
        "30% of the time went into work outside of steps",
    ),
    "memory_bound": (
        _with(
            summary={
                "efficiency": {
                    "mfu": 0.1,
                    "roofline": {
                        "bound": "memory",
                        "share_of_attainable": 0.7,
                        "intensity_flops_per_byte": 12.0,
                        "bytes_source": "measured dram activity",
                    },
                }
            }
        ),
        "12 FLOP for each byte moved, and 70% of the speed",
    ),
    "precision": (_with(dtype="tf32"), "ran in tf32 at 50% of that dtype's peak"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_numbers_and_what_to_try(name: str):
    case, words = FAULTS[name]
    found = _found(case)
    assert set(found) == {"where", name}
    assert words in found[name].says
    assert found[name].first_try
    assert found[name].numbers
    assert 0.0 < found[name].share <= 1.0


@pytest.mark.parametrize(
    ("why", "case"),
    [
        ("waiting passed", _with(**_waits(0.3, last_half=0.01))),
        ("phases were not timed", _with(shares={}, halves=(), busy_threads={})),
        (
            "the gpu tells nothing",
            _with(gpu=GpuGauges(), summary={"efficiency": {"mfu": None, "roofline": None}}),
        ),
        ("no gpu at all", _with(gpu=None, dtype="fp32")),
        ("idle for want of data is not launch-bound", _with(gpu=GpuGauges(kernel_running=0.9))),
        (
            "unfused operator bytes are an upper bound",
            _with(
                summary={
                    "efficiency": {
                        "mfu": 0.1,
                        "roofline": {
                            "bound": "memory",
                            "share_of_attainable": 0.7,
                            "bytes_source": "operators, unfused",
                        },
                    }
                }
            ),
        ),
    ],
)
def test_it_is_silent_where_the_data_cannot_say(why: str, case: Case):
    assert set(_found(case)) <= {"where"}, why


def test_waiting_for_data_is_not_blamed_on_launching():
    found = _found(_with(gpu=GpuGauges(kernel_running=0.5), **_waits(0.5)))
    assert set(found) == {"where", "data_bound"}


def _recorded(runs_dir: Path, **how: Any) -> dict[str, Any]:
    return summarize(waiting_run(runs_dir, **how))


def test_a_recorded_run_that_waits_is_told_so(tmp_path: Path):
    summary = _recorded(tmp_path, steps=40, data_s=0.2)
    assert [finding["finding"] for finding in summary["verdict"]] == ["where", "data_bound"]
    assert summary["verdict"][1]["numbers"]["data_share"] == pytest.approx(0.5)
    assert "~ 32 J" in summary["verdict"][1]["says"], "40 waits of 0.2 s at 4 W"


def test_a_recorded_run_that_does_not_wait_is_not_told_so(tmp_path: Path):
    summary = _recorded(tmp_path, steps=40, data_s=0.001, counters=gpu_and_cpu)
    assert [finding["finding"] for finding in summary["verdict"]] == ["where"]


def test_a_short_run_is_not_judged_and_says_why(tmp_path: Path):
    summary = _recorded(tmp_path, steps=10, data_s=0.2)
    assert summary["verdict"] is None
    assert summary["notes"]["verdict"] == TOO_SHORT


def test_the_terminal_shows_the_verdict_and_what_to_try(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from profiler.report.terminal import show

    show(run_table(_recorded(tmp_path, steps=40, data_s=0.2)))
    shown = capsys.readouterr().out
    assert "Data-bound: 50% of the step time" in shown
    assert "try: more DataLoader workers" in shown
