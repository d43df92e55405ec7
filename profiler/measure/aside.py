"""Calls that may never return, made on a thread of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from profiler.errors import SensorError

T = TypeVar("T")

OPENING_S = 5.0
"""Finding and opening the devices of a node takes a fraction of this."""

CLOSING_S = 0.5
"""Letting go of them, too; the end of a training must not wait for a driver that hangs."""


def aside(call: Callable[[], T]) -> Future[T]:
    """What `call` will return or raise; if it never does, its thread holds up nobody, not even our end."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller as it is
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome


def within(seconds: float, who: str, call: Callable[[], T]) -> T:
    """What `call` returns or raises, if it does so in time; a driver that never returns must not hold the training.

    Raises:
        SensorError: It took longer; the thread that waits for it is left behind.
    """
    try:
        return aside(call).result(timeout=seconds)
    except TimeoutError:
        raise SensorError(
            f"{who} did not answer within {seconds:g} s, so it is not asked again in this run."
        ) from None


def at_most(seconds: float, call: Callable[[], None]) -> None:
    """Make a call whose result nobody needs, and raise what it raises; one that takes longer is left behind."""
    outcome = aside(call)
    wait([outcome], timeout=seconds)
    if outcome.done():
        outcome.result()
