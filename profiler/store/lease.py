"""A lease says that a process is alive: it holds a lock that the kernel takes back when the process ends, however.

A heartbeat says so only after a while, and a process number may be somebody else's by then. The lock is one of this
host's kernel: another host that sees the folder through a network learns nothing from it, and neither does a file
system without locks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import final

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LEASE_NAME = "lease"


@final
class Lease:
    """Taken on construction; given back by `release`, or by the kernel.

    A forked child does not keep it: it would seem alive for as long as any loader worker is.

    Attributes:
        refused: Whether another process holds it.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Path, name: str = LEASE_NAME) -> None:
        self.refused = False
        self._descriptor: int | None = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if fcntl is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:  # no locks on this file system: then nobody learns anything from it
                self.refused = isinstance(error, BlockingIOError)
                self.release()
                return
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._close)

    def release(self) -> None:
        """Give it back; the file stays."""
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def is_held(folder: Path) -> bool | None:
    """Whether a process of this host holds the lease of `folder`; None where nobody can tell."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder / LEASE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(descriptor)
