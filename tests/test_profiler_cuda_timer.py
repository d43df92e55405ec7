"""Times of an asynchronous device: told late, out of order, or never; and the real thing where there is a GPU."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import torch
from fixtures_scripted import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.measure.cuda import BATCH_S, CudaEvents, GpuScalars
from profiler.measure.cuda_timer import EACH_POLL, MAX_PENDING, CudaTimer
from profiler.measure.deferred import OnHost
from profiler.measure.recorder import Recorder, Work
from profiler.records import Mark, Row, Step


class FakeEvent:
    def __init__(self) -> None:
        self.at_s: float | None = None
        self.passed = False

    def query(self) -> bool:
        return self.passed

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert self.at_s is not None
        assert end_event.at_s is not None
        assert end_event.passed, "torch raises if the event is not done"
        return 1e3 * (end_event.at_s - self.at_s)


class FakeDevice:
    """Passes events when a test says so; its clock has an origin, and perhaps a speed, of its own."""

    def __init__(self, origin_s: float = 1000.0, speed: float = 1.0) -> None:
        self.origin_s, self.speed = origin_s, speed
        self.queue: list[FakeEvent] = []
        self.made = 0
        self.captures = self.broken = False

    def record(self, spare: FakeEvent | None) -> FakeEvent:
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        assert not self.captures
        assert spare is None or spare not in self.queue, "still in the queue"
        self.made += spare is None
        event = spare or FakeEvent()
        event.at_s, event.passed = None, False
        self.queue.append(event)
        return event

    def capturing(self) -> bool:
        return self.captures

    def go(self, at_s: float) -> None:
        """Come to the oldest event, at a true instant of the run's clock."""
        event = self.queue.pop(0)
        event.at_s, event.passed = self.origin_s + self.speed * at_s, True


class Rig:
    def __init__(self, **device: float) -> None:
        self.clock, self.device = FakeClock(), FakeDevice(**device)
        self.timer = CudaTimer(self.clock, self.device, sleep=self.clock.advance)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_device_tells_its_own_times_late(rig: Rig):
    tickets = [rig.timer.note(s) for s in (0.0, 0.001, 0.002)]
    rig.clock.advance(0.010)
    rig.timer.poll()
    assert not any(ticket.settled for ticket in tickets)
    for at_s in (0.0, 0.5, 0.7):
        rig.device.go(at_s)
    rig.clock.advance(1.0)
    rig.timer.poll()
    assert [ticket.time_s for ticket in tickets] == pytest.approx([0.0, 0.5, 0.7])
    assert all(ticket.settled and ticket.timed for ticket in tickets)


def test_no_event_is_before_the_host_recorded_it_nor_after_it_was_seen(rig: Rig):
    first = rig.timer.note(0.0)
    rig.device.go(0.3)  # the device was busy with something else: the anchor is 0.3 s early
    rig.clock.now_s = 0.4
    rig.timer.poll()
    assert first.time_s == 0.0
    second = rig.timer.note(0.9)
    rig.device.go(0.9)
    rig.clock.now_s = 0.95
    rig.timer.poll()
    assert second.time_s == 0.9, "by the device's clock alone it would be 0.6"
    third = rig.timer.note(0.95)
    rig.device.queue[0].at_s = None
    rig.device.go(5.0)  # a device that errs
    rig.clock.now_s = 1.0
    rig.timer.poll()
    assert third.time_s == 1.0


@settings(max_examples=100, deadline=None)
@given(work_s=st.lists(st.floats(0.0, 0.05), min_size=2, max_size=300), speed=st.floats(0.999, 1.001))
def test_times_rise_lie_between_both_bounds_and_drift_no_more_than_the_clocks(
    work_s: list[float], speed: float
):
    rig = Rig(speed=speed)
    tickets, truth, free_s = [], [], 0.0
    for seconds in work_s:
        host_s = rig.clock.now_s
        tickets.append((host_s, rig.timer.note(host_s)))
        truth.append(max(free_s, host_s))
        free_s = truth[-1] + seconds  # the work that follows the event
        rig.clock.advance(0.01)
        while rig.device.queue and truth[-len(rig.device.queue)] <= rig.clock.now_s:
            rig.device.go(truth[-len(rig.device.queue)])
        rig.timer.poll()
    rig.clock.now_s = max(rig.clock.now_s, free_s)
    while rig.device.queue:
        rig.device.go(truth[-len(rig.device.queue)])
    rig.timer.finish()
    times = [ticket.time_s for _, ticket in tickets]
    assert all(ticket.timed for _, ticket in tickets)
    assert times == sorted(times)
    assert all(ticket.time_s >= host_s for host_s, ticket in tickets)
    drift_s = abs(speed - 1.0) * rig.clock.now_s + 1e-6
    assert all(abs(found - true) <= drift_s for found, true in zip(times, truth, strict=True))


