"""Whole files, or none: written under a hidden name and renamed; read within bounds, and never waited for.

A runs folder may come from anybody: what is no plain file (a pipe, a device) would hold a reader for ever, and what is
larger than anything of ours would fill its memory.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

MAX_FILE_BYTES = 256 * 2**20
"""No part or journal comes near: the rows of a merged part take half of it in memory, and less on disk."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a hidden temporary file beside `path`, sync it, and rename it to `path`.

    Raises:
        OSError: From `write` or the file system; the temporary file is then removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read_bounded(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a plain file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no plain file, or has more than `max_bytes`; nothing of it was read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no plain file")
        if found.st_size > max_bytes:
            raise ValueError(f"it has {found.st_size} bytes, more than any file of ours ({max_bytes})")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
