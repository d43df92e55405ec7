"""One stored run: its manifest, its processes, and whether it still goes on."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from profiler.records import SCHEMAS, TableName
from profiler.store.claim import damaged_jobs
from profiler.store.manifest import PROCESS_NAME, Manifest
from profiler.store.process import StoredProcess, read_process_folder
from profiler.store.ranks import LOST_AFTER_S, Partial, age_of, is_alive, partial_of
from profiler.store.tables import Shelf


class StoredRun:
    """One run in a runs folder. The manifest is read at once, tables when they are first asked for."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @property
    def run_id(self) -> str:
        """The run's name, which is its folder's; bytes in it that are no text are shown as such."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")

    @cached_property
    def status(self) -> str:
        """running, finished, interrupted, lost (it says running, but its process is gone), or damaged (no manifest)."""
        return "lost" if self.manifest.status == "running" and self._is_lost() else self.manifest.status

    @cached_property
    def processes(self) -> tuple[StoredProcess, ...]:
        """Every process that recorded a part of this run, ordered by attempt and rank."""
        folders = sorted(self.path.glob("attempt-*/*/"))
        shelf = Shelf()
        read = [read_process_folder(folder, shelf) for folder in folders]
        return tuple(
            sorted((p for p in read if p is not None), key=lambda p: (p.facts.attempt, p.facts.rank))
        )

    @property
    def damaged(self) -> tuple[str, ...]:
        """One sentence for each file that could not be read."""
        of_processes = (sentence for p in self.processes for sentence in p.damaged)
        return (*self._orphans, *damaged_jobs(self.path), *of_processes)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """One sentence for each journal that was not closed: its process was killed, or is writing."""
        return tuple(sentence for p in self.processes for sentence in p.unfinished)

    @property
    def is_damaged(self) -> bool:
        """Whether anything of it could not be read."""
        return self.manifest.status == "damaged" or bool(self.damaged)

    @property
    def incomplete(self) -> frozenset[TableName]:
        """The tables of which a part is damaged; all of them if a process's folder has lost its `process.json`."""
        if self._orphans:
            return frozenset(SCHEMAS)
        return frozenset[TableName]().union(*(p.incomplete for p in self.processes))

    @cached_property
    def partial(self) -> Partial | None:
        """Which of its ranks are missing, and why; None if none is."""
        return partial_of(self.processes, self.manifest)

    @cached_property
    def _orphans(self) -> tuple[str, ...]:
        """One sentence for each process's folder of which nobody can tell whose it is."""
        known = {p.folder for p in self.processes}
        return tuple(
            f"{folder} has no readable {PROCESS_NAME}; its tables are left out."
            for folder in sorted(self.path.glob("attempt-*/*/"))
            if folder not in known
        )

    def _is_lost(self) -> bool:
        leaders = [p for p in self.processes if p.facts.rank == 0]
        beaten = self.manifest.heartbeat or self.manifest.created_at
        if leaders:
            return not is_alive(leaders[-1], beaten)
        age_s = age_of(beaten)
        return age_s is None or age_s > LOST_AFTER_S
