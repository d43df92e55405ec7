"""Which steps of a run count, where it was begun more than once.

An attempt that went on from a checkpoint did again, or will, whatever was done after it. So of each attempt the steps
up to the earliest point from which a later one went on are kept, and the others are lost, be they done again or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from profiler.store.process import StoredProcess


def kept_until(processes: Sequence[StoredProcess]) -> dict[int, int | None]:
    """The last step of each attempt that counts; None if all of them do."""
    grouped = by_attempt(processes)
    if len(grouped) == 1:
        return dict.fromkeys(grouped)
    begun = {n: _begun_after(of) for n, of in grouped.items()}
    later = {n: [b for m, b in begun.items() if m > n and b is not None] for n in begun}
    return {n: min(of, default=None) for n, of in later.items()}


def kept_steps(processes: Sequence[StoredProcess], *names: str) -> Iterator[pl.DataFrame]:
    """The steps of each process that count, all columns or some: every step of the run once on every rank."""
    until = kept_until(processes)
    for process in processes:
        steps = process.columns("steps", "step", *names) if names else process.steps
        yield up_to(steps, until[process.facts.attempt])


def by_attempt(processes: Sequence[StoredProcess]) -> dict[int, list[StoredProcess]]:
    """The processes of each attempt, attempts ascending."""
    numbers = sorted({p.facts.attempt for p in processes})
    return {number: [p for p in processes if p.facts.attempt == number] for number in numbers}


def missing_steps(processes: Sequence[StoredProcess]) -> dict[str, str]:
    """A note of steps that a checkpoint holds and no table does: their process was killed before they were stored."""
    leaders = [p for p in processes if p.facts.rank == 0]
    if len(leaders) < 2:
        return {}
    begun = [b for p in leaders if (b := _begun_after([p])) is not None]
    begun = begun if _begun_after(leaders[:1]) is not None else [0, *begun]
    done = pl.concat([steps["step"] for steps in kept_steps(leaders, "rank")])
    ends = [min(begun, default=0), *(last + 1 for last in begun[-1:])]
    known = pl.concat([done, pl.Series("step", ends, pl.Int64)]).unique().sort()
    holes = pl.DataFrame({"first": known.shift() + 1, "after": known}).filter(
        pl.col("first") < pl.col("after")
    )
    if holes.is_empty():
        return {}
    names = ", ".join(f"{first} to {after - 1}" for first, after in holes.iter_rows())
    why = (
        "are in no table: their process was killed before they were stored. Steps, tokens and FLOPs lack them"
    )
    return {"steps missing": f"steps {names} {why}"}


def _begun_after(processes: Sequence[StoredProcess]) -> int | None:
    """The step after which an attempt began; None if nothing is known of it."""
    told = [p.facts.resumed["step"] for p in processes if p.facts.resumed]
    if told:
        return int(told[0])
    firsts = [p.columns("steps", "step")["step"].min() for p in processes]
    known = [int(str(first)) for first in firsts if first is not None]
    return min(known) - 1 if known else None


def up_to(steps: pl.DataFrame, until: int | None) -> pl.DataFrame:
    """Steps up to one, or all of them."""
    return steps if until is None else steps.filter(pl.col("step") <= until)
