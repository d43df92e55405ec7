"""Whose an attempt is: its folder appears at once, with the name of the job in it and a lease held, or not at all.

Two trainings that start in the same moment under one name can so never take the same attempt, and the ranks of one job
find each other's without talking.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiler.store.lease import Lease, is_held

JOB_NAME = "job.json"
_ATTEMPT = "attempt-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One start of a training: the same for all of its ranks, and for no other start.

    Attributes:
        key: Of the launcher's job; a restart of it has the same.
        restart: How often the launcher has started it again.
        start: What sets a process without a launcher apart from all others; empty for the ranks of a launcher.
    """

    key: str
    restart: int
    start: str


def claim(run_dir: Path, attempt: int, job: Job) -> Lease | None:
    """Make the folder of an attempt for a job, with a lease that lasts as long as this process; None if it is taken.

    Raises:
        OSError: The file system refused.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    made = run_dir / f".claim-{os.getpid()}-{secrets.token_hex(4)}"
    target = attempt_dir(run_dir, attempt)
    lease: Lease | None = None
    try:
        made.mkdir()
        (made / JOB_NAME).write_text(json.dumps({**asdict(job), "host": socket.gethostname()}) + "\n")
        lease = Lease(made)
        made.rename(target)  # refused by every file system if the target is there, since it is never empty
    except OSError:
        if lease is not None:
            lease.release()
        shutil.rmtree(made, ignore_errors=True)
        if target.exists():
            return None
        raise
    return lease


def attempt_dir(run_dir: Path, attempt: int) -> Path:
    """The folder of an attempt."""
    return run_dir / f"{_ATTEMPT}{attempt}"


def attempts_of(run_dir: Path) -> list[int]:
    """Numbers of all attempts of a run, ascending."""
    numbers = [path.name.removeprefix(_ATTEMPT) for path in run_dir.glob(f"{_ATTEMPT}*")]
    return sorted(int(number) for number in numbers if number.isdecimal())


def ranks_in(run_dir: Path, attempt: int) -> set[str]:
    """The ranks that have a folder in an attempt; folders are named `<host>-<rank>-<pid>`."""
    names = [path.name.rsplit("-", 2) for path in attempt_dir(run_dir, attempt).glob("*-*-*")]
    return {name[1] for name in names if len(name) == 3}


def job_of(run_dir: Path, attempt: int) -> Job | None:
    """Whose an attempt is; None if it does not say."""
    known = _read(attempt_dir(run_dir, attempt) / JOB_NAME)
    try:
        return Job(key=str(known["key"]), restart=int(known["restart"]), start=str(known["start"]))
    except (KeyError, TypeError, ValueError):
        return None


def damaged_jobs(run_dir: Path) -> list[str]:
    """A sentence for each attempt whose word on whose it is cannot be read; attempts of before 2026-11-22 have none."""
    paths = {number: attempt_dir(run_dir, number) / JOB_NAME for number in attempts_of(run_dir)}
    return [
        f"{path} is damaged, so nobody can tell which start of the training attempt {number} was. Its tables are"
        " read all the same."
        for number, path in paths.items()
        if path.exists() and job_of(run_dir, number) is None
    ]


def is_alive(run_dir: Path, attempt: int) -> bool | None:
    """Whether a process of this host works on an attempt; None if that lies with another host or nobody can tell."""
    folder, here = attempt_dir(run_dir, attempt), socket.gethostname()
    processes = list(folder.glob("*-*-*"))
    own = [path for path in processes if path.name.rsplit("-", 2)[0] == here]
    elsewhere = len(own) < len(processes)
    if _read(folder / JOB_NAME).get("host") == here:
        own.append(folder)
    held = [is_held(path) for path in own]
    if True in held:
        return True
    return None if elsewhere or False not in held else False


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_bytes()[:4096])
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
