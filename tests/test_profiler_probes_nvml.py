"""Which sensors a process opens, on the fake NVML library and without RAPL; and what of it is stored."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import polars as pl
import pytest
from fake_nvml.build import FakeNvml
from nvml_cases import TWO_GPUS

from profiler.measure.aside import CLOSING_S
from profiler.measure.guard import Guard
from profiler.measure.probes import GpuWish, OpenProbes, open_probes
from profiler.measure.ranks import Place
from profiler.measure.session import RunFacts, Session
from profiler.store.process import StoredProcess
from profiler.store.runs import open_run

PLACE = Place(rank=0, local_rank=0, world_size=1)
GRACE = """
    gpu GPU-gggg NVIDIA GH200 480GB
    power 0 0 300
    module 0 150
"""


@pytest.fixture(autouse=True)
def _all_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def visible(folder: Path) -> OpenProbes:
    return open_probes(PLACE, GpuWish(choice="visible"), rapl_root=folder / "no powercap here")


def components(opened: OpenProbes) -> list[tuple[str, str]]:
    return [(probe.counter.meter.component, probe.counter.meter.scope) for probe in opened.probes]


def recorded(folder: Path, opened: OpenProbes) -> StoredProcess:
    session = Session(folder, RunFacts(), place=PLACE, probes=opened.probes, guard=Guard(), name="r")
    time.sleep(0.05)
    session.close("finished")
    opened.close()
    (process,) = open_run(folder, "r").processes
    return process


class TestModule:
    def test_the_processor_of_a_measured_module_is_left_out(
        self, fake_nvml: FakeNvml, tmp_path: Path
    ) -> None:
        fake_nvml.tell(f"{GRACE}\nerror field:186 3\nerror field:185 3")
        opened = visible(tmp_path)
        assert components(opened) == [("module", "module")]
        assert opened.notes["cpu"] == (
            "the processor is not measured of its own: NVML tells GPU-gggg as a whole module, with the processor in it"
        )
        opened.close()

    def test_a_gpu_that_tells_its_own_power_has_its_processor_beside_it(
        self, fake_nvml: FakeNvml, tmp_path: Path
    ) -> None:
        fake_nvml.tell(GRACE)
        opened = visible(tmp_path)
        assert components(opened) == [("gpu", "device"), ("cpu", "device")]
        opened.close()


def test_a_driver_that_hangs_as_it_is_let_go_of_is_left_behind(one_gpu: FakeNvml, tmp_path: Path) -> None:
    opened = visible(tmp_path)
    before = one_gpu.calls("nvmlShutdown")
    one_gpu.tell(f"hang nvmlShutdown {4 * CLOSING_S}")
    begin = time.monotonic()
    opened.close()
    assert CLOSING_S <= time.monotonic() - begin < 3 * CLOSING_S
    assert one_gpu.calls("nvmlShutdown") > before
    while one_gpu.refcount():  # it ends before the next test's machine
        time.sleep(0.01)


class TestStored:
    def test_other_processes_are_marked(self, fake_nvml: FakeNvml, tmp_path: Path) -> None:
        fake_nvml.tell(
            f"{TWO_GPUS}\nprocess 0 {os.getpid()} 5\nprocess 0 4000001 700\nprocess 1 {os.getpid()} 5"
        )
        process = recorded(tmp_path, visible(tmp_path))
        marks = process.marks.filter(pl.col("kind") == "co_tenants")
        assert [json.loads(note) for note in marks["note"]] == [
            {"device": "GPU-aaaa", "processes": 1, "memory_bytes": 700}
        ] * 2
        assert marks["end_s"].to_list() == [None, None]

    def test_a_quantity_lost_midway_is_noted_with_its_time(self, fake_nvml: FakeNvml, tmp_path: Path) -> None:
        fake_nvml.tell(TWO_GPUS)
        opened = visible(tmp_path)
        fake_nvml.tell("error nvmlDeviceGetTemperature 4 0")
        process = recorded(tmp_path, opened)
        note = process.facts.notes["sensor GPU-aaaa temperature_c"]
        assert note.startswith(
            "NVML did not give temperature_c of GPU-aaaa: Insufficient Permissions (code 4)."
        )
        (mark,) = process.marks.filter(pl.col("kind") == "note")["note"]
        assert json.loads(mark) == {"subject": "GPU-aaaa temperature_c", "text": note}
        temperatures = process.readings.filter(pl.col("device") == "GPU-aaaa")["temperature_c"]
        assert temperatures.null_count() == len(temperatures)
        assert process.readings.filter(pl.col("device") == "GPU-bbbb")["temperature_c"].max() == 40

    def test_the_scope_is_stored(self, fake_nvml: FakeNvml, tmp_path: Path) -> None:
        fake_nvml.tell(f"{GRACE}\nerror field:186 3\nerror field:185 3")
        process = recorded(tmp_path, visible(tmp_path))
        assert [meter["scope"] for meter in process.facts.meters] == ["module"]
        assert process.readings["component"].unique().to_list() == ["module"]
