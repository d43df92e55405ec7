"""Time is cut without gaps: every second of a training is in one phase of one step, in a mark, or outside."""

from __future__ import annotations

import json
import math
import threading

import pytest
from fixtures_scripted import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.measure.digest import MAX_PENDING_STEPS
from profiler.measure.recorder import LOOK_S, MAX_INSTANTS, Memory, Recorder, Work
from profiler.records import RUN_PHASES, STEP_PHASES, Mark, Row, Step


class Late:
    """A loss that comes when the test says so."""

    def __init__(self, number: float | None, here: bool = False) -> None:
        self.number = number
        self.here = here

    def ready(self) -> bool:
        return self.here

    def value(self) -> float | None:
        assert self.here, "asked for before it was ready: that would synchronise"
        return self.number


class AsGiven:
    """Losses that tests hand over are scalars already."""

    def later(self, value: object) -> Late:
        return value if isinstance(value, Late) else Late(None, here=True)

    def poll(self, *, last: bool = False) -> None:
        pass


class Recording:
    def __init__(self, **kwargs: object) -> None:
        self.rows: list[Row] = []
        self.clock = FakeClock(now_s=7.0)
        self.recorder = Recorder(
            self.rows.append,
            clock=self.clock,
            cpu_clock=self.clock.cpu,
            scalars=AsGiven(),
            **kwargs,  # type: ignore[arg-type]
        )

    def spend(self, phase: str | None, seconds: float, busy_threads: float = 1.0) -> None:
        self.recorder.enter(phase)  # type: ignore[arg-type]
        self.clock.advance(seconds, busy_threads)

    @property
    def steps(self) -> list[Step]:
        self.recorder.digest()
        return [row for row in self.rows if isinstance(row, Step)]

    @property
    def marks(self) -> list[Mark]:
        self.recorder.digest()
        return [row for row in self.rows if isinstance(row, Mark)]


@pytest.fixture
def run() -> Recording:
    return Recording()


def test_phases_add_up_to_the_step(run: Recording):
    for phase, seconds in (
        ("data", 1.0),
        ("forward", 2.0),
        ("other", 0.5),
        ("backward", 4.0),
        ("optimizer", 8.0),
    ):
        run.spend(phase, seconds, busy_threads=2.0)
    run.recorder.end_step(1, Work(samples=1, tokens=2, model_flops=3.0), memory=Memory(peak=5, host_rss=6))
    (step,) = run.steps
    assert (step.start_s, step.duration_s) == (7.0, 15.5)
    walls = [getattr(step, f"{phase}_s") for phase in STEP_PHASES]
    assert walls == [1.0, 2.0, 4.0, 8.0, 0.5]
    assert [getattr(step, f"{phase}_cpu_s") for phase in STEP_PHASES] == [2 * wall for wall in walls]
    assert (step.samples, step.tokens, step.model_flops) == (1, 2, 3.0)
    assert (step.memory_peak_bytes, step.host_rss_bytes, step.memory_allocated_bytes) == (5, 6, None)


def test_microbatches_gather_in_one_step(run: Recording):
    for _ in range(3):
        for phase in ("data", "forward", "backward"):
            run.spend(phase, 1.0)
    run.spend("optimizer", 1.0)
    run.recorder.end_step(1, Work())
    (step,) = run.steps
    assert (step.data_s, step.forward_s, step.backward_s, step.optimizer_s) == (3.0, 3.0, 3.0, 1.0)


def test_steps_follow_each_other_without_a_gap(run: Recording):
    for number in range(3):
        run.spend("forward", 1.5)
        run.recorder.end_step(number, Work())
        run.clock.advance(0.25)  # the phase data is open after a step
    run.recorder.flush()
    assert [(s.start_s, s.duration_s) for s in run.steps] == [(7.0, 1.5), (8.5, 1.75), (10.25, 1.75)]


@pytest.mark.parametrize("pause", RUN_PHASES)
def test_a_pause_between_microbatches_belongs_to_no_step(run: Recording, pause: str):
    run.spend("forward", 1.0)
    with run.recorder.within(pause):  # type: ignore[arg-type]
        run.clock.advance(10.0, 3.0)
    run.clock.advance(1.0)
    run.recorder.end_step(1, Work())
    (step,), (mark,) = run.steps, run.marks
    assert (step.start_s, step.duration_s, step.forward_s) == (7.0, 2.0, 2.0)
    assert (mark.kind, mark.start_s, mark.end_s, json.loads(mark.note)) == (pause, 8.0, 18.0, {"cpu_s": 30.0})


