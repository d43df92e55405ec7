"""GPU sensors through the real pynvml binding, on a fake library."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pynvml
import pytest
from fake_nvml.build import FakeNvml, build_library, subprocess_env

from profiler.errors import SensorError
from profiler.hardware_events import EVENT_REASONS, SLOWDOWN_BITS, decode_event_reasons
from profiler.measure.sensors.base import GaugeReading, Meter
from profiler.measure.sensors.integrated import IntegratedPower
from profiler.measure.sensors.nvml import GpuProbes, list_gpus, open_gpus
from profiler.measure.sensors.nvml_gauge import NvmlGauge

ALL_CODES = sorted(
    value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_") and isinstance(value, int)
)
GONE = [1, 6, 9, 15, 16, 18, 28]
ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
FIELDS = "nvmlDeviceGetFieldValues"
USAGE = "nvmlDeviceGetPowerUsage"
SLOW_CALLS = {
    "memory_used_bytes": "nvmlDeviceGetMemoryInfo",
    "temperature_c": "nvmlDeviceGetTemperature",
    "sm_clock_hz": "nvmlDeviceGetClockInfo",
    "power_limit_w": "nvmlDeviceGetEnforcedPowerLimit",
    "throttle_reasons": "nvmlDeviceGetCurrentClocksEventReasons",
}
TWO_GPUS = """
    gpu GPU-aaaa NVIDIA H100 80GB HBM3
    power 0 0 100
    wave 0 500 0.5 0.4 0.05
    gpu GPU-bbbb NVIDIA A100-SXM4-80GB
    power 1 0 60
    power 1 3 300
    offset 1 12345
"""
ONE_GPU = """
    gpu GPU-aaaa NVIDIA H100 80GB HBM3
    power 0 0 250
