"""Polls the sensors on a daemon thread and turns what they say into readings.

A sensor that fails is tried again later, its loss is said once, and nothing is stored in its place: a gap is a
gap. Polling takes at most a twentieth of the time: one slow call is paid off over the next rounds, so that it
leaves no hole in the readings; when every round is slow, the pauses grow, and that is said.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from profiler.errors import SensorError
from profiler.measure.guard import Guard
from profiler.measure.sensors.base import CoTenants, GaugeReading, Meter, Probe
from profiler.records import Reading

SAMPLING_PERIOD_S = 0.1
MAX_SHARE = 0.05
CLOSE_LOOK_S = 0.5
CLOSE_PERIOD_S = 0.005
"""At first the counters alone are read this often, for so long: their updates are seen one by one."""
BURST_S = 0.1
"""Seconds of polling beyond its share that are paid off later, before the pauses grow."""
RETRY_LOST_S = 5.0
RETRY_MOST_S = 60.0
"""A lost sensor is tried again in the next round, then after the first of these, then after twice as long each time, up
to the second: most losses are a moment's, and those that are not must not cost a restart of NVML every round."""
HANG_S = 0.2
"""Seconds that a caller of `sample` waits for a round that is under way: a driver call may hang for good."""

_NOTHING = GaugeReading()
_GAUGE_FIELDS = tuple(field.name for field in fields(GaugeReading) if field.name != "news")
T = TypeVar("T")


