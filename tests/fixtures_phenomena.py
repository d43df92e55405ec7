"""Experiments by script: marks of arms, curves and verdicts, at 4 J a second of the scripted processor.

Used as a plain module (`from fixtures_phenomena import experiment_run`): there is no pytest fixture here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fixtures_scripted import NEVER_S, Counters, FakeClock, cpu_only, spend

from profiler.measure.guard import Guard
from profiler.measure.ranks import Place
from profiler.measure.recorder import Recorder, Work
from profiler.measure.sensors.base import Probe
from profiler.measure.session import RunFacts, Session
from profiler.store.run import StoredRun
from profiler.store.runs import open_run

CRITERION = "it goes up, by 1 at least"


@dataclass
class Played:
    """What plays an experiment: time is spent, and marks are made, as `workloads.trial` makes them."""

    session: Session
    clock: FakeClock
    windows: list[tuple[float, float]] = field(default_factory=list)
    arm: str | None = None
    step: int = 0

    def train(self, seconds: float) -> None:
        """Train the open arm for some seconds: one step."""
        start_s = self.session.now()
        self.session.recorder.enter("forward")
        spend(self.session, self.clock, seconds)
        self.step += 1
        self.session.recorder.end_step(self.step, Work(samples=1, model_flops=1e9), loss=1.0, then="other")
        self.session.recorder.enter(None)
        self.windows.append((start_s, self.session.now()))

    def evaluate(self, seconds: float) -> None:
        """Spend time that no arm is charged with."""
        with self.session.recorder.within("validation"):
            spend(self.session, self.clock, seconds)

    def point(self, curve: str, **values: object) -> None:
        """A point of a curve."""
        self.mark("curve", {"curve": curve, "arm": self.arm, **values})

    def end_arm(self, **facts: object) -> None:
        """The arm ends."""
        self.mark("arm", {"arm": self.arm, "windows": self.windows, **facts})
        self.windows, self.arm = [], None

    def conclude(
        self,
        outcome: str = "shown",
        *,
        figures: Mapping[str, object] | None = None,
        costs: Mapping[str, Mapping[str, object]] | None = None,
        seeds: int = 1,
        shown_in: int = 1,
    ) -> None:
        """The verdict."""
        note = {"outcome": outcome, "reason": f"by script: {outcome}", "figures": figures or {}}
        self.mark("phenomenon", {**note, "costs": costs or {}, "seeds": seeds, "shown_in": shown_in})

    def mark(self, kind: str, note: Mapping[str, Any]) -> None:
        """A mark of this moment."""
        self.session.sample()
        self.session.recorder.mark(kind, self.session.now(), None, note)


def experiment_run(
    runs_dir: Path,
    play: Callable[[Played], None],
    *,
    name: str = "experiment",
    workload: str = "grokking",
    preset: str = "cpu",
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    criterion: str | None = CRITERION,
    counters: Counters = cpu_only,
    status: str = "finished",
) -> StoredRun:
    """Record an experiment by script and open it as readers do."""
    clock = FakeClock()
    identity = {} if criterion is None else {"criterion": criterion}
    session = Session(
        runs_dir,
        RunFacts(
            workload=workload,
            preset=preset,
            seed=seed,
            settings=settings or {},
            params=1234,
            identity=identity,
        ),
        place=Place(rank=0, local_rank=0, world_size=1),
        probes=[Probe(counter=counter) for counter in counters(clock)],
        guard=Guard(),
        name=name,
        clock=clock,
        sampling_period_s=NEVER_S,
    )
    session.recorder = Recorder(session.emit, clock=session.now, cpu_clock=clock.cpu)
    session.sample()
    play(Played(session, clock))
    session.recorder.mark("fit", 0.0, session.now())
    session.close(status)
    return open_run(runs_dir, name)


def two_arms(played: Played, outcome: str = "shown", seeds: int = 1, shown_in: int = 1) -> None:
    """A teacher of 2 + 2 seconds with an evaluation of 1 s between, then a student of 1 s that memorises."""
    played.arm = "teacher"
    played.train(2.0)
    played.evaluate(1.0)
    played.point("accuracy", step=1, train=0.5, validation=0.1)
    played.train(2.0)
    played.point("accuracy", step=2, train=1.0, validation=0.9)
    windows: Sequence[tuple[float, float]] = list(played.windows)
    played.end_arm(steps=2, params=100)
    played.point("answers", kind="explicit", accuracy=1.0)
    played.arm = "student"
    played.train(1.0)
    played.end_arm(steps=1)
    costs = {
        "joules to grok": {"windows": windows, "is_bound": False},
        "joules to memorise": {"windows": windows[:1], "is_bound": True},
    }
    figures = {"t_mem (step)": 1, "validation accuracy at the end": 0.9, "seen": True, "unknown": None}
    played.conclude(outcome, figures=figures, costs=costs, seeds=seeds, shown_in=shown_in)
