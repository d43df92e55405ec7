"""How often a GPU held its clocks back, and why, by the driver's own word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl

from profiler.hardware_events import SLOWDOWN_BITS, decode_event_reasons
from profiler.store.process import StoredProcess


def throttling(processes: Sequence[StoredProcess]) -> list[dict[str, Any]]:
    """Rows of `device, reason, share`: the share of readings in which the clocks were held back for that reason.

    Only reasons of power and heat; idling and a user's own clock settings are none. Readings are about a second
    apart. A device that does not tell has no row, and neither has one that was never held back.
    """
    rows = []
    for process in processes:
        told = process.readings.drop_nulls("throttle_reasons")
        for (device,), readings in told.group_by("device", maintain_order=True):
            rows += [
                {"device": device, "reason": r, "share": s} for r, s in _shares(readings["throttle_reasons"])
            ]
    return rows


def _shares(masks: pl.Series) -> list[tuple[str, float]]:
    counts = Counter(reason for mask in masks for reason in decode_event_reasons(mask & SLOWDOWN_BITS))
    return [(reason, count / len(masks)) for reason, count in counts.most_common()]
