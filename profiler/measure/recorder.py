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

from profiler.measure.deferred import Now, Scalar
from profiler.records import STEP_PHASES, Mark, Phase, Row, Step

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


@dataclass(slots=True, kw_only=True)
class Work:
    """What one step has done so far, summed over its microbatches. A quantity once unknown stays unknown."""

    samples: int | None = 0
    tokens: int | None = 0
    model_flops: float | None = 0.0

    def add(self, samples: int | None, tokens: int | None, model_flops: float | None) -> None:
        """Add one microbatch."""
        self.samples = None if samples is None or self.samples is None else self.samples + samples
        self.tokens = None if tokens is None or self.tokens is None else self.tokens + tokens
        unknown = model_flops is None or self.model_flops is None
        self.model_flops = None if unknown else self.model_flops + model_flops  # type: ignore[operator]


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

    Args:
        emit: Takes each row.
        clock: Seconds on the run's clock.
        cpu_clock: CPU seconds of this process.
        rank: Global rank of this process.
        phases_known: False where work is asynchronous (CUDA) and host time says nothing of a phase; the
            phase columns are then null and only the step's duration is kept.
    """

    def __init__(
        self,
        emit: Callable[[Row], None],
        *,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float] = time.process_time,
        rank: int = 0,
        phases_known: bool = True,
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._rank = rank
        self._phases_known = phases_known
        self._phase: Phase | None = None
        self._since_s = self._since_cpu_s = 0.0
        self._step_start_s = 0.0
        self._spent = _Spent()
        self._waiting: deque[tuple[Step, Scalar]] = deque()

    @property
    def phase(self) -> Phase | None:
        """The phase that is open."""
        return self._phase

    def enter(self, phase: Phase | None) -> None:
        """Close the open phase and open `phase`; None means outside of training."""
        now, cpu = self._clock(), self._cpu_clock()
        self._close(now, cpu)
        if self._phase not in STEP_PHASES and not self._has_worked():
            # Nothing but waiting came before the interruption: that was no step's.
            self._spent, self._step_start_s = _Spent(), now
        self._phase, self._since_s, self._since_cpu_s = phase, now, cpu

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
        loss: Scalar | None = None,
        memory: Memory | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Store one optimizer update: everything since the last one. The phase `data` is open afterwards."""
        now, cpu = self._clock(), self._cpu_clock()
        self._close(now, cpu)
        row = self._row(step, work, memory or _NO_MEMORY, metrics or {})
        self._spent, self._step_start_s = _Spent(), now
        self._phase, self._since_s, self._since_cpu_s = "data", now, cpu
        self._waiting.append((row, loss or _NO_LOSS))
        self._emit_arrived()

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

    def _has_worked(self) -> bool:
        return any(self._spent.wall[phase] > 0.0 for phase in STEP_PHASES if phase != "data")

    def _close(self, now: float, cpu: float) -> None:
        wall_s, cpu_s = now - self._since_s, cpu - self._since_cpu_s
        phase = self._phase
        if phase in self._spent.wall:
            self._spent.wall[phase] += wall_s
            self._spent.cpu[phase] += cpu_s
        elif phase is not None:
            self.mark(phase, self._since_s, now, {"cpu_s": cpu_s})

    def _row(self, step: int, work: Work, memory: Memory, metrics: Mapping[str, float]) -> Step:
        wall = self._spent.wall
        shown: Mapping[Phase, float | None] = wall if self._phases_known else _UNTIMED
        shown_cpu: Mapping[Phase, float | None] = self._spent.cpu if self._phases_known else _UNTIMED
        return Step(
            rank=self._rank,
            step=step,
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
            memory_allocated_bytes=memory.allocated,
            memory_reserved_bytes=memory.reserved,
            memory_peak_bytes=memory.peak,
            memory_peak_reserved_bytes=memory.peak_reserved,
            host_rss_bytes=memory.host_rss,
            metrics=metrics,
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
