"""What a run is called, so that all ranks of a job come to one name without talking, and no two trainings share one."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from profiler.measure.ranks import Place
from profiler.store.claim import Job
from profiler.store.folder import check_run_name, new_run_id

_JOB_KEYS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")

_RESTART_KEYS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def this_job(place: Place, env: Mapping[str, str] = os.environ) -> Job:
    """This start of a training, the same for all of its ranks: by the variables of its launcher.

    A launcher may use the same address and port for its next job; a rank that finds itself in an attempt already knows
    that it is an earlier job's.
    """
    key = zlib.crc32("/".join(env.get(name, "") for name in _JOB_KEYS).encode())
    restarts = [int(count) for name in _RESTART_KEYS if (count := env.get(name, "").strip()).isdecimal()]
    alone = place.world_size == 1
    return Job(
        key=f"{key:08x}", restart=max(restarts, default=0), start=secrets.token_hex(8) if alone else ""
    )


def numbered(name: str) -> Iterator[str]:
    """The name, then `name-2`, `name-3`, ...

    Raises:
        InvalidValueError: The name is no folder's name.
    """
    return itertools.chain([check_run_name(name)], (f"{name}-{number}" for number in itertools.count(2)))


def is_numbered(run_id: str, name: str) -> bool:
    """Whether a run's name is a given one, or that with a number.

    >>> is_numbered("base-2", "base"), is_numbered("base-line", "base")
    (True, False)
    """
    return run_id == name or re.fullmatch(rf"{re.escape(name)}-[0-9]+", run_id) is not None


def made_names(runs_dir: Path, workload: str | None, place: Place, job: Job) -> Iterator[str]:
    """Names for a training that has none: by the time for a process alone, else `job-<key>-<number>`.

    A restart begins with the last run of its job, anything else with the first number that is free.
    """
    if place.world_size == 1:
        return iter([new_run_id(workload)])
    taken = [path.name.rpartition("-")[2] for path in runs_dir.glob(f"job-{job.key}-*")]
    known = max((int(number) for number in taken if number.isdecimal()), default=0)
    first = max(known, 1) if job.restart else 1
    return (f"job-{job.key}-{number}" for number in itertools.count(first))
