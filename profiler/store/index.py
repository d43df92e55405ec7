"""What readers found out about the runs of a folder, kept for the next reader: 10,000 runs are then listed in a second.

It only saves time. A row counts as long as every file and folder of its run is as it was: same names, sizes and times.
Whatever is damaged, stale or made by other code is passed over, and a folder that cannot be written to does without.
Each reader adds a file of its own by rename; when there are many, one reader writes them together. Nobody locks.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import zlib
from array import array
from io import BytesIO
from pathlib import Path
from typing import final

import polars as pl

INDEX_NAME = ".joulescale-index"

MAX_FILES = 32
MAX_BYTES = 256 << 20
_MAGIC = b"JSINDEX1"
_CRC_BYTES = 4
_FOREIGN_S = 86_400.0
"""Files of another version of the code are left alone for a day: two versions may share a folder."""

State = tuple[str, str]
"""Names of everything in a run's folder, a line each, and a digest of their sizes and times."""


def state_of(run: Path) -> State:
    """What a run's folder looks like now."""
    names = sorted(_names(run, "."))
    return "\n".join(names), _digest(run, names)


def is_unchanged(run: Path, state: State) -> bool:
    """Whether a run's folder still looks so. A name that was added shows in the time of its folder."""
    return _digest(run, state[0].split("\n")) == state[1]


def changed_at(run: Path, state: State) -> float:
    """When anything of it last changed, in Unix seconds; infinity if something of it went meanwhile."""
    try:
        return max(os.stat(os.path.join(run, name)).st_mtime for name in state[0].split("\n"))  # noqa: PTH116, PTH118
    except OSError:
        return float("inf")


def _names(run: Path, folder: str) -> list[str]:
    names = [folder]
    with os.scandir(run / folder) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            names += _names(run, name) if entry.is_dir(follow_symlinks=False) else [name]
    return names


def _digest(run: Path, names: list[str]) -> str:
    """Strings and `os.stat`: a `Path` for each of 100,000 files would take longer than all the rest."""
    prefix, seen = f"{run}/", array("q")
    try:
        for name in names:
            found = os.stat(prefix + name, follow_symlinks=False)  # noqa: PTH116
            seen.append(found.st_mtime_ns)
            seen.append(found.st_size)
    except OSError:
        return "gone"
    return hashlib.blake2b(seen.tobytes(), digest_size=12).hexdigest()


@final
class RunIndex:
    """Rows about runs, by run, as files in a hidden folder of the runs folder.

    Args:
        runs_dir: The runs folder.
        stamp: Stands for the code that makes the rows, and so for their columns; rows of other code are not read.
    """

    def __init__(self, runs_dir: Path, stamp: str) -> None:
        self._folder = runs_dir / INDEX_NAME
        self._stamp = stamp

    def read(self) -> pl.DataFrame | None:
        """One row a run, the one that was added last, or None; whether it still holds is for the caller to see."""
        frames = [frame for path in self._files() if (frame := self._read(path)) is not None]
        return pl.concat(frames).unique("run_id", keep="last") if frames else None

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows; where the folder takes none, nothing happens."""
        try:
            self._folder.mkdir(exist_ok=True)
            files = self._files()
            if len(files) < MAX_FILES:
                self._write(rows)
                return
            known = self.read()
            self._write(rows if known is None else pl.concat([known, rows]).unique("run_id", keep="last"))
            for path in (*files, *self._outdated()):
                path.unlink(missing_ok=True)
        except OSError:  # read-only, full, or somebody else's
            return

    def _files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._folder.glob(f"{self._stamp}-*"))

    def _outdated(self) -> list[Path]:
        foreign = [path for path in self._folder.iterdir() if not path.name.startswith(f"{self._stamp}-")]
        return [path for path in foreign if time.time() - path.stat().st_mtime > _FOREIGN_S]

    def _read(self, path: Path) -> pl.DataFrame | None:
        """A file's rows; None if it is damaged, or went while we looked."""
        try:
            data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
        except OSError:
            return None
        body = data[len(_MAGIC) + _CRC_BYTES :]
        if data[: -len(body) or None] != _MAGIC + zlib.crc32(body).to_bytes(_CRC_BYTES, "little"):
            return None
        try:
            return pl.read_ipc(BytesIO(body), use_pyarrow=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
            return None

    def _write(self, rows: pl.DataFrame) -> None:
        """Uncompressed, so that no file can be larger in memory than it is. Not synced: what is torn is passed over."""
        buffer = BytesIO()
        rows.write_ipc(buffer, compression="uncompressed")
        body = buffer.getvalue()
        name = f"{self._stamp}-{time.time_ns():020d}-{secrets.token_hex(4)}"
        temporary = self._folder / f".{name}"
        try:
            temporary.write_bytes(_MAGIC + zlib.crc32(body).to_bytes(_CRC_BYTES, "little") + body)
            temporary.replace(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)
