"""When the GPU came by: instants of the training on the device's own timeline, without ever waiting for it.

At each instant that the host notes, an event is recorded on the device's current stream; it is looked at some steps
later. The device's times are joined to the run's clock: between two events the device's own clock counts, and an event
can be neither before the host recorded it nor after the host saw it done. Both bounds together stop drift.

So a phase lasts from the device's passing one event to its passing the next: its kernels, and the time in which it
waited for the host to send the next one. What is recorded while a CUDA graph is captured, or is never passed, has the
host's time and is not `timed`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

MAX_PENDING = 4096
"""Events that the device has not passed yet; past that the oldest is given up."""

EACH_POLL = 16
"""Events looked at in one step; a step records about six."""

LAST_POLLS = 200
LAST_PAUSE_S = 0.001
"""How long the end of a fit waits for the last events: 0.2 s at most."""


class Ticket:
    """An instant that the device may not have come to yet.

    Attributes:
        time_s: The device's time on the run's clock once it is known; until then, and if it never is, the host's.
        timed: Whether it is the device's.
        settled: Whether neither will change any more.
    """

    __slots__ = ("settled", "time_s", "timed")

    def __init__(self, host_s: float, *, settled: bool = False) -> None:
        self.time_s = host_s
        self.timed = False
        self.settled = settled


class Event(Protocol):
    """What we need of `torch.cuda.Event(enable_timing=True)`."""

    def query(self) -> bool:
        """Whether the device has passed it."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds to a later event; both must have been passed."""
        ...


class Events(Protocol):
    """Where events come from."""

    def record(self, spare: Event | None) -> Event:
        """Record an event on the device's current stream, using a spare one again if there is one."""
        ...

    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured, so that nothing may be recorded or asked."""
        ...


class CudaTimer:
    """Gives tickets for instants; every method is called on the training's own thread.

    Args:
        clock: Seconds on the run's clock.
        events: Of the training's device.
        sleep: Waits between two looks at the end of a fit.
    """

    def __init__(
        self, clock: Callable[[], float], events: Events, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._events, self._sleep = clock, events, sleep
        self._pending: deque[tuple[Ticket, Event]] = deque()
        self._spare: list[Event] = []
        self._passed: tuple[Event, float] | None = None
        self._failed = False

    def note(self, host_s: float) -> Ticket:
        """A ticket for now."""
        event = self._recorded()
        if event is None:
            return Ticket(host_s, settled=True)
        ticket = Ticket(host_s)
        self._pending.append((ticket, event))
        if len(self._pending) > MAX_PENDING:
            self._give_up()
        return ticket

    def _recorded(self) -> Event | None:
        try:
            if self._failed or self._events.capturing():
                return None
            return self._events.record(self._spare.pop() if self._spare else None)
        except RuntimeError:
            self._fail()
            return None

    def poll(self, most: int = EACH_POLL) -> None:
        """Settle the tickets that the device has come to since."""
        try:
            if self._pending and not self._events.capturing():
                self._settle_passed(min(most, len(self._pending)))
        except RuntimeError:
            self._fail()

    def finish(self) -> None:
        """Settle all tickets, with the host's time where the device does not come by in 0.2 s."""
        for _ in range(LAST_POLLS):
            self.poll(len(self._pending))
            if not self._pending:
                return
            self._sleep(LAST_PAUSE_S)
        while self._pending:
            self._give_up()

    def _settle_passed(self, most: int) -> None:
        for _ in range(most):
            ticket, event = self._pending[0]
            if not event.query():
                return
            self._settle(ticket, event, seen_s=self._clock())
            self._pending.popleft()

    def _settle(self, ticket: Ticket, event: Event, seen_s: float) -> None:
        host_s = ticket.time_s
        if self._passed is None:
            device_s = host_s
        else:
            before, before_s = self._passed
            device_s = max(before_s + before.elapsed_time(event) / 1e3, before_s)
            self._spare.append(before)
        ticket.time_s = min(max(device_s, host_s), seen_s)
        ticket.timed = ticket.settled = True
        self._passed = event, ticket.time_s

    def _fail(self) -> None:
        """After an error of the device (an assert in a kernel, say) it answers nothing more; the record must go on."""
        self._failed = True
        while self._pending:
            self._give_up()

    def _give_up(self) -> None:
        """The oldest keeps the host's time; its event is still in the device's queue and is not used again."""
        ticket, _ = self._pending.popleft()
        ticket.settled = True
