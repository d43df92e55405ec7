"""Energy curves that were asked for last, as many as memory has room for: a day of one GPU at 10 Hz takes 130 MB."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import final

import polars as pl

from profiler.metrics.energy import EnergyCurve

Made = tuple[pl.DataFrame, EnergyCurve]

MOST_ROWS = 1_500_000


@final
class CurveShelf:
    """Readings and curves of the devices of a run. The last one is kept however large it is."""

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._made: OrderedDict[object, Made] = OrderedDict()
        self._rows = 0

    def get(self, key: object, make: Callable[[], Made]) -> Made:
        """What is kept under `key`, made if nothing is; room for it is made first, by the size of the one before."""
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        while self._made and self._rows + self._largest() > self._most_rows:
            _, (readings, _) = self._made.popitem(last=False)
            self._rows -= len(readings)
        self._made[key] = made = make()
        self._rows += len(made[0])
        return made

    def _largest(self) -> int:
        return max(len(readings) for readings, _ in self._made.values())
