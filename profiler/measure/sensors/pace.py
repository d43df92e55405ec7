"""How often one call may be made, so that a slow one takes no more than its share of the time."""

from __future__ import annotations

from typing import final

CALL_SHARE = 0.01
"""Of the time that one call may take. NVML holds a driver-wide lock meanwhile, which the training may wait for."""


@final
class Pace:
    """When one call is due: every `period_s`, and less often when it is slow.

    It is slow when it was so twice in a row: the first call after a pause often wakes something up.
    """

    def __init__(self, period_s: float, share: float = CALL_SHARE) -> None:
        """At most every `period_s` seconds (0: whenever asked), and at most for `share` of the time."""
        self._period_s = period_s
        self._share = share
        self._took_s = 0.0
        self._due_s: float | None = None
        self.interval_s = period_s

    @property
    def is_slowed(self) -> bool:
        """Whether the call is made less often than its period, because it takes long."""
        return self.interval_s > self._period_s

    def is_due(self, now_s: float) -> bool:
        """Whether the call may be made now."""
        return self._due_s is None or now_s >= self._due_s

    def made(self, start_s: float, took_s: float) -> None:
        """Take into account that the call was made."""
        self.interval_s = max(self._period_s, min(took_s, self._took_s) / self._share)
        self._took_s = took_s
        self._due_s = start_s + self.interval_s
