"""How often a GPU held its clocks back, and why, by the driver's own word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from profiler.hardware_events import SLOWDOWN_BITS, decode_event_reasons
from profiler.store.process import StoredProcess


def throttling(processes: Sequence[StoredProcess]) -> list[dict[str, Any]]:
    """Rows of `device, reason, share`: the share of readings in which the clocks were held back for that reason.

    Only reasons of power and heat; idling and a user's own clock settings are none. Readings are about a second
    apart. A device that does not tell has no row, and neither has one that was never held back.
    """
    found: dict[tuple[str, int, str], Counter[int]] = {}
    for process in processes:
        for device, masks in _masks(process).items():
            key = (process.facts.host, process.facts.rank, device)
            found.setdefault(key, Counter()).update(masks)
    return [
        {"device": device, "reason": reason, "share": share}
        for (_, _, device), masks in found.items()
        for reason, share in _shares(masks)
    ]


def _masks(process: StoredProcess) -> dict[str, Counter[int]]:
    """How often each device told each mask."""
    found: dict[str, Counter[int]] = {}
    for piece in process.pieces("readings", "device", "throttle_reasons"):
        told = piece.drop_nulls().group_by("device", "throttle_reasons", maintain_order=True).len()
        for device, mask, count in told.iter_rows():
            found.setdefault(device, Counter())[mask] += count
    return found


def _shares(masks: Counter[int]) -> list[tuple[str, float]]:
    counts = Counter[str]()
    for mask, count in masks.items():
        counts.update(dict.fromkeys(decode_event_reasons(mask & SLOWDOWN_BITS), count))
    return [(reason, count / masks.total()) for reason, count in counts.most_common()]
