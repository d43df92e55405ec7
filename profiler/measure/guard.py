"""The one wall between our faults and the user's training.

Whatever of ours runs inside a training step runs under a `Guard`: an exception is caught, its reason is kept,
one warning is logged, and the part that failed is switched off for the rest of the run.
"""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger("joulescale")

P = ParamSpec("P")
R = TypeVar("R")

MAX_LINES = 3
"""Log lines of one run, whatever fails in it; the rest is in the run's notes."""
MAX_REASON = 300
"""Characters of an exception's first line that are kept: a message may be a whole page."""
NO_ROOM = "switched off after a fault that there was no room left to describe"


class Guard:
    """Runs parts of the measuring and switches off those that fail.

    What belongs to the user passes: Ctrl-C, `sys.exit`, and whatever the user's own signal handler raises while code
    of ours happens to run. All else is ours, also what is no `Exception` (Polars' PanicException).

    Attributes:
        reasons: Part to the sentence that says why it was switched off.
    """

    def __init__(self, guarded: str = "training") -> None:
        """Protect what is `guarded`: a training, or a command."""
        self.reasons: dict[str, str] = {}
        self._guarded = guarded
        self._warned: set[str] = set()
        self._unsaid: dict[str, str] = {}

    def call(self, part: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """`function(*args, **kwargs)`, or None if it failed now or `part` failed before."""
        if part in self.reasons:
            return None
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # the training must go on whatever we did wrong
            try:
                ours = self.caught(part, error)
            except RecursionError:  # the stack ends right here
                self.reasons[part], ours = NO_ROOM, True
            if not ours:
                raise
            return None

    def caught(self, part: str, error: BaseException) -> bool:
        """Switch `part` off after an exception that was caught elsewhere; False if it is the user's, to be raised."""
        try:
            if is_the_users(error):
                return False
            self.reasons[part] = NO_ROOM  # first of all: what follows may fail for want of stack or memory
            self.fail(part, error)
            return True
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - see above
            self.reasons.setdefault(part, NO_ROOM)
            return True

    def fail(self, part: str, error: BaseException) -> None:
        """Switch `part` off, and say so once."""
        reason = told(error)
        self.reasons[part] = f"switched off after {reason}"
        self.warn(part, f"switched off for this run ({reason})")

    def warn(self, part: str, sentence: str) -> None:
        """Tell the user about a part, once; after `MAX_LINES` only the run's notes are told."""
        if part in self._warned:
            return
        self._warned.add(part)
        lines = len(self._warned)
        if lines > MAX_LINES:
            self._unsaid[part] = sentence
            return
        more = " What else goes wrong is said in the run's notes only." if lines == MAX_LINES else ""
        try:
            logger.warning("joulescale: %s: %s. The %s goes on.%s", part, sentence, self._guarded, more)
        except Exception:  # noqa: BLE001 - a handler of the user's own, or a standard error that is closed
            self._unsaid[part] = sentence

    @property
    def notes(self) -> dict[str, str]:
        """Part to why it was switched off, and to the warnings that nobody was told."""
        return self._unsaid | self.reasons


def guarded(part: str, otherwise: Any = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a method of an object that has a `_guard` run under it, as `part`; if it fails it returns `otherwise`."""

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(method)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            guard: Guard = args[0]._guard  # type: ignore[attr-defined]
            result = guard.call(part, method, *args, **kwargs)
            return otherwise if result is None else result

        return wrapper

    return decorate


def fault_of(function: Callable[..., object], *args: object) -> BaseException | None:
    """Call a function, and return what it raised instead of raising it; what belongs to the user is raised."""
    try:
        function(*args)
    except BaseException as error:  # what is no Exception, too
        if is_the_users(error):
            raise
        return error
    return None


def told(error: BaseException) -> str:
    """An exception in one line. Its own words are somebody else's code, which may fail, too."""
    kind = type(error).__name__
    try:
        words = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001 - see above
        words = "its message cannot be read"
    return f"{kind}: {words}".rstrip(": ")[:MAX_REASON]


def is_the_users(error: BaseException) -> bool:
    """Whether an exception only came through code of ours: Ctrl-C, `sys.exit`, or raised by a signal handler.

    A handler runs between any two lines of ours; its code is then in the traceback.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return True
    if threading.current_thread() is not threading.main_thread():
        return False
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    """What runs first when a handler is called; None for those that are not written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    for called in (handler, vars(type(handler)).get("__call__")):
        code = getattr(called, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None
