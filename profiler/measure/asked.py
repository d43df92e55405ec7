"""One sensor as the sampler asks it: a loss is said once and tried again later, an answer that came late is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from profiler.errors import SensorError

RETRY_LOST_S = 5.0
RETRY_MOST_S = 60.0
"""A lost sensor is tried again in the next round, then after the first of these, then after twice as long each time, up
to the second: most losses are a moment's, and those that are not must not cost a restart of NVML every round."""

LATE_S = 0.5
"""Of an answer that took longer it is not known what moment it is of: at 700 W that is 350 J."""

T = TypeVar("T")


@final
class Asked(Generic[T]):
    """Asks one sensor.

    Args:
        name: Of the sensor, for the reason.
        read: Its value; raises `SensorError` when it is not to be had.
        clock: Monotonic seconds.
        on_lost: Called with the name and the reason when it first fails, or fails again after it came back.

    Attributes:
        time_s: The middle of the call that brought the last value.
        took_s: How long it took: the value is of some moment of it.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], T],
        *,
        clock: Callable[[], float],
        on_lost: Callable[[str, str], None],
    ) -> None:
        self.time_s, self.took_s = 0.0, 0.0
        self._name, self._read, self._clock, self._on_lost = name, read, clock, on_lost
        self._loss: _Loss | None = None

    def ask(self) -> T | None:
        """Its value now; None while it is lost."""
        start_s, loss = self._clock(), self._loss
        if loss is not None and start_s < loss.retry_s:
            return None
        try:
            value = self._read()
        except SensorError as error:
            self._fail(start_s, str(error))
            return None
        end_s = self._clock()
        if end_s - start_s > LATE_S:
            why = f"{self._name} answered after {end_s - start_s:.1f} s only: what moment that is of is not known"
            self._fail(start_s, why)
            return None
        if loss is not None and start_s >= loss.time_s + RETRY_LOST_S:
            self._loss = None  # sooner, it may be coming and going
        self.time_s, self.took_s = (start_s + end_s) / 2.0, end_s - start_s
        return value

    def _fail(self, now_s: float, why: str) -> None:
        if self._loss is None:
            self._on_lost(self._name, why)
        self._loss = _Loss.at(now_s, self._loss)


@dataclass(frozen=True, slots=True)
class _Loss:
    """When a sensor failed last, and when it is tried again."""

    time_s: float
    retry_s: float

    @classmethod
    def at(cls, now_s: float, earlier: _Loss | None) -> _Loss:
        if earlier is None:
            return cls(now_s, now_s)
        waited_s = earlier.retry_s - earlier.time_s
        return cls(now_s, now_s + min(max(2.0 * waited_s, RETRY_LOST_S), RETRY_MOST_S))
