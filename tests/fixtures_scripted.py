"""Runs that follow a script: a real Session, Recorder and store over scripted sensors and a clock that tests move.

Used as a plain module (`from fixtures_scripted import scripted_run`): there is no pytest fixture here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from profiler.measure.guard import Guard
from profiler.measure.peak import Peak
from profiler.measure.ranks import Place
from profiler.measure.recorder import Memory, Recorder, Work
from profiler.measure.sensors.base import EnergyCounter, Meter, Probe
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts, Session
from profiler.records import Phase
from profiler.store.run import StoredRun
from profiler.store.runs import open_run

TICK_S = 0.05
NEVER_S = 3600.0
"""The sampler's own thread stays asleep: it could read while the fake clock is being moved."""

STEP_S: Mapping[Phase, float] = {"data": 0.1, "forward": 0.2, "backward": 0.4, "optimizer": 0.1}
JOULES_PER_CPU_S = 4.0


@dataclass
class FakeClock:
    """Seconds that pass only when a test says so; so do CPU seconds, as many as threads are busy."""

    now_s: float = 0.0
    cpu_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def cpu(self) -> float:
        return self.cpu_s

    def advance(self, seconds: float, busy_threads: float = 1.0) -> None:
        self.now_s += seconds
        self.cpu_s += seconds * busy_threads


class ScriptedCpu:
    """The estimate from CPU time, over the fake clock's CPU seconds."""

    def __init__(self, clock: FakeClock, relative_uncertainty: float = 0.4) -> None:
        self._clock = clock
        self.meter = Meter(
            component="cpu",
            device="scripted processor",
            name="scripted processor",
            source="estimated",
            update_period_s=None,
            relative_uncertainty=relative_uncertainty,
            uncertainty_source="scripted",
            power_max_w=16.0,
            joules_per_cpu_s=JOULES_PER_CPU_S,
        )

    def read(self) -> float:
        return JOULES_PER_CPU_S * self._clock.cpu()


Counters = Callable[[FakeClock], Sequence[EnergyCounter]]


def cpu_only(clock: FakeClock) -> Sequence[EnergyCounter]:
    return [ScriptedCpu(clock)]


def gpu(watts: float = 200.0, device: str = "GPU-a", **kwargs: object) -> Counters:
    return lambda clock: [ScriptedEnergy([(1.0, watts)], clock=clock, device=device, **kwargs)]  # type: ignore[arg-type]


def gpu_and_cpu(clock: FakeClock) -> Sequence[EnergyCounter]:
    return [*gpu()(clock), ScriptedCpu(clock)]


def nothing(clock: FakeClock) -> Sequence[EnergyCounter]:
    return []


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a scripted run does; every step is alike.

    `budget_after` marks a budget over the steps so far after each of these steps.
    """

    steps: int = 10
    microbatches: int = 1
    validation_after: Sequence[int] = ()
    checkpoint_after: Sequence[int] = ()
    budget_after: Sequence[int] = ()
    samples: int | None = 8
    tokens: int | None = 1000
    model_flops: float | None = 1e9
    loss: float | None = 2.5
    memory: Memory = field(default_factory=lambda: Memory(host_rss=10**9))
    fit_mark: bool = True
    phases_known: bool = True
    second_opinion: Mapping[str, object] | None = None


def scripted_run(
    runs_dir: Path,
    script: Script | None = None,
    *,
    counters: Counters = gpu_and_cpu,
    name: str = "scripted",
    rank: int = 0,
    world_size: int = 1,
    facts: RunFacts | None = None,
    peak: Peak | None = None,
    status: str = "finished",
) -> StoredRun:
    """Record a run by script and open it as readers do."""
    clock, script = FakeClock(now_s=3.0), script or Script()
    session = Session(
        runs_dir,
        facts or RunFacts(workload="lm", preset="smoke", seed=0, params=1234),
        place=Place(rank=rank, local_rank=rank, world_size=world_size),
        probes=[Probe(counter=counter) for counter in counters(clock)],
        guard=Guard(),
        name=name,
        peak=peak,
        clock=clock,
        sampling_period_s=NEVER_S,
    )
    session.recorder = Recorder(
        session.emit, clock=session.now, cpu_clock=clock.cpu, rank=rank, phases_known=script.phases_known
    )
    play(session, clock, script)
    session.close(status)
    return open_run(runs_dir, name)


def play(session: Session, clock: FakeClock, script: Script) -> None:
    """Go through the script's steps."""
    recorder, start_s = session.recorder, session.now()
    spend(session, clock, 0.5)
    recorder.enter("data")
    for step in range(1, script.steps + 1):
        for _ in range(script.microbatches):
            for phase, seconds in STEP_S.items():
                recorder.enter(phase)
                spend(session, clock, seconds)
        work = Work(samples=script.samples, tokens=script.tokens, model_flops=script.model_flops)
        recorder.end_step(step, work, loss=script.loss, memory=script.memory)
        for after, pause in (
            (script.validation_after, "validation"),
            (script.checkpoint_after, "checkpoint"),
        ):
            if step in after:
                with recorder.within(pause):  # type: ignore[arg-type]
                    spend(session, clock, 0.6)
        if step in script.budget_after:
            _mark_budget(session, step, start_s + 0.5, script)
    recorder.enter(None)
    if script.second_opinion:
        recorder.mark("second_opinion", 1.0, 5.0, script.second_opinion)
    if script.fit_mark:
        recorder.mark("fit", start_s, session.now())


def spend(session: Session, clock: FakeClock, seconds: float, busy_threads: float = 1.0) -> None:
    """Let time pass, with the sensors read every tick."""
    for _ in range(max(round(seconds / TICK_S), 1)):
        clock.advance(seconds / max(round(seconds / TICK_S), 1), busy_threads)
        session.sample()


def _mark_budget(session: Session, step: int, start_s: float, script: Script) -> None:
    note = {
        "params": 1234,
        "budget_tokens": step * (script.tokens or 0),
        "tokens": step * (script.tokens or 0),
        "model_flops": step * (script.model_flops or 0.0),
        "loss": 3.0 - 0.1 * step,
        "loss_plus_minus": 0.01,
        "windows": [[start_s, session.now()]],
    }
    session.recorder.mark("budget", session.now(), note=note)


def waiting_run(
    runs_dir: Path, *, steps: int, data_s: float, counters: Counters = cpu_only, losses: Sequence[float] = ()
) -> StoredRun:
    """A run named "waiting" whose steps wait `data_s` for their batch and compute for 0.2 s, one thread busy."""
    clock = FakeClock()
    session = Session(
        runs_dir,
        RunFacts(),
        place=Place(rank=0, local_rank=0, world_size=1),
        probes=[Probe(counter=counter) for counter in counters(clock)],
        guard=Guard(),
        name="waiting",
        clock=clock,
        sampling_period_s=NEVER_S,
    )
    recorder = session.recorder = Recorder(session.emit, clock=session.now, cpu_clock=clock.cpu)
    recorder.enter("data")
    for step in range(steps):
        clock.advance(data_s)
        for phase in ("forward", "backward", "optimizer"):
            recorder.enter(phase)  # type: ignore[arg-type]
            clock.advance(0.2 / 3)
            session.sample()
        loss = losses[step] if losses else 1.0
        recorder.end_step(step, Work(samples=8, tokens=64), loss=loss)
    recorder.enter(None)
    recorder.mark("fit", 0.0, session.now())
    session.close("finished")
    return open_run(runs_dir, "waiting")
