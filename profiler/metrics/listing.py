"""All runs of a folder with their points of scale, as fast as 10,000 of them need it: what is known is not read again.

Rows go through `store.index`. Only what is not known there is read and computed, by `entries`; nothing that this needs
is imported before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

import profiler
from profiler.carbon.factors import CarbonFactors
from profiler.store.folder import run_folders
from profiler.store.index import RunIndex, is_unchanged

_NOT_SHOWN = ("points", "carbon", "names", "digest")
_MADE_BY = ("metrics/*.py", "carbon/*.py", "store/*.py", "records.py", "units.py", "codecarbon_tables.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The runs of a folder: what `overview` and `scale_points` say of all of them."""

    runs: pl.DataFrame
    points: pl.DataFrame


def list_folder(
    runs_dir: Path,
    factors: CarbonFactors | None = None,
    on_read: Callable[[int, int], None] = lambda done, of: None,
) -> Listing:
    """Every run of a folder.

    Args:
        runs_dir: The runs folder.
        factors: For emissions; None takes those stored with each run.
        on_read: Called now and then with how many of how many runs that were not known were read.

    Raises:
        RunsFolderError: There is no such folder, or it is not one of ours.
    """
    folders = {folder.name: folder for folder in run_folders(runs_dir)}
    index = run_index(runs_dir)
    known = _still_true(index.read(), folders)
    found = set() if known is None else set(known["run_id"])
    if known is None or len(found) < len(folders):
        from profiler.metrics.entries import read_entries

        unknown = [folders[name] for name in sorted(folders.keys() - found)]
        read = read_entries(unknown, index, on_read)
        known = read if known is None else pl.concat([known, read])
    if factors is not None and factors != CarbonFactors():
        from profiler.metrics.entries import with_factors

        known = with_factors(known, {_shown(name): folder for name, folder in folders.items()}, factors)
    return _listing(known.sort("created_at", "run_id"))


def runs_by_name(runs_dir: Path) -> dict[str, Path]:
    """The folders of all runs, newest first, by name: without what takes long to find out of those not yet known.

    When a run was made does not change, so what the index says of that holds whatever became of the run.

    Raises:
        RunsFolderError: As in `list_folder`.
    """
    folders = {folder.name: folder for folder in run_folders(runs_dir)}
    known = run_index(runs_dir).read()
    told = () if known is None else known.select("run_id", "created_at").iter_rows()
    created = {name: moment for name, moment in told if name in folders}
    if len(created) < len(folders):
        from profiler.store.runs import open_folder

        unknown = folders.keys() - created.keys()
        created |= {name: open_folder(folders[name]).manifest.created_at for name in unknown}
    newest_first = sorted(created, key=lambda name: (created[name], name), reverse=True)
    return {_shown(name): folders[name] for name in newest_first}


def _shown(name: str) -> str:
    """As `StoredRun.run_id` has it: a name of bytes that are no text cannot be a cell of a table."""
    return os.fsencode(name).decode("utf-8", "replace")


def run_index(runs_dir: Path) -> RunIndex:
    """The index of a runs folder for this very code: a mended formula must show at once."""
    package = Path(profiler.__path__[0])
    made_by = hashlib.blake2b(digest_size=8)
    for path in sorted(path for pattern in _MADE_BY for path in package.glob(pattern)):
        made_by.update(path.read_bytes())
    return RunIndex(runs_dir, made_by.hexdigest())


def _still_true(entries: pl.DataFrame | None, folders: Mapping[str, Path]) -> pl.DataFrame | None:
    if entries is None:
        return None
    holds = [
        name in folders and is_unchanged(folders[name], (names, digest))
        for name, names, digest in entries.select("run_id", "names", "digest").iter_rows()
    ]
    return entries.filter(pl.Series(holds, dtype=pl.Boolean))


def _listing(entries: pl.DataFrame) -> Listing:
    points = entries.select(pl.col("points").explode(empty_as_null=False, keep_nulls=False)).unnest("points")
    return Listing(
        runs=entries.drop(_NOT_SHOWN).sort("created_at", descending=True, maintain_order=True),
        points=points.sort("params", "tokens", "seed", nulls_last=True, maintain_order=True),
    )
