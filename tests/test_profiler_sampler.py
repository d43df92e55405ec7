"""The sampler: what fails is said once and tried again, what hangs is left behind, and nothing dies in silence."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from random import Random

import pytest
from fixtures_sampling import Sampling
from fixtures_scripted import FakeClock, Script, ScriptedCpu, scripted_run

from profiler.errors import SensorError
from profiler.measure.asked import RETRY_LOST_S, RETRY_MOST_S
from profiler.measure.guard import Guard, guarded
from profiler.measure.lane import HANG_S
from profiler.measure.sensors.base import CoTenants, GaugeReading, Meter, Probe
from profiler.measure.sensors.scripted import ScriptedEnergy


class Moody:
    """A counter or gauge that does what the test says: a value, an exception, or a wait."""

    def __init__(self, value: object = 1.0) -> None:
        self.value = value
        self.asked = 0
        self.meter = Meter(
            component="gpu",
            device="GPU-a",
            name="moody",
            source="counter",
            update_period_s=0.1,
            relative_uncertainty=0.0,
            uncertainty_source="scripted",
        )

    def read(self) -> object:
        self.asked += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value() if callable(self.value) else self.value


def _probe(counter: Moody, gauge: Moody | None = None, driver: str = "a driver") -> Probe:
    return Probe(counter=counter, gauge=gauge, driver=driver)  # type: ignore[arg-type]


class Hanging:
    """A value that is not told until the test lets go of it; afterwards at once."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> float:
        self.begun.set()
        self.let_go.wait(30.0)
        return 1.0


class Beside:
    """A driver that hangs beside one that does not, both sampled on their own threads."""

    def __init__(self) -> None:
        self.hang, self.counter, self.other = Hanging(), Moody(1.0), Moody(2.0)
        self.other.meter = replace(self.other.meter, device="other", update_period_s=None)
        self.run = Sampling(
            _probe(self.counter, driver="NVML"), _probe(self.other, driver="RAPL"), period_s=0.01, real=True
        )

    def begin(self) -> None:
        self.run.sampler.start()
        self.counter.value = self.hang
        assert self.hang.begun.wait(5.0)

    def wait_for_others(self, count: int) -> None:
        """Until the other driver was read so often from now on."""
        until = self.other.asked + count
        deadline_s = time.monotonic() + 5.0
        while self.other.asked < until:
            assert time.monotonic() < deadline_s, "the other driver is not read"
            time.sleep(0.005)


def test_a_reading_has_the_time_of_its_counter_and_all_that_the_gauge_said():
    gauge = Moody(GaugeReading(power_w=150.0, utilization=0.5, throttle_reasons=4))
    run = Sampling(_probe(Moody(12.0), gauge))
    run.clock.advance(3.0)
    run.sampler.sample()
    (reading,) = run.readings
    assert (reading.time_s, reading.energy_j, reading.power_w, reading.utilization) == (3.0, 12.0, 150.0, 0.5)
    assert (reading.component, reading.device, reading.source, reading.throttle_reasons) == (
        "gpu",
        "GPU-a",
        "counter",
        4,
    )


def test_a_reading_says_how_long_its_call_took():
    def slowly() -> float:
        run.clock.advance(0.1234)
        return 12.0

    run = Sampling(_probe(Moody(slowly)))
    run.sampler.sample()
    assert [(one.time_s, one.took_s) for one in run.readings] == [(pytest.approx(0.0617), 0.123)]


def test_a_lost_sensor_is_said_once_and_tried_again_later():
    counter = Moody(SensorError("GPU is lost"))
    run = Sampling(_probe(counter))
    for _ in range(20):
        run.sampler.sample()
        run.clock.advance(RETRY_LOST_S / 10)
    assert run.lost == [("GPU-a", "GPU is lost")]
    assert counter.asked == 3  # again at once, and 5 s later
    assert run.readings == []
    counter.value = 5.0
    run.clock.advance(2 * RETRY_LOST_S)
    run.sampler.sample()
    assert [r.energy_j for r in run.readings] == [5.0]
    counter.value = SensorError("lost again")
    run.sampler.sample()
    assert run.lost == [("GPU-a", "GPU is lost"), ("GPU-a", "lost again")]


