"""The guard: what is ours stays inside whatever its kind, what is the user's passes, and little is said."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from profiler.measure.guard import MAX_LINES, NO_ROOM, Guard, fault_of, guarded


class ForeignPanic(BaseException):
    """As Polars raises."""


class Unreadable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("a"), "switched off after KeyError: 'a'"),
        (ForeignPanic("rust"), "switched off after ForeignPanic: rust"),
        (MemoryError(), "switched off after MemoryError"),
        (Unreadable(), "switched off after Unreadable: its message cannot be read"),
        (ValueError("one\ntwo"), "switched off after ValueError: one"),
        (GeneratorExit(), "switched off after GeneratorExit"),
    ],
    ids=repr,
)
def test_any_fault_of_ours_stays_inside_and_is_told(error: BaseException, reason: str) -> None:
    guard = Guard()
    assert guard.call("part", raising, error) is None
    assert guard.notes == {"part": reason}
    assert guard.call("part", lambda: 1) is None, "it is off"
    assert guard.call("another", lambda: 1) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_what_is_the_users_passes_and_switches_nothing_off(error: BaseException) -> None:
    guard = Guard()
    with pytest.raises(type(error)) as raised:
        guard.call("part", raising, error)
    assert raised.value is error
    with pytest.raises(type(error)):
        fault_of(raising, error)
    assert guard.call("part", lambda: 1) == 1


class Handlers:
    """Handlers of every form that raise."""

    def __call__(self, number: int, frame: Any) -> None:
        raise TimeoutError("the user's handler")

    def method(self, number: int, frame: Any) -> None:
        raise TimeoutError("the user's handler")


def with_more(more: str, number: int, frame: Any) -> None:
    raise TimeoutError("the user's handler")


@pytest.mark.parametrize(
    "handler", [Handlers(), Handlers().method, partial(with_more, "x")], ids=["object", "method", "partial"]
)
def test_what_a_signal_handler_raises_inside_our_code_is_the_users(handler: Callable[..., Any]) -> None:
    before = signal.signal(signal.SIGUSR2, handler)
    guard = Guard()
    try:
        with pytest.raises(TimeoutError, match="the user's handler"):
            guard.call("part", lambda: [os.kill(os.getpid(), signal.SIGUSR2), sum(range(1000))])
        with pytest.raises(TimeoutError, match="the user's handler"):
            fault_of(lambda: [os.kill(os.getpid(), signal.SIGUSR2), sum(range(1000))])
        assert guard.notes == {}
        assert isinstance(fault_of(raising, TimeoutError("ours")), TimeoutError)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_run_says_three_lines_at_most_and_notes_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    for number in range(5):
        guard.warn(f"part {number}", "is slow")
        guard.warn(f"part {number}", "is slow again")
    assert len(caplog.records) == MAX_LINES
    assert caplog.messages[-1] == (
        "joulescale: part 2: is slow. The training goes on. What else goes wrong is said in the run's notes only."
    )
    assert guard.notes == {"part 3": "is slow", "part 4": "is slow"}


class BrokenHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the log's disk is full")


@pytest.fixture
def broken_log() -> Iterator[None]:
    handler = BrokenHandler()
    logging.getLogger("joulescale").addHandler(handler)
    yield
    logging.getLogger("joulescale").removeHandler(handler)


def test_a_log_that_is_broken_hides_the_reason_from_nobody(broken_log: None) -> None:
    guard = Guard()
    assert guard.call("part", raising, ValueError("ours")) is None
    assert guard.notes == {"part": "switched off after ValueError: ours"}


def test_a_warning_that_cannot_be_logged_is_noted_and_not_raised(broken_log: None) -> None:
    guard = Guard()
    guard.warn("part", "is slow")
    assert guard.notes == {"part": "is slow"}


def test_where_the_stack_ends_the_guard_needs_no_more_of_it_than_what_it_guards() -> None:
    guard, room = Guard(), 0

    def dive(depth: int) -> None:
        nonlocal room
        room = depth
        guard.call("part", raising, ValueError("ours"))
        guard.reasons.clear()
        dive(depth + 1)

    with pytest.raises(RecursionError):
        dive(0)
    assert room > 100
    guard.reasons.clear()

    def at_the_end() -> None:
        try:
            at_the_end()
        except RecursionError:
            guard.call("part", at_the_end)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(120)
    try:
        fault_of(at_the_end)
    finally:
        sys.setrecursionlimit(before)
    assert "RecursionError" in guard.notes["part"] or guard.notes["part"] == NO_ROOM


class Guarded:
    def __init__(self) -> None:
        self._guard = Guard()

    @guarded("reading", otherwise=0.0)
    def read(self, value: float) -> float:
        return 1.0 / value


def test_a_guarded_method_gives_something_else_when_it_fails() -> None:
    thing = Guarded()
    assert (thing.read(2.0), thing.read(0.0), thing.read(2.0)) == (0.5, 0.0, 0.0)
    assert "ZeroDivisionError" in thing._guard.notes["reading"]
