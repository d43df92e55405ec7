"""The one object of `measure` that integrations talk to: it notes when phases change and steps end.

Time is cut without gaps: at every moment one phase is open, `enter` closes it and opens the next, and a step that ends
turns what has gathered into a row. Nothing here synchronises a GPU, and every method returns in microseconds.

Between two steps of real work every line of Python runs from cold caches, ten times slower than in a loop. So hooks
of every step do not even call a method of ours: they append to a queue, by `note`, and read the clock of CPU time
themselves if `look` gave it to them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from profiler.measure.cuda_timer import Ticket
from profiler.measure.deferred import OnHost, Scalar, Scalars
from profiler.measure.digest import Digest, Instant, Memory, StepEnd, Work, mark_of
from profiler.records import Phase, Row

__all__ = ["DeviceTimer", "Memory", "Note", "Recorder", "Work"]

Noted = (
    tuple[Phase | None, float, float | None]
    | tuple[Phase | None, float, float | None, Work, Any, tuple[Any, ...] | None]
)
"""The first fields of an `Instant`: a phase that is entered, at what time, or a microbatch that ends there, too."""

Note = Callable[[Noted], None]
Clock = Callable[[], float]

_UNSAID = (None,) * 6

MAX_INSTANTS = 2048
"""Instants that may gather: past that the training's own thread makes rows of them, since nobody else does."""

LOOK_S = 0.1
"""Seconds from one microbatch whose CPU time is read at each of its instants to the next such, on average: of longer
steps each is read."""

GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Multiples of it are spread evenly over a circle: looks that follow them keep step with nothing that recurs."""


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

    Args:
        emit: Takes each row; called from `digest`'s caller, too.
        clock: Monotonic seconds from any origin.
        origin_s: The origin of the run's clock, by `clock`.
        cpu_clock: CPU seconds of this process.
        rank: Global rank of this process.
        phases_known: False where work is asynchronous and no `timer` follows it: the phase columns are then null
            and only the step's duration is kept.
        timer: Tells the device's own times; None where the host's are those of the work.
        scalars: Makes a scalar of what a step gave as its loss; None where losses are in the host's memory.
        memory: Reads the memory of the process, if it is time to.

    Attributes:
        clock: As given.
        note: Takes an instant.
        later: What each loss must go through before it is noted, or None.
    """

    def __init__(
        self,
        emit: Callable[[Row], None],
        *,
        clock: Clock,
        origin_s: float = 0.0,
        cpu_clock: Clock = time.process_time,
        rank: int = 0,
        phases_known: bool = True,
        timer: DeviceTimer | None = None,
        scalars: Scalars | None = None,
        memory: Callable[[], Memory | None] = lambda: None,
    ) -> None:
        self._emit = emit
        self.clock = clock
        self._origin_s = origin_s
        self._cpu_clock = cpu_clock
        self._rank = rank
        self._timer = timer
        self._scalars = scalars
        self._read_memory = memory
        self._memory: Memory | None = None
        self.later: Callable[[object], Scalar] | None = None if scalars is None else scalars.later
        self._instants: deque[tuple[Any, ...]] = deque()
        self.note: Note = self._instants.append if timer is None else self._note_ticket
        self._cpu_known = phases_known and timer is None
        self._reading, self._next_look_s, self._looks = False, 0.0, 0
        self._digest = Digest(
            emit,
            rank=rank,
            phases_known=phases_known,
            cpu_known=self._cpu_known,
            later=OnHost if scalars is None else lambda scalar: scalar,
            memory=self._take_memory,
        )
        self._digesting = threading.Lock()

    @property
    def phase(self) -> Phase | None:
        """The phase that is open."""
        try:
            last: Phase | None = self._instants[-1][0]
        except IndexError:
            return self._digest.phase
        return last

    def enter(self, phase: Phase | None) -> None:
        """Close the open phase and open `phase`; None means outside of training."""
        self.note((phase, self.clock(), self._cpu_clock()))

    @contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Book the time of a block as `phase`, then return to the phase that was open."""
        before = self.phase
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
        scalar = loss if self.later is None else self.later(loss)
        ended = StepEnd(step, metrics=metrics, memory=memory)
        self.note((then, self.clock(), self._cpu_clock(), work, scalar, ended))
        self._attend()

    def look(self, now_s: float) -> tuple[Clock | None, float]:
        """To be called after a microbatch, and before the first: what is not done in every one of them is done here.

        Now and then the CPU time of a microbatch is read at each of its instants; the others share what was used.

        Args:
            now_s: By `clock`.

        Returns:
            The clock of CPU time if it is to be read at each instant from now on, and when to look again: after the
            first microbatch that ends then or later.
        """
        if self._reading and now_s < self._next_look_s:
            self._reading = False
            return None, self._next_look_s
        self._attend()
        if not self._cpu_known:
            return None, -math.inf if self._timer else now_s + LOOK_S
        if not self._reading:
            self.note((self.phase, now_s, self._cpu_clock()))
        self._looks += 1
        self._reading = True
        self._next_look_s = now_s + LOOK_S * (0.5 + self._looks * GOLDEN % 1.0)
        return self._cpu_clock, now_s

    def mark(
        self, kind: str, start_s: float, end_s: float | None = None, note: Mapping[str, object] | None = None
    ) -> None:
        """Store an interval, or an instant if it has no end."""
        self._emit(mark_of(self._rank, kind, start_s, end_s, note))

    def digest(self) -> None:
        """Make rows of the instants whose time is known; from any thread."""
        with self._digesting:
            if self._timer is None:
                self._memory = self._read_memory() or self._memory
            while self._instants:
                instant = self._on_the_runs_clock(self._instants[0])
                if not instant.settled:
                    break
                try:
                    self._digest.take(instant)
                finally:  # only now: `phase` looks at the queue first, then at what was taken
                    self._instants.popleft()
            self._digest.emit_arrived()

    def model_flops(self) -> float | None:
        """Of the steps so far, as far as the device has come; None if those of one are not known. Makes rows."""
        self.digest()
        return self._digest.model_flops

    def flush(self) -> None:
        """Close the open phase and store the steps that still wait for their loss, with it or without."""
        self.enter(None)
        if self._scalars is not None:
            self._scalars.poll(last=True)
        if self._timer is not None:
            self._timer.finish()
        if self._scalars is not None:
            self._scalars.poll(last=True)
        self.digest()
        with self._digesting:
            self._digest.emit_arrived(all_of_them=True)

    def _attend(self) -> None:
        """What must be done on the training's own thread from time to time."""
        if self._scalars is not None:
            self._scalars.poll()
        if self._timer is not None:
            self._timer.poll()
            self._memory = self._read_memory() or self._memory
        if len(self._instants) > MAX_INSTANTS:
            self.digest()

    def _take_memory(self) -> Memory | None:
        """What was read since it was asked for last."""
        memory, self._memory = self._memory, None
        return memory

    def _note_ticket(self, noted: Noted) -> None:
        """Note an instant whose time the device will tell."""
        assert self._timer is not None
        ticket = self._timer.note(noted[1] - self._origin_s)
        self._instants.append((*noted, *_UNSAID[len(noted) :], ticket))

    def _on_the_runs_clock(self, noted: tuple[Any, ...]) -> Instant:
        return Instant(noted[0], noted[1] - self._origin_s, *noted[2:])
