"""Experiments by script: marks of arms, curves and verdicts, at 4 J a second of the scripted processor.

Used as a plain module (`from fixtures_phenomena import experiment_run`): there is no pytest fixture here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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


# -- every workload's curves, as its recipe saw them -------------------------------------------------------------

_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAABCAAAAADGa7CfAAAAEUlEQVR42mNg0AioWHDi2X8ADPwEPqR0bPAAAAAASUVORK5CYII="
)
_WIDTHS = {
    2: (0.593, 0.688, 0.685), 4: (0.170, 0.363, 0.353), 6: (0.017, 0.464, 0.312), 8: (0.0, 0.384, 0.250),
    16: (0.0, 0.269, 0.199), 48: (0.0, 0.246, 0.232),
}  # fmt: skip
_FEATURES = {8: 0.539, 64: 0.141, 192: 0.307, 304: 0.80, 640: 0.360, 1024: 0.312}
_SKILLS = {"copy": (0.0, 0.74, 1.0), "sort": (0.03, 0.4, 0.88)}

CURVES: Mapping[str, Mapping[str, Sequence[Mapping[str, object]]]] = {
    "grokking": {
        "accuracy": [
            {"step": step, "train": min(step / 100, 1.0), "validation": 0.05 if step < 300 else 0.97}
            for step in range(20, 420, 20)
        ]
    },
    "double-descent": {
        "width": [
            {
                "width": width, "params": 40 * width, "test_error": test, "train_error": train,
                "best_test_error": best, "test_loss": 1.5, "standard_error": 0.013,
            }
            for width, (train, test, best) in _WIDTHS.items()
        ],
        "epoch": [
            {"width": width, "step": step, "test_error": error, "train_error": 0.1}
            for width in (6, 32)
            for step, error in ((66, 0.217), (132, 0.297), (1000, 0.26))
        ],
        "random features": [
            {"features": count, "test_error": error, "standard_error": 0.02}
            for count, error in _FEATURES.items()
        ],
    },
    "distillation": {
        "crossover": [
            {
                "real_bytes": size, "scratch": scratch, "hard": 2.41, "soft": 2.35, "oracle": 2.31,
                "gain": scratch - 2.35, "gain_half_width": 0.02,
            }
            for size, scratch in ((8192, 2.68), (65536, 2.39), (524288, 2.33))
        ]
    },
    "chain-of-thought": {
        "stages": [
            {"step": 100 * (number + 1), "removed": number, "accuracy": 0.98, "accuracy_without_chain": without}
            for number, without in enumerate((0.5, 0.5, 0.54, 0.98))
        ],
        "direct": [{"step": step, "accuracy": 0.5} for step in (100, 200, 300)],
        "answers": [
            {"kind": kind, "accuracy": share, "low": share - 0.03, "high": share, "tokens_per_answer": tokens}
            for kind, share, tokens in (("explicit", 1.0, 4), ("internalised", 0.98, 1), ("direct", 0.5, 1))
        ],
    },
    "dictionary": {
        "fit": [{"step": step, "fvu": 20 / step} for step in (50, 100, 200, 600)],
        "features": [
            {"kind": kind, "f1_feature": best, "f1_raw": raw}
            for kind, best, raw in (("space", 0.91, 0.14), ("digit", 0.60, 0.42))
        ],
        "steering": [
            {"feature": 7, "dose": dose, "probability": p, "control": 0.008, "loss": loss}
            for dose, p, loss in ((0, 0.005, 1.9), (1, 0.224, 2.88), (2, 0.435, 4.11), (4, 0.547, 5.13))
        ],
    },
    "attention-sinks": {
        "sink": [{"step": step, "mass": step / 1000} for step in (200, 400, 600, 900)],
        "streaming": [
            {
                "cache": cache, "sinks": sinks, "context": context, "loss": loss * context**0.01,
                "tokens_per_s": 4000.0, "kv_bytes": 1024 * (context if cache == "dense" else 8),
            }
            for cache, sinks, loss in (("sink 0", 0, 1.3), ("sink 1", 1, 1.2), ("dense", None, 1.6))
            for context in (32, 128, 512)
        ],
    },
    "diffusion": {
        "loss": [
            {"d_model": width, "params": 100, "gflops": gflops, "loss": loss, "half_width": 0.001}
            for width, gflops, loss in ((32, 0.008, 0.6383), (64, 0.032, 0.6325), (128, 0.123, 0.6280))
        ],
        "spectrum": [
            {"kind": kind, "nu": nu, "k": k, "power": power / k**2}
            for kind, power in (("real", 1.0), ("sample", 1.3), ("noise", 3.0))
            for nu in (0.005, 0.05)
            for k in (1, 2, 4, 8)
        ],
        "fields": [{"kind": kind, "nu": nu, "png": _PIXEL} for kind in ("real", "sample") for nu in (0.005, 0.05)],
    },
    "gates": {
        "gates": [
            {
                "gate": gate, "step": 2 * 4**gate, "effective_flops": 1e9 * 4**gate, "skill": skill,
                "accuracy": share, "low": max(share - 0.05, 0.0), "high": min(share + 0.05, 1.0),
                "cross_entropy": 2.5 / 4**gate, "forecast_cross_entropy": 2.0 / 3**gate if gate else None,
                "state": "trip" if share > 0.9 else "clear", "red_line": 0.9, "buffer": 0.5,
            }
            for skill, shares in _SKILLS.items()
            for gate, share in enumerate(shares)
        ]
    },
    "somebody-elses": {"drift": [{"x": x, "height": x**2, "side": "left"} for x in (1, 2, 3)]},
}  # fmt: skip


def play_curves(
    workload: str, played: Played, *, outcome: str = "shown", seeds: int = 1, shown_in: int = 1
) -> None:
    """An experiment that records the curves above, a point a step of half a second."""
    played.arm = "only"
    for curve, points in CURVES[workload].items():
        for point in points:
            played.train(0.5)
            played.point(curve, **point)
    windows: Sequence[tuple[float, float]] = list(played.windows)
    played.end_arm(steps=played.step, params=1234)
    figures = (
        {"t_mem (step)": 100, "t_gen (step)": 300, "delay (steps)": 200} if workload == "grokking" else {}
    )
    costs = {
        "joules to the end": {"windows": windows, "is_bound": False},
        "explicit: 1,000 answers, 10 at a time": {"windows": windows[:1], "is_bound": False},
    }
    played.conclude(outcome, figures=figures, costs=costs, seeds=seeds, shown_in=shown_in)


def every_workload(runs_dir: Path) -> None:
    """A run of each, and three seeds of grokking of which one did not show it."""
    for workload in CURVES:
        outcomes = ("shown", "not shown", "shown") if workload == "grokking" else ("shown",)
        for seed, outcome in enumerate(outcomes):
            experiment_run(
                runs_dir,
                partial(
                    play_curves,
                    workload,
                    outcome=outcome,
                    seeds=len(outcomes),
                    shown_in=(len(outcomes) + 1) // 2,
                ),
                name=f"{workload}-{seed}",
                workload=workload,
                seed=seed,
            )
