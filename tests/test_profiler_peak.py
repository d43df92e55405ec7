"""Measured peaks, and which peak a run is held against."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from profiler.cli.doctor import _peaks_table
from profiler.cli.main import app
from profiler.datasheets import DATASHEETS, DType
from profiler.integrations.lightning_facts import _peaks, compute_dtype, find_peak
from profiler.measure.peak import (
    _free_bytes,
    largest_cache_bytes,
    measure_bandwidth,
    measure_products,
    memory_given_back,
)
from profiler.metrics.efficiency import mfu_of
from profiler.store.manifest import Manifest

CPU = torch.device("cpu")


def test_a_product_is_timed_within_its_budget_and_draws_no_number():
    state = torch.get_rng_state()
    found = measure_products(CPU, torch.float32, budget_s=0.01)
    assert 1e6 < found.per_s < 1e15
    assert found.how.startswith("measured: best of square matrix products, at ")
    assert torch.equal(torch.get_rng_state(), state)


def test_bandwidth_is_of_arrays_that_no_cache_holds():
    found = measure_bandwidth(CPU, budget_s=0.01)
    assert 1e7 < found.per_s < 1e13
    size = int(found.how.split(" of ")[1].split()[0]) << 20
    assert size >= 4 * largest_cache_bytes() or size >= 128 << 20


def test_the_largest_cache_is_read_in_any_unit(tmp_path: Path):
    for index, size in enumerate(("32K", "2M", "garbage", "")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert largest_cache_bytes(tmp_path) == 2 << 20
    assert largest_cache_bytes(tmp_path / "nowhere") == 0


def test_a_containers_limit_is_respected(tmp_path: Path):
    whole = _free_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert _free_bytes(tmp_path) == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_bytes(tmp_path) == pytest.approx(whole, rel=0.2)


def test_a_processor_has_no_peak_memory_to_give_back():
    with memory_given_back(CPU):
        pass


def test_doctor_measures_this_machine():
    done = CliRunner().invoke(app, ["doctor", "--measure-peak", "--json"])
    assert done.exit_code == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["peaks"] if row["device"] == "cpu"]
    assert [row["what"] for row in rows] == ["fp32", "fp16", "bf16", "memory"]
    for row in rows:
        assert (row["measured_per_s"] or 0) > 0 or row["error"]
        assert (row["datasheet_per_s"], row["share_of_datasheet"]) == (None, None)


def test_doctors_table_sets_what_was_measured_beside_the_datasheet():
    card = {
        "device": "cuda:0",
        "name": "NVIDIA H200",
        "error": None,
        "datasheet_source": "NVIDIA H200 datasheet, SXM",
    }
    product = {
        "what": "bf16",
        "measured_per_s": 790e12,
        "how": "measured: best of square matrix products, at 8192",
    }
    failed = {"what": "fp16", "measured_per_s": None, "how": None, "error": "[not] implemented for 'Half'"}
    rows = [
        {**card, **product, "datasheet_per_s": 989.5e12, "share_of_datasheet": 790 / 989.5},
        {**card, **failed, "datasheet_per_s": None, "share_of_datasheet": None},
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(_peaks_table(rows))
    text = " ".join(console.export_text().split())
    assert "NVIDIA H200 bf16 790 TFLOP/s 990 TFLOP/s 79.8 % best of square matrix products, at 8192" in text
    assert "fp16 [not] implemented for 'Half' unknown unknown" in text


@pytest.mark.parametrize(
    ("name", "bf16", "tf32", "fp32"),
    [
        ("NVIDIA H200", 989.5, 494.7, 66.9),
        ("NVIDIA H100 80GB HBM3", 989.4, 494.7, 66.9),
        ("NVIDIA L40S", 362.05, 183.0, 91.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
        ("NVIDIA RTX A6000", 154.8, 77.4, 38.7),
    ],
)
def test_mfu_of_a_run_by_the_name_of_its_device(name: str, bf16: float, tf32: float, fp32: float):
    """8 devices that do 40 % of what one can, each."""
    teras: dict[DType, float] = {"bf16": bf16, "tf32": tf32, "fp32": fp32}
    for dtype, tera in teras.items():
        flops, bandwidth = _peaks(None, CPU, dtype, name)
        assert flops == (pytest.approx(tera * 1e12), f"datasheet: {DATASHEETS[name].source}")
        assert bandwidth is not None
        manifest = Manifest(run_id="r", peak_flops_per_s=8 * flops[0], peak_dtype=dtype)
        assert mfu_of(8 * 0.4 * tera * 1e12, manifest) == (pytest.approx(0.4), {})


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("32-true", "fp32"), (32, "fp32"), ("64-true", "fp64"), ("bf16-mixed", "bf16"), ("bf16-true", "bf16"),
        ("16-mixed", "fp16"), ("16-true", "fp16"), ("bf16", "bf16"), ("transformer-engine", None), (None, None),
    ],
)  # fmt: skip
def test_the_dtype_of_a_precision(precision: Any, dtype: str | None):
    assert compute_dtype(precision, CPU) == dtype


def test_a_given_peak_counts_for_each_device_and_needs_no_datasheet():
    peak, notes = find_peak(1e12, CPU, "32-true", world_size=4)
    assert peak is not None
    assert (peak.flops_per_s, peak.source, peak.bytes_per_s) == (4e12, "given", None)
    assert set(notes) == {"peak_bytes_per_s"}
    assert notes["peak_bytes_per_s"] == (
        'No memory bandwidth is known for "this machine\'s cpu", so the run has no place on a roofline. Pass'
        ' peak_flops_per_s="measure".'
    )


def test_an_unknown_device_has_no_peak_and_says_why_twice():
    peak, notes = find_peak(None, CPU, "32-true", world_size=1)
    assert peak is None
    assert notes["mfu"].startswith('No dense fp32 peak is known for "this machine\'s cpu", so MFU is null')
    assert "peak_bytes_per_s" in notes


def test_a_measured_peak_brings_its_bandwidth():
    peak, notes = find_peak("measure", CPU, "32-true", world_size=2)
    assert peak is not None
    assert notes == {}
    assert (peak.source or "").startswith("measured: ")
    assert (peak.bytes_source or "").startswith("measured: ")
    assert (peak.bytes_per_s or 0) > 0


def test_a_precision_without_a_peak_is_not_measured():
    assert find_peak("measure", CPU, "transformer-engine", world_size=1)[0] is None
