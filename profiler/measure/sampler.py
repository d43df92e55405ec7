"""Polls the sensors on daemon threads, one a driver, and turns what they say into readings.

A sensor that fails is tried again later, its loss is said once, and nothing is stored in its place: a gap is a gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from profiler.measure.guard import Guard
from profiler.measure.lane import HANG_S, Lane, Listener
from profiler.measure.sensors.base import CoTenants, Probe
from profiler.measure.suspends import Suspends
from profiler.records import Reading

SAMPLING_PERIOD_S = 0.1


class Sampler:
    """Reads every probe at 10 Hz, and once more whenever asked.

    Args:
        probes: The sensors, one probe a device.
        clock: Seconds on the run's clock.
        emit: Takes each reading; called from the sampler's threads and from `sample`'s caller, as are the others.
        on_lost: Called with the device and the reason when a sensor first fails, or fails again after it came back.
        guard: Switches sampling off after any fault but a sensor's own, and keeps the reason.
        on_news: Called with a subject and a sentence for what a reader of the numbers should know from now on.
        on_co_tenants: Called with a device and what is known of others who compute on it, at the start and the end.
        on_gap: Called with a driver and the seconds from and to which it did not answer.
        on_suspended: Called with the seconds between which the machine slept, and how long it slept.
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
        on_gap: Callable[[str, float, float], None] = lambda driver, start_s, end_s: None,
        on_suspended: Callable[[float, float, float], None] = lambda start_s, end_s, slept_s: None,
        period_s: float = SAMPLING_PERIOD_S,
    ) -> None:
        listener = Listener(
            emit=emit, on_lost=on_lost, on_news=on_news, on_co_tenants=on_co_tenants, on_gap=on_gap
        )
        suspends = Suspends(clock, on_suspended)
        self._lanes = [
            Lane(
                driver,
                [probe for probe in probes if probe.driver == driver],
                clock=clock,
                listener=listener,
                guard=guard,
                period_s=period_s,
                before_round=None if number else suspends.look,
            )
            for number, driver in enumerate(dict.fromkeys(probe.driver for probe in probes))
        ]

    def start(self) -> None:
        """Take a first reading, then go on in the background."""
        _wait([(lane, lane.start()) for lane in self._lanes])

    def stop(self, timeout_s: float = 1.0) -> None:
        """Take a last reading and end the threads; a driver call that hangs is left behind after `timeout_s`."""
        until_s = time.monotonic() + timeout_s
        for lane in self._lanes:
            lane.ask_to_stop()
        for lane in self._lanes:
            lane.join(until_s - time.monotonic())

    def sample(self) -> None:
        """Read every probe now, on the sampler's threads; a driver that hangs is waited for a moment only, and once."""
        _wait([(lane, lane.ask()) for lane in self._lanes if lane.is_alive])
        for lane in self._lanes:
            if not lane.is_alive:
                lane.round()


def _wait(tickets: Sequence[tuple[Lane, int | None]]) -> None:
    until_s = time.monotonic() + HANG_S
    for lane, ticket in tickets:
        if ticket is not None:
            lane.wait_for(ticket, until_s - time.monotonic())
