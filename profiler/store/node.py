"""Which machine this is, by the kernel that it booted.

A host's name is not enough: containers of one machine have their own, but share its locks and its energy sensors.
"""

from __future__ import annotations

import socket
from functools import cache
from pathlib import Path

from profiler.store.manifest import ProcessFile

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str | None:
    """What Linux drew at random when it booted; None elsewhere."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def node_of(facts: ProcessFile) -> str:
    """What stands for the machine that a process ran on: processes with the same see the same sensors."""
    return facts.boot_id or facts.host


def is_here(facts: ProcessFile) -> bool:
    """Whether a process ran, or runs, on this machine as it was booted: then its lease can be asked for."""
    known = facts.boot_id is not None and boot_id() is not None
    return facts.boot_id == boot_id() if known else facts.host == socket.gethostname()