"""


@pytest.fixture
def one_gpu(fake_nvml: FakeNvml) -> FakeNvml:
    fake_nvml.tell(ONE_GPU)
    return fake_nvml


def opened(fake: FakeNvml, *uuids: str) -> GpuProbes:
    return open_gpus(uuids or ["GPU-aaaa"], clock=fake.time)


def gauge_of(probes: GpuProbes, index: int = 0) -> NvmlGauge:
    gauge = probes.probes[index].gauge
    assert isinstance(gauge, NvmlGauge)
    return gauge


class TestEnergy:
    def test_two_gpus_read_the_integral_of_their_power(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS)
        probes = opened(fake_nvml, "GPU-aaaa", "GPU-bbbb")
        start = [probe.counter.read() for probe in probes.probes]
        fake_nvml.set_time(10)
        spent = [probe.counter.read() - before for probe, before in zip(probes.probes, start, strict=True)]
        # 100 W x 10 s + 500 W x 0.2 s x 19 whole waves + the 0.2 s of the last one that began at 9.55 s
        assert spent[0] == pytest.approx(1000 + 500 * 0.2 * 20, abs=2e-3)
        assert spent[1] == pytest.approx(60 * 3 + 300 * 7, abs=2e-3)
        assert spent == pytest.approx([fake_nvml.joules(0, 10), fake_nvml.joules(1, 10)], abs=2e-3)

    def test_steps_at_the_update_period(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        seen = []
        for moment in (0.0, 0.05, 0.09, 0.1, 0.19, 0.2):
            one_gpu.set_time(moment)
            seen.append(counter.read())
        assert seen == pytest.approx([0, 0, 0, 25, 25, 50], abs=2e-3)

    def test_meter(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("set 0 max_limit 700")
        meter = opened(one_gpu).probes[0].counter.meter
        assert (meter.component, meter.device, meter.name) == ("gpu", "GPU-aaaa", "NVIDIA H100 80GB HBM3")
        assert (meter.source, meter.update_period_s, meter.power_max_w) == ("counter", 0.1, 700)
        assert meter.relative_uncertainty == 0.05
        assert "2312.02741" in meter.uncertainty_source

    def test_a_reset_is_seen_as_a_fall(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("reset 0 5")
        counter = opened(one_gpu).probes[0].counter
        one_gpu.set_time(4)
        before = counter.read()
        one_gpu.set_time(6)
        assert (before, counter.read()) == pytest.approx((1000, 250), abs=2e-3)

    @pytest.mark.parametrize("code", ALL_CODES)
    def test_every_error_later_is_a_reason_and_never_a_number(self, one_gpu: FakeNvml, code: int) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell(f"error {ENERGY} {code} 0 0 1")
        one_gpu.set_time(1)
        with pytest.raises(
            SensorError, match=rf"NVML did not give energy_j of GPU-aaaa: .+ \(code {code}\)\."
        ):
            counter.read()
        assert counter.read() == pytest.approx(250)  # it recovers by itself, even after NVML was shut down

    @pytest.mark.parametrize("code", ALL_CODES)
    def test_every_error_at_opening_gives_an_integral_or_nothing(self, one_gpu: FakeNvml, code: int) -> None:
        one_gpu.tell(f"error {ENERGY} {code}")
        probes = opened(one_gpu)
        assert f"(code {code})" in " ".join(probes.reasons)
        if code in GONE:
            assert probes.probes == ()
            assert probes.reasons[-1].endswith("This GPU is not measured.")
        else:
            assert probes.probes[0].counter.meter.source == "integrated"
            assert probes.reasons[-1].endswith("Its power is integrated instead.")


class TestIntegratedPower:
    METER = Meter(
        component="gpu",
        device="GPU-x",
        name="x",
        source="integrated",
        update_period_s=None,
        relative_uncertainty=0.05,
        uncertainty_source="test",
    )

    def test_trapezoid_over_uneven_reads(self) -> None:
        time_s, watts = 0.0, 0.0
        counter = IntegratedPower(self.METER, lambda: watts, clock=lambda: time_s)
        seen = []
        for time_s, watts in ((0.0, 100.0), (1.0, 300.0), (1.5, 300.0), (4.0, 100.0)):  # noqa: B007
            seen.append(counter.read())
        assert seen == pytest.approx([0, 200, 350, 850])

    def test_a_ramp_is_exact(self) -> None:
        now = [0.0]
        counter = IntegratedPower(self.METER, lambda: 40 * now[0], clock=lambda: now[0])
        for now[0] in (0.0, 0.5, 2.0, 10.0):
            energy = counter.read()
        assert energy == pytest.approx(20 * 10**2)

    def test_a_gap_is_bridged(self) -> None:
        now, is_broken = [0.0], [False]

        def power() -> float:
            if is_broken[0]:
                raise SensorError("no power")
            return 50.0

        counter = IntegratedPower(self.METER, power, clock=lambda: now[0])
        counter.read()
        now[0], is_broken[0] = 1.0, True
        with pytest.raises(SensorError, match="no power"):
            counter.read()
        now[0], is_broken[0] = 2.0, False
        assert counter.read() == pytest.approx(100)

    def test_stands_in_for_a_missing_counter(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"error {ENERGY} 3")
        probes = opened(one_gpu)
        counter = probes.probes[0].counter
        assert any(
            reason.startswith(
                "NVML did not give energy_j of GPU-aaaa: Not Supported (code 3). This GPU, its driver"
            )
            for reason in probes.reasons
        )
        assert counter.meter.notes == (
            "This GPU has no energy counter: its instantaneous power is integrated, so changes between two "
            "readings go unseen.",
        )
        counter.read()
        one_gpu.set_time(2)
        assert counter.read() == pytest.approx(500)

    def test_says_when_the_power_is_a_mean(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"error {ENERGY} 3\nerror field:186 3")
        note = opened(one_gpu).probes[0].counter.meter.notes[0]
        assert "its mean power over the last second is integrated" in note

    def test_without_power_there_is_no_probe(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"error {ENERGY} 3\nerror {FIELDS} 3\nerror {USAGE} 4")
        probes = opened(one_gpu)
        assert probes.probes == ()
        assert "Nor can its power be integrated: NVML did not give average_power_w" in probes.reasons[-1]


class TestGauge:
    def test_values_in_si(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(
            "set 0 utilization 42\nset 0 memory 5e9\nset 0 clock 1980\nset 0 limit 650\nset 0 reasons 36"
        )
        assert gauge_of(opened(one_gpu)).read() == GaugeReading(
            power_w=250,
            average_power_w=250,
            utilization=pytest.approx(0.42),  # type: ignore[arg-type]
            memory_used_bytes=5_000_000_000,
            temperature_c=40,
            sm_clock_hz=1980e6,
            power_limit_w=650,
            throttle_reasons=36,
        )

    def test_instant_and_average_power_differ(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("power 0 9.5 50")
        one_gpu.set_time(10)
        reading = gauge_of(opened(one_gpu)).read()
        assert (reading.power_w, reading.average_power_w) == (50, 150)

    def test_one_batched_call_a_read(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        before = one_gpu.calls(FIELDS)
        for _ in range(5):
            gauge.read()
        assert one_gpu.calls(FIELDS) - before == 5
        assert one_gpu.calls(USAGE) == 0

    def test_slow_quantities_once_a_second_and_not_repeated(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        before = {call: one_gpu.calls(call) for call in SLOW_CALLS.values()}
        has_slow = []
        for tick in range(25):
            one_gpu.set_time(tick * 0.1)
            reading = gauge.read()
            assert reading.power_w == 250
            given = {getattr(reading, quantity) is not None for quantity in SLOW_CALLS}
            assert len(given) == 1
            has_slow.append(given.pop())
        assert [tick for tick, given in enumerate(has_slow) if given] == [0, 10, 20]
        assert {call: one_gpu.calls(call) - count for call, count in before.items()} == dict.fromkeys(
            before, 3
        )

    @pytest.mark.parametrize("code", ALL_CODES)
    @pytest.mark.parametrize("quantity", ["power_w", "average_power_w"])
    def test_every_error_of_one_field(self, one_gpu: FakeNvml, quantity: str, code: int) -> None:
        field = {"power_w": 186, "average_power_w": 185}[quantity]
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell(f"error field:{field} {code}")
        if code in GONE:
            with pytest.raises(SensorError, match=rf"did not give {quantity} of GPU-aaaa: .+\(code {code}\)"):
                gauge.read()
            return
        reading = gauge.read()
        other = {"power_w", "average_power_w"} - {quantity}
        assert getattr(reading, quantity) is None
        assert getattr(reading, other.pop()) == 250
        assert f"(code {code})" in gauge.refusals()[quantity]

    @pytest.mark.parametrize("code", ALL_CODES)
    def test_every_error_of_the_batched_call(self, one_gpu: FakeNvml, code: int) -> None:
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell(f"error {FIELDS} {code}")
        if code in GONE:
            with pytest.raises(SensorError, match=rf"did not give power of GPU-aaaa: .+\(code {code}\)"):
                gauge.read()
            return
        reading = gauge.read()
        assert (reading.power_w, reading.average_power_w) == (None, 250)  # by the older call
        one_gpu.tell(f"error {USAGE} {code}")
        reading = gauge.read()
        assert (reading.power_w, reading.average_power_w, reading.utilization) == (None, None, 0.5)

    def test_the_older_call_does_not_pose_as_an_average(self, one_gpu: FakeNvml) -> None:
        """On GA100 field 185 is missing and nvmlDeviceGetPowerUsage is instantaneous."""
        one_gpu.tell("error field:185 3")
        reading = gauge_of(opened(one_gpu)).read()
        assert (reading.power_w, reading.average_power_w) == (250, None)
        assert one_gpu.calls(USAGE) == 0

    @pytest.mark.parametrize("code", ALL_CODES)
    @pytest.mark.parametrize("quantity", [*SLOW_CALLS, "utilization"])
    def test_every_error_of_every_other_quantity(self, one_gpu: FakeNvml, quantity: str, code: int) -> None:
        call = {**SLOW_CALLS, "utilization": "nvmlDeviceGetUtilizationRates"}[quantity]
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell(f"error {call} {code}")
        if code == 13 and quantity == "throttle_reasons":
            one_gpu.tell(f"error nvmlDeviceGetCurrentClocksThrottleReasons {code}")
        if code in GONE:
            with pytest.raises(SensorError, match=rf"did not give {quantity} of GPU-aaaa: .+\(code {code}\)"):
                gauge.read()
            return
        reading = gauge.read()
        assert getattr(reading, quantity) is None
        assert reading.power_w == 250
        assert list(gauge.refusals()) == [quantity]

    def test_event_reasons_by_their_older_name(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetCurrentClocksEventReasons 13\nset 0 reasons 4")
        assert gauge_of(opened(one_gpu)).read().throttle_reasons == 4

    @pytest.mark.parametrize("kind", range(7))
    def test_the_type_of_a_field_is_its_own(self, one_gpu: FakeNvml, kind: int) -> None:
        one_gpu.tell(f"fieldtype 186 {kind}\nfieldraw 186 60000")
        assert gauge_of(opened(one_gpu)).read().power_w == 60

    def test_an_unknown_type_is_a_reason(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("fieldtype 186 99")
        gauge = gauge_of(opened(one_gpu))
        assert gauge.read().power_w is None
        assert gauge.refusals()["power_w"] == "NVML gave field 186 in the unknown type 99."

    def test_not_available_is_no_power(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"fieldraw 186 {2**32 - 1}")
        gauge = gauge_of(opened(one_gpu))
        assert gauge.read().power_w is None
        assert gauge.refusals()["power_w"] == "NVML gave field 186 as 'not available'."

    def test_when_nothing_answers_it_raises(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        for call in [FIELDS, USAGE, "nvmlDeviceGetUtilizationRates", *SLOW_CALLS.values()]:
            one_gpu.tell(f"error {call} 999")
        with pytest.raises(
            SensorError, match=r"NVML did not give .+ of GPU-aaaa: Unknown Error \(code 999\)\."
        ):
            gauge.read()

    def test_slow_quantities_alone_are_an_answer(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        for call in [FIELDS, USAGE, "nvmlDeviceGetUtilizationRates"]:
            one_gpu.tell(f"error {call} 3")
        assert gauge.read().temperature_c == 40
        one_gpu.set_time(0.1)
        assert gauge.read() == GaugeReading()


class TestOpening:
    def test_a_whole_gpu_needs_no_excuse(self, one_gpu: FakeNvml) -> None:
        assert opened(one_gpu).reasons == ()

    def test_what_is_missing_is_said_once(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetTemperature 4\nerror nvmlDeviceGetName 999")
        one_gpu.tell("error nvmlDeviceGetPowerManagementLimitConstraints 3")
        probes = opened(one_gpu)
        assert probes.reasons == (
            "NVML did not give temperature_c of GPU-aaaa: Insufficient Permissions (code 4). The driver "
            "refuses this user; ask the administrator. It stays null.",
            "NVML did not give name of GPU-aaaa: Unknown Error (code 999). It stays null.",
            "NVML did not give power_max_w of GPU-aaaa: Not Supported (code 3). This GPU, its driver or its "
            "virtualisation does not offer it. It stays null.",
        )
        meter = probes.probes[0].counter.meter
        assert (meter.name, meter.power_max_w) == ("NVIDIA GPU of unknown name", None)

    def test_one_lost_gpu_leaves_the_others(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS + f"error {FIELDS} 15 0")
        probes = opened(fake_nvml, "GPU-aaaa", "GPU-bbbb", "GPU-cccc", "GPU-bbbb")
        assert [probe.counter.meter.device for probe in probes.probes] == ["GPU-bbbb"]
        assert probes.reasons == (
            "NVML did not give power of GPU-aaaa: GPU is lost (code 15). The GPU fell off the bus; look for "
            "'Xid' in the kernel log. This GPU is not measured.",
            "NVML did not give power of GPU-cccc: Not Found (code 6). No such device is here; "
            "'nvidia-smi -L' lists those that are. This GPU is not measured.",
        )

    def test_mig_is_the_parent_once_and_says_so(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(ONE_GPU + "mig 0 MIG-1111\nmig 0 MIG-2222")
        probes = opened(fake_nvml, "MIG-1111", "MIG-2222", "MIG-3333")
        (probe,) = probes.probes
        assert probe.counter.meter.device == "GPU-aaaa"
        assert probe.counter.meter.notes == (
            "MIG: the energy is that of the whole parent GPU, of which this run used MIG-1111, MIG-2222. The "
            "hardware does not meter instances, so no share is claimed.",
        )
        assert probes.reasons == (
            "NVML did not give the parent GPU of MIG-3333: Not Found (code 6). No such device is here; "
            "'nvidia-smi -L' lists those that are. This instance is not measured.",
        )
        fake_nvml.set_time(4)
        assert probe.counter.read() == pytest.approx(1000)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (9, "The NVIDIA driver is installed but not loaded, so GPU energy is null. Run 'nvidia-smi'"),
            (18, "The NVIDIA driver library and its kernel module are of different versions"),
            (4, "The NVIDIA driver refuses this user, so GPU energy is null. Ask the administrator"),
            (12, "No NVIDIA driver library (libnvidia-ml.so.1) was found, so GPU energy is null."),
            (999, "NVML did not start: Unknown Error (code 999), so GPU energy is null."),
        ],
    )
    def test_nvml_that_does_not_start(self, one_gpu: FakeNvml, code: int, message: str) -> None:
        one_gpu.tell(f"error nvmlInit {code}")
        for start in (lambda: opened(one_gpu), list_gpus):
            with pytest.raises(SensorError) as raised:
                start()
            assert str(raised.value).startswith(message)

    def test_no_gpu_asked_for_does_not_touch_nvml(self, one_gpu: FakeNvml) -> None:
        probes = open_gpus([])
        probes.close()
        assert (probes.probes, one_gpu.calls("nvmlInit")) == ((), 0)

    def test_list_keeps_places_and_migs(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS + "mig 1 MIG-1111\nmig 1 MIG-2222\nerror nvmlDeviceGetUUID 15 0")
        first, second = list_gpus()
        assert (first.uuid, first.name) == ("GPU-unreadable-0", None)
        assert (second.uuid, second.name) == ("GPU-bbbb", "NVIDIA A100-SXM4-80GB")
        assert second.mig_uuids == ("MIG-1111", "MIG-2222")
        assert fake_nvml.refcount() == 0

    def test_list_that_cannot_count(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetCount_v2 999")
        with pytest.raises(SensorError, match=r"NVML did not count the GPUs: Unknown Error \(code 999\)\."):
            list_gpus()
        assert one_gpu.refcount() == 0


class TestOwnership:
    def test_close_leaves_the_users_nvml_alone(self, one_gpu: FakeNvml) -> None:
        pynvml.nvmlInit()
        probes = opened(one_gpu)
        assert one_gpu.refcount() == 2
        probes.close()
        probes.close()
        assert one_gpu.refcount() == 1
        assert pynvml.nvmlDeviceGetCount() == 1
        pynvml.nvmlShutdown()

    def test_a_user_who_shuts_nvml_down_costs_one_reading(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        pynvml.nvmlShutdown()
        counter = probes.probes[0].counter
        with pytest.raises(SensorError, match=r"Uninitialized \(code 1\)\. This process shut NVML down"):
            counter.read()
        one_gpu.set_time(1)
        assert counter.read() == pytest.approx(250)
        probes.close()
        assert one_gpu.refcount() == 0

    def test_nvml_is_restarted_once_for_all_gpus(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS)
        probes = opened(fake_nvml, "GPU-aaaa", "GPU-bbbb")
        pynvml.nvmlShutdown()
        for probe in probes.probes:
            with pytest.raises(SensorError, match="Uninitialized"):
                probe.counter.read()
        assert [probe.counter.read() for probe in probes.probes] == [0.0, 12345.0]
        assert fake_nvml.refcount() == 1

    def test_a_call_that_hangs_leaves_the_training_running(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell(f"hang {ENERGY} 0.5")
        stuck = threading.Thread(target=counter.read)
        stuck.start()
        begin = time.monotonic()
        assert sum(range(100_000)) == 4_999_950_000  # needs the GIL
        assert time.monotonic() - begin < 0.4
        assert stuck.is_alive()
        stuck.join()

    def test_a_closed_probe_stays_closed(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        probes.close()
        counter = probes.probes[0].counter
        with pytest.raises(SensorError, match="Uninitialized"):
            counter.read()
        with pytest.raises(
            SensorError, match="The GPU sensors were closed; nothing can be read from them any more"
        ):
            counter.read()
        assert one_gpu.refcount() == 0

    def test_a_lost_gpu_that_returns_is_found_again(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell(f"error {ENERGY} 15 0 0 1\nerror nvmlDeviceGetHandleByUUID 28 0 0 2")
        for code in (15, 28, 28):
            with pytest.raises(SensorError, match=rf"\(code {code}\)"):
                counter.read()
        assert counter.read() == 0.0  # virtual time is still 0: the counter's own value


class TestEventReasons:
    def test_words(self) -> None:
        assert decode_event_reasons(0) == ()
        assert decode_event_reasons(1 | 0x80) == ("idle", "hardware power brake slowdown")
        assert decode_event_reasons(4 | 0x4000) == ("software power cap", "unknown reason 0x4000")

    def test_bits_are_nvmls(self) -> None:
        assert sum(bit for bit, _ in EVENT_REASONS) == pynvml.nvmlClocksEventReasonAll
        slowdowns = (
            "SwPowerCap",
            "HwSlowdown",
            "SwThermalSlowdown",
            "HwThermalSlowdown",
            "HwPowerBrakeSlowdown",
        )
        bits = [getattr(pynvml, f"nvmlClocksEventReason{name}") for name in slowdowns]
        assert sum(bits) == SLOWDOWN_BITS


READ_VISIBLE = textwrap.dedent("""
    import json, os, time
    from profiler.measure.ranks import visible_uuids
    from profiler.measure.sensors.nvml import list_gpus, open_gpus
    gpus = list_gpus()
    uuids = [gpu.uuid for gpu in gpus]
    migs = {gpu.uuid: gpu.mig_uuids for gpu in gpus}
    visible = visible_uuids(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids, migs)
    probes = open_gpus(visible)
    start, begin = [probe.counter.read() for probe in probes.probes], time.monotonic()
    time.sleep(0.5)
    spent = [probe.counter.read() - before for probe, before in zip(probes.probes, start)]
    seconds = time.monotonic() - begin
    reasons = probes.probes[0].gauge.read().throttle_reasons if probes.probes else None
    print(json.dumps({"devices": [probe.counter.meter.device for probe in probes.probes],
                      "watts": [joules / seconds for joules in spent], "throttle_reasons": reasons}))
    probes.close()
