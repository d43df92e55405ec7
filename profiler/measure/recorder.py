"""Steps, phases and marks become rows: the one object of `measure` that integrations talk to.

Time is cut without gaps: at every moment one phase is open, `enter` closes it and opens the next, `end_step`
turns what has gathered into a row. CPU time is cut at the same instants, so that an estimate from CPU time is
exact by phase. Nothing here synchronises a GPU, and every method returns in microseconds.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from profiler.measure.deferred import Now, Scalar, scalar_of
from profiler.records import STEP_PHASES, Mark, Phase, Row, Step

N = TypeVar("N", int, float)

MAX_PENDING_STEPS = 64
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


class _StepEnd(NamedTuple):
    """What is known of a step when it ends."""

    step: int
    work: Work
    loss: object
    memory: Memory | None
    metrics: Mapping[str, float] | None


class _Instant(NamedTuple):
    """The moment at which `phase` was entered, and the step that ended there."""

    phase: Phase | None
    time_s: float
    cpu_s: float
    ended: _StepEnd | None


_NO_MEMORY = Memory()
_NO_LOSS = Now(None)
_ZEROS: dict[Phase, float] = dict.fromkeys(STEP_PHASES, 0.0)
_UNTIMED: dict[Phase, None] = dict.fromkeys(STEP_PHASES)


class _Spent:
    """Wall and CPU seconds by phase since the last step ended."""

    __slots__ = ("cpu", "wall")

    def __init__(self) -> None:
        self.wall = _ZEROS.copy()
        self.cpu = _ZEROS.copy()


class Recorder:
    """Turns what a training loop reports into rows.

    Inside the training only instants are noted; rows are made of them twice a second, many at a time. Between two
    steps of real work every line of Python runs from cold caches, ten times slower than in a loop.

    Args:
        emit: Takes each row.
        clock: Seconds on the run's clock.
        cpu_clock: CPU seconds of this process.
        rank: Global rank of this process.
        phases_known: False where work is asynchronous (CUDA) and host time says nothing of a phase; the
            phase columns are then null and only the step's duration is kept.
        read_loss: Makes a scalar of what a step gave as its loss.
        digest_period_s: Seconds for which instants may gather.
    """

    def __init__(
        self,
        emit: Callable[[Row], None],
        *,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float] = time.process_time,
        rank: int = 0,
        phases_known: bool = True,
        read_loss: Callable[[object], Scalar | None] = scalar_of,
        digest_period_s: float = 0.5,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._rank = rank
        self._phases_known = phases_known
        self._read_loss = read_loss
        self._digest_period_s = digest_period_s
        self._phase: Phase | None = None
        self._instants: list[_Instant] = []
        self._digested_s = 0.0
        self._open = _Instant(None, 0.0, 0.0, None)
        self._step_start_s = 0.0
        self._spent = _Spent()
        self._waiting: deque[tuple[Step, Scalar]] = deque()

    @property
    def phase(self) -> Phase | None:
        """The phase that is open."""
        return self._phase

    def enter(self, phase: Phase | None) -> None:
        """Close the open phase and open `phase`; None means outside of training."""
        self._phase = phase
        self._instants.append(_Instant(phase, self._clock(), self._cpu_clock(), None))
        if phase not in STEP_PHASES:
            self._digest()

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
    ) -> None:
        """Store one optimizer update: everything since the last one. The phase `data` is open afterwards.

        Args:
            step: Its number.
            work: What it did.
            loss: A number or a tensor of one element that nobody changes any more; it is read later.
            memory: If it was read.
            metrics: Whatever else was logged.
        """
        now = self._clock()
        self._phase = "data"
        ended = _StepEnd(step, work, loss, memory, metrics)
        self._instants.append(_Instant("data", now, self._cpu_clock(), ended))
        if now - self._digested_s >= self._digest_period_s:
            self._digest()

    def mark(
        self, kind: str, start_s: float, end_s: float | None = None, note: Mapping[str, object] | None = None
    ) -> None:
        """Store an interval, or an instant if it has no end."""
        text = json.dumps(_finite(note or {}), allow_nan=False)
        self._emit(Mark(rank=self._rank, kind=kind, start_s=start_s, end_s=end_s, note=text))

    def flush(self) -> None:
        """Close the open phase and store the steps that still wait for their loss, with it or without."""
        self.enter(None)
        while self._waiting:
            self._emit_waiting()

    def _digest(self) -> None:
        """Make rows of the instants that have gathered."""
        instants, self._instants = self._instants, []
        for instant in instants:
            self._close(instant)
            if instant.ended is not None:
                loss = self._read_loss(instant.ended.loss)
                self._waiting.append((self._row(instant.ended), loss or _NO_LOSS))
                self._start_step(instant)
            elif self._open.phase not in STEP_PHASES and not self._has_worked():
                self._start_step(
                    instant
                )  # nothing but waiting came before the interruption: that was no step's
            self._open = instant
        self._digested_s = self._open.time_s
        self._emit_arrived()

    def _start_step(self, instant: _Instant) -> None:
        self._spent, self._step_start_s = _Spent(), instant.time_s

    def _has_worked(self) -> bool:
        return any(self._spent.wall[phase] > 0.0 for phase in STEP_PHASES if phase != "data")

    def _close(self, until: _Instant) -> None:
        """Book the time of the open phase."""
        phase = self._open.phase
        wall_s, cpu_s = until.time_s - self._open.time_s, until.cpu_s - self._open.cpu_s
        if phase in self._spent.wall:
            self._spent.wall[phase] += wall_s
            self._spent.cpu[phase] += cpu_s
        elif phase is not None:
            self.mark(phase, self._open.time_s, until.time_s, {"cpu_s": cpu_s})

    def _row(self, ended: _StepEnd) -> Step:
        work, memory = ended.work, ended.memory or _NO_MEMORY
        wall = self._spent.wall
        shown: Mapping[Phase, float | None] = wall if self._phases_known else _UNTIMED
        shown_cpu: Mapping[Phase, float | None] = self._spent.cpu if self._phases_known else _UNTIMED
        return Step(
            rank=self._rank,
            step=ended.step,
            start_s=self._step_start_s,
            duration_s=sum(wall.values()),
            data_s=shown["data"],
            forward_s=shown["forward"],
            backward_s=shown["backward"],
            optimizer_s=shown["optimizer"],
            other_s=shown["other"],
            data_cpu_s=shown_cpu["data"],
            forward_cpu_s=shown_cpu["forward"],
            backward_cpu_s=shown_cpu["backward"],
            optimizer_cpu_s=shown_cpu["optimizer"],
            other_cpu_s=shown_cpu["other"],
            samples=work.samples,
            tokens=work.tokens,
            model_flops=work.model_flops,
            executed_flops=work.executed_flops,
            operator_bytes=work.operator_bytes,
            memory_allocated_bytes=memory.allocated,
            memory_reserved_bytes=memory.reserved,
            memory_peak_bytes=memory.peak,
            memory_peak_reserved_bytes=memory.peak_reserved,
            host_rss_bytes=memory.host_rss,
            metrics=ended.metrics or {},
        )

    def _emit_arrived(self) -> None:
        """Store the steps whose loss has come, in their order; the oldest without it if too many wait."""
        while self._waiting and (len(self._waiting) > MAX_PENDING_STEPS or self._waiting[0][1].ready()):
            self._emit_waiting()

    def _emit_waiting(self) -> None:
        row, loss = self._waiting.popleft()
        self._emit(row._replace(loss=loss.value()) if loss.ready() else row)


def _finite(value: object) -> object:
    """JSON has no NaN: what is not finite is not known, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
