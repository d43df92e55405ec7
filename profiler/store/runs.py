"""The runs of a runs folder: all of them, or the one that a name means."""

from __future__ import annotations

import shlex
from pathlib import Path

from profiler.errors import RunNotFoundError, StoredDataError, UnknownNameError
from profiler.store.folder import nothing_yet, run_folders
from profiler.store.manifest import Manifest, read_manifest
from profiler.store.run import StoredRun


def scan_runs(runs_dir: Path) -> list[StoredRun]:
    """All runs of a runs folder, oldest first. A folder whose manifest is damaged is listed with what is known.

    Raises:
        RunsFolderError: There is no such folder, or it is not one of ours.
    """
    runs = (open_folder(folder) for folder in run_folders(runs_dir))
    return sorted(runs, key=lambda run: (run.manifest.created_at, run.run_id))


def open_run(runs_dir: Path, run_id: str) -> StoredRun:
    """The run called `run_id`, or whose name is the only one to begin with or contain it; `latest` is the newest.

    Raises:
        RunsFolderError: There is no such folder, or it is not one of ours.
        RunNotFoundError: No run, or more than one, is meant.
    """
    runs = scan_runs(runs_dir)
    if not runs:
        raise RunNotFoundError(nothing_yet("runs", runs_dir))
    if run_id == "latest":
        return runs[-1]
    name = Path(run_id).name
    exact = [run for run in runs if run.run_id == name]
    near = exact or [run for run in runs if name and name in run.run_id]
    if len(near) == 1:
        return near[0]
    if near:
        raise RunNotFoundError(
            f"{run_id!r} could be {', '.join(r.run_id for r in near[:5])}. Give more of the name."
        )
    unknown = UnknownNameError("run", run_id, [r.run_id for r in runs])
    raise RunNotFoundError(
        f"{unknown} All are shown by 'joulescale list --runs-dir {shlex.quote(str(runs_dir))}'."
    )


def open_folder(folder: Path) -> StoredRun:
    """The run in a folder; one whose manifest cannot be read is `damaged`, and says why in its notes."""
    try:
        return StoredRun(folder, read_manifest(folder))
    except StoredDataError as error:
        return StoredRun(
            folder, Manifest(run_id=folder.name, status="damaged", notes={"manifest": str(error)})
        )
