"""A quick version of `make bench-accuracy`: the bar holds over a few dozens of random traces, and is not too wide."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from fake_nvml.build import FakeNvml

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from accuracy.scores import Window, score, table
from accuracy.traces import KINDS, LENGTH_S, seeded, true_joules
from accuracy.virtual import ours


@pytest.mark.parametrize(("marked", "traces"), [(False, 32), (True, 16)])
def test_true_energy_lies_within_the_bar_at_every_length(fake_nvml: FakeNvml, marked: bool, traces: int):
    scores = table(ours(fake_nvml, seed=11, traces=traces, part_time=False, marked=marked))
    assert scores["all"]["windows"] == traces * 34
    assert scores["all"]["inside_bar"] >= 0.95
    for length, row in scores.items():
        assert row["inside_bar"] >= 0.90, length
        assert row["bar_over_needed"] <= 2.0, length
        assert row["said_0_percent"] == 0.0, length


def test_a_part_time_counter_costs_little_coverage(fake_nvml: FakeNvml):
    scores = table(ours(fake_nvml, seed=11, traces=8, part_time=True))
    assert scores["all"]["inside_bar"] >= 0.92


def test_every_kind_of_trace_is_played_and_its_integral_is_the_librarys(fake_nvml: FakeNvml):
    for number in range(len(KINDS)):
        trace, _, _ = seeded(3, number, part_time=False)
        fake_nvml.reset()
        fake_nvml.tell(trace.script(0))
        fake_nvml.tell(trace.power_script(0))
        until_s = np.array([0.5, 7.77, LENGTH_S])
        found = [fake_nvml.joules(0, float(t)) for t in until_s]
        assert found == pytest.approx(true_joules(trace, until_s).tolist(), rel=1e-4), trace.kind


def test_a_part_time_sensor_takes_what_it_sees_for_all(fake_nvml: FakeNvml):
    import pynvml

    fake_nvml.tell("gpu GPU-p any\nparttime 0 0.025\nwave 0 400 0.1 0.5 0\ngain 0 1.02\npower 0 0 100")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    fake_nvml.set_time(1.0)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) == pytest.approx(1.02 * 500e3, abs=2)
    assert fake_nvml.joules(0, 1.0) == pytest.approx(300.0)
    pynvml.nvmlShutdown()


def test_a_score_can_be_bad():
    windows = [Window(group="a", trouble="none", true_j=10.0, said_j=s, bar_j=1.0) for s in (9.5, 10.5, 0.0)]
    found = score(windows)
    assert found["inside_bar"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["said_0_percent"] == pytest.approx(33.33)
    assert found["bar_over_needed"] < 0.2
