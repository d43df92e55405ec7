"""Rows as Arrow record batches, built without Polars, pandas or a copy through Python objects.

Polars must not run in the process that trains: its thread pool does not survive a fork, and loader workers that use
Polars themselves would wait for it for ever. `pyarrow.array` asks pandas, whose import takes a quarter of a second of
the interpreter, in the middle of a step; buffers ask nobody.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from profiler.records import SCHEMAS, Row, TableName

_METRIC = pa.struct([pa.field("name", pa.large_string()), pa.field("value", pa.float64())])
_ARROW_TYPES = {
    pl.Int64(): pa.int64(),
    pl.Float64(): pa.float64(),
    pl.String(): pa.large_string(),
    pl.List(pl.Struct({"name": pl.String, "value": pl.Float64})): pa.large_list(_METRIC),
}
ARROW_SCHEMAS: Mapping[TableName, pa.Schema] = MappingProxyType(
    {
        table: pa.schema([pa.field(name, _ARROW_TYPES[dtype]) for name, dtype in schema.items()])
        for table, schema in SCHEMAS.items()
    }
)
_TAKE = {table: attrgetter(*schema.names) for table, schema in ARROW_SCHEMAS.items()}


def batch_of(table: TableName, rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows of one table as a batch.

    Raises:
        ValueError: A row has a value of the wrong type; see `fits`.
    """
    schema, columns = ARROW_SCHEMAS[table], zip(*map(_TAKE[table], rows), strict=True)
    try:
        arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    except (TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"a value fits no column of {table}: {error}") from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def fits(table: TableName, row: Row) -> bool:
    """Whether a row's values have the types of its table."""
    try:
        batch_of(table, [row])
    except ValueError:
        return False
    return True


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_large_list(kind):
        return _metrics(values)
    nulls = sum(value is None for value in values)
    if nulls == len(values):
        return pa.nulls(len(values), kind)
    if pa.types.is_large_string(kind):
        return _strings(values)
    code, nothing = ("q", 0) if pa.types.is_int64(kind) else ("d", 0.0)
    known = [nothing if value is None else value for value in values] if nulls else values
    buffers = [_validity(values) if nulls else None, pa.py_buffer(array(code, known))]
    return pa.Array.from_buffers(kind, len(values), buffers, nulls)


def _validity(values: Sequence[Any]) -> pa.Buffer:
    known = np.fromiter((value is not None for value in values), bool, len(values))
    return pa.py_buffer(np.packbits(known, bitorder="little"))


def _strings(values: Sequence[str]) -> pa.Array:
    texts = [value.encode() for value in values]
    buffers = [None, _offsets(texts), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers, 0)


def _metrics(values: Sequence[Mapping[str, float]]) -> pa.Array:
    names = [name for one in values for name in one]
    numbers = [number for one in values for number in one.values()]
    pairs = pa.StructArray.from_arrays([_strings(names), _array(numbers, pa.float64())], fields=list(_METRIC))
    offsets = pa.Array.from_buffers(pa.int64(), len(values) + 1, [None, _offsets(values)], 0)
    return pa.LargeListArray.from_arrays(offsets, pairs)


def _offsets(sized: Sequence[Any]) -> pa.Buffer:
    """Where each of some things ends when they lie behind each other, beginning with 0."""
    ends = np.zeros(len(sized) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, sized), np.int64, len(sized)), out=ends[1:])
    return pa.py_buffer(ends)
