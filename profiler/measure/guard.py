"""The one wall between our faults and the user's training.

Whatever of ours runs inside a training step runs under a `Guard`: an exception is caught, its reason is kept,
one warning is logged, and the part that failed is switched off for the rest of the run.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger("joulescale")

P = ParamSpec("P")
R = TypeVar("R")


class Guard:
    """Runs parts of the measuring and switches off those that fail.

    Attributes:
        reasons: Part to the sentence that says why it was switched off.
    """

    def __init__(self, guarded: str = "training") -> None:
        """Protect what is `guarded`: a training, or a command."""
        self.reasons: dict[str, str] = {}
        self._guarded = guarded
        self._warned: set[str] = set()

    def call(self, part: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """`function(*args, **kwargs)`, or None if it failed now or `part` failed before."""
        if part in self.reasons:
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the training must go on whatever we did wrong
            self.fail(part, error)
            return None

    def caught(self, part: str, error: BaseException) -> bool:
        """Switch `part` off after an exception that was caught elsewhere; False if it is the user's, to be raised."""
        if not isinstance(error, Exception):
            return False
        self.fail(part, error)
        return True

    def fail(self, part: str, error: Exception) -> None:
        """Switch `part` off, and say so once."""
        reason = f"{type(error).__name__}: {error}".strip().rstrip(":")
        self.reasons[part] = f"switched off after {reason}"
        self.warn(part, f"switched off for this run ({reason})")

    def warn(self, part: str, sentence: str) -> None:
        """Tell the user about a part, once."""
        if part not in self._warned:
            self._warned.add(part)
            logger.warning("joulescale: %s: %s. The %s goes on.", part, sentence, self._guarded)


def guarded(part: str) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
    """Make a method of an object that has a `_guard` run under it, as `part`."""

    def decorate(method: Callable[P, R]) -> Callable[P, R | None]:
        @functools.wraps(method)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
            guard: Guard = args[0]._guard  # type: ignore[attr-defined]
            return guard.call(part, method, *args, **kwargs)

        return wrapper

    return decorate
