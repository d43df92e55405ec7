"""How each process of a run stands, and which ranks are missing: seen from outside, at the time of reading.

A process that was killed says "running" for ever. Its lease tells that it is gone, where this machine is the one it ran
on; elsewhere only its heart does, after a while.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from profiler.store.lease import is_held
from profiler.store.manifest import Manifest
from profiler.store.node import is_here
from profiler.store.process import StoredProcess

LOST_AFTER_S = 120.0
"""One that says "running" and whose heart has not beaten for so long is lost (it beats every 15 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """That the record of a run lacks ranks, and why.

    Attributes:
        ranks_missing: Those that are gone without having said so, or left no record.
        world_size: How many there should be.
        why: A sentence for people.
    """

    ranks_missing: tuple[int, ...]
    world_size: int
    why: str


def state_of(process: StoredProcess, manifest: Manifest) -> str:
    """running, finished, interrupted, or lost; in files of before 2026-11-22 a process stands as its run does."""
    said = process.facts.status or manifest.status
    if said != "running":
        return said
    beaten = process.facts.heartbeat or manifest.heartbeat or manifest.created_at
    return "running" if is_alive(process, beaten) else "lost"


def is_alive(process: StoredProcess, heartbeat: str) -> bool:
    """Whether a process that has not said it ended still lives; where no lease tells, by when it last wrote."""
    facts = process.facts
    held = is_held(process.folder) if is_here(facts) else None
    if held is not None:
        return held
    age_s = age_of(heartbeat)
    if age_s is None or age_s > LOST_AFTER_S:
        return False
    return facts.host != socket.gethostname() or _has_process(facts.pid)


def partial_of(processes: Sequence[StoredProcess], manifest: Manifest) -> Partial | None:
    """What is missing of a run of several ranks; None if nothing is, or all of the newest attempt is lost.

    A rank is missing if it died in the newest attempt while others said how they ended, or if it left no record in any
    attempt. One that died in an older attempt is not: what it did until then was recorded, and the run went on.
    """
    attempts = sorted({p.facts.attempt for p in processes})
    missing: dict[int, str] = {}
    world_size = 1
    for attempt in attempts:
        own = [p for p in processes if p.facts.attempt == attempt]
        world_size = max(p.facts.world_size for p in own)
        missing |= _absent(own, world_size, manifest)
    if attempts:
        missing |= _dead(own, manifest)
    if not missing:
        return None
    return Partial(ranks_missing=tuple(sorted(missing)), world_size=world_size, why=_grouped(missing))


def _absent(processes: Sequence[StoredProcess], world_size: int, manifest: Manifest) -> dict[int, str]:
    """Ranks of an attempt without a record, once every rank has had the time to open one."""
    opened_s = min(p.facts.clock["wall_unix_s"] for p in processes)
    age_s = datetime.now(UTC).timestamp() - opened_s
    if age_s < LOST_AFTER_S and any(state_of(p, manifest) == "running" for p in processes):
        return {}
    there = {p.facts.rank for p in processes}
    return dict.fromkeys((rank for rank in range(world_size) if rank not in there), "left no readable record")


def _dead(processes: Sequence[StoredProcess], manifest: Manifest) -> dict[int, str]:
    """Ranks that are gone without a word, unless all are."""
    states = {p.facts.rank: state_of(p, manifest) for p in processes}
    if set(states.values()) == {"lost"}:
        return {}
    return {
        p.facts.rank: f"on {p.facts.host} ended without saying so{_last_sign(p)}"
        for p in processes
        if states[p.facts.rank] == "lost"
    }


def _last_sign(process: StoredProcess) -> str:
    return f", last sign of life {process.facts.heartbeat}" if process.facts.heartbeat else ""


def _grouped(missing: dict[int, str]) -> str:
    """`rank 1 on node-b ended without saying so; ranks 2-3 left no readable record`."""
    reasons = dict.fromkeys(missing.values())
    return "; ".join(
        f"{named([rank for rank, why in missing.items() if why == reason])} {reason}" for reason in reasons
    )


def named(ranks: Iterable[int]) -> str:
    """Ranks in few words.

    >>> named([3]), named([0, 1, 2, 5])
    ('rank 3', 'ranks 0-2, 5')
    """
    ordered = sorted(ranks)
    spans: list[list[int]] = []
    for rank in ordered:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    words = (str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"{'rank' if len(ordered) == 1 else 'ranks'} {', '.join(words)}"


def age_of(moment: str) -> float | None:
    """Seconds since a label of wall time; None if it is none."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(moment).astimezone(UTC)).total_seconds()
    except ValueError:
        return None


def _has_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the latter for a number that no process ever had
        return False
    except PermissionError:
        return True
    return True
