"""Errors of many windows as a table's row: coverage of the bar, how wide it is, RMS error, bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window: what was true and what was said.

    Attributes:
        group: What it is counted under, such as its length in seconds.
        trouble: What went wrong while the trace was read, or `none`.
        bar_j: Half-width of the error bar; None where the tool states none.
    """

    group: str
    trouble: str
    true_j: float
    said_j: float
    bar_j: float | None = None


def score(windows: Sequence[Window]) -> dict[str, Any]:
    """Scores over windows; errors in percent of the mean true energy of a window.

    `bar_over_needed` is the mean printed bar over that which would cover exactly 95 %: 1 / the 95th percentile of
    error / bar.
    """
    true_j = np.array([w.true_j for w in windows])
    error_j = np.array([w.said_j for w in windows]) - true_j
    scores: dict[str, Any] = {
        "windows": len(windows),
        "rms_error_percent": _round(100 * np.sqrt(np.mean(error_j**2)) / np.mean(true_j)),
        "bias_percent": _round(100 * np.mean(error_j) / np.mean(true_j)),
        "said_0_percent": _round(100 * np.mean([w.said_j == 0.0 for w in windows])),
    }
    bars = [w.bar_j for w in windows if w.bar_j is not None]
    if len(bars) == len(windows):
        bar_j = np.array(bars)
        scores |= {
            "inside_bar": _round(np.mean(np.abs(error_j) <= bar_j), 4),
            "bar_over_needed": _round(1.0 / np.quantile(np.abs(error_j) / bar_j, 0.95)),
            "mean_bar_percent": _round(100 * np.mean(bar_j) / np.mean(true_j)),
            "bar_wider_than_value": _round(np.mean(bar_j > np.array([w.said_j for w in windows])), 4),
        }
    return scores


def table(
    windows: Iterable[Window], key: Callable[[Window], str] = lambda w: w.group
) -> dict[str, dict[str, Any]]:
    """Scores by group, in the order in which groups first came, and of all together."""
    groups: dict[str, list[Window]] = {}
    for window in windows:
        groups.setdefault(key(window), []).append(window)
    every = [window for group in groups.values() for window in group]
    return {name: score(group) for name, group in groups.items()} | {"all": score(every)}


def _round(value: Any, digits: int = 2) -> float:
    return round(float(value), digits)
