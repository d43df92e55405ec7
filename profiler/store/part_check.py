"""What a part's footer and page headers say of its size, looked at before a byte of it is decompressed.

Parquet is untrusted input: 65 kB of it can hold a page of 2 GB, and a million rows can be one text of a megabyte. What
a reader allocates follows from the footer and from the page headers, so both are held against what a part of ours can
have and against each other. Only the columns that will be read are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_ROWS = 5_000_000
MAX_ROW_GROUPS = 2_000
MAX_COLUMNS = 200
MAX_DECODED_BYTES = 2**30
"""Of all columns of a part that are read together, decompressed."""
MAX_LIST_VALUES = 50_000_000
_MAX_DEPTH = 8


def check_sizes(data: bytes, footer: pq.FileMetaData, columns: Collection[str]) -> None:
    """Raise ValueError if a part says of itself that it is larger than one of ours can be, or contradicts itself."""
    _at_most("rows", footer.num_rows, MAX_ROWS)
    _at_most("row groups", footer.num_row_groups, MAX_ROW_GROUPS)
    _at_most("columns", footer.num_columns, MAX_COLUMNS)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    if sum(group.num_rows for group in groups) != footer.num_rows:
        raise ValueError("its footer contradicts itself about the number of rows")
    chunks = [chunk for group in groups for chunk in _chunks(group, columns)]
    _at_most("bytes", sum(_decoded_bytes(data, chunk) for chunk in chunks), MAX_DECODED_BYTES)


def check_types(schema: pa.Schema) -> None:
    """Raise ValueError if a part has a column of a type that none of ours has."""
    for column in schema:
        kind = column.type
        if isinstance(kind, pa.BaseExtensionType) or (pa.types.is_nested(kind) and column.name != "metrics"):
            raise ValueError(
                f"its column {column.name!r} is of a type that none of ours has: {str(kind)[:50]}"
            )


def text_columns(footer: pq.FileMetaData) -> list[str]:
    """The columns to be read as dictionaries: each text once, however many rows have it."""
    leaves = (footer.schema.column(number) for number in range(footer.num_columns))
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def check_texts(rows: pa.Table) -> None:
    """Raise ValueError if texts that a part holds once each would fill the memory when every row has its own."""
    columns = [rows[name] for name in rows.column_names]
    for chunk in (chunk for column in columns for chunk in column.chunks):
        texts = chunk.flatten().field("name") if pa.types.is_large_list(chunk.type) else chunk
        if pa.types.is_dictionary(texts.type) and len(texts):
            longest = pc.max(pc.binary_length(texts.dictionary)).as_py() or 0
            _at_most("bytes of text", longest * len(texts), MAX_DECODED_BYTES)


def _chunks(group: pq.RowGroupMetaData, columns: Collection[str]) -> Iterator[pq.ColumnChunkMetaData]:
    for number in range(group.num_columns):
        chunk = group.column(number)
        name, dot, _ = chunk.path_in_schema.partition(".")
        if name not in columns:
            continue
        if not dot and chunk.num_values != group.num_rows:
            raise ValueError("its footer contradicts itself about the number of values")
        _at_most("values in lists", chunk.num_values, MAX_LIST_VALUES)
        yield chunk


def _decoded_bytes(data: bytes, chunk: pq.ColumnChunkMetaData) -> int:
    """Bytes that the pages of a column take when they are decompressed, by the headers of the pages themselves."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    end, total, values = start + chunk.total_compressed_size, 0, 0
    if start < 4 or end > len(data) or chunk.total_compressed_size < 0:
        raise ValueError("its footer names a place outside of the file")
    while start < end:
        header, start = _struct(data, start)
        start += _number(header, 3)
        total += _number(header, 2)
        values += sum(_number(header[kind], 1) for kind in (5, 8) if kind in header)
        if 7 in header:
            _check_dictionary(_number(header[7], 1), _number(header, 2), chunk)
        _at_most("bytes", total, MAX_DECODED_BYTES)
    if values > chunk.num_values:
        raise ValueError("its pages hold more values than its footer says")
    return total + 8 * int(chunk.num_values)


def _check_dictionary(values: int, size: int, chunk: pq.ColumnChunkMetaData) -> None:
    """A page that holds each value of a column once; of texts, the mean is looked at here and the longest later."""
    if values > size:
        raise ValueError("a page has more values than bytes")
    if chunk.physical_type == "BYTE_ARRAY" and values:
        _at_most("bytes of text", size // values * chunk.num_values, MAX_DECODED_BYTES)


def _number(header: dict[int, Any], name: int) -> int:
    value = header.get(name)
    if not isinstance(value, int) or value < 0:
        raise ValueError("the header of a page is damaged")
    return value


def _at_most(what: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"it says that it has {value} {what}, more than any part of ours can have ({most})")


# -- the headers of pages, in Thrift's compact protocol ----------------------------------------------------------
# Source: Apache Thrift, doc/specs/thrift-compact-protocol.md; Apache Parquet, parquet.thrift, PageHeader.


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    if depth > _MAX_DEPTH:
        raise ValueError("the header of a page is damaged")
    try:
        while head := data[at]:
            at += 1
            if head >> 4:
                number += head >> 4
            else:
                number, at = _varint(data, at)
                number = (number >> 1) ^ -(number & 1)
            fields[number], at = _value(data, at, head & 15, depth)
    except IndexError:
        raise ValueError("the header of a page is damaged") from None
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        value, at = _varint(data, at)
        return (value >> 1) ^ -(value & 1), at
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError("the header of a page is damaged")  # no page header has lists, sets or maps


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("the header of a page is damaged")
