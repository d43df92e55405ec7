"""The journal of one generation of rows, written ahead of their parts: frames that each say whether they are whole.

    frame    magic, length, checksum of the payload and of all frames before, checksum of these three; payload
    payload  one byte for its kind, then JSON (the header: the schema's version), an Arrow schema, or a record batch

The checksum goes on from frame to frame, so a frame that is missing, twice or in another place is found as one with a
flipped bit is. A file that ends in the middle of a frame is what a kill leaves, or a writer at work: everything before
is whole. Arrow alone would not do: of 300 flipped bits in an Arrow stream 257 were read as something else.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import pyarrow as pa

from profiler.records import SCHEMA_VERSION, SCHEMAS, TableName
from profiler.store.columns import ARROW_SCHEMAS
from profiler.store.files import read_bounded, sync_folder

_MAGIC = b"JSWF"
_HEAD = struct.Struct("<4sIII")
_HEADER = b"h"
_ROWS: dict[TableName, bytes] = {"steps": b"s", "readings": b"r", "marks": b"m"}
_TABLES = {code: table for table, code in _ROWS.items()}
_COLUMN_TYPES = frozenset(column.type for schema in ARROW_SCHEMAS.values() for column in schema)

Batches = Sequence[tuple[TableName, pa.RecordBatch]]


def journal_name(number: int) -> str:
    """File name of the journal that holds the rows of the parts of that number."""
    return f"wal-{number:06d}.open"


@final
class Journal:
    """A journal that is being written.

    Attributes:
        size: Bytes of whole frames.

    Raises:
        OSError: The file system refused; then there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.size, self._checksum = path, 0, 0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        schemas = [_ROWS[table].upper() + bytes(ARROW_SCHEMAS[table].serialize()) for table in SCHEMAS]
        header = _HEADER + json.dumps({"schema_version": SCHEMA_VERSION}).encode()
        try:
            self._write([header, *schemas])
            sync_folder(path.parent)
        except OSError:
            self.remove()
            raise

    @property
    def is_there(self) -> bool:
        """Whether its file still has a name, here or elsewhere: deleted, it takes rows that nobody can read."""
        try:
            return os.fstat(self._descriptor).st_nlink > 0
        except OSError:  # closed, to be removed
            return False

    def append(self, batches: Batches) -> None:
        """Add rows: they are in the kernel's hands when this returns, and survive the death of the process.

        Raises:
            OSError: The file system refused. What was written of them is taken back, if it can be.
        """
        self._write([_ROWS[table] + bytes(batch.serialize()) for table, batch in batches])

    def sync(self) -> None:
        """Have all frames reach the disk: from then on they survive a power cut."""
        os.fdatasync(self._descriptor)

    def remove(self) -> None:
        """Close the file and delete it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        self._path.unlink(missing_ok=True)

    def _write(self, payloads: Sequence[bytes]) -> None:
        checksum, frames = self._checksum, b""
        for payload in payloads:
            checksum = zlib.crc32(payload, checksum)
            frames += _head(len(payload), checksum) + payload
        try:
            left = memoryview(frames)
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self._checksum, self.size = checksum, self.size + len(frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRows:
    """What can be read of a journal.

    Attributes:
        batches: The rows of all frames before the first that is not whole.
        unfinished_bytes: Bytes of a last frame that was not written to its end.
        damage: What is wrong with the first bad frame, and how many bytes are lost with it; None if there is none.
    """

    batches: dict[TableName, list[pa.RecordBatch]] = field(default_factory=lambda: {t: [] for t in SCHEMAS})
    unfinished_bytes: int = 0
    damage: str | None = None


def read_journal(path: Path) -> JournalRows:
    """Every whole frame from the start of a journal; changes nothing.

    Raises:
        FileNotFoundError: The file is gone.
    """
    rows = JournalRows()
    try:
        data = read_bounded(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as refusal:
        return JournalRows(damage=f"{refusal}; none of its rows was read")
    end = 0
    try:
        schemas: dict[TableName, pa.Schema] = {}
        for payload, after in _payloads(data):
            _take(payload, schemas, rows)
            end = after
    except (ValueError, KeyError, pa.ArrowException, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        damage = f"{reason}; its last {len(data) - end} of {len(data)} bytes could not be read"
        return JournalRows(batches=rows.batches, damage=damage)
    return JournalRows(batches=rows.batches, unfinished_bytes=len(data) - end)


def _head(length: int, checksum: int) -> bytes:
    known = _HEAD.pack(_MAGIC, length, checksum, 0)[:-4]
    return known + zlib.crc32(known).to_bytes(4, "little")


def _payloads(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The payload of each whole frame, and where it ends; ValueError at one that is not what was written."""
    at, checksum = 0, 0
    while len(data) - at >= _HEAD.size:
        _, length, expected, _ = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        if data[at:start] != _head(length, expected):
            if not any(data[at:]):  # a file system that lost power had room for it, and nothing of it
                return
            raise ValueError("the head of a frame is damaged")
        if start + length > len(data):
            return
        payload = data[start : start + length]
        checksum = zlib.crc32(payload, checksum)
        if checksum != expected:
            raise ValueError("the checksum of a frame does not match")
        at = start + length
        yield payload, at
    if at < len(data) and not _MAGIC.startswith(data[at : at + 4]) and any(data[at:]):
        raise ValueError("the head of a frame is damaged")


def _take(payload: bytes, schemas: dict[TableName, pa.Schema], rows: JournalRows) -> None:
    kind, content = payload[:1], payload[1:]
    if kind == _HEADER:
        _check_version(content)
    elif kind.lower() in _TABLES and kind.isupper():
        schemas[_TABLES[kind.lower()]] = _checked_schema(content)
    elif kind in _TABLES:
        table = _TABLES[kind]
        if _is_compressed(content):
            raise ValueError("a record batch is compressed, which none of ours is")
        batch = pa.ipc.read_record_batch(pa.py_buffer(content), schemas[table])
        batch.validate(full=True)
        rows.batches[table].append(batch)
    else:
        raise ValueError(f"there is a frame of kind {kind!r}, which this version does not know")


def _check_version(content: bytes) -> None:
    version = json.loads(content)["schema_version"]
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"it has schema {version}, this version reads up to {SCHEMA_VERSION} (upgrade joulescale to read it)"
        )


def _checked_schema(content: bytes) -> pa.Schema:
    schema = pa.ipc.read_schema(pa.py_buffer(content))
    if any(column.type not in _COLUMN_TYPES for column in schema):
        raise ValueError("it has a column of a type that none of ours has")
    return schema


def _is_compressed(message: bytes) -> bool:
    """Whether an Arrow message says that its body is to be decompressed, to whatever size it says.

    Source: Apache Arrow, format/Message.fbs: `header` is the third field of a Message, `compression` the fourth of a
    RecordBatch. An encapsulated message begins with 0xFFFFFFFF and the length of its metadata.
    """
    try:
        root = 8 + _int32(message, 8)
        header = _flatbuffer_field(message, root, 2)
        return header is None or _flatbuffer_field(message, header + _int32(message, header), 3) is not None
    except struct.error:
        raise ValueError("a record batch is no Arrow message") from None


def _flatbuffer_field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffer's table lies; None if the table has it not."""
    vtable = table - _int32(data, table)
    (size,) = struct.unpack_from("<H", data, vtable)
    if 4 + 2 * number >= size:
        return None
    (offset,) = struct.unpack_from("<H", data, vtable + 4 + 2 * number)
    return table + offset if offset else None


def _int32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<i", data, at)[0])
