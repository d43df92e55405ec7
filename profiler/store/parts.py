"""Parquet parts: written whole or not at all, and checked when they are read.

A part is written to a hidden temporary file, synced, renamed, and its folder synced. A checksum of the whole
file, its seal, lies between the last page and the footer, where Parquet allows bytes of anybody: page checksums
leave the footer out, and one flipped bit in a column's name made that column read as null.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.errors import StoredDataError
from profiler.records import SCHEMA_VERSION, SCHEMAS, Row, TableName

_VERSION_KEY = b"joulescale_schema_version"
_METRIC = pa.struct([pa.field("name", pa.large_string()), pa.field("value", pa.float64())])
_ARROW_TYPES = {
    pl.Int64(): pa.int64(),
    pl.Float64(): pa.float64(),
    pl.String(): pa.large_string(),
    pl.List(pl.Struct({"name": pl.String, "value": pl.Float64})): pa.large_list(_METRIC),
}
_SEAL = b"JSCRC32\0"
_TAIL_BYTES = 8
"""Length of the footer, and the magic word `PAR1`."""


def part_name(table: TableName, number: int) -> str:
    """File name of the `number`th part of a table."""
    return f"{table}-{number:06d}.parquet"


def write_part(path: Path, table: TableName, rows: Sequence[Row]) -> None:
    """Write `rows` to `path` so that it exists whole or not at all.

    Raises:
        OSError: The disk is full, read-only or gone. Nothing is left under `path`.
        ValueError: A row has a value of the wrong type; see `fits`.
    """
    arrow = _arrow_table(table, rows)
    write_whole(path, lambda temporary: _write_parquet(arrow, temporary))


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a hidden temporary file beside `path`, sync it, and rename it to `path`.

    Raises:
        OSError: From `write` or the file system; the temporary file is then removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def read_part(path: Path, table: TableName) -> pl.DataFrame:
    """Read one part, with checksums verified, as a frame of the current schema.

    Columns that a later version added are left out, those that an earlier one lacked are null.

    Raises:
        StoredDataError: The file is damaged, no part of ours, or of a newer schema.
    """
    try:
        data = path.read_bytes()
        _check_seal(data)
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            _check_version(path, file.schema_arrow.metadata or {})
            frame = pl.from_arrow(file.read())
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise StoredDataError(
            f"The part {path} cannot be read ({_first_line(error)}); its rows are missing."
        ) from None
    assert isinstance(frame, pl.DataFrame)
    return _conform(path, frame, SCHEMAS[table])


def _arrow_table(table: TableName, rows: Sequence[Row]) -> pa.Table:
    """Rows as columns, by Arrow alone.

    Polars must not run in the process that trains: its thread pool does not survive a fork, and loader workers
    that use Polars themselves would wait for it for ever.
    """
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMAS[table].names()}
    if "metrics" in columns:
        columns["metrics"] = [[{"name": k, "value": v} for k, v in m.items()] for m in columns["metrics"]]
    fields = [pa.field(name, _ARROW_TYPES[dtype]) for name, dtype in SCHEMAS[table].items()]
    schema = pa.schema(fields, metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()})
    try:
        return pa.Table.from_pydict(columns, schema=schema)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(f"a value fits no column of {table}: {_first_line(error)}") from None


def fits(table: TableName, row: Row) -> bool:
    """Whether a row's values have the types of its table."""
    try:
        _arrow_table(table, [row])
    except ValueError:
        return False
    return True


def _write_parquet(table: pa.Table, path: Path) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    path.write_bytes(_sealed(buffer.getvalue().to_pybytes()))


def _sealed(data: bytes) -> bytes:
    body = _body_bytes(data)
    return data[:body] + _SEAL + zlib.crc32(data).to_bytes(4, "little") + data[body:]


def _check_seal(data: bytes) -> None:
    """Raise ValueError if a sealed file is not what was written. One without a seal has its pages' checksums only."""
    body = _body_bytes(data)
    seal = data[max(body - len(_SEAL) - 4, 0) : max(body, 0)]
    if not seal.startswith(_SEAL):
        return
    whole = zlib.crc32(data[body:], zlib.crc32(data[: body - len(seal)]))
    if whole != int.from_bytes(seal[-4:], "little"):
        raise ValueError("its checksum does not match")


def _body_bytes(data: bytes) -> int:
    """Where the footer begins, by what the file says of it."""
    return len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_version(path: Path, metadata: dict[bytes, bytes]) -> None:
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise StoredDataError(f"{path} is a Parquet file, but none that joulescale wrote; it is left out.")
    if int(version) > SCHEMA_VERSION:
        raise StoredDataError(
            f"{path} has schema {int(version)}, this version reads up to {SCHEMA_VERSION}. Upgrade joulescale."
        )


def _conform(path: Path, frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    try:
        return frame.select(
            pl.col(name).cast(dtype) if name in frame.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in schema.items()
        )
    except pl.exceptions.PolarsError as error:
        raise StoredDataError(
            f"The part {path} has a column of the wrong type ({_first_line(error)})."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
