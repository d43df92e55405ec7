"""Parquet parts: written whole or not at all, and checked when they are read.

A part is written to a hidden temporary file, synced, renamed, and its folder synced. A checksum of the whole
file, its seal, lies between the last page and the footer, where Parquet allows bytes of anybody: page checksums
leave the footer out, and one flipped bit in a column's name made that column read as null.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from profiler.errors import StoredDataError
from profiler.records import SCHEMA_VERSION, SCHEMAS, Row, TableName
from profiler.store.columns import batch_of
from profiler.store.files import read_bounded, write_whole
from profiler.store.part_check import check_sizes, check_texts, check_types, text_columns
from profiler.store.tight import encodings, loosened, stored_columns, tightened

_VERSION_KEY = b"joulescale_schema_version"
_SEAL = b"JSCRC32\0"
_TAIL_BYTES = 8
"""Length of the footer, and the magic word `PAR1`."""
_NAME = re.compile(r"(?P<table>[a-z]+)-(?P<first>\d{6,})(?:-(?P<last>\d{6,}))?\.parquet")
_ROW_GROUP_ROWS = 65_536
_MAX_ROW_GROUP_ROWS = 1_000_000


def part_name(table: TableName, first: int, last: int | None = None) -> str:
    """File name of the part that holds the rows of a generation, or of all from `first` to `last`."""
    return (
        f"{table}-{first:06d}.parquet" if last in (None, first) else f"{table}-{first:06d}-{last:06d}.parquet"
    )


def part_numbers(name: str, table: TableName) -> tuple[int, int] | None:
    """The first and the last generation in the part of that name; None if it is no part of that table."""
    known = _NAME.fullmatch(name)
    if known is None or known["table"] != table:
        return None
    return int(known["first"]), int(known["last"] or known["first"])


def write_part(path: Path, table: TableName, rows: Sequence[Row]) -> None:
    """Write `rows` to `path` so that it exists whole or not at all.

    Raises:
        OSError: The disk is full, read-only or gone. Nothing is left under `path`.
        ValueError: A row has a value of the wrong type; see `columns.fits`.
    """
    write_batches(path, table, [batch_of(table, rows)])


def write_batches(path: Path, table: TableName, batches: Sequence[pa.RecordBatch]) -> None:
    """Likewise of rows that are columns already.

    Raises:
        OSError: As in `write_part`.
    """
    _write_tables(path, [tightened(table, pa.Table.from_batches(batches).combine_chunks())])


def merge_parts(path: Path, parts: Sequence[Path]) -> None:
    """Write the rows of several parts of one table and of this version into one; the parts stay.

    Raises:
        OSError: The file system refused.
        StoredDataError: A part is damaged.
    """
    _write_tables(path, _gathered(_stored_rows(part) for part in parts))
    pa.default_memory_pool().release_unused()  # 80 MB for a moment, which the allocator would keep


def read_part(path: Path, table: TableName, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read one part, with checksums verified, as a frame of the current schema, or of some columns of it.

    Columns that a later version added are left out, those that an earlier one lacked are null.

    Raises:
        StoredDataError: The file is damaged, no part of ours, larger than one can be, or of a newer schema.
    """
    try:
        return read_listed_part(path, table, columns)
    except FileNotFoundError as error:
        raise _unreadable(path, error) from None


