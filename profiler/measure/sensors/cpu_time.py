"""The energy of a processor without an energy sensor, estimated from CPU time.

CPU time is a counter too: exact in any window, blind to noisy neighbours, and it needs no polling. The
estimate is `CPU seconds of a process tree x watts of one hardware thread`. Errors up to 40 % against wall meters
were found for such models (arXiv 2509.22092), so every number made here is labelled `estimated` and carries that bar.

Not counted: memory, disks, fans, power supply losses, and what the machine draws when idle.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable

import psutil

from profiler.hardware import CpuPower, cpu_power
from profiler.measure.sensors.base import GaugeReading, Meter
from profiler.measure.sensors.pace import Pace

CHILDREN_REFRESH_S = 1.0
CHILDREN_SHARE = 0.002
"""Finding child processes walks the process table (5 ms where there are 300), so it is done this seldom, and no more
than for this share of the time. A child counts with all its time once it is found, or once it was reaped."""

MEMORY_PERIOD_S = 1.0

MIN_UTILIZATION_WINDOW_S = 0.5
"""The kernel counts busy time in ticks of 10 ms: over 50 of them the share is good to 2 %."""


class ProcessTreeTime:
    """CPU seconds of this process and its descendants, living or reaped, since the process began.

    Not counted: descendants whose parent ignores SIGCHLD, which the kernel forgets as they end; and those that were
    handed to another process's care (a daemon's), unless this process has asked for such orphans.

    Args:
        own: Whether this process's own seconds count.
        counts: Whether a living descendant is one of ours.
    """

    def __init__(self, *, own: bool = True, counts: Callable[[psutil.Process], bool] | None = None) -> None:
        self._own = own
        self._counts = counts or _is_of_this_rank
        self._process = psutil.Process()
        self._living: list[psutil.Process] = []
        self._others_s: dict[psutil.Process, float] = {}
        self._reaped_s = self._gone_s = 0.0
        self._pace = Pace(CHILDREN_REFRESH_S, CHILDREN_SHARE)
        self._most_s = 0.0

    def read(self) -> float:
        """CPU seconds; never falls, even while a child passes from living to reaped.

        Ancestors are read before their descendants: whoever is reaped in between is missed for a moment, never
        counted twice.
        """
        own = time.process_time() if self._own else 0.0
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours_s = reaped.ru_utime + reaped.ru_stime - self._reaped_of_others(reaped.ru_utime + reaped.ru_stime)
        total = own + ours_s + sum(map(_cpu_seconds, self._living_descendants()))
        self._most_s = max(self._most_s, total)
        return self._most_s

    def _reaped_of_others(self, reaped_s: float) -> float:
        """CPU seconds of children that measured themselves and were reaped by us, as when a rank was killed.

        The kernel counts a reaped child as ours, whoever it was. What it did in its last second stays so.
        """
        if reaped_s > self._reaped_s:
            self._reaped_s = reaped_s
            self._gone_s = sum(spent for child, spent in self._others_s.items() if not child.is_running())
        return self._gone_s

    def _living_descendants(self) -> list[psutil.Process]:
        start_s = time.monotonic()
        if start_s >= self._pace.due_s:
            living = self._process.children(recursive=True)
            self._living = [child for child in living if self._counts(child)]
            for child in living:
                if child not in self._living and _is_own_child(child):
                    self._others_s[child] = max(self._others_s.get(child, 0.0), _cpu_seconds(child))
            self._pace.made(start_s, time.monotonic() - start_s)
        return self._living


def descendants_time() -> ProcessTreeTime:
    """CPU seconds of all descendants of this process, whatever rank they are of, and not its own."""
    return ProcessTreeTime(own=False, counts=lambda _: True)


class CpuTimeEnergy:
    """Estimated joules of a process tree's CPU time: this process's own, if none is given."""

    def __init__(self, power: CpuPower | None = None, tree: ProcessTreeTime | None = None) -> None:
        self._power = power or cpu_power()
        self._time = tree or ProcessTreeTime()
        self._lock = (
            threading.Lock()
        )  # read at the edges by the training's thread, between them by the sampler's

    @property
    def meter(self) -> Meter:
        """The processor, with the assumption that the estimate rests on."""
        power = self._power
        return Meter(
            component="cpu",
            device=power.name,
            name=power.name,
            source="estimated",
            update_period_s=None,
            relative_uncertainty=power.relative_uncertainty,
            uncertainty_source=power.uncertainty_source,
            power_max_w=power.watts_per_thread * (os.cpu_count() or 1),
            joules_per_cpu_s=power.watts_per_thread,
            notes=(power.note,),
        )

    def read(self) -> float:
        """Estimated cumulative joules."""
        with self._lock:
            return self._time.read() * self._power.watts_per_thread


class CpuGauge:
    """Utilization of the whole host's processors, and this process's resident memory.

    Args:
        own_memory: False where this process's memory is not what is asked for; it is then None.
    """

    def __init__(self, *, own_memory: bool = True) -> None:
        self._process = psutil.Process() if own_memory else None
        self._memory = Pace(MEMORY_PERIOD_S)
        self._marked_s, self._host_s = time.monotonic(), _host_seconds()

    def read(self) -> GaugeReading:
        """Utilization since the last read (fraction of all hardware threads) and memory in bytes, once a second.

        Over less than `MIN_UTILIZATION_WINDOW_S` the utilization is not known.
        """
        now = time.monotonic()
        return GaugeReading(utilization=self._utilization(now), memory_used_bytes=self._resident(now))

    def _resident(self, now: float) -> int | None:
        if self._process is None or now < self._memory.due_s:
            return None
        rss = int(self._process.memory_info().rss)
        self._memory.made(now, time.monotonic() - now)
        return rss

    def _utilization(self, now: float) -> float | None:
        if now - self._marked_s < MIN_UTILIZATION_WINDOW_S:
            return None
        before, self._host_s, self._marked_s = self._host_s, _host_seconds(), now
        busy_s, all_s = (after - mark for after, mark in zip(self._host_s, before, strict=True))
        return min(max(busy_s / all_s, 0.0), 1.0) if all_s > 0.0 else None


def _host_seconds() -> tuple[float, float]:
    """Busy and all seconds of the host's hardware threads; waiting for a disk is not busy, guests are in user already.

    `psutil.cpu_percent` keeps its mark by thread: made here and read by the sampler it said 0 at first.
    """
    times = psutil.cpu_times()._asdict()
    all_s = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return all_s - times["idle"] - times.get("iowait", 0.0), all_s


def _is_of_this_rank(child: psutil.Process) -> bool:
    """False for the ranks that Lightning's launcher starts as children of rank 0: they measure themselves."""
    try:
        return bool(child.environ().get("LOCAL_RANK", "0") == os.environ.get("LOCAL_RANK", "0"))
    except psutil.ZombieProcess:
        return True  # it will be counted as reaped: left out until then, the sum would fall and wait
    except psutil.Error:
        return False


def _is_own_child(process: psutil.Process) -> bool:
    """Whether it is ours to reap; a grandchild is reaped by its own parent."""
    try:
        return bool(process.ppid() == os.getpid())
    except psutil.Error:
        return False


def _cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a living process and of those children that it has reaped."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0  # gone since the list was made: its time is its parent's, and so ours, once it was reaped
    return float(times.user + times.system + times.children_user + times.children_system)
