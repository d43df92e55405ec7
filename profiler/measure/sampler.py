"""Polls the sensors on a daemon thread and turns what they say into readings.

A sensor that fails is tried again later, its loss is said once, and nothing is stored in its place: a gap is a
gap. When a round of polling takes long, the pause after it grows, so that polling never takes more than a
twentieth of the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TypeVar

from profiler.errors import SensorError
from profiler.measure.guard import Guard
from profiler.measure.sensors.base import GaugeReading, Meter, Probe
from profiler.records import Reading

SAMPLING_PERIOD_S = 0.1
MAX_SHARE = 0.05
RETRY_LOST_S = 5.0
HANG_S = 0.2
"""Seconds that a caller of `sample` waits for a round that is under way: a driver call may hang for good."""

_NOTHING = GaugeReading()
_GAUGE_FIELDS = tuple(field.name for field in fields(GaugeReading))
T = TypeVar("T")


class Sampler:
    """Reads every probe at 10 Hz, and once more whenever asked.

    Args:
        probes: The sensors, one probe a device.
        clock: Seconds on the run's clock.
        emit: Takes each reading; called from the sampler's thread and from `sample`'s caller.
        on_lost: Called with the device and the reason when a sensor first fails, or fails again after it came back.
        guard: Switches sampling off after any fault but a sensor's own, and keeps the reason.
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
        period_s: float = SAMPLING_PERIOD_S,
    ) -> None:
        self._probes = tuple(probes)
        self._clock = clock
        self._emit = emit
        self._on_lost = on_lost
        self._guard = guard
        self._period_s = period_s
        self._retry_at_s: dict[str, float] = {}
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
        pause, stopping = 0.0, False
        while not stopping:
            with self._change:
                self._change.wait_for(lambda: self._asked > self._done, timeout=pause)
                ticket, stopping = self._asked, self._stopping
            start = self._clock()
            self._round()
            took = self._clock() - start
            pause = max(self._period_s - took, took / MAX_SHARE - took)
            with self._change:
                self._done = ticket
                self._change.notify_all()

    def _round(self) -> None:
        for probe in self._probes:
            self._guard.call("sampling", self._read, probe)

    def _read(self, probe: Probe) -> None:
        meter, before_s = probe.counter.meter, self._clock()
        energy_j = self._ask(meter.device, probe.counter.read)
        time_s = (before_s + self._clock()) / 2.0
        gauge = self._ask(f"{meter.device} gauge", probe.gauge.read) if probe.gauge else None
        if energy_j is not None or gauge is not None:
            self._emit(_reading(meter, time_s, energy_j, gauge or _NOTHING))

    def _ask(self, sensor: str, read: Callable[[], T]) -> T | None:
        now = self._clock()
        if now < self._retry_at_s.get(sensor, now):
            return None
        try:
            value = read()
        except SensorError as error:
            if sensor not in self._retry_at_s:
                self._on_lost(sensor, str(error))
            self._retry_at_s[sensor] = now + RETRY_LOST_S
            return None
        self._retry_at_s.pop(sensor, None)
        return value


def _reading(meter: Meter, time_s: float, energy_j: float | None, gauge: GaugeReading) -> Reading:
    return Reading(
        time_s=time_s,
        component=meter.component,
        device=meter.device,
        source=meter.source,
        energy_j=energy_j,
        **{name: getattr(gauge, name) for name in _GAUGE_FIELDS},
    )
