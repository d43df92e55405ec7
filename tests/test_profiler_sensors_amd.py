"""AMD GPUs over a fake of the binding: its functions, units and refusals as in amdsmi 7.0.2."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import SensorError
from profiler.measure.optional_probes import open_optional
from profiler.measure.sensors.amd import CHECK_S, open_amd
from profiler.measure.sensors.amd_device import load_amdsmi, visible_amd
from profiler.measure.sensors.base import Probe

RESOLUTION_UJ = 15.300000190734863


class FakeGpu:
    """One GPU of the fake: constant power, counter and all."""

    def __init__(self, hip: int, watts: float = 300.0, **what: Any) -> None:
        self.hip_id: Any = hip
        self.uuid = f"GPU-{hip:016x}"
        self.watts = watts
        self.gain = what.pop("gain", 1.0)
        self.told = {"current": "N/A", "average": int(watts), **what}


class FakeAmdsmi:
    """The module `amdsmi`, as far as it is asked."""

    class AmdSmiException(Exception):
        """As the binding's."""

    AmdSmiInitFlags = IntEnum("AmdSmiInitFlags", {"INIT_AMD_GPUS": 2})
    AmdSmiTemperatureType = IntEnum("AmdSmiTemperatureType", {"EDGE": 0, "HOTSPOT": 1})
    AmdSmiTemperatureMetric = IntEnum("AmdSmiTemperatureMetric", {"CURRENT": 0, "MAX": 1})
    AmdSmiMemoryType = IntEnum("AmdSmiMemoryType", {"VRAM": 0})
    AmdSmiClkType = IntEnum("AmdSmiClkType", {"SYS": 0, "GFX": 0, "MEM": 4})

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = gpus
        self.now_s = 1000.0
        self.started = 0
        self.refused: set[str] = set()
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    def amdsmi_init(self, flag: IntEnum) -> None:
        self._asked("amdsmi_init")
        self.started += 1

    def amdsmi_shut_down(self) -> None:
        self.started -= 1

    def amdsmi_get_processor_handles(self) -> list[FakeGpu]:
        return list(self.gpus)

    def amdsmi_get_gpu_enumeration_info(self, gpu: FakeGpu) -> dict[str, Any]:
        return {"drm_card": 0, "hip_id": gpu.hip_id, "hip_uuid": gpu.uuid}

    def amdsmi_get_gpu_asic_info(self, gpu: FakeGpu) -> dict[str, Any]:
        return {"market_name": gpu.told.get("name", "AMD Instinct MI300X")}

    def amdsmi_get_energy_count(self, gpu: FakeGpu) -> dict[str, Any]:
        self._asked("amdsmi_get_energy_count")
        joules = gpu.watts * gpu.gain * self.now_s
        return {
            "energy_accumulator": gpu.told.get("count", int(joules * 1e6 / RESOLUTION_UJ)),
            "counter_resolution": gpu.told.get("resolution", RESOLUTION_UJ),
            "timestamp": int(self.now_s * 1e9),
        }

    def amdsmi_get_power_info(self, gpu: FakeGpu) -> dict[str, Any]:
        self._asked("amdsmi_get_power_info")
        return {"current_socket_power": gpu.told["current"], "average_socket_power": gpu.told["average"]}

    def amdsmi_get_power_cap_info(self, gpu: FakeGpu) -> dict[str, Any]:
        self._asked("amdsmi_get_power_cap_info")
        return {"power_cap": 600_000_000, "max_power_cap": 750_000_000}

    def amdsmi_get_gpu_activity(self, gpu: FakeGpu) -> dict[str, Any]:
        self._asked("amdsmi_get_gpu_activity")
        return {"gfx_activity": 93, "umc_activity": gpu.told.get("umc", 41), "mm_activity": "N/A"}

    def amdsmi_get_temp_metric(self, gpu: FakeGpu, kind: IntEnum, metric: IntEnum) -> int:
        assert (kind.name, metric.name) == ("HOTSPOT", "CURRENT")
        return gpu.told.get("temperature", 71)

    def amdsmi_get_clock_info(self, gpu: FakeGpu, kind: IntEnum) -> dict[str, Any]:
        assert kind is self.AmdSmiClkType.GFX
        return {"clk": 2100, "max_clk": 2100}

    def amdsmi_get_gpu_memory_usage(self, gpu: FakeGpu, kind: IntEnum) -> int:
        assert kind.name == "VRAM"
        return 7 * 2**30

    def _asked(self, function: str) -> None:
        self.calls.append(function)
        if function in self.refused:
            raise self.AmdSmiException("Error code:\n\t2 | AMDSMI_STATUS_NOT_SUPPORTED")


