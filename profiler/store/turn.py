"""Whose turn it is to go on with a run: one process's at a time, and everybody else is told whose.

Two starts in the same moment both find a run that nobody writes to yet, so the first of them locks it. The lock is of
one kernel: machines that share a folder and not their locks may both go on, and the later of them is then given a run
of its own (see `claim`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from profiler.errors import InvalidValueError
from profiler.store.claim import attempts_of, is_alive
from profiler.store.files import read_bounded
from profiler.store.lease import Lease
from profiler.store.ranks import state_of
from profiler.store.run import StoredRun

TURN_NAME = "resume.lock"
_MOST_BYTES = 4096
_SAYS_SO_S = 0.2
"""Within that time whoever has just taken the turn has said so."""


def take_turn(run_dir: Path) -> Lease | None:
    """Keep all others from going on with a run, for as long as this process lives; None where nothing can be written.

    Raises:
        InvalidValueError: Another process has the turn; the message says which.
    """
    try:
        lease = Lease(run_dir, TURN_NAME)
    except OSError:
        return None
    if lease.refused:
        time.sleep(_SAYS_SO_S)
        raise InvalidValueError(_being_written(run_dir.name, _told(run_dir / TURN_NAME)))
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": _moment(datetime.now(UTC).timestamp())}
    with contextlib.suppress(OSError):  # a full disk: then nobody learns whose turn it is
        (run_dir / TURN_NAME).write_text(json.dumps(told) + "\n", encoding="utf-8")
    return lease


def check_nobody_writes(run: StoredRun) -> None:
    """Refuse a run that a process is recording.

    Raises:
        InvalidValueError: One is; the message says which.
    """
    living = [p.facts for p in run.processes if state_of(p, run.manifest) == "running"]
    if living:
        first = min(living, key=lambda facts: facts.rank)
        told = {"pid": first.pid, "host": first.host, "since": _moment(first.clock["wall_unix_s"])}
        raise InvalidValueError(_being_written(run.run_id, told))
    attempts = attempts_of(run.path)
    if run.status == "running" or (attempts and is_alive(run.path, attempts[-1])):
        raise InvalidValueError(_being_written(run.run_id, {}))


def _being_written(run_id: str, told: dict[str, Any]) -> str:
    who = "another process"
    if {"pid", "host", "since"} <= told.keys():
        who = f"process {told['pid']} on {told['host']} since {told['since']}"
    return (
        f"{run_id!r} is being written to by {who}, and two trainings in one run would be neither. Wait for its end, or"
        " stop it first."
    )


def _told(path: Path) -> dict[str, Any]:
    """Who says to have the turn; nothing where that cannot be read."""
    try:
        told = json.loads(read_bounded(path, _MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _moment(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