""")


def run_python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


class TestSubprocess:
    SCRIPT = "gpu GPU-aaaa NVIDIA H100\npower 0 0 400\nupdate 0 0.01\nmig 0 MIG-1111\n" + (
        "gpu GPU-bbbb NVIDIA H100\npower 1 0 100\nupdate 1 0.01\n"
    )

    @pytest.mark.parametrize(
        ("visible", "devices"),
        [
            ("0", ["GPU-aaaa"]),
            ("1", ["GPU-bbbb"]),
            ("1,0", ["GPU-bbbb", "GPU-aaaa"]),
            ("GPU-bbbb", ["GPU-bbbb"]),
            ("GPU-b", ["GPU-bbbb"]),
            ("MIG-1111", ["GPU-aaaa"]),
            ("", []),
            ("-1", []),
        ],
    )
    def test_cuda_visible_devices_picks_the_right_gpu(
        self, nvml_library: Path, tmp_path: Path, visible: str, devices: list[str]
    ) -> None:
        env = subprocess_env(nvml_library, tmp_path / "gpus", self.SCRIPT, CUDA_VISIBLE_DEVICES=visible)
        done = run_python(READ_VISIBLE, env)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["devices"] == devices
        # Half a second of real time, of which the counter may miss 10 ms at each end, on a busy machine.
        expected = [{"GPU-aaaa": 400, "GPU-bbbb": 100}[device] for device in devices]
        assert found["watts"] == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize(
        ("missing", "reasons"),
        [
            (("WITHOUT_EVENT_REASONS",), 4),
            (("WITHOUT_THROTTLE_REASONS",), 4),
            (("WITHOUT_EVENT_REASONS", "WITHOUT_THROTTLE_REASONS"), None),
        ],
    )
    def test_a_driver_without_the_symbol(
        self, nvml_library: Path, tmp_path: Path, missing: tuple[str, ...], reasons: int | None
    ) -> None:
        library = build_library(tmp_path, *missing)
        env = subprocess_env(
            library, tmp_path / "gpus", self.SCRIPT + "set 0 reasons 4\n", CUDA_VISIBLE_DEVICES="0"
        )
        done = run_python(READ_VISIBLE, env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["throttle_reasons"] == reasons

    def test_no_library(self, tmp_path: Path) -> None:
        (tmp_path / "libnvidia-ml.so.1").write_text("not a library: hides the machine's own, if it has one")
        env = subprocess_env(tmp_path / "libnvidia-ml.so.1", tmp_path / "gpus", "")
        done = run_python("from profiler.measure.sensors.nvml import list_gpus; list_gpus()", env)
        assert done.returncode == 1
        assert (
            "profiler.errors.SensorError: No NVIDIA driver library (libnvidia-ml.so.1) was found, so GPU "
            "energy is null. If this machine has an NVIDIA GPU, install its driver, or start the container "
            "with --gpus all."
        ) in done.stderr

    def test_import_profiler_leaves_pynvml_alone(self) -> None:
        code = "import sys, profiler, profiler.hardware_events; assert 'pynvml' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