def test_events_are_used_again(rig: Rig):
    for number in range(200):
        rig.timer.note(float(number))
        rig.clock.now_s = float(number)
        rig.device.go(float(number))
        rig.timer.poll()
    assert rig.device.made <= 3


def test_one_poll_looks_at_a_few_events_only(rig: Rig):
    tickets = [rig.timer.note(0.0) for _ in range(2 * EACH_POLL)]
    for _ in tickets:
        rig.device.go(0.0)
    rig.timer.poll()
    assert sum(ticket.settled for ticket in tickets) == EACH_POLL
    rig.timer.poll()
    assert all(ticket.settled for ticket in tickets)


def test_an_event_that_is_never_passed_has_the_hosts_time_in_the_end(rig: Rig):
    ticket = rig.timer.note(3.0)
    rig.timer.finish()
    assert (ticket.settled, ticket.timed, ticket.time_s) == (True, False, 3.0)
    assert rig.clock.now_s == pytest.approx(0.2), "the end of the fit waits so long"


def test_a_device_that_hangs_takes_no_memory_without_bound(rig: Rig):
    tickets = [rig.timer.note(float(number)) for number in range(MAX_PENDING + 3)]
    assert [ticket.settled for ticket in tickets[:4]] == [True, True, True, False]
    assert not tickets[0].timed


def test_later_events_wait_for_those_before_them(rig: Rig):
    """Of two streams, say: time is cut in the host's order."""
    first, second = rig.timer.note(0.0), rig.timer.note(0.1)
    rig.device.queue[1].at_s, rig.device.queue[1].passed = 1000.2, True
    rig.clock.now_s = 1.0
    rig.timer.poll()
    assert not second.settled
    rig.device.go(0.5)
    rig.timer.poll()
    assert (first.time_s, second.time_s) == (0.0, 0.1), "never before the one in front of it"


def test_nothing_is_recorded_or_asked_while_a_graph_is_captured(rig: Rig):
    before = rig.timer.note(0.0)
    rig.device.go(0.0)
    rig.device.captures = True
    during = rig.timer.note(0.5)
    rig.timer.poll()
    assert (during.settled, during.timed, during.time_s) == (True, False, 0.5)
    assert not before.settled
    rig.device.captures = False
    rig.timer.poll()
    assert before.timed


def test_an_error_of_the_device_leaves_the_hosts_times(rig: Rig):
    before = rig.timer.note(1.0)
    rig.device.broken = True
    after = rig.timer.note(2.0)
    rig.timer.poll()
    rig.timer.finish()
    assert [(t.settled, t.timed, t.time_s) for t in (before, after)] == [
        (True, False, 1.0),
        (True, False, 2.0),
    ]
    assert rig.clock.now_s == 0.0, "nothing is waited for"


# -- steps on the device's timeline -------------------------------------------------------------------------------


class Recording(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.recorder = Recorder(
            self.rows.append, clock=self.clock, cpu_clock=self.clock.cpu, timer=self.timer
        )

    @property
    def steps(self) -> list[Step]:
        return [row for row in self.rows if isinstance(row, Step)]

    def enter(self, phase: str, host_s: float) -> None:
        self.clock.now_s = host_s
        self.recorder.enter(phase)  # type: ignore[arg-type]

    def end(self, step: int, host_s: float) -> None:
        self.clock.now_s = host_s
        self.recorder.end_step(step, Work())


def test_phases_are_the_devices_not_the_hosts():
    run = Recording()
    for step in range(2):
        start_s = 0.01 * step
        run.enter("data", start_s)
        run.enter("forward", start_s + 0.001)
        run.enter("backward", start_s + 0.002)
        run.enter("optimizer", start_s + 0.003)
        run.end(step, start_s + 0.004)
    run.recorder.digest()
    assert run.steps == []
    for at_s in (0.0, 0.001, 0.101, 0.401, 0.501, 0.501, 0.501, 0.601, 0.901, 1.001):
        run.device.go(at_s)
    run.clock.now_s = 2.0
    run.timer.poll()
    run.recorder.digest()
    first, second = run.steps
    walls = [(s.start_s, s.data_s, s.forward_s, s.backward_s, s.optimizer_s) for s in (first, second)]
    assert walls[0] == pytest.approx((0.0, 0.001, 0.1, 0.3, 0.1))
    assert walls[1] == pytest.approx((0.501, 0.0, 0.1, 0.3, 0.1))
    assert first.start_s + first.duration_s == pytest.approx(second.start_s)


def test_steps_wait_in_order_for_their_events_and_none_is_lost():
    run = Recording()
    for step in range(3):
        run.enter("forward", float(step))
        run.end(step, step + 0.5)
    run.device.go(0.0)
    run.device.go(0.9)
    run.timer.poll()
    run.recorder.digest()
    assert [s.step for s in run.steps] == [0]
    run.recorder.flush()
    assert [s.step for s in run.steps] == [0, 1, 2]
    assert [s.forward_s is None for s in run.steps] == [False, True, True]
    assert all(s.duration_s > 0.0 and s.forward_cpu_s is None for s in run.steps)


def test_the_steps_before_an_error_of_the_device_are_kept():
    run = Recording()
    for step in range(3):
        run.device.broken = step == 2
        run.enter("forward", float(step))
        run.end(step, step + 0.5)
    run.recorder.flush()
    assert [(s.step, s.duration_s) for s in run.steps] == [(0, 0.5), (1, 1.0), (2, 1.0)]


def test_a_captured_step_has_no_phases_and_those_around_it_have():
    run = Recording()
    for step in range(4):
        run.device.captures = step == 1
        run.enter("forward", float(step))
        run.end(step, step + 0.5)
        while run.device.queue:
            run.device.go(step + 0.5)
        run.timer.poll()
    run.recorder.flush()
    assert [s.forward_s is None for s in run.steps] == [False, True, True, False]
    assert [s.start_s for s in run.steps] == sorted(s.start_s for s in run.steps)


def test_the_hosts_time_after_a_lagging_devices_never_goes_back():
    run = Recording()
    run.enter("forward", 0.0)
    run.end(0, 0.1)
    run.enter("validation", 0.2)
    run.device.captures = True
    run.enter("data", 0.3)
    run.device.captures = False
    for at_s in (0.0, 5.0, 5.0):
        run.device.go(at_s)
    run.clock.now_s = 6.0
    run.recorder.flush()
    assert all(s.duration_s >= 0.0 for s in run.steps)
    assert all(
        row.end_s >= row.start_s for row in run.rows if isinstance(row, Mark) and row.end_s is not None
    )


# -- scalars -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2.0),
        (torch.tensor([1.5]), 1.5),
        (torch.ones(2), None),
        (torch.tensor(1j), None),
        ("x", None),
        (None, None),
    ],
)
def test_a_scalar_on_the_host_is_here_at_once(value: object, number: float | None):
    for later in (OnHost, GpuScalars().later):
        scalar = later(value)
        assert scalar.ready()
        assert scalar.value() == number


