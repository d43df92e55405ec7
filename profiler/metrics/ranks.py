"""The ranks of a run side by side: how each stands, how long its steps took, and who waited for whom.

Ranks wait for each other inside collectives, and these run inside phases: gradients are summed within backward, and
where the model is sharded, parameters are gathered within forward, too. Outside of these each rank is on its own.
A rank that needs longer on its own lets all others wait: each by the difference between the slowest rank's own seconds
and its own in that step, as far as its synchronising phases have room for it. That is a lower bound: a rank that
is slow within backward itself hides there. No clocks of two machines are compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from profiler.records import STEP_PHASES, StepPhase
from profiler.store.process import StoredProcess
from profiler.store.ranks import named, state_of
from profiler.store.run import StoredRun

WARM_UP_STEPS = 3
"""Left out, as in the verdict: loader workers start, and FLOPs are counted."""

MOST_ROWS = 1_000_000
"""Of all ranks together; a day of 64 of them has ten times as many, and a gigabyte."""

MOSTLY = 2.0 / 3.0
"""One rank is the straggler if it is the slowest in more than this share of the steps: of two one is in half."""

NO_STRAGGLER = (
    "no rank was the slowest in two thirds of the steps, there is only one, or phases were not timed"
)

_SYNCHRONISING: Mapping[str, tuple[StepPhase, ...]] = {"DDPStrategy": ("backward",)}
"""By strategy; all others may gather parameters in forward, too."""

_GPU = re.compile(r"\b(?:GPU|MIG)-[0-9A-Za-z/-]+")
"""A device's own name in a sentence of NVML."""

_SHARDED: tuple[StepPhase, ...] = ("forward", "backward")


def one_per_batch(processes: Sequence[StoredProcess]) -> list[StoredProcess]:
    """The processes whose work counts: one for each share of the data, as ranks that split a model are given the same.

    The one that came furthest stands for its share.
    """
    best: dict[tuple[int, int], StoredProcess] = {}
    for process in processes:
        facts = process.facts
        share = (facts.attempt, facts.rank if facts.replica is None else facts.replica)
        if share not in best or _num_steps(process) > _num_steps(best[share]):
            best[share] = process
    return [process for process in processes if any(process is chosen for chosen in best.values())]


def _num_steps(process: StoredProcess) -> int:
    return len(process.columns("steps", "step"))


def merged_notes(processes: Sequence[StoredProcess]) -> dict[str, str]:
    """The notes of all ranks: a sentence that all agree on as it is, others with the ranks that say them.

    How an earlier attempt ended is not among them.
    """
    last = max((p.facts.attempt for p in processes), default=0)
    told: dict[str, dict[int, str]] = {}
    for process in processes:
        for subject, sentence in process.facts.notes.items():
            if process.facts.attempt == last or subject != "ended":
                told.setdefault(subject, {})[process.facts.rank] = sentence
    return {subject: _one_sentence(by_rank) for subject, by_rank in told.items()}


def _one_sentence(by_rank: Mapping[int, str]) -> str:
    if len(set(by_rank.values())) == 1:
        return next(iter(by_rank.values()))
    alike: dict[str, dict[int, str]] = {}
    for rank, sentence in by_rank.items():
        alike.setdefault(_GPU.sub("its GPU", sentence), {})[rank] = sentence
    told = ((named(of), _of_all(of, general)) for general, of in alike.items())
    return "; ".join(f"{whose}: {sentence.rstrip('.')}" for whose, sentence in told)


def _of_all(by_rank: Mapping[int, str], general: str) -> str:
    """What some ranks say: in the words of each, or, where each names its own GPU, in words for all."""
    return general if len(set(by_rank.values())) > 1 else next(iter(by_rank.values()))


def beside_each_other(run: StoredRun) -> dict[str, Any]:
    """The `ranks` and the `straggler` of a summary: a row for each rank that recorded the newest attempt.

    `wait_s` is what it waited for slower ranks in a step, at least and on the mean over the steps that all ranks have,
    `wait_share` its share of step time, `slowest_in` the share of these steps in which all others waited for it. They
    are None where phases were not timed. The straggler is the rank that the others wait for in most steps, by how much
    and in which phase it is behind; None if there is none.
    """
    attempts = [p.facts.attempt for p in run.processes]
    newest = [p for p in run.processes if p.facts.attempt == max(attempts)]
    waits = _waits(newest)
    return {
        "ranks": [_row(process, run, waits) for process in newest],
        "straggler": None if waits is None else _straggler(newest, waits),
    }


