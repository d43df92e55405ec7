"""What is to be run: lm's sweep, and of every other workload as many seeds as its question asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phenomenon_runs.board import Board
from profiler.cli.point_process import Point, PointFailed, run_point
from profiler.cli.sweep import newest_run
from profiler.measure.probes import GpuWish, open_probes
from profiler.measure.ranks import Place
from profiler.store.run import StoredRun
from profiler.workload import apply_settings, load_workload

AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run that is asked for.

    Attributes:
        point: Its settings and command.
        identity: What, with these, makes it the same as a run that is there.
        resumes: Whether one that was killed can be gone on with.
        is_single: Whether it takes one thread, so that another may run beside it.
    """

    point: Point
    identity: Mapping[str, Any]
    resumes: bool
    is_single: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a job ended: the run, or why there is none."""

    job: Job
    run_id: str | None
    status: str
    message: str | None = None


def jobs_of(name: str, preset: str) -> list[Job]:
    """All runs of a workload that is installed."""
    workload = load_workload(name)
    base = workload.preset(preset)
    varied = [{}]
    for key, values in workload.grid(preset).items():
        varied = [{**texts, key: str(value)} for texts in varied for value in values]
    jobs = []
    for seed in range(getattr(workload, "seeds", 1)):
        for texts in varied:
            settings = apply_settings(base, texts)
            what = " ".join([name, *(f"{key}={text}" for key, text in texts.items()), f"seed {seed}"])
            point = Point(workload=name, preset=preset, seed=seed, settings=settings, texts=texts, label=what)
            single = getattr(settings, "threads", None) == 1
            identity = workload.identity(settings)
            jobs.append(Job(point=point, identity=identity, resumes=workload.resumes, is_single=single))
    return jobs


def may_share() -> bool:
    """Whether two runs may go on at once: there are two processors, and no sensor that would charge each with both."""
    opened = open_probes(Place(rank=0, local_rank=0, world_size=1), GpuWish(choice="visible"))
    try:
        measured = any(probe.counter.meter.source != "estimated" for probe in opened.probes)
    finally:
        opened.close()
    return not measured and (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) > 1


def run_all(
    jobs: Sequence[Job], runs: Sequence[StoredRun], runs_dir: Path, board: Board, *, shares: bool
) -> Iterator[Done]:
    """Run what is not there yet, those of one thread two at a time if they may share. Gives each as it ends."""
    waiting = []
    for job in jobs:
        known = newest_run(job.point, job.identity, runs, ("finished",))
        if known is None:
            waiting.append(job)
        else:
            yield Done(job=job, run_id=known.run_id, status="reused")
    single = [job for job in waiting if job.is_single] if shares else []
    for job in waiting:
        if job not in single:
            yield _run(job, runs, runs_dir, board)
    yield from _side_by_side(single, runs, runs_dir, board)


def _side_by_side(
    jobs: Sequence[Job], runs: Sequence[StoredRun], runs_dir: Path, board: Board
) -> Iterator[Done]:
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        open_: set[Future[Done]] = {pool.submit(_run, job, runs, runs_dir, board) for job in jobs}
        while open_:
            ended, open_ = wait(open_, return_when=FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # those that go on are told of a Ctrl-C by the terminal, as we are


def _run(job: Job, runs: Sequence[StoredRun], runs_dir: Path, board: Board) -> Done:
    begun = newest_run(job.point, job.identity, runs, ("interrupted", "lost")) if job.resumes else None
    point = job.point if begun is None else replace(job.point, resume=begun.run_id)
    board.begin(job.point.label)
    try:
        return Done(job=job, run_id=run_point(point, runs_dir, board), status="finished")  # type: ignore[arg-type]
    except PointFailed as failure:
        return Done(job=job, run_id=None, status="failed", message=str(failure))
    finally:
        board.end(job.point.label)
