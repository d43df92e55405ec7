"""A carbon series from a file: CSV or Parquet, one row an interval.

    time                     when the interval begins: ISO 8601 with its offset (2026-01-02T03:00:00Z)
    g_per_kwh                gCO2e/kWh from then on; an empty cell is a hole
    end                      optional: when it ends. Without it, an interval ends where the next begins, but lasts no
                             longer than the usual (median) distance of two rows, and so does the last
    low_g_per_kwh, high_g_per_kwh    optional: the source's own spread

Names may differ in case. Exports of Electricity Maps are read as they are: `Datetime (UTC)`, and of their two
intensities the life-cycle one, as in the packaged national data (the direct one if it is alone).

Only the standard library and Arrow are used: this may run in the process that trains.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from profiler.carbon.series import IntensitySeries, Interval, utc
from profiler.errors import InvalidValueError

_TIME = ("time", "timestamp", "datetime", "datetime (utc)")
_VALUE = (
    "g_per_kwh",
    "carbon_intensity_g_per_kwh",
    "carbon intensity gco2eq/kwh (life cycle)",
    "carbon intensity gco2eq/kwh (lca)",
    "carbon intensity gco2eq/kwh (direct)",
)
_END, _LOW, _HIGH = ("end",), ("low_g_per_kwh",), ("high_g_per_kwh",)
_ZONE = ("zone id", "zone")

_FORMAT = (
    " Give it as CSV or Parquet with the columns 'time' (ISO 8601 with an offset, such as 2026-01-02T03:00:00Z) and"
    " 'g_per_kwh', and, if you like, 'end', 'low_g_per_kwh' and 'high_g_per_kwh'."
)

Row = Mapping[str, Any]
"""Column name, in lower case, to the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """Under which name each column is found; None: the file has none."""

    time: str
    value: str
    end: str | None
    low: str | None
    high: str | None


def read_series(path: str | Path) -> IntensitySeries:
    """The series in a `.csv` or `.parquet` file.

    Raises:
        InvalidValueError: The file cannot be read, lacks a column, or a cell is no time or no intensity.
    """
    path = Path(path)
    rows = _rows(path)
    columns = _columns(path, rows[0] if rows else {})
    _refuse_zones(path, rows)
    found = [(number, _cells(path, number, row, columns)) for number, row in enumerate(rows, start=1)]
    kind = f", {columns.value.rpartition('(')[2].rstrip(')')}" if "(" in columns.value else ""
    return IntensitySeries(rows=_intervals(path, [cells for _, cells in found]), source=f"{path.name}{kind}")


def _rows(path: Path) -> list[Row]:
    try:
        rows = list(_READERS[path.suffix.lower()](path))
    except KeyError:
        raise InvalidValueError(
            f"The carbon series {str(path)!r} is neither .csv nor .parquet.{_FORMAT}"
        ) from None
    except OSError as error:
        raise InvalidValueError(
            f"The carbon series {str(path)!r} cannot be read: {error.strerror or error}."
        ) from None
    except (ValueError, csv.Error) as error:  # text that is none; Arrow's own errors are ValueErrors too
        raise InvalidValueError(
            f"The carbon series {str(path)!r} cannot be read: {error}.{_FORMAT}"
        ) from None
    if not rows:
        raise InvalidValueError(f"The carbon series {str(path)!r} has no rows.{_FORMAT}")
    return [{_plain(str(name)): cell for name, cell in row.items()} for row in rows]


def _csv(path: Path) -> Iterable[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _parquet(path: Path) -> Iterable[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


_READERS: Mapping[str, Callable[[Path], Iterable[Row]]] = {".csv": _csv, ".parquet": _parquet}


def _plain(name: str) -> str:
    return name.strip().lower().replace("₂", "2")


def _columns(path: Path, row: Row) -> _Columns:
    time, value = _first(row, _TIME), _first(row, _VALUE)
    if time is None or value is None:
        lacks = "a time" if time is None else "an intensity in g/kWh"
        has = ", ".join(row)
        raise InvalidValueError(
            f"The carbon series {str(path)!r} has no column of {lacks}; it has: {has}.{_FORMAT}"
        )
    return _Columns(
        time=time, value=value, end=_first(row, _END), low=_first(row, _LOW), high=_first(row, _HIGH)
    )


def _first(row: Row, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _refuse_zones(path: Path, rows: Sequence[Row]) -> None:
    name = _first(rows[0], _ZONE)
    zones = sorted({str(row[name]) for row in rows}) if name else []
    if len(zones) > 1:
        raise InvalidValueError(
            f"The carbon series {str(path)!r} holds several zones ({', '.join(zones[:5])}). Keep the rows of one."
        )


_Cells = tuple[float, float | None, float | None, float | None, float | None]
"""Start, end, value, low, high."""


def _cells(path: Path, number: int, row: Row, columns: _Columns) -> _Cells:
    where = f"The carbon series {str(path)!r}, row {number}"
    start = _time(where, row[columns.time], utc="(utc)" in columns.time)
    end = None if columns.end is None else _time(where, row[columns.end], utc=False)
    value, low, high = (
        None if name is None else _number(where, row[name])
        for name in (columns.value, columns.low, columns.high)
    )
    return start, end, value, low, high


def _time(where: str, cell: Any, *, utc: bool) -> float:
    try:
        moment = cell if isinstance(cell, datetime) else datetime.fromisoformat(str(cell).strip())
    except ValueError:
        raise InvalidValueError(f"{where}: {cell!r} is no time.{_FORMAT}") from None
    if moment.tzinfo is None:
        if not utc:
            raise InvalidValueError(
                f"{where}: the time {str(cell)!r} has no time zone, so it is not known when that was. Write it with its"
                " offset, such as 2026-01-02T03:00:00Z or 2026-01-02T04:00:00+01:00."
            )
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _number(where: str, cell: Any) -> float | None:
    """None for an empty cell; what is not finite is refused, not left out."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        number = float(cell)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0.0:
        raise InvalidValueError(
            f"{where}: {cell!r} is no carbon intensity of at least 0 gCO2e/kWh."
            " Leave the cell empty where it is not known."
        )
    return number


def _intervals(path: Path, cells: Sequence[_Cells]) -> tuple[Interval, ...]:
    ordered = sorted(cells, key=lambda cell: cell[0])
    gaps = [after[0] - before[0] for before, after in pairwise(ordered)]
    if 0.0 in gaps:
        raise InvalidValueError(
            f"The carbon series {str(path)!r} has two rows for {utc(ordered[gaps.index(0.0)][0])}, so it is not clear"
            " which counts. Keep one grid zone and one row an instant."
        )
    if not gaps and ordered[0][1] is None:
        raise InvalidValueError(
            f"The carbon series {str(path)!r} does not say for how long its rows hold: it has one row only."
            " Add a column 'end'."
        )
    usual_s = median(gaps) if gaps else 0.0
    intervals = []
    for number, (start, end, value, low, high) in enumerate(ordered):
        if value is None:
            continue
        until = start + min(usual_s, gaps[number] if number < len(gaps) else usual_s) if end is None else end
        intervals.append(
            Interval(start, until, value, value if low is None else low, value if high is None else high)
        )
    return tuple(intervals)
