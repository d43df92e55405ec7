"""What is known of processors and grids without measuring."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.codecarbon_tables import cpu_tdp_w, national_grids, read_tdp_w, source_name
from profiler.hardware import ASSUMED_UNCERTAINTY, TDP_UNCERTAINTY, cpu_power
from profiler.hardware_events import decode_event_reasons


def _cpuinfo(tmp_path: Path, model: str, threads: int = 4, sockets: int = 1, flags: str = "fpu sse") -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "\n".join(
            f"processor\t: {i}\nmodel name\t: {model}\nphysical id\t: {i % sockets}\nflags\t\t: {flags}\n"
            for i in range(threads)
        )
    )
    return path


@pytest.mark.parametrize(
    ("model", "threads", "sockets", "watts"),
    [
        ("AMD EPYC 7763 64-Core Processor", 128, 1, 280 / 128),
        ("AMD EPYC 7763 64-Core Processor", 256, 2, 280 / 128),
        ("Intel(R) Xeon(R) Platinum 8480+", 112, 1, 350 / 112),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 28, 1, 120 / 28),
        ("12th Gen Intel(R) Core(TM) i7-12700K", 20, 1, 190 / 20),
    ],
)
def test_a_known_processor_of_this_machines_own(
    tmp_path: Path, model: str, threads: int, sockets: int, watts: float
):
    power = cpu_power(_cpuinfo(tmp_path, model, threads, sockets))
    assert power.watts_per_thread == pytest.approx(watts)
    assert (power.name, power.relative_uncertainty) == (model, TDP_UNCERTAINTY)
    assert f"W TDP ({source_name()}) over {threads // sockets} hardware threads" in power.note


def test_a_known_processor_in_a_virtual_machine_is_assumed(tmp_path: Path):
    power = cpu_power(_cpuinfo(tmp_path, "AMD EPYC 7763 64-Core Processor", flags="fpu hypervisor sse"))
    assert (power.watts_per_thread, power.relative_uncertainty) == (4.0, ASSUMED_UNCERTAINTY)
    assert power.note == (
        "estimated from CPU time at an assumed 4 W a busy hardware thread: a virtual machine does not show how many"
        " threads share the processor's power"
    )


def test_an_unknown_processor_is_assumed(tmp_path: Path):
    power = cpu_power(_cpuinfo(tmp_path, "Frobnicator 9000"))
    assert (power.name, power.watts_per_thread, power.relative_uncertainty) == (
        "Frobnicator 9000",
        4.0,
        ASSUMED_UNCERTAINTY,
    )
    assert "codecarbon's table has no thermal design power for 'Frobnicator 9000'" in power.note


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00 garbage"])
def test_a_cpuinfo_that_tells_nothing_is_assumed(tmp_path: Path, content: bytes | None):
    path = tmp_path / "cpuinfo"
    if content is not None:
        path.write_bytes(content)
    power = cpu_power(path)
    assert power.name
    assert power.watts_per_thread == 4.0


def test_garbled_design_powers_are_left_out():
    lines = [
        "Name,TDP",
        "good,95",
        "half,12.5",
        "garbled,27.29.5",
        "none,",
        "zero,0.0",
        "words,about 5",
        "short",
    ]
    assert read_tdp_w(lines) == {"good": 95.0, "half": 12.5}
    table = cpu_tdp_w()
    assert len(table) > 4000
    assert "Intel Celeron 1000A" not in table
    assert min(table.values()) > 0.0


def test_every_packaged_grid_has_what_emissions_need():
    grids = national_grids()
    assert len(grids) > 150
    assert all(
        float(grid["carbon_intensity"]) >= 0 and grid["country_name"] and grid["year"]
        for grid in grids.values()
    )


def test_an_unknown_bit_of_the_event_reasons_is_named():
    assert decode_event_reasons(0x1004) == ("software power cap", "unknown reason 0x1000")
