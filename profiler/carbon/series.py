"""Carbon intensity of the grid over time: intervals with a value each, and holes that stay holes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from profiler.errors import InvalidValueError

MOST_G_PER_KWH = 10_000.0
"""Ten times the dirtiest grid: more is a wrong unit."""

LEAST_G_PER_KWH = 1.0
"""A tenth of the cleanest grid: less, but for 0, is a wrong unit (kg/kWh, t/MWh)."""

CLOCK_TOLERANCE_S = 1e-3
"""Unix seconds as floats are exact to a quarter of a microsecond; a hole this short is no hole."""

Span = tuple[float, float]
"""From and to, in Unix seconds."""


class Interval(NamedTuple):
    """One value of a series, in gCO2e/kWh, from `start_s` up to `end_s` (Unix seconds).

    `low` and `high` are the value itself where the source states no spread.
    """

    start_s: float
    end_s: float
    g_per_kwh: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensitySeries:
    """Intervals in order of time that do not overlap. Between and beyond them the intensity is not known.

    Attributes:
        rows: The intervals; may be none.
        source: Where they are from, as it is printed.
        missing: Why there are none, or fewer than asked for; None if nothing is known to be wrong.

    Raises:
        InvalidValueError: A value is negative or not finite, or two intervals overlap.
    """

    rows: tuple[Interval, ...]
    source: str
    missing: str | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if not 0.0 <= row.low <= row.g_per_kwh <= row.high < MOST_G_PER_KWH:
                raise InvalidValueError(
                    f"{self.source}: {_values_of(row)} at {utc(row.start_s)} is no carbon intensity: it must be"
                    f" within 0 to {MOST_G_PER_KWH:.0f} gCO2e/kWh, with low <= value <= high."
                    " Leave the cell empty where it is not known."
                )
            if not row.start_s < row.end_s:
                raise InvalidValueError(
                    f"{self.source}: the interval at {utc(row.start_s)} ends before it begins."
                )
        most = max((row.g_per_kwh for row in self.rows), default=0.0)
        if 0.0 < most < LEAST_G_PER_KWH:
            raise InvalidValueError(
                f"{self.source}: its largest carbon intensity is {most:g} gCO2e/kWh, less than any grid's. If these are"
                " kg/kWh or t/MWh, multiply them by 1000."
            )
        for before, after in pairwise(self.rows):
            if after.start_s < before.end_s - CLOCK_TOLERANCE_S:
                raise InvalidValueError(
                    f"{self.source}: the intervals at {utc(before.start_s)} and {utc(after.start_s)} overlap, so it"
                    " is not clear which counts. Keep one grid zone and one row an instant."
                )

    def within(self, spans: Sequence[Span]) -> tuple[Interval, ...]:
        """The rows from the first instant of the spans to the last."""
        if not spans:
            return ()
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        begin = bisect_right(self.rows, first, key=lambda row: row.end_s)
        return self.rows[begin : bisect_left(self.rows, last, key=lambda row: row.start_s)]

    def uncovered(self, spans: Iterable[Span]) -> list[Span]:
        """The parts of the spans that no row covers, joined and in order."""
        holes: list[Span] = []
        for start_s, end_s in _joined(spans):
            at_s = start_s
            for row in self.within([(start_s, end_s)]):
                if row.start_s > at_s + CLOCK_TOLERANCE_S:
                    holes.append((at_s, row.start_s))
                at_s = max(at_s, row.end_s)
            if at_s < end_s - CLOCK_TOLERANCE_S:
                holes.append((at_s, end_s))
        return holes

    def stored(self) -> dict[str, Any]:
        """As JSON."""
        return {"source": self.source, "missing": self.missing, "rows": [list(row) for row in self.rows]}

    @staticmethod
    def from_stored(stored: Any) -> IntensitySeries:
        """What `stored` gave.

        Raises:
            InvalidValueError: It is something else.
        """
        try:
            rows = tuple(Interval(*map(float, row)) for row in stored["rows"])
            return IntensitySeries(rows=rows, source=str(stored["source"]), missing=stored["missing"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidValueError(
                f"This is no stored carbon series ({type(error).__name__}: {error})."
            ) from None


def have_spread(rows: Sequence[Interval]) -> bool:
    """Whether any of the rows states a low or a high of its own."""
    return any(row.low < row.g_per_kwh or row.high > row.g_per_kwh for row in rows)


def utc(time_s: float) -> str:
    """Unix seconds as people read them: `2026-01-02 03:04:05 UTC`."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _values_of(row: Interval) -> str:
    spread = "" if row.low == row.g_per_kwh == row.high else f" (low {row.low!r}, high {row.high!r})"
    return f"{row.g_per_kwh!r}{spread}"


def _joined(spans: Iterable[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined
