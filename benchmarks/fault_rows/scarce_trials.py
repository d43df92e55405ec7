"""Children that train where something is scarce: threads, files, memory, stack; where every warning is an error."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from fault_rows.edge_fit import VARIANTS, Left, differences, fit
from profiler import EfficiencyMonitor

GIB = 2**30


def train(folder: str) -> None:
    """Fit with the monitor and without under each condition; a line for each says what differs."""
    own, kind = Path(folder), VARIANTS[1]
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(
        logging.ERROR
    )  # it cannot do without a standard error itself
    fit(kind, None, own / "warm")
    for condition, made in CONDITIONS.items():
        monitor = EfficiencyMonitor(own / "runs", summary=False)
        with made():
            without = _at_depth(lambda: fit(kind, None, own / "without"), condition)
            found = _at_depth(partial(fit, kind, monitor, own / "with"), condition)
        print(json.dumps({condition: differences(without, found)}), flush=True)


@contextmanager
def _limit(kind: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def _no_threads() -> Iterator[None]:
    """No stack of that size can be had, so no thread can be started."""
    before = threading.stack_size(64 * GIB)
    with _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + 4 * GIB):
        _has_no_thread()
        yield
    threading.stack_size(before)


def _has_no_thread() -> None:
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        return
    sys.exit("a thread was started all the same")


@contextmanager
def _warnings_are_errors() -> Iterator[None]:
    """All but Lightning's own, which would end the fit without us, too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module=r"(?!lightning|torch)")
        yield


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Closed in Python and below; whatever is opened next gets its number, so a folder takes that."""
    stream, kept = sys.stderr, os.dup(2)
    os.dup2(os.open("/", os.O_RDONLY), 2)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stderr.close()
    try:
        yield
    finally:
        sys.stderr = stream
        os.dup2(kept, 2)


@contextmanager
def _little_stack() -> Iterator[None]:
    yield


def _at_depth(call: Callable[[], Left], condition: str) -> Left:
    """As deep in the stack as a fit without us can just bear."""
    if condition != "little stack":
        return call()
    if not _ROOM:
        _ROOM.append(next(room for room in range(100, 900, 10) if _deep(call, room).raised is None))
    return _deep(call, _ROOM[0])


_ROOM: list[int] = []


def _deep(call: Callable[[], Left], room: int) -> Left:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(room + len(_stack()))
    try:
        return call()
    finally:
        sys.setrecursionlimit(before)


def _stack() -> list[Any]:
    frames, frame = [], sys._getframe()
    while frame:
        frames.append(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return frames


def _highest_file() -> int:
    return max(int(path.name) for path in Path("/proc/self/fd").iterdir())


CONDITIONS: dict[str, Callable[[], Any]] = {
    "no threads": _no_threads,
    "three files": lambda: _limit(resource.RLIMIT_NOFILE, _highest_file() + 4),
    "64 MiB of memory": lambda: _limit(resource.RLIMIT_AS, psutil.Process().memory_info().vms + 64 * 2**20),
    "warnings are errors": _warnings_are_errors,
    "no standard error": _no_stderr,
    "little stack": _little_stack,
}
