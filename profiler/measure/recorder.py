"""The one object of `measure` that integrations talk to: it notes when phases change and steps end.

Time is cut without gaps: at every moment one phase is open, `enter` closes it and opens the next, `end_step`
turns what has gathered into a row. CPU time is cut at the same instants, so that an estimate from CPU time is
exact by phase. Nothing here synchronises a GPU, and every method returns in microseconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from profiler.measure.cuda_timer import Ticket
from profiler.measure.deferred import HostScalars, Scalars
from profiler.measure.digest import Digest, Instant, Memory, StepEnd, Work, mark_of
from profiler.records import Phase, Row

__all__ = ["DeviceTimer", "Memory", "Recorder", "Work"]

MAX_INSTANTS = 2048
"""Instants that may gather: past that the training's own thread makes rows of them, since nobody else does."""


class DeviceTimer(Protocol):
    """Tells when an asynchronous device came to an instant of the host, some time afterwards."""

    def note(self, host_s: float) -> Ticket:
        """A ticket for now, which is `host_s` on the run's clock."""
        ...

    def poll(self) -> None:
        """Settle the tickets that the device has come to."""
        ...

    def finish(self) -> None:
        """Settle all tickets."""
        ...


class Recorder:
    """Takes what a training loop reports, and makes rows of it when asked to.

    Inside the training only instants are noted; `digest` makes rows of them, many at a time and on another thread.
    Between two steps of real work every line of Python runs from cold caches, ten times slower than in a loop.

    Args:
        emit: Takes each row; called from `digest`'s caller, too.
        clock: Seconds on the run's clock.
        cpu_clock: CPU seconds of this process.
        rank: Global rank of this process.
        phases_known: False where work is asynchronous and no `timer` follows it: the phase columns are then null
            and only the step's duration is kept.
        timer: Tells the device's own times; None where the host's are those of the work.
        scalars: Makes a scalar of what a step gave as its loss.
    """

    def __init__(
        self,
        emit: Callable[[Row], None],
        *,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float] = time.process_time,
        rank: int = 0,
        phases_known: bool = True,
        timer: DeviceTimer | None = None,
        scalars: Scalars | None = None,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._rank = rank
        self._timer = timer
        self._scalars = scalars or HostScalars()
        self._phase: Phase | None = None
        self._instants: deque[Instant] = deque()
        cpu_known = phases_known and timer is None
        self._digest = Digest(emit, rank=rank, phases_known=phases_known, cpu_known=cpu_known)
        self._digesting = threading.Lock()

    @property
    def phase(self) -> Phase | None:
        """The phase that is open."""
        return self._phase

    def enter(self, phase: Phase | None) -> None:
        """Close the open phase and open `phase`; None means outside of training."""
        self._note(phase, None)

    @contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Book the time of a block as `phase`, then return to the phase that was open."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def end_step(
        self,
        step: int,
        work: Work,
        *,
        loss: object = None,
        memory: Memory | None = None,
        metrics: Mapping[str, float] | None = None,
        then: Phase = "data",
    ) -> None:
        """Store one optimizer update: everything since the last one.

        Args:
            step: Its number.
            work: What it did.
            loss: A number or a tensor of one element that nobody changes any more; it is read later.
            memory: If it was read.
            metrics: Whatever else was logged.
            then: The phase that is open afterwards.
        """
        self._note(then, StepEnd(step, work, self._scalars.later(loss), memory, metrics))
        self._scalars.poll()
        if self._timer is not None:
            self._timer.poll()
        if len(self._instants) > MAX_INSTANTS:
            self.digest()

    def mark(
        self, kind: str, start_s: float, end_s: float | None = None, note: Mapping[str, object] | None = None
    ) -> None:
        """Store an interval, or an instant if it has no end."""
        self._emit(mark_of(self._rank, kind, start_s, end_s, note))

    def digest(self) -> None:
        """Make rows of the instants whose time is known; from any thread."""
        with self._digesting:
            while self._instants and self._instants[0].settled:
                self._digest.take(self._instants.popleft())
            self._digest.emit_arrived()

    def flush(self) -> None:
        """Close the open phase and store the steps that still wait for their loss, with it or without."""
        self.enter(None)
        self._scalars.poll(last=True)
        if self._timer is not None:
            self._timer.finish()
        self._scalars.poll(last=True)
        self.digest()
        with self._digesting:
            self._digest.emit_arrived(all_of_them=True)

    def _note(self, phase: Phase | None, ended: StepEnd | None) -> None:
        self._phase = phase
        now = self._clock()
        ticket = None if self._timer is None else self._timer.note(now)
        self._instants.append(Instant(phase, now, self._cpu_clock(), ended, ticket))
