"""The ranks of a run as rows of a table, for the terminal and the dashboard alike: many of them are one row a host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from profiler.report.quantity import format_quantity
from profiler.store.ranks import named

MOST_ROWS = 8
"""More ranks than that are shown by host."""

WAITED = "waited: for slower ranks, at least, as a share of step time"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRow:
    """One rank, or all those of a host: then the median of their medians, the most of their p95, and means.

    Attributes:
        who: `3`, or `0-7`.
        status: How it stands, or how many stand how.
        steps: The fewest of any.
        slowest_in: The most of any: the share of steps in which the others waited for one of them.
    """

    who: str
    host: str
    status: str
    steps: int
    step_s_p50: float | None
    step_s_p95: float | None
    wait_share: float | None
    slowest_in: float | None


def rank_rows(summary: Mapping[str, Any]) -> list[RankRow]:
    """One row a rank, or, of more than `MOST_ROWS`, one a host; none for a single rank."""
    ranks: Sequence[Mapping[str, Any]] = summary["ranks"]
    if summary["world_size"] < 2:
        return []
    if len(ranks) <= MOST_ROWS:
        return [_row([rank]) for rank in ranks]
    hosts = dict.fromkeys(rank["host"] for rank in ranks)
    return [_row([rank for rank in ranks if rank["host"] == host]) for host in hosts]


def slowest_text(summary: Mapping[str, Any]) -> str | None:
    """Which rank the others wait for, and in which phase it is behind; None if there is none."""
    found = summary["straggler"]
    if found is None:
        return None
    share, its, theirs = (
        format_quantity(found["slowest_in"], "fraction"),
        format_quantity(found["phase_s"], "s"),
        format_quantity(found["phase_s_others"], "s"),
    )
    return (
        f"rank {found['rank']} on {found['host']} is the slowest in {share} of the steps: {found['phase']} takes it "
        f"{its}, the others {theirs}"
    )


def _row(ranks: Sequence[Mapping[str, Any]]) -> RankRow:
    counts = Counter(rank["status"] for rank in ranks)
    statuses = [f"{count} {status}" if len(ranks) > 1 else status for status, count in counts.items()]
    return RankRow(
        who=named(rank["rank"] for rank in ranks).partition(" ")[2],
        host=ranks[0]["host"],
        status=", ".join(statuses),
        steps=min(rank["steps"] for rank in ranks),
        step_s_p50=_over(median, ranks, "step_s_p50"),
        step_s_p95=_over(max, ranks, "step_s_p95"),
        wait_share=_over(fmean, ranks, "wait_share"),
        slowest_in=_over(max, ranks, "slowest_in"),
    )


def _over(of: Any, ranks: Sequence[Mapping[str, Any]], key: str) -> float | None:
    known = [rank[key] for rank in ranks if rank[key] is not None]
    return float(of(known)) if known else None
