"""How often one call may be made, so that a slow one takes no more than its share of the time."""

from __future__ import annotations

import math
from typing import final

CALL_SHARE = 0.01
"""Of the time that one call may take. NVML holds a driver-wide lock meanwhile, which the training may wait for."""


@final
class Pace:
    """When one call is due: every `period_s`, and less often when it is slow.

    It is slow when it was so twice in a row: the first call after a pause often wakes something up.

    Attributes:
        due_s: From when on it may be made.
        interval_s: Seconds between two calls, as they are now.
    """

    def __init__(self, period_s: float, share: float = CALL_SHARE) -> None:
        """At most every `period_s` seconds (0: whenever asked), and at most for `share` of the time."""
        self._period_s = period_s
        self._share = share
        self._took_s = 0.0
        self.due_s = -math.inf
        self.interval_s = period_s

    @property
    def is_slowed(self) -> bool:
        """Whether the call is made less often than its period, because it takes long."""
        return self.interval_s > self._period_s

    def made(self, start_s: float, took_s: float) -> None:
        """Take into account that the call was made."""
        self.interval_s = max(self._period_s, min(took_s, self._took_s) / self._share)
        self._took_s = took_s
        self.due_s = start_s + self.interval_s
