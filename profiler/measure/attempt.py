"""Which run and which attempt a training is: a new run, or an attempt more of one that it goes on with.

Every rank of a job comes to the same answer without talking: by what the checkpoint says, which is the same for all, by
what is on disk, and by the name of the job that stands in an attempt which another rank has made already.

A training goes on with a run if it says so (by a checkpoint, or by the name of one that did not finish) and if nothing
is thrown away thereby that somebody may want: no attempt of it still runs, and it is not finished at a later step than
the checkpoint's. Else it is a run of its own that names the one it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from profiler.errors import StoredDataError
from profiler.measure.ranks import Place
from profiler.measure.run_name import is_numbered, made_names, numbered, this_job
from profiler.store.claim import Job, attempts_of, claim, is_alive, job_of, ranks_in
from profiler.store.lease import Lease
from profiler.store.manifest import MANIFEST_NAME, Manifest, as_stored, read_manifest
from profiler.store.run import StoredRun


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePoint:
    """Where a checkpoint was written: the run, its attempt, and the steps that were done by then."""

    run_id: str
    attempt: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a training asks to be.

    Attributes:
        name: Asked for by the user; None if any will do.
        workload: For the name that is made if none is asked for.
        likeness: What a run and its further attempts have in common, by the manifest's fields.
        resumed: The checkpoint that it goes on from.
    """

    name: str | None = None
    workload: str | None = None
    likeness: Mapping[str, Any] = field(default_factory=dict)
    resumed: ResumePoint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What a training is.

    Attributes:
        run_dir: Its run's folder.
        attempt: Its number.
        lease: Of the attempt, if this process made it.
        resumed: The checkpoint of this very run that it goes on from.
        parent: The checkpoint of another run that it goes on from.
        why: Why it is not the run that it asked to be.
        unclaimed: Why the attempt could not be claimed, so that another training may take the same one.
        before: The manifest that an earlier attempt left.
    """

    run_dir: Path
    attempt: int
    before: Manifest | None = None
    lease: Lease | None = None
    resumed: ResumePoint | None = None
    parent: ResumePoint | None = None
    why: str | None = None
    unclaimed: str | None = None


def allot(runs_dir: Path, wish: Wish, place: Place) -> Allotment:
    """Take an attempt of a run for this process; no other job has or gets the same.

    Raises:
        InvalidValueError: The name is no folder's name.
    """
    job = this_job(place)
    base = _base(runs_dir, wish)
    names = made_names(runs_dir, wish.workload, place, job) if base is None else numbered(base)
    goes_on = base is not None or (job.restart > 0 and place.world_size > 1)
    refused: str | None = None
    for name in names:
        run_dir = runs_dir / name
        known = attempts_of(run_dir)
        for attempt in known:
            if job_of(run_dir, attempt) == job and str(place.rank) not in ranks_in(run_dir, attempt):
                return _allotment(run_dir, attempt, wish, refused)
        if known:
            why = _why_not(run_dir, known[-1], wish, job) if goes_on else "is another training's"
            if why:
                refused = refused or (f"{name!r} {why}" if base else None)
                continue
        attempt = known[-1] + 1 if known else 1
        try:
            lease = claim(run_dir, attempt, job)
        except OSError as error:  # a disk that refuses is the writer's business
            unclaimed = error.strerror or str(error)
            return replace(_allotment(run_dir, attempt, wish, refused), unclaimed=unclaimed)
        if lease is not None or job_of(run_dir, attempt) == job:
            return _allotment(run_dir, attempt, wish, refused, lease)
        if base:
            refused = refused or f"{name!r} was taken by another training in the same moment"
    raise AssertionError("names never end")


def _allotment(
    run_dir: Path, attempt: int, wish: Wish, refused: str | None, lease: Lease | None = None
) -> Allotment:
    resumed = wish.resumed
    same = resumed is not None and resumed.run_id == run_dir.name
    return Allotment(
        run_dir=run_dir,
        attempt=attempt,
        before=_manifest(run_dir),
        lease=lease,
        resumed=resumed if same else None,
        parent=None if same else resumed,
        why=refused,
    )


def _base(runs_dir: Path, wish: Wish) -> str | None:
    """The name to begin with: the checkpoint's run, if it is here and no other was asked for; else what was asked."""
    resumed = wish.resumed
    if resumed is None or not (runs_dir / resumed.run_id / MANIFEST_NAME).exists():
        return wish.name
    return resumed.run_id if wish.name is None or is_numbered(resumed.run_id, wish.name) else wish.name


def _why_not(run_dir: Path, latest: int, wish: Wish, job: Job) -> str | None:
    """Why a run cannot be gone on with, as words to follow its name; None if it can."""
    manifest = _manifest(run_dir)
    if manifest is None:
        return "is being started by another training" if is_alive(run_dir, latest) else None
    if _still_runs(run_dir, latest, manifest, job):
        return "still runs"
    for name, value in wish.likeness.items():
        if as_stored(value) != getattr(manifest, name):
            return f"is a training with another {name}"
    return _why_over(run_dir.name, manifest, wish.resumed)


def _why_over(run_id: str, manifest: Manifest, resumed: ResumePoint | None) -> str | None:
    """Why a run that has ended cannot be gone on with."""
    own = resumed is not None and resumed.run_id == run_id
    if resumed is not None and not own and manifest.parent != as_note(resumed):
        return "went on from another checkpoint"
    if manifest.status != "finished":
        return None
    if resumed is None or not own:
        return "is a finished run already"
    if resumed.attempt == manifest.attempt and resumed.step == manifest.last_step:
        return None
    return f"was finished at step {manifest.last_step}, and this training goes on from step {resumed.step}"


def _still_runs(run_dir: Path, latest: int, manifest: Manifest, job: Job) -> bool:
    """By its lease; where that tells nothing, by its heartbeat, unless it is an earlier start of the same job."""
    alive = is_alive(run_dir, latest)
    if alive is not None:
        return alive
    before = job_of(run_dir, latest)
    if before is not None and before.key == job.key and before.restart < job.restart:
        return False
    return StoredRun(run_dir, manifest).status == "running"


def _manifest(run_dir: Path) -> Manifest | None:
    try:
        return read_manifest(run_dir)
    except StoredDataError:
        return None


def as_note(point: ResumePoint | None) -> dict[str, Any] | None:
    """A checkpoint's place as it is stored."""
    return None if point is None else asdict(point)
