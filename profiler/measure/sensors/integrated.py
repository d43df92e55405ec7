"""Energy of a device that only tells its power: the integral of what was seen of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

from profiler.measure.sensors.base import Meter


@final
class IntegratedPower:
    """An energy counter made of power readings, by the trapezoid rule.

    What the power did between two reads is not seen, so the number is only as good as the reads are dense.
    A read that fails leaves the sum alone; the next one that succeeds bridges the gap with a straight line,
    and whoever reads the table sees the missing readings in between.
    """

    def __init__(
        self, meter: Meter, power: Callable[[], float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start at 0 J; the first `read` only takes the starting power.

        Args:
            meter: What is measured; its source should be `integrated`.
            power: Power now, in watts; raises `SensorError` when it is not to be had.
            clock: Monotonic seconds.
        """
        self._meter = meter
        self._power = power
        self._clock = clock
        self._energy_j = 0.0
        self._last: tuple[float, float] | None = None

    @property
    def meter(self) -> Meter:
        """What is measured."""
        return self._meter

    def read(self) -> float:
        """Joules since the first read.

        Raises:
            SensorError: `power` raised it.
        """
        now_s, power_w = self._clock(), self._power()
        if self._last is not None:
            last_s, last_w = self._last
            self._energy_j += (now_s - last_s) * (power_w + last_w) / 2
        self._last = (now_s, power_w)
        return self._energy_j
