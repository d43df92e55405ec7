"""The sensors of one driver, polled on a thread of their own: a call that hangs holds up no other driver's.

Polling takes at most a twentieth of the time: one slow call is paid off over the next rounds, so that it leaves no hole
in the readings; when every round is slow, the pauses grow, and that is said. A call that hangs and comes back is a
hole that is said, and the next round follows at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from profiler.errors import SensorError
from profiler.measure.asked import RETRY_MOST_S, Asked
from profiler.measure.guard import Guard
from profiler.measure.sensors.base import CoTenants, GaugeReading, Probe
from profiler.records import Reading

MAX_SHARE = 0.05
CLOSE_LOOK_S = 0.5
CLOSE_PERIOD_S = 0.005
"""At first the counters alone are read this often, for so long: their updates are seen one by one."""
BURST_S = 0.1
"""Seconds of polling beyond its share that are paid off later, before the pauses grow."""
HANG_S = 0.2
"""Seconds that a caller waits for a round that is under way: a driver call may hang for good."""
GAP_S = 1.0
"""A round that takes longer leaves a gap in the readings that is worth a word."""

_NOTHING = GaugeReading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who hears what the sensors say; called from the threads of the lanes, and from `sample`'s caller.

    Attributes:
        emit: Takes each reading.
        on_lost: Takes the device and the reason when a sensor first fails, or fails again after it came back.
        on_news: Takes a subject and a sentence for what a reader of the numbers should know from now on.
        on_co_tenants: Takes a device and what is known of others who compute on it, at the start and the end.
        on_gap: Takes a driver and the seconds from and to which it did not answer.
    """

    emit: Callable[[Reading], None]
    on_lost: Callable[[str, str], None]
    on_news: Callable[[str, str], None]
    on_co_tenants: Callable[[str, CoTenants], None]
    on_gap: Callable[[str, float, float], None]


@final
class Lane:
    """Reads the probes of one driver every period, and once more whenever asked.

    Args:
        driver: Who answers for them.
        probes: The sensors, one probe a device.
        clock: Seconds on the run's clock.
        listener: Hears what they say.
        guard: Switches sampling off after any fault but a sensor's own, and keeps the reason.
        period_s: Seconds between rounds.
        before_round: Called first in every round.
    """

    def __init__(
        self,
        driver: str,
        probes: Sequence[Probe],
        *,
        clock: Callable[[], float],
        listener: Listener,
        guard: Guard,
        period_s: float,
        before_round: Callable[[], None] | None = None,
    ) -> None:
        self._driver, self._clock, self._listener, self._guard = driver, clock, listener, guard
        self._period_s, self._before_round = period_s, before_round
        self._devices = [_Device(probe, clock, listener) for probe in probes]
        self._is_slow = False
        self._busy_since_s: float | None = None
        self._change = threading.Condition()
        self._bell = (
            threading.Lock()
        )  # held while nobody asks: to wait for it costs half of what a condition does
        self._bell.acquire()
        self._asked, self._done, self._stopping = 1, 0, False
        self._thread = threading.Thread(
            target=guard.call, args=("sampling", self._run), name=f"joulescale-{driver}", daemon=True
        )

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> int:
        """Begin to read in the background; the ticket of the first round."""
        self._thread.start()
        return self._asked

    def ask(self) -> int | None:
        """Ask for a round, and return its ticket; None where a call hangs: nobody should wait for it."""
        with self._change:
            self._ring()
            return None if self._hung_s() > HANG_S else self._asked

    def wait_for(self, ticket: int, timeout_s: float) -> None:
        """Until that round was made, or the time is over."""
        with self._change:
            self._change.wait_for(lambda: self._done >= ticket, timeout=max(timeout_s, 0.0))

    def ask_to_stop(self) -> None:
        """Ask for a last round."""
        with self._change:
            self._stopping = True
            self._ring()

    def join(self, timeout_s: float) -> None:
        """Wait for the last round; a call that hangs is left behind, and said."""
        if not self.is_alive:
            return
        is_hung = self._hung_s() > GAP_S
        self._thread.join(timeout=0.0 if is_hung else max(timeout_s, 0.0))
        since_s = self._busy_since_s
        if self.is_alive and since_s is not None:
            self._listener.on_lost(self._driver, f"{self._driver} did not answer any more")
            self._listener.on_gap(self._driver, since_s, self._clock())

    def round(self) -> None:
        """Read every probe once."""
        if self._before_round is not None:
            self._guard.call("sampling", self._before_round)
        for device in self._devices:
            self._guard.call("sampling", device.read)

    def _ring(self) -> None:
        """Ask for a round; the caller holds `_change`."""
        self._asked += 1
        if self._bell.locked():
            self._bell.release()

    def _wait(self, seconds: float) -> None:
        """Until a round is asked for, or the time is over."""
        self._bell.acquire(timeout=0.0 if self._asked > self._done else seconds)

    def _hung_s(self) -> float:
        since_s = self._busy_since_s
        return 0.0 if since_s is None else self._clock() - since_s

    def _run(self) -> None:
        pause_s, debt_s, before_s, stopping = 0.0, 0.0, 0.0, False
        while not stopping:
            start_s = self._clock()
            self._wait(pause_s)
            ticket, stopping = self._asked, self._stopping
            debt_s = max(debt_s - MAX_SHARE * (self._clock() - start_s), 0.0)
            took_s = self._timed(self.round)
            is_first = self._done == 0
            if ticket > self._done:
                with self._change:
                    self._done = ticket
                    self._change.notify_all()
            if is_first or stopping:
                took_s += self._timed(self._look_for_co_tenants)
            debt_s += min(took_s, max(before_s, BURST_S)) * (1.0 - MAX_SHARE)  # what is slow once is forgiven
            before_s = took_s
            pause_s = max(self._period_s - took_s, min((debt_s - BURST_S) / MAX_SHARE, RETRY_MOST_S), 0.0)
            self._tell_if_slow(took_s, pause_s)
            if is_first and not stopping:
                self._look_closely()

    def _timed(self, work: Callable[[], None]) -> float:
        """Seconds of `work`; a gap is told if nothing came of it for long."""
        start_s = self._busy_since_s = self._clock()
        work()
        self._busy_since_s, end_s = None, self._clock()
        if end_s - start_s > GAP_S:
            self._listener.on_gap(self._driver, start_s, end_s)
        return end_s - start_s

    def _tell_if_slow(self, took_s: float, pause_s: float) -> None:
        if not self._is_slow and pause_s > 2.0 * self._period_s:
            self._is_slow = True
            self._listener.on_news(
                "sampling",
                f"A round of readings took {took_s:.2f} s, so the next one came {took_s + pause_s:.1f} s after it and "
                f"not {self._period_s:g} s: reading takes at most {MAX_SHARE:.0%} of the time.",
            )

    def _look_closely(self) -> None:
        """Read counters that move in steps until their period is plain, or somebody asks, or reading takes long."""
        stepping = [device for device in self._devices if device.moves_in_steps]
        until_s = self._clock() + CLOSE_LOOK_S if stepping else 0.0
        while self._clock() < until_s:
            if self._timed(lambda: self._read_counters(stepping)) > CLOSE_PERIOD_S / 2.0:
                return
            self._wait(CLOSE_PERIOD_S)
            if self._asked > self._done:
                return

    def _read_counters(self, devices: Sequence[_Device]) -> None:
        for device in devices:
            self._guard.call("sampling", device.read_counter)

    def _look_for_co_tenants(self) -> None:
        for device in self._devices:
            self._guard.call("looking for other processes", device.tell_co_tenants)