def test_within_returns_to_the_phase_before_even_after_an_error(run: Recording):
    def save() -> None:
        with run.recorder.within("checkpoint"):
            assert run.recorder.phase == "checkpoint"
            raise KeyError

    run.recorder.enter("backward")
    with pytest.raises(KeyError):
        save()
    assert run.recorder.phase == "backward"


def test_a_pause_before_the_first_forward_starts_the_step_anew(run: Recording):
    run.spend("data", 3.0)
    run.spend("validation", 5.0)
    run.spend("data", 1.0)
    run.spend("forward", 2.0)
    run.recorder.end_step(1, Work())
    (step,) = run.steps
    assert (step.start_s, step.duration_s, step.data_s) == (15.0, 3.0, 1.0)


def test_a_pause_that_is_never_left_is_stored_by_flush(run: Recording):
    run.spend("validation", 5.0)
    run.recorder.flush()
    assert [(m.kind, m.start_s, m.end_s) for m in run.marks] == [("validation", 7.0, 12.0)]
    assert run.recorder.phase is None


def test_a_late_loss_keeps_the_order_of_steps(run: Recording):
    losses = [Late(3.0), Late(2.0), Late(1.0)]
    for number, loss in enumerate(losses):
        run.spend("forward", 1.0)
        run.recorder.end_step(number, Work(), loss=loss)
    losses[2].here = losses[1].here = True
    run.recorder.end_step(3, Work())
    assert run.steps == []
    losses[0].here = True
    run.recorder.end_step(4, Work())
    assert [(s.step, s.loss) for s in run.steps] == [(0, 3.0), (1, 2.0), (2, 1.0), (3, None), (4, None)]


def test_instants_gather_until_rows_are_asked_for(run: Recording):
    for number in range(4):
        run.spend("forward", 4.0)
        run.recorder.end_step(number, Work())
    assert run.rows == []
    run.recorder.digest()
    run.recorder.digest()
    assert [s.duration_s for s in run.steps] == [4.0, 4.0, 4.0, 4.0]


def test_instants_that_nobody_asks_for_do_not_gather_for_ever(run: Recording):
    for number in range(MAX_INSTANTS + 1):
        run.recorder.end_step(number, Work())
    assert len(run.rows) == MAX_INSTANTS + 1


def test_rows_are_made_on_another_thread_while_the_training_goes_on(run: Recording):
    done = threading.Event()

    def digest() -> None:
        while not done.is_set():
            run.recorder.digest()

    thread = threading.Thread(target=digest)
    thread.start()
    for number in range(2000):
        run.spend("forward", 1.0)
        run.recorder.end_step(number, Work())
    done.set()
    thread.join()
    run.recorder.flush()
    assert [(s.step, s.forward_s) for s in run.steps] == [(number, 1.0) for number in range(2000)]


def test_microbatches_are_counted(run: Recording):
    for _ in range(3):
        run.spend("forward", 1.0)
        run.spend("backward", 1.0)
        run.spend("data", 1.0)
    run.recorder.end_step(1, Work())
    run.recorder.end_step(2, Work())
    assert [s.num_microbatches for s in run.steps] == [3, None]


def test_flush_stores_steps_whose_loss_never_came(run: Recording):
    here = Late(2.0)
    run.recorder.end_step(1, Work(), loss=Late(1.0))
    run.recorder.end_step(2, Work(), loss=here)
    here.here = True
    run.recorder.flush()
    run.recorder.flush()
    assert [(s.step, s.loss) for s in run.steps] == [(1, None), (2, 2.0)]


def test_a_loss_that_never_comes_does_not_hold_steps_back_for_ever(run: Recording):
    for number in range(MAX_PENDING_STEPS + 3):
        run.recorder.end_step(number, Work(), loss=Late(1.0))
    assert [s.step for s in run.steps] == [0, 1, 2]


def test_where_phases_are_unknown_only_the_duration_is_kept():
    run = Recording(phases_known=False)
    run.spend("forward", 2.0)
    run.recorder.end_step(1, Work())
    (step,) = run.steps
    assert step.duration_s == 2.0
    assert all(getattr(step, f"{phase}{kind}") is None for phase in STEP_PHASES for kind in ("_s", "_cpu_s"))


