"""The idle baseline: before a fit, the sensors are read for a while in which nothing is trained."""

from __future__ import annotations

import math
import time

from profiler.errors import InvalidValueError
from profiler.measure.session import Session

LONGEST_S = 600.0


def checked_idle_s(idle_s: float | None) -> float | None:
    """Return `idle_s`.

    Raises:
        InvalidValueError: It is no time that anybody would wait.
    """
    if idle_s is None or (math.isfinite(idle_s) and 0.0 < idle_s <= LONGEST_S):
        return idle_s
    raise InvalidValueError(
        f"idle_s = {idle_s!r} is no number of seconds above 0 and up to {LONGEST_S:g}, so no idle baseline can be "
        "measured. Give some tens of seconds, as in idle_s=30, or leave it out."
    )


def record_idle(session: Session, idle_s: float) -> None:
    """Wait while the session reads its sensors, and mark the time as `idle`."""
    session.sample()
    start_s = session.now()
    time.sleep(idle_s)
    session.sample()
    session.recorder.mark("idle", start_s, session.now())