def test_a_moments_loss_costs_one_reading():
    counter = Moody(1.0)
    run = Sampling(_probe(counter))
    for tick in range(100):
        counter.value = SensorError("Timeout") if tick == 50 else 1.0
        run.sampler.sample()
        run.clock.advance(0.1)
    assert len(run.readings) == 99
    assert len(run.lost) == 1


def test_a_sensor_that_comes_and_goes_is_not_said_every_time():
    counter, chance = Moody(1.0), Random(0)
    run = Sampling(_probe(counter))
    for _ in range(600):
        counter.value = SensorError("Timeout") if chance.random() < 0.5 else 1.0
        run.sampler.sample()
        run.clock.advance(0.1)
    assert len(run.lost) <= 60.0 / RETRY_LOST_S
    assert 10 <= len(run.readings) < 100


def test_a_lost_gauge_keeps_the_energy():
    run = Sampling(_probe(Moody(7.0), Moody(SensorError("no permission"))))
    run.sampler.sample()
    run.sampler.sample()
    assert [(r.energy_j, r.power_w) for r in run.readings] == [(7.0, None), (7.0, None)]
    assert run.lost == [("GPU-a gauge", "no permission")]


def test_a_lost_counter_keeps_the_gauge():
    run = Sampling(_probe(Moody(SensorError("not supported")), Moody(GaugeReading(power_w=9.0))))
    run.sampler.sample()
    assert [(r.energy_j, r.power_w) for r in run.readings] == [(None, 9.0)]


def test_one_lost_sensor_leaves_the_others():
    clock = FakeClock(now_s=1.0)
    lost = ScriptedEnergy([(1.0, 100.0)], clock=clock, fails_at_s=0.5)
    run = Sampling(Probe(counter=lost), Probe(counter=ScriptedCpu(clock)))
    run.sampler.sample()
    assert [r.device for r in run.readings] == ["scripted processor"]
    assert run.lost == [("GPU-scripted", "the scripted sensor is lost")]


def test_a_sensor_that_stays_lost_is_asked_less_and_less_often():
    counter = Moody(SensorError("GPU is lost"))
    run = Sampling(_probe(counter))
    asked_at = []
    for second in range(300):
        before = counter.asked
        run.sampler.sample()
        asked_at += [second] if counter.asked > before else []
        run.clock.advance(1.0)
    assert asked_at == [0, 1, 6, 16, 36, 76, 136, 196, 256]
    assert asked_at[-1] - asked_at[-2] == RETRY_MOST_S
    assert len(run.lost) == 1


def test_steadily_slow_sensors_are_asked_less_often_and_that_is_said():
    def slow() -> float:
        time.sleep(0.02)
        return 1.0

    quick, lame = Moody(1.0), Moody(slow)
    for counter in (quick, lame):
        run = Sampling(_probe(counter), period_s=0.01, real=True)
        run.sampler.start()
        time.sleep(0.6)
        run.sampler.stop()
    assert lame.asked <= 9  # 0.1 s in a burst, then one each 0.4 s, and one at the stop
    assert quick.asked > 2 * lame.asked
    (subject, sentence), *more = run.heard.news
    assert (subject, more) == ("sampling", [])
    assert sentence.startswith("A round of readings took 0.0")
    assert sentence.endswith("s after it and not 0.01 s: reading takes at most 5% of the time.")


def test_one_slow_call_leaves_no_hole_in_the_readings():
    """A twentieth of the time for 60 ms is 1.2 s: it is paid off over the next rounds."""
    times = iter([0.0, 0.0, 0.06])
    counter = Moody(lambda: time.sleep(next(times, 0.0)) or 1.0)
    run = Sampling(_probe(counter), period_s=0.02, real=True)
    run.sampler.start()
    time.sleep(0.5)
    run.sampler.stop()
    assert counter.asked > 8  # and not the three that a pause of 1.2 s would leave


