"""Apple silicon over a fake of `zeus_apple_silicon`, whose fields and units are those of its source."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from profiler.errors import SensorError
from profiler.measure.sensors.apple import load_apple, open_apple


class FakeMonitor:
    """Millijoules by field; what the chip does not have is None."""

    def __init__(self, **millijoules: Any) -> None:
        self.metrics = {"cpu_total_mj": 5_000, "gpu_mj": 70_000, "dram_mj": 900, "ane_mj": 3, **millijoules}
        self.looks = 0

    def get_cumulative_energy(self) -> Any:
        self.looks += 1
        if self.metrics["cpu_total_mj"] == "broken":
            raise RuntimeError("no sample")
        return SimpleNamespace(**self.metrics)


def binding(monitor: FakeMonitor) -> Any:
    return SimpleNamespace(AppleEnergyMonitor=lambda: monitor)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_millijoules_become_joules_of_each_part() -> None:
    probes, reasons = open_apple(binding(FakeMonitor()))
    read = {(p.counter.meter.component, p.counter.meter.device): p.counter.read() for p in probes}
    assert read == {("cpu", "apple-cpu"): 5.0, ("gpu", "apple-gpu"): 70.0, ("dram", "apple-dram"): 0.9}
    assert reasons == ()


def test_one_look_a_round() -> None:
    clock, monitor = Clock(), FakeMonitor()
    probes, _ = open_apple(binding(monitor), clock=clock)
    clock.now_s, monitor.looks = 1.0, 0
    for probe in probes:
        probe.counter.read()
    assert monitor.looks == 1
    clock.now_s = 1.1
    monitor.metrics["gpu_mj"] = 71_000
    assert probes[1].counter.read() == 71.0


def test_a_part_that_the_chip_does_not_tell() -> None:
    probes, (reason,) = open_apple(binding(FakeMonitor(dram_mj=None)))
    assert [p.counter.meter.component for p in probes] == ["cpu", "gpu"]
    assert reason == "Apple memory: the chip's energy model gives dram_mj as None, so its energy is null."


@pytest.mark.parametrize(("value", "said"), [(-1, "gives cpu_total_mj as -1"), ("broken", "did not answer")])
def test_nonsense_later(value: Any, said: str) -> None:
    clock, monitor = Clock(), FakeMonitor()
    probes, _ = open_apple(binding(monitor), clock=clock)
    clock.now_s, monitor.metrics["cpu_total_mj"] = 1.0, value
    with pytest.raises(SensorError, match=said):
        probes[0].counter.read()


def test_a_mac_without_an_energy_model() -> None:
    def monitor() -> Any:
        raise RuntimeError("Failed to create subscription")

    with pytest.raises(SensorError, match=r"cannot be read \(Failed to create subscription\)"):
        open_apple(SimpleNamespace(AppleEnergyMonitor=monitor))


def test_elsewhere_it_is_not_missed() -> None:
    assert load_apple("linux") is None


def test_on_a_mac_it_is_missed() -> None:
    with pytest.raises(SensorError, match=r"pip install \"joulescale\[apple\]\""):
        load_apple("darwin")