@final
class _Device:
    """The sensors of one device, as one row."""

    def __init__(self, probe: Probe, clock: Callable[[], float], listener: Listener) -> None:
        self._listener = listener
        self._meter = meter = probe.counter.meter
        self._counter = Asked(meter.device, probe.counter.read, clock=clock, on_lost=listener.on_lost)
        self._gauge = probe.gauge and Asked(
            f"{meter.device} gauge", probe.gauge.read, clock=clock, on_lost=listener.on_lost
        )
        self._co_tenants = probe.co_tenants

    @property
    def moves_in_steps(self) -> bool:
        """Whether its counter does, so slowly that each can be seen."""
        return (self._meter.update_period_s or 0.0) > 2 * CLOSE_PERIOD_S

    def read(self) -> None:
        """Counter and gauge, as one reading with the time of the counter's."""
        energy_j = self._counter.ask()
        gauge = self._gauge.ask() if self._gauge else None
        if energy_j is None and gauge is None:
            return
        told = self._gauge if energy_j is None and self._gauge else self._counter
        self._emit(told.time_s, energy_j, gauge or _NOTHING)
        if gauge is not None and gauge.news:
            for subject, sentence in gauge.news.items():
                self._listener.on_news(f"{self._meter.device} {subject}", sentence)

    def read_counter(self) -> None:
        """The counter alone."""
        energy_j = self._counter.ask()
        if energy_j is not None:
            self._emit(self._counter.time_s, energy_j, _NOTHING)

    def tell_co_tenants(self) -> None:
        """Who else computes on it, or why that is not known."""
        if self._co_tenants is None:
            return
        device = self._meter.device
        try:
            others = self._co_tenants()
        except SensorError as refusal:
            self._listener.on_news(f"other processes on {device}", str(refusal))
            return
        if others.note:
            self._listener.on_news(f"other processes on {device}", others.note)
        if others.processes:
            self._listener.on_co_tenants(device, others)

    def _emit(self, time_s: float, energy_j: float | None, gauge: GaugeReading) -> None:
        meter = self._meter
        took_s = None if energy_j is None else round(self._counter.took_s, 3)
        row = Reading(time_s, meter.component, meter.device, meter.source, energy_j, *gauge[:-1], took_s)
        self._listener.emit(row)
