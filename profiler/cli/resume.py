"""`--resume`: going on with a run that did not finish, as it was begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.errors import InvalidValueError
from profiler.store.lease import Lease
from profiler.store.manifest import Manifest, as_stored
from profiler.store.runs import open_run
from profiler.store.turn import check_nobody_writes, take_turn
from profiler.workload import Workload, check_preset, stored_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRun:
    """A run that is gone on with, and that nobody else may go on with meanwhile.

    Attributes:
        before: What its manifest says.
        turn: Ours until it is released; None where nothing can be written.
        preset: Of its settings.
        settings: As they were, whatever the preset says today.
    """

    before: Manifest
    turn: Lease | None
    preset: str
    settings: Any

    @property
    def run_id(self) -> str:
        """Of the run."""
        return self.before.run_id

    @property
    def seed(self) -> int:
        """With which it was begun."""
        return self.before.seed or 0


def begun_run(workload: Workload, runs_dir: Path, name: str, preset: str) -> BegunRun:
    """Take the turn of a run that can be gone on with.

    Args:
        workload: Whose run it must be.
        runs_dir: The runs folder.
        name: Of the run.
        preset: Where the run does not say its own.

    Raises:
        InvalidValueError: It cannot be gone on with, or somebody else goes on with it.
    """
    before = resumable(runs_dir, name, workload.name)
    turn = take_turn(runs_dir / before.run_id)
    known = check_preset(before.preset or preset)
    return BegunRun(
        before=before,
        turn=turn,
        preset=known,
        settings=stored_settings(workload.preset(known), before.settings),
    )


def resumable(runs_dir: Path, name: str, workload: str) -> Manifest:
    """The manifest of the run to go on with.

    Raises:
        InvalidValueError: It is another workload's, is finished, or is being written to.
    """
    run = open_run(runs_dir, name)
    why = None
    if run.manifest.run_id != run.run_id:
        why = f"was recorded as {run.manifest.run_id!r} and its folder copied or renamed since"
    elif run.manifest.workload != workload:
        why = f"is a run of {run.manifest.workload or 'no workload'}, not of {workload}"
    elif run.status == "finished":
        why = "is finished"
    if why:
        raise InvalidValueError(
            f"{run.run_id!r} {why}, so it cannot be gone on with. 'joulescale list' shows which did not finish."
        )
    check_nobody_writes(run)
    return run.manifest


def check_identity(before: Manifest, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with other data, or another torch: the second half would be another training's.

    Raises:
        InvalidValueError: They differ.
    """
    now = as_stored(identity)
    other = sorted(key for key in {*now, *before.identity} if now.get(key) != before.identity.get(key))
    if other:
        key = other[0]
        raise InvalidValueError(
            f"{before.run_id!r} was begun with {key} = {before.identity.get(key)}, and here it is {now.get(key)}, so"
            " going on with it would mix two trainings. Start a new run, or bring the old one back."
        )
