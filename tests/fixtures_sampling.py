"""A real sampler over any probes, with all that it says kept: `from fixtures_sampling import Sampling`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fixtures_scripted import FakeClock

from profiler.measure.guard import Guard
from profiler.measure.sampler import Sampler
from profiler.measure.sensors.base import CoTenants, Probe
from profiler.records import Reading


@dataclass
class Heard:
    """What a sampler said."""

    readings: list[Reading] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    news: list[tuple[str, str]] = field(default_factory=list)
    co_tenants: list[tuple[str, CoTenants]] = field(default_factory=list)
    gaps: list[tuple[str, float, float]] = field(default_factory=list)

    def of(self, device: str) -> list[Reading]:
        return [reading for reading in self.readings if reading.device == device]

    def sentences(self) -> str:
        return "\n".join(f"{subject}: {sentence}" for subject, sentence in [*self.lost, *self.news])


class Sampling:
    """The sampler reads when `sampler.sample()` is called, in the caller's thread; or by itself once started."""

    def __init__(
        self,
        *probes: Probe,
        clock: Callable[[], float] | None = None,
        period_s: float = 0.1,
        real: bool = False,
    ) -> None:
        self.clock, self.guard, self.heard = FakeClock(), Guard(), Heard()
        self.sampler = Sampler(
            probes,
            clock=clock or (time.monotonic if real else self.clock),
            emit=self.heard.readings.append,
            on_lost=lambda device, reason: self.heard.lost.append((device, reason)),
            on_news=lambda subject, sentence: self.heard.news.append((subject, sentence)),
            on_co_tenants=lambda device, others: self.heard.co_tenants.append((device, others)),
            on_gap=lambda *gap: self.heard.gaps.append(gap),
            guard=self.guard,
            period_s=period_s,
        )

    @property
    def readings(self) -> list[Reading]:
        return self.heard.readings

    @property
    def lost(self) -> list[tuple[str, str]]:
        return self.heard.lost