class Sampler:
    """Reads every probe at 10 Hz, and once more whenever asked.

    Args:
        probes: The sensors, one probe a device.
        clock: Seconds on the run's clock.
        emit: Takes each reading; called from the sampler's thread and from `sample`'s caller.
        on_lost: Called with the device and the reason when a sensor first fails, or fails again after it came back.
        guard: Switches sampling off after any fault but a sensor's own, and keeps the reason.
        on_news: Called with a subject and a sentence for what a reader of the numbers should know from now on.
        on_co_tenants: Called with a device and what is known of others who compute on it, at the start and the end.
        period_s: Seconds between rounds.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        *,
        clock: Callable[[], float],
        emit: Callable[[Reading], None],
        on_lost: Callable[[str, str], None],
        guard: Guard,
        on_news: Callable[[str, str], None] = lambda subject, sentence: None,
        on_co_tenants: Callable[[str, CoTenants], None] = lambda device, others: None,
        period_s: float = SAMPLING_PERIOD_S,
    ) -> None:
        self._probes = tuple(probes)
        self._clock = clock
        self._emit = emit
        self._on_lost = on_lost
        self._on_news = on_news
        self._on_co_tenants = on_co_tenants
        self._guard = guard
        self._period_s = period_s
        self._losses: dict[str, _Loss] = {}
        self._is_slow = False
        self._change = threading.Condition()
        self._asked, self._done, self._stopping = 1, 0, False
        self._thread = threading.Thread(target=guard.call, args=("sampling", self._run), daemon=True)

    def start(self) -> None:
        """Take a first reading, then go on in the background."""
        self._thread.start()
        self._wait_for(self._asked)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Take a last reading and end the thread; a driver call that hangs is left behind after `timeout_s`."""
        with self._change:
            self._stopping = True
            self._asked += 1
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=timeout_s)

    def sample(self) -> None:
        """Read every probe now, on the sampler's thread; a driver that hangs is waited for a moment only."""
        if not self._thread.is_alive():
            self._round()
            return
        with self._change:
            self._asked += 1
            self._change.notify_all()
            ticket = self._asked
        self._wait_for(ticket)

    def _wait_for(self, ticket: int) -> None:
        with self._change:
            self._change.wait_for(lambda: self._done >= ticket, timeout=HANG_S)

    def _run(self) -> None:
        pause_s, debt_s, stopping = 0.0, 0.0, False
        while not stopping:
            start_s = self._clock()
            with self._change:
                self._change.wait_for(lambda: self._asked > self._done, timeout=pause_s)
                ticket, stopping = self._asked, self._stopping
            debt_s = max(debt_s - MAX_SHARE * (self._clock() - start_s), 0.0)
            took_s = self._timed(self._round)
            with self._change:
                is_first, self._done = self._done == 0, ticket
                self._change.notify_all()
            if is_first or stopping:
                took_s += self._timed(self._look_for_co_tenants)
            debt_s += took_s * (1.0 - MAX_SHARE)
            pause_s = max(self._period_s - took_s, (debt_s - BURST_S) / MAX_SHARE, 0.0)
            self._tell_if_slow(took_s, pause_s)
            if is_first and not stopping:
                self._look_closely()

    def _timed(self, work: Callable[[], None]) -> float:
        start_s = self._clock()
        work()
        return self._clock() - start_s

    def _tell_if_slow(self, took_s: float, pause_s: float) -> None:
        if not self._is_slow and took_s + pause_s > 2.0 * self._period_s:
            self._is_slow = True
            self._on_news(
                "sampling",
                f"A round of readings took {took_s:.2f} s, so the next one came {took_s + pause_s:.1f} s after it and "
                f"not {self._period_s:g} s: reading takes at most {MAX_SHARE:.0%} of the time.",
            )

    def _look_closely(self) -> None:
        """Read counters that move in steps until their period is plain, or somebody asks, or reading takes long."""
        stepping = [p for p in self._probes if (p.counter.meter.update_period_s or 0.0) > 2 * CLOSE_PERIOD_S]
        until_s = self._clock() + CLOSE_LOOK_S if stepping else 0.0
        while (start_s := self._clock()) < until_s:
            for probe in stepping:
                self._guard.call("sampling", self._read_counter, probe)
            if self._clock() - start_s > CLOSE_PERIOD_S / 2.0:
                return
            with self._change:
                if self._change.wait_for(lambda: self._asked > self._done, timeout=CLOSE_PERIOD_S):
                    return

    def _read_counter(self, probe: Probe) -> None:
        meter, before_s = probe.counter.meter, self._clock()
        energy_j = self._ask(meter.device, probe.counter.read)
        if energy_j is not None:
            self._emit(_reading(meter, (before_s + self._clock()) / 2.0, energy_j, _NOTHING))

    def _round(self) -> None:
        for probe in self._probes:
            self._guard.call("sampling", self._read, probe)

    def _look_for_co_tenants(self) -> None:
        for probe in self._probes:
            self._guard.call("looking for other processes", self._tell_co_tenants, probe)

    def _tell_co_tenants(self, probe: Probe) -> None:
        if probe.co_tenants is None:
            return
        device = probe.counter.meter.device
        try:
            others = probe.co_tenants()
        except SensorError as refusal:
            self._on_news(f"other processes on {device}", str(refusal))
            return
        if others.note:
            self._on_news(f"other processes on {device}", others.note)
        if others.processes:
            self._on_co_tenants(device, others)

    def _read(self, probe: Probe) -> None:
        meter, before_s = probe.counter.meter, self._clock()
        energy_j = self._ask(meter.device, probe.counter.read)
        time_s = (before_s + self._clock()) / 2.0
        gauge = self._ask(f"{meter.device} gauge", probe.gauge.read) if probe.gauge else None
        if energy_j is not None or gauge is not None:
            self._emit(_reading(meter, time_s, energy_j, gauge or _NOTHING))
        for subject, sentence in (gauge or _NOTHING).news.items():
            self._on_news(f"{meter.device} {subject}", sentence)

    def _ask(self, sensor: str, read: Callable[[], T]) -> T | None:
        now_s, loss = self._clock(), self._losses.get(sensor)
        if loss is not None and now_s < loss.retry_s:
            return None
        try:
            value = read()
        except SensorError as error:
            if loss is None:
                self._on_lost(sensor, str(error))
            self._losses[sensor] = _Loss.at(now_s, loss)
            return None
        if loss is not None and now_s >= loss.time_s + RETRY_LOST_S:
            del self._losses[sensor]  # sooner, it may be coming and going
        return value


@dataclass(frozen=True, slots=True)
class _Loss:
    """When a sensor failed last, and when it is tried again."""

    time_s: float
    retry_s: float

    @classmethod
    def at(cls, now_s: float, earlier: _Loss | None) -> _Loss:
        if earlier is None:
            return cls(now_s, now_s)
        waited_s = earlier.retry_s - earlier.time_s
        return cls(now_s, now_s + min(max(2.0 * waited_s, RETRY_LOST_S), RETRY_MOST_S))


def _reading(meter: Meter, time_s: float, energy_j: float | None, gauge: GaugeReading) -> Reading:
    return Reading(
        time_s=time_s,
        component=meter.component,
        device=meter.device,
        source=meter.source,
        energy_j=energy_j,
        **{name: getattr(gauge, name) for name in _GAUGE_FIELDS},
    )
