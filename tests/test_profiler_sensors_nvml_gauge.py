"""The momentary values of NVIDIA GPUs: units, refusals, rhythm."""

from __future__ import annotations

import pynvml
import pytest
from fake_nvml.build import FakeNvml
from nvml_cases import ALL_CODES, FIELDS, GONE, SLOW_CALLS, USAGE, gauge_of, opened

from profiler.errors import SensorError
from profiler.hardware_events import EVENT_REASONS, SLOWDOWN_BITS, decode_event_reasons
from profiler.measure.sensors.base import GaugeReading
from profiler.measure.sensors.nvml_gauge import PERIODS_S
from profiler.measure.sensors.pace import Pace


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
        assert decode_event_reasons(36) == ("software power cap", "software thermal slowdown")

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

    def test_each_quantity_at_its_own_period_and_not_repeated(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        before = {call: one_gpu.calls(call) for call in SLOW_CALLS.values()}
        told: dict[str, list[int]] = {quantity: [] for quantity in SLOW_CALLS}
        for tick in range(100):
            one_gpu.set_time(tick * 0.1)
            reading = gauge.read()
            assert reading.power_w == 250
            for quantity, ticks in told.items():
                ticks += [tick] if getattr(reading, quantity) is not None else []
        for quantity, call in SLOW_CALLS.items():
            assert told[quantity] == list(range(0, 100, round(10 * PERIODS_S[quantity]))), quantity
            assert one_gpu.calls(call) - before[call] == len(told[quantity])

    def test_two_calls_a_gpu_and_round_at_most(self, one_gpu: FakeNvml) -> None:
        """What the goal of 1 % of a core for eight GPUs rests on."""
        calls = [FIELDS, "nvmlGpmSampleGet", "nvmlGpmMetricsGet", *SLOW_CALLS.values()]
        gauge = gauge_of(opened(one_gpu))
        before = sum(map(one_gpu.calls, calls))
        for tick in range(100):
            one_gpu.set_time(tick * 0.1)
            gauge.read()
        assert sum(map(one_gpu.calls, calls)) - before < 160

    @pytest.mark.parametrize("code", ALL_CODES)
    def test_every_error_of_the_batched_call(self, one_gpu: FakeNvml, code: int) -> None:
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell(f"error {FIELDS} {code}")
        if code in GONE:
            with pytest.raises(
                SensorError, match=rf"did not give energy and power of GPU-aaaa: .+\(code {code}\)"
            ):
                gauge.read()
            return
        reading = gauge.read()
        assert (reading.power_w, reading.average_power_w) == (None, 250)  # by the older call
        one_gpu.tell(f"error {USAGE} {code}")
        one_gpu.set_time(1)
        reading = gauge.read()
        assert (reading.power_w, reading.average_power_w, reading.utilization) == (None, None, 0.5)

    def test_the_older_call_does_not_pose_as_an_average(self, one_gpu: FakeNvml) -> None:
        """On GA100 field 185 is missing and nvmlDeviceGetPowerUsage is instantaneous."""
        one_gpu.tell("error field:185 3")
        reading = gauge_of(opened(one_gpu)).read()
        assert (reading.power_w, reading.average_power_w) == (250, None)
        assert one_gpu.calls(USAGE) == 0

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
        assert gauge.refusals()["power_w"] == "NVML gave power_w of GPU-aaaa in the unknown type 99."

    def test_not_available_is_no_power(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"fieldraw 186 {2**32 - 1}")
        gauge = gauge_of(opened(one_gpu))
        assert gauge.read().power_w is None
        assert gauge.refusals()["power_w"] == "NVML gave power_w of GPU-aaaa as 'not available'."

    def test_when_nothing_answers_it_raises(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        for call in [FIELDS, USAGE, *SLOW_CALLS.values(), "nvmlGpmSampleGet"]:
            one_gpu.tell(f"error {call} 999")
        one_gpu.set_time(1)
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

    @pytest.mark.parametrize(
        ("key", "value", "quantity"),
        [
            ("utilization", 101, "utilization"),
            ("temperature", 2**32 - 1, "temperature_c"),
            ("clock", 2**32 - 1, "sm_clock_hz"),
            ("limit", 4_000_000, "power_limit_w"),
            ("memory", 1e18, "memory_used_bytes"),
            ("reasons", 1.6e19, "throttle_reasons"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, one_gpu: FakeNvml, key: str, value: float, quantity: str
    ) -> None:
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell(f"set 0 {key} {value}")
        reading = gauge.read()
        assert getattr(reading, quantity) is None
        assert reading.power_w == 250
        assert f"NVML gave {quantity} of GPU-aaaa as" in reading.news[quantity]

    def test_a_refusal_is_news_once_and_again_after_it_was_given(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        news = []
        for second, script in enumerate(
            [
                "",
                "error nvmlDeviceGetTemperature 4",
                "",
                "clear nvmlDeviceGetTemperature",
                "error field:186 999",
                "",
            ]
        ):
            one_gpu.tell(script)
            one_gpu.set_time(second * PERIODS_S["temperature_c"])
            news.append(list(gauge.read().news))
        assert news == [[], ["temperature_c"], [], [], ["power_w"], []]

    def test_what_was_refused_at_opening_is_no_news(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetTemperature 3")
        probes = opened(one_gpu)
        assert "temperature_c" in probes.reasons[0]
        assert gauge_of(probes).read().news == {}

    def test_a_change_of_the_power_limit_is_news(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        news = []
        for second, watts in enumerate([700, 700, 500, 500]):
            one_gpu.tell(f"set 0 limit {watts}")
            one_gpu.set_time(second * PERIODS_S["power_limit_w"])
            news.append(dict(gauge.read().news))
        assert news == [
            {},
            {},
            {"power limit": "The power limit of GPU-aaaa went from 700 W to 500 W."},
            {},
        ]


class TestPace:
    def test_a_period_and_nothing_slow(self) -> None:
        pace, made = Pace(1.0), []
        for tick in range(35):
            if pace.due_s <= tick * 0.1:
                pace.made(tick * 0.1, 0.009)
                made.append(tick)
        assert made == [0, 10, 20, 30]
        assert not pace.is_slowed

    def test_slow_twice_is_slow(self) -> None:
        pace, made = Pace(1.0), []
        for second in range(100):
            if pace.due_s <= second:
                pace.made(second, 0.2)
                made.append(second)
        assert made == [0, 1, 21, 41, 61, 81]
        assert (pace.is_slowed, pace.interval_s) == (True, 20.0)

    def test_one_hiccup_is_forgiven(self) -> None:
        pace = Pace(1.0)
        for second, took_s in enumerate([0.001, 3.0, 0.001]):
            assert pace.due_s <= second
            pace.made(second, took_s)
        assert not pace.is_slowed

    @pytest.mark.parametrize("quantity", [*SLOW_CALLS, "GPM"])
    def test_a_slow_call_alone_is_made_less_often(self, one_gpu: FakeNvml, quantity: str) -> None:
        """60 ms are a hundredth of 6 s; what is quick goes on at its own rhythm."""
        calls = {**SLOW_CALLS, "GPM": "nvmlGpmSampleGet"}
        gauge, call = gauge_of(opened(one_gpu)), calls.pop(quantity)
        one_gpu.tell(f"slow {call} 0.06")
        other = "utilization" if quantity != "utilization" else "sm_clock_hz"
        before, other_before, news = one_gpu.calls(call), one_gpu.calls(SLOW_CALLS[other]), {}
        for tick in range(600):
            one_gpu.set_time(max(tick * 0.1, one_gpu.time()))
            news |= gauge.read().news
        assert 10 <= one_gpu.calls(call) - before <= 13
        at_most = 60 / PERIODS_S[other]
        assert 0.9 * at_most <= one_gpu.calls(SLOW_CALLS[other]) - other_before <= at_most
        ((subject, sentence),) = news.items()
        assert quantity in subject
        assert sentence.endswith(
            "it is asked every 6.0 s or less often, so that it takes at most a hundredth of the time."
        )


class TestEventReasons:
    def test_words(self) -> None:
        assert decode_event_reasons(0) == ()
        assert decode_event_reasons(1 | 0x80) == ("idle", "hardware power brake slowdown")
        assert decode_event_reasons(0x600) == ("board limit", "reliability limit")
        assert decode_event_reasons(4 | 0x4000) == ("software power cap", "unknown reason 0x4000")

    @pytest.mark.parametrize("prefix", ["nvmlClocksEventReason", "nvmlClocksThrottleReason"])
    def test_every_bit_of_nvml_has_words_by_its_old_and_new_name(self, prefix: str) -> None:
        known = {bit for bit, _ in EVENT_REASONS}
        bits = {name: value for name, value in vars(pynvml).items() if name.startswith(prefix)}
        assert len(bits) > 9
        assert all(value in {0, *known} for name, value in bits.items() if name != f"{prefix}All")

    def test_slowdowns_are_those_of_power_and_heat(self) -> None:
        slowdowns = (
            "SwPowerCap",
            "HwSlowdown",
            "SwThermalSlowdown",
            "HwThermalSlowdown",
            "HwPowerBrakeSlowdown",
        )
        bits = [getattr(pynvml, f"nvmlClocksEventReason{name}") for name in slowdowns]
        assert (
            sum(bits) + 0x200 == SLOWDOWN_BITS
        )  # and the board limit, which only the Throttle names have here