def test_co_tenants_are_asked_for_at_the_start_and_the_end_on_the_samplers_thread():
    threads, answers = [], [CoTenants(processes=0), CoTenants(processes=2, memory_bytes=5, note="perhaps")]

    def ask() -> CoTenants:
        threads.append(threading.current_thread())
        return answers[len(threads) - 1]

    counter = Moody(1.0)
    run = Sampling(Probe(counter=counter, co_tenants=ask), period_s=0.01, real=True)  # type: ignore[arg-type]
    run.sampler.start()
    while counter.asked < 4:
        time.sleep(0.005)
    run.sampler.stop()
    assert len(threads) == 2
    assert threading.current_thread() not in threads
    assert run.heard.co_tenants == [("GPU-a", answers[1])]
    assert run.heard.news == [("other processes on GPU-a", "perhaps")]


@pytest.mark.parametrize("fault", [SensorError("No Permission"), ZeroDivisionError("oops")])
def test_co_tenants_that_are_not_told_cost_nothing_else(fault: Exception):
    def ask() -> CoTenants:
        raise fault

    counter = Moody(1.0)
    run = Sampling(Probe(counter=counter, co_tenants=ask), period_s=0.01, real=True)  # type: ignore[arg-type]
    run.sampler.start()
    run.sampler.stop()
    assert run.readings
    assert run.heard.co_tenants == []
    said = dict(run.heard.news) or run.guard.reasons
    assert str(fault) in " ".join(said.values())


def test_news_of_a_gauge_are_passed_on_with_the_device():
    run = Sampling(_probe(Moody(1.0), Moody(GaugeReading(power_w=1.0, news={"temperature_c": "refused"}))))
    run.sampler.sample()
    assert run.heard.news == [("GPU-a temperature_c", "refused")]


def test_a_hanging_sensor_blocks_neither_the_stop_nor_the_training():
    hang, hanging, counter = threading.Event(), threading.Event(), Moody(1.0)

    def never() -> float:
        hanging.set()
        hang.wait(30.0)
        return 1.0

    run = Sampling(_probe(counter), period_s=0.01, real=True)
    run.sampler.start()
    counter.value = never
    assert hanging.wait(5.0)
    start = time.monotonic()
    run.sampler.sample()
    assert time.monotonic() - start < 0.6
    run.sampler.stop()
    assert time.monotonic() - start < 2.0
    hang.set()


def test_a_driver_that_hangs_leaves_the_others_going_on():
    beside = Beside()
    beside.begin()
    told = len(beside.run.heard.of("GPU-a"))
    beside.wait_for_others(10)
    assert len(beside.run.heard.of("GPU-a")) == told
    beside.hang.let_go.set()
    beside.run.sampler.stop()


def test_a_driver_that_hangs_is_waited_for_once():
    beside = Beside()
    beside.begin()
    beside.run.sampler.sample()
    start_s, asked = time.monotonic(), beside.other.asked
    for _ in range(50):
        beside.run.sampler.sample()
    assert beside.other.asked >= asked + 50
    assert time.monotonic() - start_s < 50 * HANG_S / 2.0
    beside.hang.let_go.set()
    beside.run.sampler.stop()


def test_a_driver_that_hangs_to_the_end_is_said_with_its_gap():
    beside = Beside()
    beside.begin()
    beside.wait_for_others(3)
    beside.run.sampler.stop(timeout_s=0.1)
    assert beside.run.lost == [("NVML", "NVML did not answer any more")]
    ((driver, start_s, end_s),) = beside.run.heard.gaps
    assert driver == "NVML"
    assert start_s < end_s
    beside.hang.let_go.set()


