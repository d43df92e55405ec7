"""Two ends that nobody announces: a forked child, to which nothing that is open belongs, and the interpreter's own."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from types import MethodType


def forget_in_children(forget: Callable[[], None]) -> None:
    """Have this method called first of all in every child that is forked from now on, while its object lives.

    A child has none of our threads, but a copy of their locks as they were: whoever waits for one waits for ever.
    Nothing that is open may be closed there either, since the files and the processes are the parent's.
    """
    if not hasattr(os, "register_at_fork"):  # not a POSIX system: nothing is ever forked
        return
    assert isinstance(forget, MethodType)
    living = weakref.WeakMethod(forget)

    def in_child() -> None:
        still = living()
        if still is not None:
            still()

    os.register_at_fork(after_in_child=in_child)  # there is no way to take it back


def at_exit(end: Callable[[], None]) -> Callable[[], None]:
    """Have `end` called if the interpreter ends first; what is returned takes that back.

    A thread of ours that came back from a C extension into an interpreter that is gone could abort the process, and
    change its exit status.
    """
    atexit.register(end)
    return lambda: atexit.unregister(end)
