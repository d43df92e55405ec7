"""The energy counter of NVIDIA GPUs: what it says, what stands in for it, and what is not believed."""

from __future__ import annotations

import pytest
from fake_nvml.build import FakeNvml
from nvml_cases import ALL_CODES, ENERGY, FIELDS, GONE, ONE_GPU, TWO_GPUS, USAGE, gauge_of, opened

from profiler.errors import SensorError
from profiler.measure.sensors.base import Meter
from profiler.measure.sensors.integrated import IntegratedPower


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
        assert meter.scope == "device"
        assert "2312.02741" in meter.uncertainty_source

    def test_a_reset_is_seen_as_a_fall(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("reset 0 5")
        counter = opened(one_gpu).probes[0].counter
        one_gpu.set_time(4)
        before = counter.read()
        one_gpu.set_time(6)
        assert (before, counter.read()) == pytest.approx((1000, 250), abs=2e-3)

    def test_counter_and_powers_come_from_one_call(self, one_gpu: FakeNvml) -> None:
        probe = opened(one_gpu).probes[0]
        before = one_gpu.calls(FIELDS)
        for moment in (1.0, 1.1, 1.2):
            one_gpu.set_time(moment)
            energy_j, reading = probe.counter.read(), probe.gauge.read()  # type: ignore[union-attr]
            assert (energy_j, reading.power_w, reading.average_power_w) == pytest.approx(
                (250 * moment, 250, 250)
            )
        assert one_gpu.calls(FIELDS) - before == 3
        assert one_gpu.calls(ENERGY) == one_gpu.calls(USAGE) == 0

    def test_each_reader_alone_gets_a_new_answer_every_time(self, one_gpu: FakeNvml) -> None:
        probe = opened(one_gpu).probes[0]
        one_gpu.tell("power 0 1 300\npower 0 2 400")
        probe.counter.read()
        one_gpu.set_time(1.5)
        assert gauge_of(opened(one_gpu)).read().power_w == 300
        assert probe.gauge.read().power_w == 300  # type: ignore[union-attr]  # not that of the counter's old answer
        one_gpu.set_time(2.5)
        assert probe.gauge.read().power_w == 400  # type: ignore[union-attr]
        assert probe.counter.read() == pytest.approx(250 + 300 + 200)

    @pytest.mark.parametrize("code", [code for code in ALL_CODES if code not in GONE])
    def test_the_older_call_stands_in_for_the_field(self, one_gpu: FakeNvml, code: int) -> None:
        one_gpu.tell(f"error field:83 {code}")
        probes = opened(one_gpu)
        one_gpu.set_time(2)
        assert probes.probes[0].counter.meter.source == "counter"
        assert probes.probes[0].counter.read() == pytest.approx(500)
        assert one_gpu.calls(ENERGY) > 0


class TestWhatCannotBe:
    """A wrong joule is worse than none."""

    @pytest.mark.parametrize(
        ("script", "told"),
        [
            ("fieldtype 83 4\nfieldraw 83 -5000", "as -5,"),
            ("fieldtype 83 5\nfieldraw 83 -5000", "as -5,"),
            ("fieldtype 83 0\nfieldraw 83 nan", "as nan,"),
            (f"fieldraw 83 {2**63}", r"as 9\.22337e\+15,"),
            (f"fieldraw 83 {2**64 - 1}", "as 'not available'"),
            ("fieldtype 83 99", "in the unknown type 99"),
        ],
    )
    def test_a_field_that_cannot_be_is_refused(self, one_gpu: FakeNvml, script: str, told: str) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell(script)
        one_gpu.set_time(1)
        assert counter.read() == pytest.approx(250)  # by the older call
        one_gpu.tell(f"error {ENERGY} 3")
        with pytest.raises(SensorError, match=rf"As a field: NVML gave energy_j of GPU-aaaa {told}"):
            counter.read()

    @pytest.mark.parametrize("quantity", ["power_w", "average_power_w"])
    @pytest.mark.parametrize(
        ("kind", "raw"), [(4, "-5000"), (5, "-1000"), (0, "nan"), (1, "4000000000"), (3, str(2**63))]
    )
    def test_a_power_that_cannot_be_is_refused(
        self, one_gpu: FakeNvml, quantity: str, kind: int, raw: str
    ) -> None:
        field = {"power_w": 186, "average_power_w": 185}[quantity]
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell(f"fieldtype {field} {kind}\nfieldraw {field} {raw}")
        reading = gauge.read()
        assert getattr(reading, quantity) is None
        assert f"NVML gave {quantity} of GPU-aaaa as" in reading.news[quantity]
        assert "which no GPU can reach." in reading.news[quantity]

    @pytest.mark.parametrize("millijoules", [0, 2_400_000, 90_000_000_000, 2**40])
    def test_a_single_misread_does_no_harm(self, one_gpu: FakeNvml, millijoules: int) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.set_time(10)
        assert counter.read() == pytest.approx(2500)
        one_gpu.set_time(10.1)
        one_gpu.tell(f"fieldraw 83 {millijoules} 1")
        assert counter.read() == pytest.approx(2525)
        assert counter.read() == pytest.approx(2525)

    def test_a_fall_told_twice_is_a_reset(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("reset 0 5")
        counter = opened(one_gpu).probes[0].counter
        one_gpu.set_time(4)
        counter.read()
        one_gpu.set_time(6)
        before = one_gpu.calls(FIELDS)
        assert counter.read() == pytest.approx(250)
        assert one_gpu.calls(FIELDS) - before == 2
        assert counter.read() == pytest.approx(250)
        assert one_gpu.calls(FIELDS) - before == 3

    def test_a_leap_told_twice_is_refused(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell("fieldraw 83 90000000000")
        one_gpu.set_time(1)
        with pytest.raises(
            SensorError,
            match=r"energy_j of GPU-aaaa as 9e\+07 J, 9e\+07 J more than before, which no GPU can use",
        ):
            counter.read()

    def test_a_frozen_counter_is_no_change(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell("fieldraw 83 7000")
        seen = []
        for moment in (1.0, 2.0, 60.0):
            one_gpu.set_time(moment)
            seen.append(counter.read())
        assert seen == [7.0, 7.0, 7.0]


class TestScopes:
    GRACE = "gpu GPU-gggg NVIDIA GH200 480GB\npower 0 0 300\nmodule 0 150"

    def test_only_the_module_answers(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(f"{self.GRACE}\nerror field:186 3\nerror field:185 3")
        probe = opened(fake_nvml, "GPU-gggg").probes[0]
        meter = probe.counter.meter
        assert (meter.component, meter.scope, meter.source) == ("module", "module", "counter")
        assert meter.power_max_w is None  # NVML's limit is the GPU's
        assert meter.notes == (
            "NVML tells the power of the whole module only: processor, GPU and memory together, so no processor is "
            "measured beside it. GPUs that share one module each tell all of it.",
        )
        fake_nvml.set_time(2)
        assert probe.counter.read() == pytest.approx(900)
        reading = probe.gauge.read()  # type: ignore[union-attr]
        assert (reading.power_w, reading.average_power_w) == (450, 450)

    def test_a_module_without_a_counter_is_integrated(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(
            f"{self.GRACE}\nerror field:186 3\nerror field:185 3\nerror field:83 3\nerror {ENERGY} 3"
        )
        counter = opened(fake_nvml, "GPU-gggg").probes[0].counter
        assert (counter.meter.scope, counter.meter.source) == ("module", "integrated")
        counter.read()
        fake_nvml.set_time(2)
        assert counter.read() == pytest.approx(900)

    def test_a_counter_that_may_be_the_modules_is_not_taken_for_the_gpus(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(self.GRACE)
        probes = opened(fake_nvml, "GPU-gggg")
        counter = probes.probes[0].counter
        assert (counter.meter.component, counter.meter.scope) == ("gpu", "device")
        assert counter.meter.source == "integrated"
        counter.read()
        fake_nvml.set_time(2)
        assert counter.read() == pytest.approx(600)
        assert (
            "GPU-gggg is part of a module with a processor, whose joules its counter may hold as well. "
            "The GPU's own power is integrated instead."
        ) in probes.reasons

    def test_a_module_that_tells_no_more_than_its_gpu_is_none(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell("gpu GPU-aaaa NVIDIA H100\npower 0 0 300\nmodule 0 5")
        assert opened(fake_nvml).probes[0].counter.meter.source == "counter"

    @pytest.mark.parametrize("code", ALL_CODES)
    def test_a_scope_that_is_refused_is_no_module(self, one_gpu: FakeNvml, code: int) -> None:
        one_gpu.tell(f"error field:186:1 {code}\nerror field:185:1 {code}")
        probes = opened(one_gpu)
        assert [probe.counter.meter.source for probe in probes.probes] == ["counter"]
        assert probes.reasons == ()

    def test_mig_is_of_its_parent(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(ONE_GPU + "mig 0 MIG-1111")
        assert opened(fake_nvml, "MIG-1111").probes[0].counter.meter.scope == "parent_of_mig"


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
        one_gpu.tell(f"error field:83 3\nerror {ENERGY} 3")
        probes = opened(one_gpu)
        counter = probes.probes[0].counter
        assert any(
            reason.startswith(
                "NVML did not give energy_j of GPU-aaaa: Not Supported (code 3). This GPU, its driver"
            )
            for reason in probes.reasons
        )
        assert counter.meter.notes == (
            "This GPU has no energy counter. Its instantaneous power is integrated, so changes between two "
            "readings go unseen.",
        )
        counter.read()
        one_gpu.set_time(2)
        assert counter.read() == pytest.approx(500)

    def test_says_when_the_power_is_a_mean(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"error field:83 3\nerror {ENERGY} 3\nerror field:186 3")
        note = opened(one_gpu).probes[0].counter.meter.notes[0]
        assert "Its mean power over the last second is integrated" in note

    def test_without_power_there_is_no_probe(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"error {ENERGY} 3\nerror {FIELDS} 3\nerror {USAGE} 4")
        probes = opened(one_gpu)
        assert probes.probes == ()
        assert "Nor can its power be integrated: NVML did not give average_power_w" in probes.reasons[-1]
