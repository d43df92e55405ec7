"""How a table lies in a part: the same values, bit for bit, in half the bytes.

A driver counts whole millijoules and milliwatts; as float64 of joules their digits are noise to a compressor (6.3
bytes a value), as whole numbers 2.3. So a value that is a whole number of thousandths is stored as such, in a column of
its own (`energy_mj`), and any other as it is (`energy_j`). Rows of readings lie device by device, where a counter's
differences are small. 64 GPUs at 10 Hz take 0.93 GB a day so, and 1.55 GB without.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from profiler.records import TableName

THOUSANDTHS: Mapping[str, str] = {
    "energy_j": "energy_mj",
    "power_w": "power_mw",
    "average_power_w": "average_power_mw",
}
"""Column of a table to the column of a part that holds what are whole thousandths."""

_FEW_VALUES = frozenset(
    {"component", "device", "source", "kind", "rank", "utilization", "memory_used_bytes", "temperature_c"}
    | {"sm_clock_hz", "power_limit_w", "throttle_reasons", "took_s", "metrics.list.element.name"}
)
"""Columns whose values come again and again: a dictionary holds each once."""


def stored_columns(columns: tuple[str, ...]) -> list[str]:
    """The columns of a part that hold these columns of a table."""
    return [stored for name in columns for stored in (name, THOUSANDTHS.get(name)) if stored is not None]


def tightened(table: TableName, rows: pa.Table) -> pa.Table:
    """Rows as they lie in a part."""
    if table != "readings":
        return rows
    devices = rows["device"].combine_chunks().dictionary_encode()
    devices = devices.combine_chunks() if isinstance(devices, pa.ChunkedArray) else devices
    rows = rows.take(pa.Array.from_buffers(*_order(devices)))
    for name, stored in THOUSANDTHS.items():
        whole, rest = _split(rows[name].combine_chunks())
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, rest).add_column(at + 1, stored, whole)
    return rows


def loosened(rows: pa.Table) -> pa.Table:
    """What `tightened` split, as one column again."""
    for name, stored in THOUSANDTHS.items():
        if stored not in rows.column_names:
            continue
        at, whole = rows.schema.get_field_index(stored), rows[stored].combine_chunks()
        counted, known = _numbers(whole, np.int64) / 1000.0, _known(whole)
        if name in rows.column_names:
            rest = rows[name].combine_chunks()
            counted, known = np.where(known, counted, _numbers(rest, np.float64)), known | _known(rest)
        rows = rows.set_column(at, name + "_", _masked(pa.float64(), counted, known))
        rows = rows.drop_columns([name] if name in rows.column_names else [])
        rows = rows.rename_columns([name if column == name + "_" else column for column in rows.column_names])
    return rows


def encodings(stored: pa.Schema) -> dict[str, object]:
    """How Parquet is to encode the columns of a part, as keyword arguments of its writer."""
    leaves = [leaf for column in stored for leaf in _leaves(column)]
    return {
        "use_dictionary": [name for name, _ in leaves if name in _FEW_VALUES],
        "column_encoding": {name: _ENCODING[kind] for name, kind in leaves if name not in _FEW_VALUES},
    }


_ENCODING = {
    pa.int64(): "DELTA_BINARY_PACKED",
    pa.float64(): "BYTE_STREAM_SPLIT",
    pa.large_string(): "PLAIN",
}


def _leaves(column: pa.Field) -> list[tuple[str, pa.DataType]]:
    """A column's own name and type; of a list of structs, those of each field."""
    if not pa.types.is_large_list(column.type):
        return [(column.name, column.type)]
    return [(f"{column.name}.list.element.{field.name}", field.type) for field in column.type.value_type]


def _order(devices: pa.DictionaryArray) -> tuple[pa.DataType, int, list[pa.Buffer | None]]:
    """The rows of each device behind each other, in the order in which they came."""
    order = np.argsort(_numbers(devices.indices, np.int32), kind="stable").astype(np.int64)
    return pa.int64(), len(order), [None, pa.py_buffer(order)]


def _split(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Whole thousandths, and all that is none, each null where the other is not."""
    numbers, known = _numbers(values, np.float64), _known(values)
    with np.errstate(invalid="ignore", over="ignore"):
        thousandths = np.rint(numbers * 1000.0)
        whole = known & (thousandths / 1000.0 == numbers) & (np.abs(thousandths) < 2**53)
    whole &= ~((numbers == 0.0) & np.signbit(numbers))
    counted = np.where(whole, thousandths, 0.0).astype(np.int64)
    return _masked(pa.int64(), counted, whole), _masked(pa.float64(), numbers, known & ~whole)


def _numbers(values: pa.Array, kind: type) -> np.ndarray:
    """The numbers of an array, those that are null included; its own conversion would ask pandas."""
    return np.frombuffer(values.buffers()[1], kind)[values.offset : values.offset + len(values)]


def _known(values: pa.Array) -> np.ndarray:
    """Which of an array are not null."""
    bits = values.buffers()[0]
    if bits is None:
        return np.ones(len(values), bool)
    every = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")
    return every[values.offset : values.offset + len(values)].astype(bool)


def _masked(kind: pa.DataType, values: np.ndarray, known: np.ndarray) -> pa.Array:
    buffers = [
        pa.py_buffer(np.packbits(known, bitorder="little")),
        pa.py_buffer(np.ascontiguousarray(values)),
    ]
    return pa.Array.from_buffers(kind, len(values), buffers)
