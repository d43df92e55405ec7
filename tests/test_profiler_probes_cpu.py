"""Which sensors of the processor a process opens, by where it stands and what is there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from profiler.measure.probes import GpuWish, OpenProbes, open_probes
from profiler.measure.ranks import Place
from profiler.measure.sensors.cpu_time import CpuGauge, ProcessTreeTime, descendants_time


def opened(root: Path, local_rank: int = 0, **how: bool) -> OpenProbes:
    return open_probes(
        Place(rank=local_rank, local_rank=local_rank, world_size=2), GpuWish(), rapl_root=root, **how
    )


def zone(root: Path, folder: str, name: str, energy_uj: str) -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(name)
    (root / folder / "energy_uj").write_text(energy_uj)
    (root / folder / "max_energy_range_uj").write_text("262143328850")


def test_a_processor_that_is_measured_is_not_estimated(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "5000000")
    zone(tmp_path, "intel-rapl:0:0", "dram", "7000000")
    found = opened(tmp_path)
    assert [(p.counter.meter.component, p.counter.meter.source) for p in found.probes] == [
        ("cpu", "counter"),
        ("dram", "counter"),
    ]
    assert [p.gauge is not None for p in found.probes] == [True, False]


def test_a_node_is_measured_once(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "5000000")
    found = opened(tmp_path, local_rank=1)
    assert found.probes == ()
    assert found.notes["cpu"] == "the node's processors are measured by local rank 0"


def test_what_cannot_be_read_is_estimated_and_said(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "nan")
    (probe,) = opened(tmp_path).probes
    assert probe.counter.meter.source == "estimated"
    assert "holds 'nan', which is no count" in opened(tmp_path).notes["cpu"]
    assert opened(tmp_path).notes["cpu"].endswith("estimated from CPU time instead.")


def test_from_outside_only_what_was_started_counts(tmp_path: Path) -> None:
    own = opened(tmp_path).probes[0]
    children = opened(tmp_path, of_children=True).probes[0]
    before = own.counter.read(), children.counter.read()
    end_s = time.process_time() + 0.1
    while time.process_time() < end_s:
        pass
    joules = 0.1 * (own.counter.meter.joules_per_cpu_s or 0.0)
    assert own.counter.read() - before[0] >= joules
    assert children.counter.read() == before[1]
    assert own.gauge is not None
    assert children.gauge is not None
    assert own.gauge.read().memory_used_bytes is not None
    assert children.gauge.read().memory_used_bytes is None


PARENT = """
import os, subprocess, sys, time
burn = "import time; e = time.process_time() + 0.3\\nwhile time.process_time() < e: pass"
subprocess.run([sys.executable, "-S", "-c", burn], env={**os.environ, "LOCAL_RANK": "3"})
print("reaped", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("tree", [ProcessTreeTime, descendants_time])
def test_what_a_living_child_has_reaped_counts(tree: type[ProcessTreeTime]) -> None:
    """And goes on to count, once and not twice, when the child is reaped itself."""
    counted = tree()
    before_s = counted.read()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", "-c", PARENT], text=True, **pipes) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "reaped\n"
        time.sleep(1.1)  # the list of children is that old at most
        living_s = counted.read() - before_s
        child.stdin.close()
    assert 0.3 <= living_s < 1.0
    assert living_s <= counted.read() - before_s < living_s + 0.3


RANK_ONE = "import sys, time\nwhile time.process_time() < 0.6: pass\nprint(flush=True)\nsys.stdin.read()"


def test_a_rank_that_measures_itself_is_not_counted_when_it_is_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lightning's launcher starts ranks as children of rank 0, which reaps them when they are killed."""
    monkeypatch.setattr("profiler.measure.sensors.cpu_time.CHILDREN_REFRESH_S", 0.0)
    environment = {"LOCAL_RANK": "1"}
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK_ONE],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert rank.stdout
    assert rank.stdin
    rank.stdout.readline()
    tree = ProcessTreeTime()
    before_s = tree.read()
    rank.kill()
    rank.wait()
    rank.stdin.close()
    rank.stdout.close()
    assert tree.read() - before_s < 0.3, "the other rank's 0.6 s are its own"


def test_memory_is_told_once_a_second():
    gauge = CpuGauge()
    told = [gauge.read().memory_used_bytes for _ in range(5)]
    assert told[0] is not None
    assert told[0] > 1_000_000
    assert told[1:] == [None] * 4


def test_the_first_utilization_is_told_by_another_thread_than_the_one_that_made_the_gauge():
    """psutil's own share is kept by thread, and its first in each is 0: the sampler is another thread."""
    gauge = CpuGauge(own_memory=False)
    end_s = time.monotonic() + 0.6
    while time.monotonic() < end_s:  # one hardware thread is busy
        pass
    told = []
    sampler = threading.Thread(target=lambda: told.append(gauge.read().utilization))
    sampler.start()
    sampler.join()
    assert told[0] is not None
    assert 0.5 / (os.cpu_count() or 1) < told[0] <= 1.0
    assert gauge.read().utilization is None, "at once, it is not known"
