"""Rows are made of the instants that a recorder noted: steps with their phases, and marks of pauses.

This is the slow half of recording, and runs off the training's thread. Every second is booked once: instants cut time,
and the time between two of them belongs to the phase that the first one entered.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from profiler.measure.cpu_shares import Account, CpuShares
from profiler.measure.cuda_timer import Ticket
from profiler.measure.deferred import Scalar
from profiler.measure.redaction import redact
from profiler.records import STEP_PHASES, Mark, Phase, Row, Step

N = TypeVar("N", int, float)

MAX_PENDING_STEPS = 1024
"""Steps that wait for their loss to come from the GPU; past that a step is stored without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory in bytes at one instant; what the device does not have is None."""

    allocated: int | None = None
    reserved: int | None = None
    peak: int | None = None
    peak_reserved: int | None = None
    host_rss: int | None = None


class Work(NamedTuple):
    """What a microbatch, or a step of several, did; what is not known is None."""

    samples: int | None = None
    tokens: int | None = None
    model_flops: float | None = None
    executed_flops: float | None = None
    operator_bytes: float | None = None

    def plus(self, other: Work) -> Work:
        """Both together; what is unknown in one is unknown in the sum."""
        return Work(
            _sum(self.samples, other.samples),
            _sum(self.tokens, other.tokens),
            _sum(self.model_flops, other.model_flops),
            _sum(self.executed_flops, other.executed_flops),
            _sum(self.operator_bytes, other.operator_bytes),
        )


def _sum(a: N | None, b: N | None) -> N | None:
    return None if a is None or b is None else a + b


class StepEnd(NamedTuple):
    """What is known of a step when it ends.

    `divided_by` is what the training has divided the loss of each microbatch by, so that they add up to a mean.
    """

    step: int
    divided_by: int = 1
    metrics: Mapping[str, float] | None = None
    memory: Memory | None = None


class Instant(NamedTuple):
    """The moment at which `phase` was entered, and what ended there: a microbatch (its work and loss), perhaps a step.

    `cpu_s` is None where the clock of CPU time was not read; a ticket is there if a device tells the time.
    """

    phase: Phase | None
    host_s: float
    cpu_s: float | None = None
    work: Work | None = None
    loss: Any = None
    ended: StepEnd | tuple[Any, ...] | None = None
    ticket: Ticket | None = None

    @property
    def only_reads(self) -> bool:
        """Whether nothing ended, and only the clock of CPU time was read."""
        return self.cpu_s is not None and self[3:] == (None, None, None, None)

    @property
    def settled(self) -> bool:
        """Whether its time is known for good."""
        return self.ticket is None or self.ticket.settled

    @property
    def time_s(self) -> float:
        """On the device's timeline if it has one, else on the host's."""
        return self.host_s if self.ticket is None else self.ticket.time_s

    @property
    def timed(self) -> bool:
        """Whether that is the time at which the work itself changed."""
        return self.ticket is None or self.ticket.timed


_NO_MEMORY = Memory()
_ZEROS: dict[Phase, float] = dict.fromkeys(STEP_PHASES, 0.0)
_UNTIMED: dict[Phase, None] = dict.fromkeys(STEP_PHASES)


class _Spent:
    """What a step has taken so far: seconds by phase, work, losses; and whether all its instants were timed."""

    __slots__ = ("cpu", "forwards", "losses", "start_s", "timed", "wall", "work")

    def __init__(self, start: Instant) -> None:
        self.wall = _ZEROS.copy()
        self.cpu = Account(seconds=_ZEROS.copy())
        self.start_s, self.timed, self.forwards = start.time_s, start.timed, 0
        self.work: Work | None = None
        self.losses: list[Scalar] = []

    def add(self, work: Work, loss: Scalar) -> None:
        """Add a microbatch."""
        self.work = work if self.work is None else self.work.plus(work)
        self.losses.append(loss)

    def has_worked(self) -> bool:
        """Whether anything but waiting, and what lies between two batches, was booked."""
        return any(self.wall[phase] > 0.0 for phase in STEP_PHASES if phase not in ("data", "other"))


class _Ended(NamedTuple):
    """A step that is over, and may wait for its loss or its CPU seconds."""

    step: StepEnd
    spent: _Spent
    memory: Memory


class Digest:
    """Makes rows of instants, in their order.

    Args:
        emit: Takes each row.
        rank: Global rank of this process.
        phases_known: As for `Recorder`.
        cpu_known: False where a device tells the times: the host then is in another phase than the device.
        later: Makes a scalar of a loss as it was noted.
        memory: Memory for the step that comes next, if it was read.

    Attributes:
        model_flops: Of all steps that ended; None once those of one were not known.
    """

    def __init__(
        self,
        emit: Callable[[Row], None],
        *,
        rank: int,
        phases_known: bool,
        cpu_known: bool,
        later: Callable[[Any], Scalar],
        memory: Callable[[], Memory | None],
    ) -> None:
        self._emit = emit
        self._rank = rank
        self._phases_known = phases_known
        self._cpu_known = cpu_known
        self._later = later
        self._memory = memory
        self._open = Instant(None, 0.0, cpu_s=0.0)
        self._spent = _Spent(self._open)
        self._shares = CpuShares()
        self._waiting: deque[_Ended] = deque()
        self.model_flops: float | None = 0.0

    @property
    def phase(self) -> Phase | None:
        """The phase that is open after the last instant taken."""
        return self._open.phase

    def take(self, instant: Instant) -> None:
        """Book the time since the instant before."""
        if instant.phase == self._open.phase in STEP_PHASES and instant.only_reads:
            self._read_within(instant, self._open.phase)
            return
        if instant.time_s < self._open.time_s:  # the host's time after a device's that lags behind it
            instant = instant._replace(ticket=Ticket(self._open.time_s, settled=True))
        self._close(instant)
        if instant.work is not None:
            self._spent.add(instant.work, self._later(instant.loss))
        if instant.ended is not None:
            ended = StepEnd(*instant.ended)
            memory = ended.memory or self._memory() or _NO_MEMORY
            self._waiting.append(_Ended(ended, self._spent, memory))
            self.model_flops = _sum(self.model_flops, (self._spent.work or Work()).model_flops)
            self._spent = _Spent(instant)
        elif self._open.phase not in STEP_PHASES and not self._spent.has_worked():
            self._spent = _Spent(
                instant
            )  # nothing but waiting came before the interruption: that was no step's
        self._open = instant

    def emit_arrived(self, *, all_of_them: bool = False) -> None:
        """Store the steps whose loss has come, in their order; without it if too many wait, or at the end."""
        while self._waiting:
            ended = self._waiting[0]
            cpu, losses = ended.spent.cpu, ended.spent.losses
            here = all(loss.ready() for loss in losses)
            complete = here and not (cpu.open and self._cpu_known)
            if not (complete or all_of_them or len(self._waiting) > MAX_PENDING_STEPS):
                return
            self._waiting.popleft()
            self._emit(self._row(ended, _mean(losses, ended.step.divided_by) if here else None))

    def _close(self, until: Instant) -> None:
        """Book the time of the open phase."""
        phase, spent = self._open.phase, self._spent
        wall_s = until.time_s - self._open.time_s
        if phase in spent.wall:
            spent.wall[phase] += wall_s
            spent.timed = spent.timed and until.timed
            spent.forwards += phase == "forward"
            if self._cpu_known:
                self._shares.spend(spent.cpu, phase, wall_s)
        elif phase is not None:
            self._emit(mark_of(self._rank, phase, self._open.time_s, until.time_s, self._cpu_note(until)))
        if until.cpu_s is not None:
            self._shares.read(until.cpu_s)

    def _read_within(self, instant: Instant, phase: Phase) -> None:
        """The clock of CPU time was read within a phase: of it, if nothing came between this reading and the last."""
        if self._cpu_known and not self._shares.waiting:
            self._shares.spend(self._spent.cpu, phase, instant.time_s - self._open.time_s)
        self._shares.read(instant.cpu_s or 0.0)

    def _cpu_note(self, until: Instant) -> Mapping[str, object]:
        """A pause is entered and left by way of `Recorder.enter`, which reads the clock of CPU time."""
        known = self._open.cpu_s is not None and until.cpu_s is not None
        return {"cpu_s": until.cpu_s - self._open.cpu_s if known else None}  # type: ignore[operator]

    def _row(self, ended: _Ended, loss: float | None) -> Step:
        spent, memory = ended.spent, ended.memory
        work = spent.work or Work()
        known = self._phases_known and spent.timed
        wall: Mapping[Phase, float | None] = spent.wall if known else _UNTIMED
        cpu_known = self._cpu_known and not spent.cpu.open
        cpu: Mapping[Phase, float | None] = spent.cpu.seconds if cpu_known else _UNTIMED
        return Step(
            rank=self._rank,
            step=ended.step.step,
            start_s=spent.start_s,
            duration_s=sum(spent.wall.values()),
            num_microbatches=spent.forwards or None,
            data_s=wall["data"],
            forward_s=wall["forward"],
            backward_s=wall["backward"],
            optimizer_s=wall["optimizer"],
            other_s=wall["other"],
            data_cpu_s=cpu["data"],
            forward_cpu_s=cpu["forward"],
            backward_cpu_s=cpu["backward"],
            optimizer_cpu_s=cpu["optimizer"],
            other_cpu_s=cpu["other"],
            samples=work.samples,
            tokens=work.tokens,
            model_flops=work.model_flops,
            executed_flops=work.executed_flops,
            operator_bytes=work.operator_bytes,
            loss=loss,
            memory_allocated_bytes=memory.allocated,
            memory_reserved_bytes=memory.reserved,
            memory_peak_bytes=memory.peak,
            memory_peak_reserved_bytes=memory.peak_reserved,
            host_rss_bytes=memory.host_rss,
            metrics=ended.step.metrics or {},
        )


def _mean(losses: Sequence[Scalar], divided_by: int) -> float | None:
    """Over the microbatches that have one. The last step of an epoch may have fewer than each was divided by."""
    found = [number for number in (loss.value() for loss in losses) if number is not None]
    return sum(found) * divided_by / len(found) if found else None


def mark_of(
    rank: int, kind: str, start_s: float, end_s: float | None, note: Mapping[str, object] | None
) -> Mark:
    """A mark with its note as JSON, without secrets."""
    text = json.dumps(_finite(redact(note or {})), allow_nan=False)
    return Mark(rank=rank, kind=kind, start_s=start_s, end_s=end_s, note=text)


def _finite(value: object) -> object:
    """JSON has no NaN: what is not finite is not known, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