def test_a_scalar_elsewhere_is_never_read_through_the_host():
    assert OnHost(torch.ones((), device="meta")).value() is None


# -- the real thing ------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    device = torch.device("cuda", torch.cuda.current_device())
    torch.zeros(1, device=device)
    torch.cuda.synchronize()
    return device


def _work(device: torch.device, products: int) -> None:
    factor = torch.full((2048, 2048), 1e-3, device=device)
    for _ in range(products):
        torch.mm(factor, factor)


@pytest.mark.gpu
def test_phases_on_a_gpu_are_those_of_a_synchronised_clock(cuda: torch.device):
    _work(cuda, 50)
    torch.cuda.synchronize()
    start = time.perf_counter()
    _work(cuda, 200)
    torch.cuda.synchronize()
    alone_s = time.perf_counter() - start
    timer = CudaTimer(time.monotonic, CudaEvents(cuda))
    tickets = [timer.note(time.monotonic())]
    for _ in range(3):
        _work(cuda, 200)
        tickets.append(timer.note(time.monotonic()))
    torch.cuda.synchronize()
    timer.finish()
    spans = [b.time_s - a.time_s for a, b in pairwise(tickets)]
    assert all(ticket.timed for ticket in tickets)
    assert spans == pytest.approx([alone_s] * 3, rel=0.2)


@pytest.mark.gpu
def test_losses_come_from_a_gpu_together_and_are_those_that_were_given(cuda: torch.device):
    now = [0.0]
    scalars = GpuScalars(clock=lambda: now[0])
    slots = [scalars.later(torch.tensor(float(n), device=cuda, dtype=torch.bfloat16)) for n in range(8)]
    scalars.poll()
    assert not any(slot.ready() for slot in slots)
    now[0] = BATCH_S
    scalars.poll()
    torch.cuda.synchronize()
    scalars.poll()
    assert [slot.value() for slot in slots if slot.ready()] == [float(n) for n in range(8)]


@pytest.mark.gpu
def test_a_captured_graph_is_not_spoilt(cuda: torch.device):
    clock = FakeClock()
    timer, scalars = CudaTimer(clock, CudaEvents(cuda)), GpuScalars(clock=clock)
    timer.note(0.0)
    slot = scalars.later(torch.ones((), device=cuda))
    factor = torch.ones(8, device=cuda)
    graph = torch.cuda.CUDAGraph()
    clock.now_s = 1.0
    with torch.cuda.graph(graph):
        result = factor * 2.0
        assert not timer.note(1.0).timed
        timer.poll()
        scalars.poll()
    graph.replay()
    torch.cuda.synchronize()
    scalars.poll()
    scalars.poll()
    torch.cuda.synchronize()
    scalars.poll()
    assert result.tolist() == [2.0] * 8
    assert slot.value() == 1.0
