"""What a run is called, so that all ranks of a job come to one name without talking, and no two trainings share one."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from profiler.errors import StoredDataError
from profiler.measure.ranks import Place
from profiler.store.folder import check_run_name
from profiler.store.manifest import read_manifest

_JOB_KEYS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")

_RESTART_KEYS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def free_name(runs_dir: Path, name: str, rank: int) -> str:
    """The name, or the first of `name-2`, `name-3`, ... if a run of that name is finished: two in one would be neither.

    One that did not finish goes on under its name, as a further attempt. Every rank comes to the same name: what
    it took part in itself, and what that became, is the same for all.

    Raises:
        InvalidValueError: The name is no folder's name.
    """
    names = (check_run_name(name), *(f"{name}-{number}" for number in range(2, 10_000)))
    return next(known for known in names if not _is_over(runs_dir / known, rank))


def shared_name(runs_dir: Path, place: Place) -> str | None:
    """A name that all ranks of one job make alike without talking to each other; None for a single process.

    Launchers use the same address and port again, so a job's key may come back: every rank counts in how many runs
    of that key it has left a folder, and all come to the same number. A restart goes on in the last of them.
    """
    if place.world_size == 1:
        return None
    key = zlib.crc32("/".join(os.environ.get(name, "") for name in _JOB_KEYS).encode())
    known = sum(1 for run_dir in runs_dir.glob(f"job-{key:08x}-*") if any(attempts_of(run_dir, place.rank)))
    restarted = any(int(os.environ.get(name) or 0) > 0 for name in _RESTART_KEYS)
    return f"job-{key:08x}-{known if restarted and known else known + 1}"


def _is_over(run_dir: Path, rank: int) -> bool:
    """Whether this rank took part in a run that is finished."""
    if not attempts_of(run_dir, rank):
        return False
    try:
        return read_manifest(run_dir).status == "finished"
    except StoredDataError:
        return False


def attempts_of(run_dir: Path, rank: int) -> list[int]:
    """Numbers of the attempts in which this rank took part; folders are named `<host>-<rank>-<pid>`."""
    own = [path for path in run_dir.glob("attempt-*/*") if path.name.rsplit("-", 2)[-2:-1] == [str(rank)]]
    numbers = [path.parent.name.removeprefix("attempt-") for path in own]
    return [int(number) for number in numbers if number.isdecimal()]