def read_listed_part(path: Path, table: TableName, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """As `read_part`, but a part that is gone since its folder was listed is no damage.

    Raises:
        FileNotFoundError: It is gone.
        StoredDataError: As in `read_part`.
    """
    wanted = tuple(SCHEMAS[table].names() if columns is None else columns)
    try:
        rows = loosened(_checked_rows(path, wanted))
        frame = pl.DataFrame([_series(rows, name) for name in rows.column_names])
    except FileNotFoundError:
        raise
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    schema = {name: SCHEMAS[table][name] for name in wanted}
    return _conform(path, frame, pl.Schema(schema), rows.num_rows)


def _checked_rows(path: Path, wanted: tuple[str, ...]) -> pa.Table:
    data = read_bounded(path)
    is_sealed = _check_seal(data)
    footer = pq.read_metadata(pa.BufferReader(data))
    with pq.ParquetFile(
        pa.BufferReader(data),
        metadata=footer,
        page_checksum_verification=True,
        read_dictionary=text_columns(footer),
    ) as file:
        _check_version(path, footer.metadata or {})
        schema = file.schema_arrow
        check_types(schema)
        found = [name for name in stored_columns(wanted) if name in schema.names]
        if is_sealed:
            found = [name for name in found if not _is_empty(footer, schema.names.index(name), name)]
        check_sizes(data, footer, found if is_sealed else schema.names)
        # without a seal only its pages have checksums; threads cost more than a column of one part takes
        rows = file.read(columns=found if is_sealed else None, use_threads=False)
    check_texts(rows)
    return rows


def _is_empty(footer: pq.FileMetaData, number: int, name: str) -> bool:
    """Whether nothing is known in a column, by the footer: most gauges of most devices. It need not be read."""
    leaves = [footer.row_group(group).column(number) for group in range(footer.num_row_groups)]
    return all(
        leaf.path_in_schema == name
        and leaf.is_stats_set
        and leaf.statistics.has_null_count
        and leaf.statistics.null_count == leaf.num_values
        for leaf in leaves
    )


def _series(rows: pa.Table, name: str) -> pl.Series:
    """A column; of texts that are each there once, by their numbers, in a third of the time of a conversion."""
    column = rows[name]
    if not pa.types.is_dictionary(column.type):
        return pl.Series(name, column)
    texts = column.unify_dictionaries().combine_chunks()
    texts = texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts
    each = pl.Series(name, texts.dictionary, pl.String)
    is_one = len(each) == 1 and not texts.null_count
    return each.new_from_index(0, len(texts)) if is_one else each[pl.Series(texts.indices)]


def _unreadable(path: Path, error: Exception) -> StoredDataError:
    return StoredDataError(f"The part {path} cannot be read ({_first_line(error)}); its rows are missing.")


def _stored_rows(path: Path) -> pa.Table:
    """The rows of a part as they lie in it."""
    try:
        data = read_bounded(path)
        _check_seal(data)
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            return file.read(use_threads=False)
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(path, error) from None


def _gathered(tables: Iterable[pa.Table]) -> Iterable[pa.Table]:
    """Few large tables of many small ones: each becomes a row group."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    pieces = _sealed(memoryview(_parquet(tables)))
    write_whole(path, lambda temporary: _write_pieces(temporary, pieces))


def _parquet(tables: Iterable[pa.Table]) -> pa.Buffer:
    """A file of Parquet with a row group for each table, and page checksums."""
    buffer, writer = pa.BufferOutputStream(), None
    for table in tables:
        if writer is None:
            schema = table.schema.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})
            writer = pq.ParquetWriter(
                buffer, schema, compression="zstd", write_page_checksum=True, **encodings(schema)
            )
        writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=_MAX_ROW_GROUP_ROWS)
    assert writer is not None
    writer.close()
    return buffer.getvalue()


def _write_pieces(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)


def _sealed(data: memoryview) -> tuple[bytes | memoryview, ...]:
    """A file with its seal, in pieces: to copy a large one would hold up the training for tens of milliseconds."""
    body = _body_bytes(data)
    return data[:body], _SEAL + zlib.crc32(data).to_bytes(4, "little"), data[body:]


def _check_seal(data: bytes) -> bool:
    """Whether a file is sealed; ValueError if it is and not what was written."""
    body = _body_bytes(data)
    seal = data[max(body - len(_SEAL) - 4, 0) : max(body, 0)]
    if not seal.startswith(_SEAL):
        return False
    whole = zlib.crc32(memoryview(data)[body:], zlib.crc32(memoryview(data)[: body - len(seal)]))
    if whole != int.from_bytes(seal[-4:], "little"):
        raise ValueError("its checksum does not match")
    return True


def _body_bytes(data: bytes | memoryview) -> int:
    """Where the footer begins, by what the file says of it."""
    return len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little")


def _check_version(path: Path, metadata: dict[bytes, bytes]) -> None:
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise StoredDataError(f"{path} is a Parquet file, but none that joulescale wrote; it is left out.")
    if int(version) > SCHEMA_VERSION:
        raise StoredDataError(
            f"{path} has schema {int(version)}, this version reads up to {SCHEMA_VERSION}. Upgrade joulescale."
        )


def _conform(path: Path, frame: pl.DataFrame, schema: pl.Schema, height: int) -> pl.DataFrame:
    if frame.schema == schema:
        return frame
    try:
        return frame.select(
            pl.col(name).cast(dtype)
            if name in frame.columns
            else pl.repeat(None, height, dtype=dtype).alias(name)
            for name, dtype in schema.items()
        )
    except pl.exceptions.PolarsError as error:
        raise StoredDataError(
            f"The part {path} has a column of the wrong type ({_first_line(error)})."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
