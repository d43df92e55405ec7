"""What the index keeps of one run: its row of `overview`, its points of scale, and what its folder looked like.

Only runs that have come to rest are kept: one that goes on, or changed a moment ago, or of which a process is alive, is
read anew each time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from profiler.carbon.factors import CarbonFactors
from profiler.errors import StoredDataError
from profiler.metrics.carbon import Use, carbon
from profiler.metrics.listing import run_index
from profiler.metrics.overview import OVERVIEW_SCHEMA, overview
from profiler.metrics.points import POINT_SCHEMA, scale_points
from profiler.store.factors import read_factors
from profiler.store.index import RunIndex, changed_at, state_of
from profiler.store.lease import is_held
from profiler.store.ranks import LOST_AFTER_S
from profiler.store.runs import open_folder

_KEPT: dict[str, pl.DataType] = {
    "points": pl.List(pl.Struct(dict(POINT_SCHEMA))),
    "carbon": pl.String(),
    "names": pl.String(),
    "digest": pl.String(),
}
_ENTRY_SCHEMA = pl.Schema({**OVERVIEW_SCHEMA, **_KEPT})
_EMISSIONS = ("emissions_g", "emissions_low_g", "emissions_high_g")
_BATCH = 100


def read_entries(
    folders: Sequence[Path], index: RunIndex, on_read: Callable[[int, int], None]
) -> pl.DataFrame:
    """Entries of runs that are not known, kept batch by batch: who gives up waiting has not waited for nothing."""
    return pl.concat([frame_of([]), *_in_batches(folders, index, on_read)])


def remember(run: Path) -> None:
    """Keep what there is to say of a run that has just ended, by the process that wrote it."""
    run_index(run.parent).add(frame_of([entry_of(run)]))


def with_factors(entries: pl.DataFrame, folders: Mapping[str, Path], factors: CarbonFactors) -> pl.DataFrame:
    """The same entries with the emissions that other factors make; only a series needs the run's tables for that."""
    found: dict[str, CarbonFactors] = {}
    rows = []
    for row in entries.iter_rows(named=True):
        folder, stored = folders[row["run_id"]], row["carbon"]
        if stored not in found or found[stored].series is not None:
            found[stored] = _chosen(folder, stored, factors)
        chosen = found[stored]
        rows.append(row | (_by_tables(folder, factors) if chosen.series else _by_numbers(row, chosen)))
    return frame_of(rows)


def _in_batches(
    folders: Sequence[Path], index: RunIndex, on_read: Callable[[int, int], None]
) -> Iterator[pl.DataFrame]:
    for start in range(0, len(folders), _BATCH):
        some = folders[start : start + _BATCH]
        entries = [entry_of(folder) for folder in some]
        settled = [entry for folder, entry in zip(some, entries, strict=True) if _is_settled(folder, entry)]
        if settled:
            index.add(frame_of(settled))
        on_read(start + len(some), len(folders))
        yield frame_of(entries)


def entry_of(folder: Path) -> dict[str, Any]:
    """What is kept of one run. The state is taken first: what changes while we read makes the entry stale."""
    names, digest = state_of(folder)
    names = names.encode("utf-8", "replace").decode()  # names that are no text hold for no state
    run = open_folder(folder)
    (row,) = overview([run]).to_dicts()
    points = scale_points([run]).to_dicts()
    stored = json.dumps(dict(run.manifest.carbon))
    return {**row, "points": points, "carbon": stored, "names": names, "digest": digest}


def frame_of(entries: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Entries as the index takes them."""
    return pl.DataFrame(entries, schema=_ENTRY_SCHEMA)


def _is_settled(folder: Path, entry: Mapping[str, Any]) -> bool:
    """Whether nothing of a run changes any more, not even by somebody's silence."""
    if entry["run_id"] != folder.name:  # which is no text, and could be that of another
        return False
    if entry["status"] == "running" or any(is_held(process) for process in folder.glob("attempt-*/*/")):
        return False
    return time.time() - changed_at(folder, (entry["names"], entry["digest"])) > LOST_AFTER_S


def _chosen(folder: Path, stored: str, asked: CarbonFactors) -> CarbonFactors:
    try:
        return asked.otherwise(read_factors(folder, json.loads(stored)))
    except StoredDataError:  # those stored cannot be used; `show` says why
        return asked


def _by_tables(folder: Path, factors: CarbonFactors) -> dict[str, Any]:
    run = open_folder(folder)
    (row,) = overview([run], factors).to_dicts()
    return {**row, "points": scale_points([run], factors).to_dicts()}


def _by_numbers(row: Mapping[str, Any], factors: CarbonFactors) -> dict[str, Any]:
    source = row["energy_source"]
    energy = (row[f"{source}_j"], row[f"{source}_plus_minus_j"]) if source else (None, None)
    points = [
        point | _emitted(factors, point["energy_j"], point["energy_plus_minus_j"]) for point in row["points"]
    ]
    return {**_emitted(factors, *energy), "points": points}


def _emitted(factors: CarbonFactors, energy_j: float | None, bar_j: float | None) -> dict[str, float | None]:
    amounts, _ = carbon(factors, Use(energy_j=energy_j, plus_minus_j=bar_j))
    return {key: amounts[key] for key in _EMISSIONS}