def everything(uuids: Any) -> Any:
    return uuids


def opened(
    smi: FakeAmdsmi, choose: Callable[[Any], Any] = everything
) -> tuple[dict[str, Probe], tuple[str, ...]]:
    probes, reasons, _ = open_amd(smi, choose, clock=smi.clock, wait=smi.wait)
    return {probe.counter.meter.device: probe for probe in probes}, tuple(reasons)


def only(smi: FakeAmdsmi) -> Probe:
    probes, _ = opened(smi)
    (probe,) = probes.values()
    return probe


class TestEnergy:
    def test_counts_times_resolution_are_joules(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0, 300.0))
        probes, reasons = opened(smi)
        counter = probes["GPU-0000000000000000"].counter
        assert (counter.meter.source, counter.meter.power_max_w, reasons) == ("counter", 750.0, ())
        before = counter.read()
        smi.now_s += 10.0
        assert counter.read() - before == pytest.approx(3000.0, abs=1e-3)

    @pytest.mark.parametrize(
        ("gpu", "said"),
        [
            (
                FakeGpu(0, gain=0.0, count=8152136),
                "moved by 0 J where its power says 60 J",
            ),  # MI100 until a reboot
            (FakeGpu(0, gain=40.0), "moved by 2.4e+03 J where its power says 60 J"),
            (FakeGpu(0, count=0), "has no energy counter"),
            (FakeGpu(0, count=2**64 - 1), "has no energy counter"),
            (FakeGpu(0, resolution=0.0), "has no energy counter"),
            (FakeGpu(0, resolution=math.nan), "has no energy counter"),
        ],
    )
    def test_a_counter_that_the_power_belies_is_not_used(self, gpu: FakeGpu, said: str) -> None:
        smi = FakeAmdsmi(gpu)
        probes, (reason,) = opened(smi)
        counter = probes[gpu.uuid].counter
        assert counter.meter.source == "integrated"
        assert said in reason
        assert reason.endswith("Its power is integrated instead.")
        counter.read()
        smi.now_s += 2.0
        assert counter.read() == pytest.approx(600.0)

    def test_the_second_die_of_a_card_is_not_measured(self) -> None:
        card = FakeGpu(0, 400.0, name="AMD Instinct MI250X"), FakeGpu(1, 0.0, average=0)
        smi = FakeAmdsmi(*card)
        probes, (reason,) = opened(smi)
        assert list(probes) == [card[0].uuid]
        assert probes[card[0].uuid].counter.meter.notes == (
            "of the whole card, if it holds two GPUs (MI250)",
        )
        assert reason == (
            "GPU-0000000000000001 shows neither power nor energy, as the second die of a card does whose first shows "
            "both's. This GPU is not measured."
        )

    def test_a_card_that_tells_no_power_keeps_its_counter(self) -> None:
        probe = only(FakeAmdsmi(FakeGpu(0, average="N/A")))
        assert probe.counter.meter.source == "counter"

    def test_a_card_that_tells_nothing_is_a_reason(self) -> None:
        probes, (reason,) = opened(FakeAmdsmi(FakeGpu(0, average=0xFFFF, count=0)))
        assert probes == {}
        assert reason.startswith(
            "GPU-0000000000000000: amdsmi_get_power_info gives average_socket_power as 65535."
        )

    def test_a_counter_that_is_refused_later(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0))
        counter = only(smi).counter
        smi.refused.add("amdsmi_get_energy_count")
        with pytest.raises(
            SensorError, match=r"amdsmi_get_energy_count failed: Error code: 2 \| AMDSMI_STATUS_NOT"
        ):
            counter.read()


