"""MFU, HFU and the roofline, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from profiler.metrics.efficiency import StepTotals, efficiency, mfu_of
from profiler.metrics.roofline import (
    MEASURED,
    NOT_SHOWN,
    OPERATORS,
    Limits,
    Roofline,
    Traffic,
    measured_traffic,
    notes_of,
    roofline,
)
from profiler.records import SCHEMAS
from profiler.store.manifest import Manifest, ProcessFile
from profiler.store.process import StoredProcess
from profiler.store.tables import HeldTables

H200 = Limits(flops_per_s=989.5e12, bytes_per_s=4.8e12, bytes_source="datasheet: NVIDIA H200 datasheet, SXM")
RIDGE = 989.5 / 4.8  # 206 FLOP/B


def test_below_the_ridge_memory_is_the_limit():
    place = roofline(120e12, Traffic(bytes_per_s=2.4e12, source=MEASURED), H200)
    assert place.bound == "memory"
    assert place.intensity_flops_per_byte == pytest.approx(50.0)
    assert place.ridge_flops_per_byte == pytest.approx(RIDGE)
    assert place.attainable_flops_per_s == pytest.approx(240e12)
    assert place.share_of_attainable == place.share_of_bandwidth == pytest.approx(0.5)
    assert notes_of(place) == {}


def test_above_the_ridge_compute_is_the_limit():
    place = roofline(494.75e12, Traffic(bytes_per_s=1.2e12, source=MEASURED), H200)
    assert place.bound == "compute"
    assert place.attainable_flops_per_s == 989.5e12
    assert place.share_of_attainable == pytest.approx(0.5)
    assert place.share_of_bandwidth == pytest.approx(0.25)


def test_the_operators_traffic_shows_a_run_bound_by_compute_but_none_bound_by_memory():
    assert roofline(400e12, Traffic(bytes_per_s=1e12, source=OPERATORS), H200).bound == "compute"
    place = roofline(100e12, Traffic(bytes_per_s=4e12, source=OPERATORS), H200)
    assert (place.bound, place.attainable_flops_per_s, place.share_of_attainable) == (None, None, None)
    assert place.intensity_flops_per_byte == 25.0
    assert notes_of(place) == {"efficiency.roofline.bound": NOT_SHOWN}


def test_a_run_above_its_roof_has_no_share():
    place = roofline(2000e12, Traffic(bytes_per_s=1e12, source=MEASURED), H200)
    assert (place.bound, place.share_of_attainable) == ("compute", None)
    assert "efficiency.roofline.share_of_attainable" in notes_of(place)


@pytest.mark.parametrize(
    ("flops_per_s", "traffic", "limits"),
    [
        (None, Traffic(bytes_per_s=1e12, source=MEASURED), H200),
        (1e12, Traffic(), H200),
        (1e12, Traffic(bytes_per_s=0.0, source=MEASURED), H200),
        (
            1e12,
            Traffic(bytes_per_s=1e12, source=MEASURED),
            Limits(flops_per_s=None, bytes_per_s=1.0, bytes_source=""),
        ),
        (
            1e12,
            Traffic(bytes_per_s=1e12, source=MEASURED),
            Limits(flops_per_s=1.0, bytes_per_s=None, bytes_source=""),
        ),
    ],
)
def test_without_one_input_there_is_no_place(flops_per_s: float | None, traffic: Traffic, limits: Limits):
    place = roofline(flops_per_s, traffic, limits)
    assert (place.bound, place.attainable_flops_per_s, place.share_of_attainable) == (None, None, None)
    assert (
        roofline(None, Traffic(), Limits(flops_per_s=None, bytes_per_s=None, bytes_source=None)) == Roofline()
    )


# -- measured traffic --------------------------------------------------------------------------------------------


def _process(readings: list[dict[str, Any]], steps: list[dict[str, Any]]) -> StoredProcess:
    facts = ProcessFile(host="h", rank=0, local_rank=0, world_size=1, pid=1, attempt=1, clock={})
    return StoredProcess(
        folder=Path("nowhere"),
        facts=facts,
        tables=HeldTables(
            steps=pl.DataFrame(steps, schema=SCHEMAS["steps"]),
            readings=pl.DataFrame(readings, schema=SCHEMAS["readings"]),
        ),
    )


def _reading(time_s: float, activity: float | None, device: str = "GPU-a") -> dict[str, Any]:
    return {
        "time_s": time_s,
        "component": "gpu",
        "device": device,
        "source": "counter",
        "dram_activity": activity,
    }


STEPS = [{"rank": 0, "step": n, "start_s": float(n), "duration_s": 1.0} for n in (1, 2, 3)]


def test_activity_is_weighted_by_time_and_read_inside_steps_only():
    readings = [
        _reading(0.5, 0.9),  # before the first step
        _reading(1.5, 0.2),  # stands for 1 s
        _reading(2.0, 0.4),  # 0.5 s
        _reading(3.0, 0.6),  # 1 s
        _reading(9.0, 0.9),  # after the last step
    ]
    traffic = measured_traffic([_process(readings, STEPS)], 1e12)
    assert traffic is not None
    assert traffic.bytes_per_s == pytest.approx(1e12 * (0.2 + 0.2 + 0.6) / 2.5)
    assert traffic.source == MEASURED


def test_a_device_that_tells_too_seldom_makes_the_traffic_unknown():
    told = [_reading(t, 0.5) for t in (0.9, 1.5, 2.0, 3.0)]
    silent = [_reading(t, None, "GPU-b") for t in (1.5, 2.0, 3.0)]
    assert measured_traffic([_process(told, STEPS)], 1e12) is not None
    assert measured_traffic([_process(told + silent, STEPS)], 1e12) is None
    assert measured_traffic([_process(told[:2], STEPS)], 1e12) is None
    assert measured_traffic([_process(told, STEPS)], None) is None
    assert measured_traffic([_process(told, [])], 1e12) is None
    assert measured_traffic([], 1e12) is None


# -- MFU and HFU -------------------------------------------------------------------------------------------------


def _manifest(**known: Any) -> Manifest:
    usual = {"peak_flops_per_s": 200e12, "peak_source": "datasheet: x", "peak_dtype": "bf16"}
    return Manifest(run_id="r", **{**usual, **known})


def _totals(**known: Any) -> StepTotals:
    unknown = dict.fromkeys(("samples", "tokens", "model_flops", "executed_flops", "operator_bytes"))
    return StepTotals(
        **{"steps": 10, "step_s": 10.0, "step_s_p50": 1.0, "step_s_p95": 1.0, **unknown, **known}
    )


def test_mfu_leaves_recomputation_out_and_hfu_has_it():
    found, notes = efficiency(_manifest(), _totals(model_flops=6e14, executed_flops=8e14), None)
    assert (found["mfu"], found["hfu"]) == (0.3, 0.4)
    assert not {"efficiency.mfu", "efficiency.hfu"} & set(notes)


def test_operators_stand_in_for_traffic_that_was_not_measured():
    manifest = _manifest(peak_bytes_per_s=1e12, peak_bytes_source="measured: best copy")
    totals = _totals(model_flops=6e14, executed_flops=8e14, operator_bytes=2e12)
    operators = efficiency(manifest, totals, None)[0]["roofline"]
    assert (operators["bytes_source"], operators["intensity_flops_per_byte"]) == (OPERATORS, 400.0)
    assert (operators["bound"], operators["ridge_flops_per_byte"]) == ("compute", 200.0)
    traffic = Traffic(bytes_per_s=8e11, source=MEASURED)
    measured = efficiency(manifest, totals, None, traffic)[0]["roofline"]
    assert (measured["bound"], measured["intensity_flops_per_byte"]) == ("memory", 100.0)
    assert measured["share_of_attainable"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        ({"flops_counted_over_given": 0.5}, "FLOPs as counted are only 0.5 of what model_flops= gives"),
        ({"peak_source": "measured: best"}, "the machine was busy while its peak was measured"),
        ({"peak_source": "given"}, "peak_flops_per_s= is too low"),
        ({"peak_dtype": "tf32"}, "the products seem to run in a narrower dtype"),
        ({"flops_source": "given"}, "the formula counts FLOPs twice"),
        ({"flops_source": "counted on"}, "FLOPs are counted that do not run"),
    ],
)
def test_more_than_the_peak_is_refused_with_the_likely_cause(known: dict[str, Any], cause: str):
    value, notes = mfu_of(400e12, _manifest(**known))
    assert value is None
    assert notes["efficiency.mfu"].startswith("4e+14 FLOP/s is 2x the peak of 2e+14, which cannot be: ")
    assert cause in notes["efficiency.mfu"]
    assert notes["efficiency.mfu"].endswith(" MFU is null.")
    assert mfu_of(400e12, _manifest(**known), "hfu")[1]["efficiency.hfu"].endswith(" HFU is null.")


def test_the_peak_itself_is_reached_and_the_unknown_is_null():
    assert mfu_of(200e12, _manifest()) == (1.0, {})
    assert mfu_of(None, _manifest()) == (None, {})
    assert mfu_of(1e12, Manifest(run_id="r")) == (None, {})
