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
from dataclasses import dataclass, field

from profiler.measure.deferred import Scalar
from profiler.records import RUN_PHASES, STEP_PHASES, Mark, Phase, Row, Step, StepPhase

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


@dataclass(slots=True)
class _Spent:
    """Wall and CPU seconds by phase since the last step ended."""

    wall: dict[StepPhase, float] = field(default_factory=lambda: dict.fromkeys(STEP_PHASES, 0.0))
    cpu: dict[StepPhase, float] = field(default_factory=lambda: dict.fromkeys(STEP_PHASES, 0.0))


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
        self._waiting: deque[tuple[Callable[[float | None], Step], Scalar | None]] = deque()

    @property
    def phase(self) -> Phase | None:
        """The phase that is open."""
        return self._phase

    def enter(self, phase: Phase | None) -> None:
        """Close the open phase and open `phase`; None means outside of training."""
        now, cpu = self._clock(), self._cpu_clock()
        self._close(now, cpu)
        if self._phase not in STEP_PHASES and not self._has_worked():
            self._spent, self._step_start_s = (
                _Spent(),
                now,
            )  # what was only waited before an interruption is no step's
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
        row = self._row_maker(step, now, work, memory or Memory(), dict(metrics or {}))
        self._waiting.append((row, loss))
        self._spent, self._step_start_s = _Spent(), now
        self._phase, self._since_s, self._since_cpu_s = "data", now, cpu
        self._emit_ready()

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
            make, loss = self._waiting.popleft()
            self._emit(make(_collect(loss)))

    def _has_worked(self) -> bool:
        return any(self._spent.wall[phase] > 0.0 for phase in STEP_PHASES if phase != "data")

    def _close(self, now: float, cpu: float) -> None:
        wall_s, cpu_s = now - self._since_s, cpu - self._since_cpu_s
        for step_phase in STEP_PHASES:
            if self._phase == step_phase:
                self._spent.wall[step_phase] += wall_s
                self._spent.cpu[step_phase] += cpu_s
        if self._phase in RUN_PHASES:
            self.mark(str(self._phase), self._since_s, now, {"cpu_s": cpu_s})

    def _row_maker(
        self, step: int, now: float, work: Work, memory: Memory, metrics: dict[str, float]
    ) -> Callable[[float | None], Step]:
        wall = self._spent.wall if self._phases_known else {}
        cpu = self._spent.cpu if self._phases_known else {}
        start_s, duration_s, rank = self._step_start_s, sum(self._spent.wall.values()), self._rank

        def make(loss: float | None) -> Step:
            return Step(
                rank=rank,
                step=step,
                start_s=start_s,
                duration_s=duration_s,
                data_s=wall.get("data"),
                forward_s=wall.get("forward"),
                backward_s=wall.get("backward"),
                optimizer_s=wall.get("optimizer"),
                other_s=wall.get("other"),
                data_cpu_s=cpu.get("data"),
                forward_cpu_s=cpu.get("forward"),
                backward_cpu_s=cpu.get("backward"),
                optimizer_cpu_s=cpu.get("optimizer"),
                other_cpu_s=cpu.get("other"),
                samples=work.samples,
                tokens=work.tokens,
                model_flops=work.model_flops,
                loss=loss,
                memory_allocated_bytes=memory.allocated,
                memory_reserved_bytes=memory.reserved,
                memory_peak_bytes=memory.peak,
                memory_peak_reserved_bytes=memory.peak_reserved,
                host_rss_bytes=memory.host_rss,
                metrics=metrics,
            )

        return make

    def _emit_ready(self) -> None:
        while self._waiting:
            make, loss = self._waiting[0]
            late = len(self._waiting) > MAX_PENDING_STEPS
            if not late and loss is not None and not loss.ready():
                return
            self._waiting.popleft()
            self._emit(make(_collect(loss)))


def _collect(loss: Scalar | None) -> float | None:
    return loss.value() if loss is not None and loss.ready() else None


def _finite(value: object) -> object:
    """JSON has no NaN: what is not finite is not known, however deep it lies."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