def _straggler(processes: Sequence[StoredProcess], waits: pl.DataFrame) -> dict[str, Any] | None:
    slowest = waits.group_by("rank").agg(pl.col("is_slowest").mean()).sort("is_slowest", "rank")
    rank, share = slowest.row(-1)
    if share <= MOSTLY:
        return None
    others = _told(waits.filter(pl.col("rank") != rank))
    process = next(p for p in processes if p.facts.rank == rank)
    phase, own_s, others_s = _longest_beside(waits, rank)
    return {
        "rank": rank,
        "host": process.facts.host,
        "slowest_in": share,
        "others_wait_s": others["wait_s"],
        "others_wait_share": others["wait_share"],
        "phase": phase,
        "phase_s": own_s,
        "phase_s_others": others_s,
    }


def _row(process: StoredProcess, run: StoredRun, waits: pl.DataFrame | None) -> dict[str, Any]:
    facts, steps_s = process.facts, process.columns("steps", "duration_s")["duration_s"]
    own = None if waits is None else waits.filter(pl.col("rank") == facts.rank)
    return {
        "rank": facts.rank,
        "host": facts.host,
        "local_rank": facts.local_rank,
        "status": state_of(process, run.manifest),
        "steps": len(steps_s),
        "step_s_p50": steps_s.quantile(0.5, "linear"),
        "step_s_p95": steps_s.quantile(0.95, "linear"),
        **_told(own),
    }


def _told(waits: pl.DataFrame | None) -> dict[str, float | None]:
    """What one rank, or several on the mean, waited in a step."""
    if waits is None or waits.is_empty():
        return dict.fromkeys(("wait_s", "wait_share", "slowest_in"))
    told = waits.select(
        pl.col("wait_s").mean(),
        wait_share=pl.col("wait_s").sum() / pl.col("duration_s").sum(),
        slowest_in=pl.col("is_slowest").mean(),
    )
    return told.row(0, named=True)


def _waits(processes: Sequence[StoredProcess]) -> pl.DataFrame | None:
    """What each rank waited in each step that all of them have timed; None if that cannot be known.

    Of a run of very many steps, in some of them, evenly spread.
    """
    stepped = [process for process in processes if _num_steps(process)]
    if len(stepped) < 2:
        return None
    every = -(-sum(map(_num_steps, stepped)) // MOST_ROWS)
    frame = pl.concat([_timed(process).filter(pl.col("step") % every == 0) for process in stepped])
    common = frame.filter(pl.len().over("step") == len(stepped))
    if common.is_empty():
        return None
    latest_s = pl.col("own_s").max().over("step")
    is_last = pl.col("own_s") == latest_s
    return common.with_columns(
        wait_s=pl.min_horizontal(latest_s - pl.col("own_s"), "synchronising_s"),
        is_slowest=is_last
        & (is_last.sum().over("step") == 1),  # of ranks that are alike nobody waits for one
    )


def _timed(process: StoredProcess) -> pl.DataFrame:
    """The timed steps of a rank after its first ones: its own seconds, and those in which it may have waited."""
    synchronising = _SYNCHRONISING.get(process.facts.strategy or "", _SHARDED)
    own = [phase for phase in STEP_PHASES if phase not in synchronising]
    return (
        process.columns("steps", "step", "duration_s", *(f"{phase}_s" for phase in STEP_PHASES))
        .sort("step")
        .slice(WARM_UP_STEPS)
        .select(
            pl.lit(process.facts.rank, pl.Int64).alias("rank"),
            "step",
            "duration_s",
            *(f"{phase}_s" for phase in STEP_PHASES),
            own_s=pl.sum_horizontal([f"{phase}_s" for phase in own], ignore_nulls=False),
            synchronising_s=pl.sum_horizontal([f"{phase}_s" for phase in synchronising], ignore_nulls=False),
        )
        .drop_nulls(["own_s", "synchronising_s"])
    )


def _longest_beside(waits: pl.DataFrame, rank: int) -> tuple[str, float, float]:
    """The phase in which a rank is the most behind the others: its mean seconds, and the mean of theirs."""
    means = waits.group_by(pl.col("rank") == rank).agg(pl.col(f"{phase}_s").mean() for phase in STEP_PHASES)
    its = means.filter(pl.col("rank")).row(0, named=True)
    others = means.filter(~pl.col("rank")).row(0, named=True)
    phase = max(STEP_PHASES, key=lambda name: float(its[f"{name}_s"] - others[f"{name}_s"]))
    return phase, its[f"{phase}_s"], others[f"{phase}_s"]
