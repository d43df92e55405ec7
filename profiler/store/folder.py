"""The runs folder: which one is ours, and where a new run goes.

runs/.joulescale                        the mark that makes a folder ours
runs/<run_id>/run.json
runs/<run_id>/attempt-<n>/<host>-<rank>-<pid>/{steps,readings,marks}-NNNNNN.parquet, wal-NNNNNN.open,
                                        process.json, lease
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
from datetime import UTC, datetime
from pathlib import Path

from profiler.errors import InvalidValueError, RunsFolderError

MARK_NAME = ".joulescale"
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_MARK_TEXT = "This folder holds joulescale runs; see 'joulescale list'.\n"
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def fill_command(runs_dir: Path) -> str:
    """The command to try first where there are no runs: a sweep of minutes on a CPU, which every page can show."""
    return f"joulescale sweep lm --preset cpu --runs-dir {shlex.quote(str(runs_dir))}"


def nothing_yet(what: str, runs_dir: Path) -> str:
    """That a runs folder has none of something, and what to do.

    >>> nothing_yet("runs", Path("my runs"))
    "There are no runs in 'my runs' yet. Fill it with 'joulescale sweep lm --preset cpu --runs-dir 'my runs''."
    """
    return f"There are no {what} in {str(runs_dir)!r} yet. Fill it with '{fill_command(runs_dir)}'."


def readable_runs_dir(path: Path) -> Path:
    """Check that runs can be read from `path`; an empty or not yet made folder is fine for its makers only.

    Raises:
        RunsFolderError: It does not exist, is a file, cannot be read, or holds something else.
    """
    if not _exists(path):
        raise RunsFolderError(
            f"There is no runs folder {str(path)!r}. Fill it with '{fill_command(path)}', or name another with"
            " --runs-dir."
        )
    _check_folder(path)
    return path


def run_folders(runs_dir: Path) -> list[Path]:
    """The folders of all runs, in no order.

    Raises:
        RunsFolderError: There is no such folder, or it is not one of ours.
    """
    with os.scandir(readable_runs_dir(runs_dir)) as entries:
        return [runs_dir / entry.name for entry in entries if os.path.exists(f"{entry.path}/run.json")]  # noqa: PTH110


def writable_runs_dir(path: Path) -> Path:
    """Check that runs can be written to `path`; make it, and mark it as ours, if need be.

    A full disk is no reason to refuse: it may have room later.

    Raises:
        RunsFolderError: It is a file, read-only, or a folder that holds something else.
    """
    if os.path.lexists(path):
        _check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        mark = path / MARK_NAME
        if not mark.exists():
            mark.write_text(_MARK_TEXT, encoding="utf-8")
    except FileExistsError:
        raise RunsFolderError(
            f"The runs folder {str(path)!r} is a file. Name a folder with --runs-dir."
        ) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            return path
        raise RunsFolderError(
            f"The runs folder {str(path)!r} cannot be written to ({error.strerror or error}), so nothing could be"
            " recorded. Name another with --runs-dir, or mend its permissions."
        ) from None
    if not os.access(path, os.W_OK):
        raise RunsFolderError(
            f"The runs folder {str(path)!r} is read-only, so nothing could be recorded."
            " Name another with --runs-dir, or mend its permissions."
        )
    return path


def new_run_id(workload: str | None, *, now: datetime | None = None) -> str:
    """A name that sorts by time and is taken by nobody: `20261122-050352-lm-3f9a`."""
    moment = now or datetime.now(UTC)
    return f"{moment:%Y%m%d-%H%M%S}-{workload or 'run'}-{secrets.token_hex(2)}"


def check_run_name(name: str) -> str:
    """Return `name`.

    Raises:
        InvalidValueError: It could not be a folder's name on every file system.
    """
    if not _RUN_NAME.fullmatch(name):
        raise InvalidValueError(
            f"The run name {name!r} cannot be a folder's name. Use up to 100 letters, digits, '.', '_' and '-',"
            " beginning with a letter or digit."
        )
    return name


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise RunsFolderError(
            f"The runs folder {str(path)!r} cannot be read: {error.strerror or error}."
        ) from None


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise RunsFolderError(f"The runs folder {str(path)!r} is a file. Name a folder with --runs-dir.")
    try:
        known = (any(path.glob(inside)) for inside in ("*/run.json", "*/attempt-1"))
        mark = path / MARK_NAME
        # asked again in the end: another training that makes the folder just now has marked it before all else
        ours = mark.exists() or not any(path.iterdir()) or any(known) or mark.exists()
    except PermissionError:
        raise RunsFolderError(f"The runs folder {str(path)!r} cannot be read: permission denied.") from None
    if not ours:
        raise RunsFolderError(
            f"The folder {str(path)!r} holds other things and no joulescale runs, so it is left alone."
            " Name an empty or new folder with --runs-dir."
        )
