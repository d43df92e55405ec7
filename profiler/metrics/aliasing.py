"""Periodic steps against a sensor that looks at part of the time only: when its sum may be off, and by how much.

Power sensors of data-centre GPUs average the first 20 to 25 ms of every 100 (arXiv 2312.02741, "Part-time power
measurements"). Steps of nearly that period show them the same part of the work again and again. Whether a card's energy
counter is made of the same samples is not known, so the flag is raised for every GPU counter with a known period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CLOSE = 0.1
"""Step periods within this share of the sensor's period, or of its half, can alias."""

SMALL_JITTER = 0.1
"""Steps whose durations scatter by more than this share meet the sensor at every phase soon enough."""

MOST_OFF = 0.8
"""So far off, as a share of what it tells, is a sum in which all steps look alike to the sensor: a load that goes
between P and 2.5 P by halves, seen at its low side for a quarter of the time, used 75 % more."""

FEW_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliasing:
    """Steps that the sensor may see at one phase only.

    Attributes:
        step_s: Their median duration.
        jitter: Scatter of their durations, as a share of it.
        update_period_s: The sensor's period.
        coherent_s: For so long the sensor may see the steps at nearly the same phase.
    """

    step_s: float
    jitter: float
    update_period_s: float
    coherent_s: float

    def share(self, window_s: float) -> float:
        """Half-width of a window's energy, as a share of it: coherent stretches err independently of each other."""
        return MOST_OFF * math.sqrt(min(1.0, self.coherent_s / window_s)) if window_s > 0.0 else 0.0

    def sentence(self) -> str:
        """What a reader of the number must know."""
        return (
            f"steps of {1e3 * self.step_s:.4g} ms (jitter {100 * self.jitter:.2g} %) nearly keep the pace of the "
            f"sensor's {1e3 * self.update_period_s:.4g} ms: if it looks at part of the time only, it may see the same "
            f"part of each step for {self.coherent_s:.3g} s on end. The error bar allows for it"
        )


def aliasing(durations_s: ArrayLike, update_period_s: float | None) -> Aliasing | None:
    """Whether steps of these durations can alias with a sensor of this period; None if not.

    The phase at which the sensor meets the steps walks round once in a beat, by which half a beat is the longest
    stretch at one side; and jitter lets it diffuse over a quarter of a step after (1 / (4 jitter))² steps.

    >>> aliasing([0.1] * 50, 0.1).coherent_s
    inf
    >>> aliasing([0.25] * 50, 0.1) is None
    True
    """
    known = np.asarray(durations_s, dtype=np.float64)
    if not update_period_s or len(known) < FEW_STEPS:
        return None
    step_s = float(np.median(known))
    jitter = 1.4826 * float(np.median(np.abs(known - step_s))) / step_s if step_s > 0.0 else math.inf
    times = next((n for n in (1, 2) if abs(n * step_s - update_period_s) <= CLOSE * update_period_s), None)
    if times is None or jitter > SMALL_JITTER:
        return None
    drift = abs(update_period_s / step_s - times)
    beat_s = update_period_s / drift if drift > 0.0 else math.inf
    diffusion_s = step_s / (4.0 * jitter) ** 2 if jitter > 0.0 else math.inf
    return Aliasing(
        step_s=step_s,
        jitter=jitter,
        update_period_s=update_period_s,
        coherent_s=max(min(beat_s / 2.0, diffusion_s), step_s),
    )
