"""The instant at which Lightning asks its loader for the next batch: there is no hook for it.

Between two batches also run the module's own `on_train_batch_end` and the callbacks listed behind the monitor; booked
as data wait, a slow callback would pass for a slow loader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl


def announce_fetches(trainer: pl.Trainer, announce: Callable[[], None]) -> bool:
    """Have `announce` called before each fetch of this epoch; False where Lightning offers no place for it.

    The data fetcher calls a function of its own there, for Lightning's profilers, and takes a new one every epoch. With
    `dataloader_iter` the user's own step fetches, so there is nothing to tell apart.
    """
    fetcher: Any = getattr(trainer.fit_loop, "_data_fetcher", None)
    own = getattr(fetcher, "_start_profiler", None)
    if own is None or type(fetcher).__name__ == "_DataLoaderIterDataFetcher":
        return False
    if not isinstance(own, _Announced):
        fetcher._start_profiler = _Announced(announce, own)
    return True


def silence_fetches(trainer: pl.Trainer) -> None:
    """Give the fetcher its own function back; after an exception Lightning keeps the fetcher of the last epoch."""
    fetcher: Any = getattr(trainer.fit_loop, "_data_fetcher", None)
    announced = getattr(fetcher, "_start_profiler", None)
    if isinstance(announced, _Announced):
        fetcher._start_profiler = announced.own


class _Announced:
    """Lightning's own function, with a call of ours before it; copied or pickled it is Lightning's again."""

    def __init__(self, announce: Callable[[], None], own: Callable[[], None]) -> None:
        self._announce, self.own = announce, own

    def __call__(self) -> None:
        self._announce()
        self.own()

    def __reduce__(self) -> tuple[Any, ...]:
        return _the_same, (self.own,)


def _the_same(own: Callable[[], None]) -> Callable[[], None]:
    return own
