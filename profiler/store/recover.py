"""Recovery to disk: what readers find in the journals of a killed run becomes whole parts.

It adds nothing and knows nothing that a reader does not: parts are written by rename, a journal goes only when every
byte of it is in parts, and one with bytes that could not be read is kept under another name (`wal-NNNNNN.rest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import UsageError
from profiler.records import TableName
from profiler.store.files import sync_folder
from profiler.store.lease import is_held
from profiler.store.parts import part_name, write_batches
from profiler.store.recovery import pieces_of
from profiler.store.run import StoredRun
from profiler.store.wal import read_journal
from profiler.words import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What became of one journal.

    Attributes:
        rows: Rows by table that are in parts now and were not before.
        kept: Where the journal is now, if it was kept.
        why_kept: What of it could not be read; None if it went.
    """

    journal: Path
    rows: Mapping[TableName, int]
    kept: Path | None
    why_kept: str | None


def recover_run(run: StoredRun) -> list[Recovered]:
    """Make parts of every journal of a run that has ended; a second time finds nothing to do.

    Raises:
        UsageError: One of its processes is still writing.
        OSError: The file system refused; nothing is lost.
    """
    folders = sorted(run.path.glob("attempt-*/*/"))
    if run.status == "running" or any(is_held(folder) for folder in folders):
        raise UsageError(
            f"The run {run.run_id!r} is still being written, so nothing was changed. Its rows can be read as they are;"
            " recover it when it has ended."
        )
    return [_recover(folder, path) for folder in folders for path in sorted(folder.glob("wal-*.open"))]


def _recover(folder: Path, path: Path) -> Recovered:
    found = read_journal(path)
    why = found.damage or (
        f"{counted(found.unfinished_bytes, 'byte')} of its last frame were not finished"
        if found.unfinished_bytes
        else None
    )
    rows: dict[TableName, int] = {}
    for table, batches in found.batches.items():
        piece = next((piece for piece in pieces_of(folder, table) if piece.path == path), None)
        if batches and piece and not piece.in_parts:
            write_batches(folder / part_name(table, piece.first), table, batches)
            rows[table] = sum(map(len, batches))
    return Recovered(journal=path, rows=rows, kept=_put_away(path, why), why_kept=why)


def _put_away(path: Path, why_kept: str | None) -> Path | None:
    """Delete a journal, or keep it under a name that says that its rows are in parts."""
    kept = path.with_suffix(".rest") if why_kept else None
    if kept is None:
        path.unlink()
    else:
        path.rename(kept)
    sync_folder(path.parent)
    return kept
