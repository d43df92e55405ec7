"""A run of a few hundred rows as a killed process leaves it: parts, merged parts, a journal, manifests."""

from __future__ import annotations

from pathlib import Path

from profiler.records import Mark, Reading, Step
from profiler.store.folder import writable_runs_dir
from profiler.store.manifest import Manifest, ProcessFile, write_json
from profiler.store.writer import JournalWriter

GENERATIONS = 4


def made_run(runs_dir: Path, name: str) -> Path:
    """Write it with the product's own writer, which is left as a kill would."""
    run_dir = writable_runs_dir(runs_dir) / name
    folder = run_dir / "attempt-1" / "node-a-0-4242"
    folder.mkdir(parents=True)
    clock = {"wall_unix_s": 1767323045.0, "monotonic_s": 0.0}
    place = {"rank": 0, "local_rank": 0, "world_size": 1}
    facts = ProcessFile(host="node-a", pid=4242, attempt=1, clock=clock, **place)  # type: ignore[arg-type]
    write_json(folder / "process.json", facts)
    manifest = Manifest(
        run_id=name,
        workload="lm",
        seed=3,
        created_at="2026-01-02T03:04:05.000+00:00",
        settings={"d_model": 64},
    )
    write_json(run_dir / "run.json", manifest)
    writer = JournalWriter(folder)
    for generation in range(GENERATIONS):
        for number in range(100 * generation, 100 * (generation + 1)):
            _append(writer, number)
            if number % 25 == 24:
                writer.flush(last=number % 100 == 99 and generation < GENERATIONS - 1)
    return run_dir


def _append(writer: JournalWriter, number: int) -> None:
    writer.append(
        Step(
            rank=0,
            step=number + 1,
            start_s=0.1 * number,
            duration_s=0.1,
            tokens=7 * number,
            loss=3.0 / (number + 1),
            metrics={"lr": 0.1},
        )
    )
    for device in ("GPU-a", "GPU-b"):
        writer.append(
            Reading(
                time_s=0.1 * number,
                component="gpu",
                device=device,
                source="counter",
                energy_j=12.345 * number,
                power_w=123.45,
            )
        )
    if number % 10 == 0:
        writer.append(Mark(rank=0, kind="note", start_s=0.1 * number, note=f'{{"number": {number}}}'))