class TestGauge:
    def test_units(self) -> None:
        reading = only(FakeAmdsmi(FakeGpu(0, current=512))).gauge.read()
        assert (reading.power_w, reading.average_power_w, reading.power_limit_w) == (512.0, 300.0, 600.0)
        assert (reading.utilization, reading.dram_activity) == (pytest.approx(0.93), pytest.approx(0.41))
        assert (reading.temperature_c, reading.sm_clock_hz) == (71.0, 2.1e9)
        assert reading.memory_used_bytes == 7 * 2**30
        assert reading.throttle_reasons is None

    def test_degrees_of_old_libraries_are_thousandths(self) -> None:
        assert only(FakeAmdsmi(FakeGpu(0, temperature=71_000))).gauge.read().temperature_c == 71.0

    def test_what_a_card_does_not_have_is_unknown(self) -> None:
        reading = only(FakeAmdsmi(FakeGpu(0, umc=0xFFFF))).gauge.read()
        assert (reading.power_w, reading.dram_activity) == (None, None)
        assert reading.average_power_w == 300.0

    def test_slow_quantities_once_a_second(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0))
        gauge = only(smi).gauge
        assert gauge.read().temperature_c == 71.0
        smi.now_s += 0.5
        reading = gauge.read()
        assert (reading.temperature_c, reading.average_power_w) == (None, 300.0)
        smi.now_s += 0.6
        assert gauge.read().temperature_c == 71.0

    def test_a_card_that_stops_answering(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0))
        gauge = only(smi).gauge
        gauge.read()
        smi.refused.update({"amdsmi_get_power_info", "amdsmi_get_gpu_activity"})
        with pytest.raises(SensorError, match="does not answer any more"):
            gauge.read()


class TestChoice:
    def test_hips_order_not_the_buses(self) -> None:
        smi = FakeAmdsmi(FakeGpu(3), FakeGpu(0), FakeGpu(2), FakeGpu(1))
        asked: list[Any] = []
        probes, _ = opened(smi, lambda uuids: asked.append(list(uuids)) or uuids[1:2])
        assert asked == [[f"GPU-{number:016x}" for number in range(4)]]
        assert list(probes) == ["GPU-0000000000000001"]

    def test_a_card_without_a_name_of_its_own(self) -> None:
        gpu = FakeGpu(1)
        gpu.uuid, gpu.hip_id = "N/A", "N/A"
        assert list(opened(FakeAmdsmi(FakeGpu(0), gpu))[0]) == ["GPU-0000000000000000", "GPU-amd-1"]

    @pytest.mark.parametrize(
        ("environment", "shown"),
        [
            ({}, "abc"),
            ({"HIP_VISIBLE_DEVICES": "2,0"}, "ca"),
            ({"CUDA_VISIBLE_DEVICES": "1"}, "b"),
            ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, "a"),
            ({"ROCR_VISIBLE_DEVICES": "GPU-c,GPU-a", "HIP_VISIBLE_DEVICES": "1"}, "a"),
            ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, ""),
            ({"HIP_VISIBLE_DEVICES": ""}, ""),
        ],
    )
    def test_variables_that_hide_gpus(self, environment: dict[str, str], shown: str) -> None:
        assert visible_amd(environment, ["GPU-a", "GPU-b", "GPU-c"]) == tuple(f"GPU-{c}" for c in shown)

    def test_letting_go(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0))
        _, _, close = open_amd(smi, everything, clock=smi.clock, wait=smi.wait)
        assert smi.started == 1
        close()
        assert smi.started == 0

    def test_a_choice_that_fails_lets_go_too(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0))
        with pytest.raises(SensorError, match="no such GPU"):
            open_amd(smi, _refuse)
        assert smi.started == 0

    def test_a_library_that_does_not_start(self) -> None:
        smi = FakeAmdsmi()
        smi.refused.add("amdsmi_init")
        with pytest.raises(SensorError, match=r"^amdsmi did not start .*, so AMD GPUs are not measured"):
            opened(smi)

    def test_no_waiting_without_a_gpu(self) -> None:
        smi = FakeAmdsmi(FakeGpu(0))
        opened(smi, lambda _: ())
        assert smi.now_s == 1000.0
        opened(smi)
        assert smi.now_s == pytest.approx(1000.0 + CHECK_S)


def _refuse(uuids: Any) -> Any:
    raise SensorError("no such GPU")


class TestLoading:
    def test_without_the_driver_nothing_is_said(self, tmp_path: Path) -> None:
        assert load_amdsmi(tmp_path / "kfd") is None

    def test_with_the_driver_and_no_library(self, tmp_path: Path) -> None:
        (tmp_path / "kfd").touch()
        with pytest.raises(SensorError, match=r"joulescale\[amd\]|libamd_smi.so is not"):
            load_amdsmi(tmp_path / "kfd")

    def test_other_sensors_go_on_without_them(self) -> None:
        notes: dict[str, str] = {}
        with ExitStack() as stack:
            assert open_optional(stack, notes, choose_amd=everything, apple=True) == ()
        assert notes.keys() <= {"amd", "apple"}
