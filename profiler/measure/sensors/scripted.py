"""A sensor that follows a script: for tests, demonstrations and anybody who writes against the seam."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from profiler.errors import SensorError
from profiler.measure.sensors.base import Meter
from profiler.records import Component, Source


class ScriptedEnergy:
    """An energy counter over a piecewise-constant power trace with an exact integral.

    Args:
        trace: `(seconds, watts)` pieces in order; the last one's power goes on forever.
        clock: Seconds, monotonic; 0 is the start of the trace.
        update_period_s: The counter changes at multiples of this; None: it follows continuously.
        fails_at_s: From then on every read raises `SensorError`.
    """

    def __init__(
        self,
        trace: Sequence[tuple[float, float]],
        *,
        clock: Callable[[], float],
        update_period_s: float | None = 0.1,
        device: str = "GPU-scripted",
        component: Component = "gpu",
        source: Source = "counter",
        relative_uncertainty: float = 0.0,
        fails_at_s: float | None = None,
    ) -> None:
        self._trace = tuple(trace)
        self._clock = clock
        self._fails_at_s = fails_at_s
        self._meter = Meter(
            component=component,
            device=device,
            name="scripted sensor",
            source=source,
            update_period_s=update_period_s,
            relative_uncertainty=relative_uncertainty,
            uncertainty_source="scripted",
            power_max_w=max(watts for _, watts in trace),
        )

    @property
    def meter(self) -> Meter:
        """As given at construction."""
        return self._meter

    def read(self) -> float:
        """Cumulative joules at the last multiple of the update period.

        Raises:
            SensorError: The script says that the sensor is lost by now.
        """
        now = self._clock()
        if self._fails_at_s is not None and now >= self._fails_at_s:
            raise SensorError("the scripted sensor is lost")
        period = self._meter.update_period_s
        return self.integral(now if period is None else (now + 1e-9) // period * period)

    def integral(self, until_s: float) -> float:
        """The true energy in joules from 0 to `until_s`."""
        energy, start = 0.0, 0.0
        for seconds, watts in self._trace:
            energy += watts * min(seconds, max(until_s - start, 0.0))
            start += seconds
        return energy + self._trace[-1][1] * max(until_s - start, 0.0)