def test_after_a_hang_it_is_read_on_at_once_and_the_late_answer_is_none():
    """A twentieth of the time for a hang of a minute would be a pause of 19 more."""
    beside = Beside()
    beside.begin()
    time.sleep(1.2)
    told = len(beside.run.heard.of("GPU-a"))
    beside.counter.value = 5.0
    beside.hang.let_go.set()
    deadline_s = time.monotonic() + 1.0
    while len(beside.run.heard.of("GPU-a")) < told + 3 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    beside.run.sampler.stop()
    after = beside.run.heard.of("GPU-a")[told:]
    assert len(after) >= 3
    assert {reading.energy_j for reading in after} == {5.0}  # and not the 1.0 that came late
    (lost,) = beside.run.lost
    assert lost[1].startswith("GPU-a answered after 1.")
    assert lost[1].endswith("s only: what moment that is of is not known")
    ((driver, start_s, end_s),) = beside.run.heard.gaps
    assert (driver, end_s - start_s > 1.0) == ("NVML", True)


def test_another_exception_switches_sampling_off_with_the_reason(caplog: pytest.LogCaptureFixture):
    counter = Moody(ZeroDivisionError("oops"))
    run = Sampling(_probe(counter), period_s=0.01, real=True)
    with caplog.at_level(logging.WARNING, logger="joulescale"):
        run.sampler.start()
        time.sleep(0.1)
        run.sampler.stop()
    assert run.guard.reasons == {"sampling": "switched off after ZeroDivisionError: oops"}
    assert counter.asked == 1
    assert [record.getMessage() for record in caplog.records] == [
        "joulescale: sampling: switched off for this run (ZeroDivisionError: oops). The training goes on."
    ]


def test_a_sensor_that_breaks_at_the_end_loses_no_steps(tmp_path):
    """`close` reads the sensors once more: a fault there once kept steps and marks from being stored."""
    counter = Moody(0.0)
    values = iter(range(200))
    counter.value = lambda: float(next(values)) if counter.asked < 100 else 1 / 0
    run = scripted_run(tmp_path, Script(steps=20), counters=lambda _: [counter])  # type: ignore[list-item]
    assert run.status == "finished"
    assert len(run.processes[0].steps) == 20
    assert run.manifest.notes["sampling"] == "switched off after ZeroDivisionError: division by zero"


def test_the_guard_switches_off_one_part_and_leaves_the_others():
    guard = Guard()
    assert guard.call("a", lambda: 1 / 0) is None
    assert guard.call("a", lambda: 1) is None
    assert guard.call("b", lambda x: x, 2) == 2
    guard.fail("c", KeyError())
    assert guard.reasons == {
        "a": "switched off after ZeroDivisionError: division by zero",
        "c": "switched off after KeyError",
    }


def test_the_guard_lets_interrupts_through():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard().call("a", interrupt)


def test_a_guarded_method_keeps_its_name_and_result():
    class Part:
        def __init__(self) -> None:
            self._guard = Guard()

        @guarded("part")
        def half(self, x: float) -> float:
            """Half of x."""
            return x / 2 if x else 1 / x

    part = Part()
    assert part.half(3.0) == 1.5
    assert Part.half.__doc__ == "Half of x."
    assert part.half(0.0) is None
    assert part.half(3.0) is None


def test_at_first_a_stepping_counter_is_looked_at_closely_and_its_gauge_is_not():
    """Its update period is seen so; a counter that follows continuously has none."""
    counter, gauge, smooth = Moody(), Moody(GaugeReading(power_w=1.0)), Moody()
    smooth.meter = replace(smooth.meter, update_period_s=None, device="smooth")
    run = Sampling(_probe(counter, gauge), _probe(smooth), period_s=30.0, real=True)
    run.sampler.start()
    deadline_s = time.monotonic() + 5.0
    while counter.asked < 10 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    run.sampler.stop()
    assert counter.asked >= 10
    assert (gauge.asked, smooth.asked) == (2, 2)  # at the start and the stop


def test_a_close_look_ends_when_somebody_asks_or_reading_takes_long():
    def slow() -> float:
        time.sleep(0.01)
        return 1.0

    for counter, asks in ((Moody(1.0), True), (Moody(slow), False)):
        run = Sampling(_probe(counter), period_s=30.0, real=True)
        run.sampler.start()
        if asks:
            run.sampler.sample()
        else:
            time.sleep(0.1)
        before = counter.asked
        time.sleep(0.1)
        assert counter.asked == before
        run.sampler.stop()
