"""Sees that the machine slept: the clock that runs on meanwhile is then ahead of the one that stands still.

A run's clock stands still while the machine sleeps, so durations are those of the training. What an energy counter does
meanwhile differs (it goes on, stands still, or starts anew), so nothing is believed of its step across a sleep.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import final

LEAST_S = 0.5
"""Two clocks are never read at one instant: a thread that is held up between them is no sleep."""


@final
class Suspends:
    """Looks at both clocks now and then.

    Args:
        clock: Seconds on the run's clock.
        on_suspended: Called with the seconds between which the machine slept, and how long it slept.
        asleep: Seconds that the machine has slept since it was started; 0 where the system does not tell.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        on_suspended: Callable[[float, float, float], None],
        *,
        asleep: Callable[[], float] | None = None,
    ) -> None:
        self._clock, self._on_suspended, self._asleep = clock, on_suspended, asleep or _asleep_s
        self._seen_s, self._slept_s = clock(), max(self._asleep() for _ in range(3))

    def look(self) -> None:
        """Tell of a sleep since the last look."""
        before_s, self._seen_s = self._seen_s, self._clock()
        slept_s = self._asleep() - self._slept_s
        if slept_s > LEAST_S:
            slept_s = max(slept_s, *(self._asleep() - self._slept_s for _ in range(2)))  # a busy moment
            self._slept_s += slept_s
            self._on_suspended(before_s, self._seen_s, slept_s)


def _asleep_s() -> float:
    if sys.platform != "linux":
        return 0.0
    since_start_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return since_start_s - time.clock_gettime(time.CLOCK_MONOTONIC)  # held up between the two, it tells less