def test_work_once_unknown_stays_unknown():
    work = Work(2, None, 1.0).plus(Work(3, 5, None)).plus(Work(4, 6, 2.0))
    assert work == Work(samples=9, tokens=None, model_flops=None)


def test_model_flops_add_up_while_the_training_goes_on(run: Recording):
    assert run.recorder.model_flops() == 0.0
    for number in (1, 2):
        run.spend("forward", 1.0)
        run.recorder.end_step(number, Work(model_flops=3.0))
    assert run.recorder.model_flops() == 6.0
    run.recorder.end_step(3, Work())
    run.recorder.end_step(4, Work(model_flops=3.0))
    assert run.recorder.model_flops() is None


def test_what_is_not_finite_in_a_note_is_null_however_deep(run: Recording):
    note = {"loss": math.nan, "windows": [[0.0, math.inf], (1.0, 2.0)], "deep": {"x": -math.inf, "y": "text"}}
    run.recorder.mark("note", 1.0, note=note)
    (mark,) = run.marks
    assert json.loads(mark.note) == {
        "loss": None,
        "windows": [[0.0, None], [1.0, 2.0]],
        "deep": {"x": None, "y": "text"},
    }
    assert (mark.start_s, mark.end_s) == (1.0, None)


ACTIONS = st.lists(
    st.tuples(st.sampled_from([*STEP_PHASES, *RUN_PHASES, None, "end_step"]), st.integers(0, 64)), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(actions=ACTIONS)
def test_every_second_is_booked_once(actions: list[tuple[str | None, int]]):
    """Steps, marks, time outside, waits before a pause (no step's) and the unfinished step add up to what passed.

    Times are multiples of 1/64 s, so that sums are exact.
    """
    run = Recording()
    outside = waited = unfinished = 0.0
    worked, phase = False, None
    for action, ticks in actions:
        if action == "end_step":
            run.recorder.end_step(0, Work())
            unfinished, worked, phase = 0.0, False, "data"
        else:
            run.recorder.enter(action)  # type: ignore[arg-type]
            if phase not in STEP_PHASES and not worked:
                waited, unfinished = waited + unfinished, 0.0
            phase = action
        run.clock.advance(ticks / 64)
        outside += ticks / 64 if phase is None else 0.0
        unfinished += ticks / 64 if phase in STEP_PHASES else 0.0
        worked = worked or (phase in STEP_PHASES and phase not in ("data", "other") and ticks > 0)
    run.recorder.flush()
    in_steps = sum(s.duration_s for s in run.steps)
    in_marks = sum((m.end_s or 0.0) - m.start_s for m in run.marks)
    assert in_steps + in_marks + outside + waited + unfinished == run.clock.now_s - 7.0
    for step in run.steps:
        assert sum(getattr(step, f"{name}_s") for name in STEP_PHASES) == step.duration_s


# -- what hooks of every step do: they note instants by themselves ------------------------------------------------

MICROBATCH = (("data", 0.25, 0.0), ("forward", 1.0, 2.0), ("backward", 2.0, 3.0), ("optimizer", 0.5, 1.0))
"""Phases, their seconds in units of a microbatch, and the threads they keep busy."""


class Hooks(Recording):
    """Notes as a fast hook does, and counts how often the clock of CPU time was read."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.reads = 0
        self.recorder._cpu_clock = self.count
        self.note, (self.cpu, self.look_s) = self.recorder.note, self.recorder.look(self.clock())
        self.recorder.enter("data")

    def count(self) -> float:
        self.reads += 1
        return self.clock.cpu()

    def microbatch(self, unit_s: float, ended: tuple[object, ...] | None, loss: object = None) -> None:
        for phase, seconds, busy in MICROBATCH:
            if phase != "data":
                self.note((phase, self.clock(), self.cpu and self.cpu()))
            self.clock.advance(unit_s * seconds, busy)
        cpu_s, loss = self.cpu and self.cpu(), self.recorder.later(loss)  # type: ignore[misc]
        self.note(("data", self.clock(), cpu_s, Work(samples=4), loss, ended))
        if self.clock() >= self.look_s:
            self.cpu, self.look_s = self.recorder.look(self.clock())


def test_short_steps_are_booked_right_though_the_cpu_clock_is_hardly_read():
    run, unit_s = Hooks(), 2**-10
    for step in range(1, 1001):
        run.microbatch(unit_s, (step, 1, None))
    assert run.steps[-1].step >= 1000 - LOOK_S * 1.5 / (3.75 * unit_s), "the last few wait for their CPU time"
    run.recorder.flush()
    assert [step.step for step in run.steps] == list(range(1, 1001))
    for step in run.steps:
        for phase, seconds, busy in MICROBATCH:
            assert getattr(step, f"{phase}_s") == unit_s * seconds
            assert getattr(step, f"{phase}_cpu_s") == pytest.approx(unit_s * seconds * busy, abs=1e-12)
    looks = (run.clock() - 7.0) / LOOK_S
    assert 0.5 * 5 * looks < run.reads < 1.5 * 5 * looks, (
        "five times a look, not four times each of 1000 steps"
    )


def test_of_long_steps_every_instant_is_exact():
    """A phase that is twice as busy all of a sudden is seen so at once."""
    run = Hooks()
    for step, busy in ((1, 1.0), (2, 1.0), (3, 2.0)):
        for phase in ("forward", "backward"):
            run.note((phase, run.clock(), run.cpu and run.cpu()))
            run.clock.advance(1.5 * LOOK_S, busy if phase == "backward" else 1.0)
        run.note(("data", run.clock(), run.cpu and run.cpu(), Work(), Late(None, here=True), (step, 1, None)))
        assert run.clock() >= run.look_s
        run.cpu, run.look_s = run.recorder.look(run.clock())
    assert [step.backward_cpu_s for step in run.steps] == pytest.approx([1.5 * LOOK_S * n for n in (1, 1, 2)])
    assert [step.forward_cpu_s for step in run.steps] == pytest.approx([1.5 * LOOK_S] * 3)


def test_reading_the_cpu_clock_makes_no_microbatch_and_no_phase():
    run = Hooks()
    run.note(("forward", run.clock(), run.clock.cpu()))
    run.clock.advance(1.0, 1.0)
    run.recorder.enter("forward")
    run.clock.advance(1.0, 3.0)
    run.recorder.end_step(1, Work())
    assert [(s.num_microbatches, s.forward_s, s.forward_cpu_s) for s in run.steps] == [(1, 2.0, 4.0)]


def test_work_and_losses_of_microbatches_are_those_of_their_step():
    run = Hooks()
    for loss, ended in ((1.0, None), (2.0, (1, 2, None)), (4.0, (2, 2, {"lr": 0.1}))):
        run.microbatch(1.0, ended, Late(loss, here=True))
    assert [(s.samples, s.loss, s.num_microbatches) for s in run.steps] == [(8, 3.0, 2), (4, 8.0, 1)]
    assert [dict(s.metrics) for s in run.steps] == [{}, {"lr": 0.1}]


def test_a_step_waits_for_the_losses_of_all_its_microbatches():
    run = Hooks()
    late = Late(1.0)
    run.microbatch(1.0, None, late)
    run.microbatch(1.0, (1, 2, None), Late(3.0, here=True))
    assert run.steps == []
    late.here = True
    assert [s.loss for s in run.steps] == [4.0]


def test_a_pause_returns_to_the_phase_that_a_hook_noted():
    run = Hooks()
    run.note(("optimizer", run.clock(), None))
    for digested in (False, True):
        if digested:
            run.recorder.digest()
        with run.recorder.within("checkpoint"):
            run.clock.advance(1.0, 2.0)
        assert run.recorder.phase == "optimizer"
    assert [json.loads(mark.note) for mark in run.marks] == [{"cpu_s": 2.0}, {"cpu_s": 2.0}]


def test_instants_of_hooks_that_nobody_asks_for_do_not_gather_for_ever():
    run = Hooks()
    for step in range(MAX_INSTANTS):
        run.microbatch(1.0, (step, 1, None))
    assert len(run.recorder._instants) <= MAX_INSTANTS + 6
    assert run.rows


def test_memory_goes_with_the_step_that_follows():
    read = iter([None, Memory(host_rss=5)])
    run = Hooks(memory=lambda: next(read, None))
    for step in (1, 2, 3):
        run.microbatch(1.0, (step, 1, None))
        run.recorder.digest()
    assert [s.host_rss_bytes for s in run.steps] == [None, 5, None]


def test_times_of_hooks_are_on_the_runs_clock():
    run = Hooks(origin_s=7.0)
    run.microbatch(1.0, (1, 1, None))
    assert [(s.start_s, s.duration_s) for s in run.steps] == [(0.0, 3.75)]
