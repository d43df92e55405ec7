"""How each process of a run stands, and which ranks are missing: seen from outside, at the time of reading.

A process that was killed says "running" for ever. Its lease tells that it is gone, where this machine is the one it ran
on; elsewhere only its heart does, after a while.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from profiler.store.lease import is_held
from profiler.store.manifest import Manifest
from profiler.store.node import is_here
from profiler.store.process import StoredProcess
from profiler.words import counted

LOST_AFTER_S = 120.0
"""One that says "running" and whose heart has not beaten for so long is lost (it beats every 15 s)."""

MOST_CLAUSES = 4
"""Hosts that a sentence names; the others are counted."""


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
    """What is missing of a run of several ranks; None if nothing is.

    A rank is missing if it is gone from the newest attempt without having said so, or if it left no record in any
    attempt. One that died in an older attempt is not: what it did until then was recorded, and the run went on.
    """
    by_attempt: dict[int, list[StoredProcess]] = {}
    for process in processes:
        by_attempt.setdefault(process.facts.attempt, []).append(process)
    absent = {rank for of_attempt in by_attempt.values() for rank in _absent(of_attempt, manifest)}
    newest = by_attempt[max(by_attempt)] if by_attempt else []
    world_size = max((p.facts.world_size for p in newest), default=1)
    dead = [p for p in newest if world_size > 1 and state_of(p, manifest) == "lost"]
    if not absent and not dead:
        return None
    sentences = [*_gone(dead), *([f"{named(absent)} left no readable record"] if absent else [])]
    return Partial(
        ranks_missing=tuple(sorted(absent | {p.facts.rank for p in dead})),
        world_size=world_size,
        why="; ".join(sentences),
    )


def _absent(processes: Sequence[StoredProcess], manifest: Manifest) -> set[int]:
    """Ranks of an attempt without a record, once every rank has had the time to open one."""
    opened_s = min(p.facts.clock["wall_unix_s"] for p in processes)
    age_s = datetime.now(UTC).timestamp() - opened_s
    if age_s < LOST_AFTER_S and any(state_of(p, manifest) == "running" for p in processes):
        return set()
    return set(range(max(p.facts.world_size for p in processes))) - {p.facts.rank for p in processes}


def _gone(dead: Sequence[StoredProcess]) -> list[str]:
    """One clause for each host: `rank 1 on b ended without saying so, last sign of life 2026-11-22 09:00:41 UTC`."""
    hosts: dict[str, list[StoredProcess]] = {}
    for process in dead:
        hosts.setdefault(process.facts.host, []).append(process)
    clauses = [
        f"{named(p.facts.rank for p in own)} on {host} ended without saying so{_last_signs(own)}"
        for host, own in hosts.items()
    ]
    more = len(clauses) - MOST_CLAUSES
    return (
        clauses if more <= 0 else [*clauses[:MOST_CLAUSES], f"likewise ranks on {counted(more, 'more host')}"]
    )


def _last_signs(processes: Sequence[StoredProcess]) -> str:
    """When they were last alive: the first and the last of them to be so, if several were not at once."""
    seconds = sorted(-age for p in processes if (age := age_of(p.facts.heartbeat)) is not None)
    if not seconds:
        return ""
    moments = [f"{datetime.now(UTC) + timedelta(seconds=s):%Y-%m-%d %H:%M:%S} UTC" for s in seconds]
    first, last = moments[0], moments[-1]
    return f", last sign of life {first}" if first == last else f", last signs of life {first} to {last}"


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
