"""Makes the golden run beside this file, and what its metrics are: `python tests/golden/golden_run.py [--expected]`.

The run is recorded by script, with a fake clock and no machine's names, and written by the newest schema's writer. A
new schema gets a folder of its own, once; those of older ones stay as their own versions wrote them. `--expected`
writes only show.json and points.json from the run that is committed: do that when a number is meant to change, and say
so in docs/decisions.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures_scripted import FakeClock, ScriptedCpu

from profiler.measure.recorder import Memory, Recorder, Work
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.metrics.carbon import CarbonFactors
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.records import SCHEMA_VERSION, Phase, Reading, Row, Step
from profiler.store.folder import writable_runs_dir
from profiler.store.manifest import Manifest, ProcessFile, write_json
from profiler.store.runs import open_run
from profiler.store.writer import JournalWriter

__all__ = ["RUN_ID", "STORED", "Golden", "Reading", "Step", "metrics", "open_run"]

HERE = Path(__file__).parent
STORED = HERE / "schema-1"
"""Whose metrics are compared. Each `schema-N` is the same run, as the version with that schema wrote it."""
NEWEST = HERE / f"schema-{SCHEMA_VERSION}"
RUN_ID = "20260102-030405-lm-0001"
FACTORS = CarbonFactors(intensity_g_per_kwh=56.0, pue=1.1)
PHASES: tuple[tuple[Phase, float, float], ...] = (
    ("data", 0.05, 0.2), ("forward", 0.15, 1.8), ("backward", 0.3, 1.9), ("other", 0.02, 1.0), ("optimizer", 0.08, 1.5),
)  # fmt: skip


class Golden:
    """Twenty steps, two validations, one checkpoint and two budgets on one GPU and one processor."""

    def __init__(self) -> None:
        self.clock, self.rows = FakeClock(), list[Row]()
        trace = [(0.37, 120.0 + 40.0 * (i % 7)) for i in range(60)]
        self.gpu = ScriptedEnergy(trace, clock=self.clock, device="GPU-golden", relative_uncertainty=0.05)
        self.cpu = ScriptedCpu(self.clock)
        self.recorder = Recorder(self.rows.append, clock=self.clock, cpu_clock=self.clock.cpu)

    def spend(self, seconds: float, busy: float) -> None:
        """Let time pass, reading both counters every 50 ms or so."""
        ticks = max(round(seconds / 0.05), 1)
        for _ in range(ticks):
            self.clock.advance(seconds / ticks, busy)
            for counter in (self.gpu, self.cpu):
                meter = counter.meter
                self.rows.append(
                    Reading(
                        time_s=self.clock(),
                        component=meter.component,
                        device=meter.device,
                        source=meter.source,
                        energy_j=counter.read(),
                        took_s=0.001,
                    )
                )

    def train(self) -> list[Row]:
        """Everything from the first second to the fit's mark."""
        self.spend(0.4, 0.5)
        for step in range(1, 21):
            for phase, seconds, busy in PHASES:
                self.recorder.enter(phase)
                self.spend(seconds * (1.0 + 0.1 * (step % 3)), busy)
            work = Work(samples=4, tokens=256, model_flops=2.5e9)
            memory = Memory(peak=10**6 * step, peak_reserved=2 * 10**6 * step, host_rss=10**9)
            self.recorder.end_step(step, work, loss=3.0 - step / 20, memory=memory, metrics={"lr": 1e-3})
            if step in (10, 20):
                with self.recorder.within("validation"):
                    self.spend(0.5, 1.0)
                self._mark_budget(step)
        with self.recorder.within("checkpoint"):
            self.spend(0.3, 0.7)
        self.recorder.flush()
        self.recorder.mark("fit", 0.2, self.clock())
        return self.rows

    def _mark_budget(self, step: int) -> None:
        note = {
            "params": 49_152,
            "budget_tokens": 256 * step,
            "tokens": 256 * step,
            "model_flops": 2.5e9 * step,
            "loss": 3.1 - step / 20,
            "loss_plus_minus": 0.02,
            "windows": [[0.4, self.clock() - 0.5]],
        }
        self.recorder.mark("budget", self.clock(), note=note)


def make_run() -> None:
    """Write the run's folder anew, as a killed process leaves it: the first half in parts, the second in a journal."""
    shutil.rmtree(NEWEST, ignore_errors=True)
    golden = Golden()
    rows = golden.train()
    run = writable_runs_dir(NEWEST) / RUN_ID
    folder = run / "attempt-1" / "node-a-0-4242"
    folder.mkdir(parents=True)
    writer = JournalWriter(folder)
    half = len(rows) // 2
    for number, row in enumerate(rows):
        writer.append(row)
        if number == half:
            writer.flush(last=True)
    writer.flush()
    meters = (asdict(golden.gpu.meter), asdict(golden.cpu.meter))
    clock = {"wall_unix_s": 1767323045.0, "monotonic_s": 0.0}
    place = {"rank": 0, "local_rank": 0, "world_size": 1}
    write_json(
        folder / "process.json",
        ProcessFile(host="node-a", pid=4242, attempt=1, clock=clock, meters=meters, **place),  # type: ignore[arg-type]
    )
    manifest = Manifest(
        run_id=RUN_ID,
        workload="lm",
        preset="smoke",
        seed=0,
        status="finished",
        created_at="2026-01-02T03:04:05.000+00:00",
        heartbeat="2026-01-02T03:04:20.000+00:00",
        ended_at="2026-01-02T03:04:20.000+00:00",
        params=49_152,
        flops_source="formula",
        peak_flops_per_s=1e11,
        peak_source="given",
        peak_dtype="bf16",
        data={"sha256": "00" * 32},
        hardware={"host": "node-a"},
    )
    write_json(run / "run.json", manifest)


def metrics() -> dict[str, object]:
    """What is compared: the summary as `show --json` prints it, and the scale points, by file name."""
    run = open_run(STORED, RUN_ID)
    return {"show.json": summarize(run, FACTORS), "points.json": scale_points([run], FACTORS).to_dicts()}


if __name__ == "__main__":
    if "--expected" not in sys.argv:
        make_run()
    for name, values in metrics().items():
        (HERE / name).write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
