"""CPU seconds by phase, where the clock of CPU time is read only now and then.

Reading it is a system call, which takes 5 µs between two steps of real work, and there are six phases to a step. So
what is certain is the CPU time of a stretch between two readings. Where the stretch is one phase that is that phase's;
else it is divided over the phases by their wall seconds and by how many threads each was last seen to keep busy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from profiler.records import Phase

MEMORY = 0.9
"""What was seen of a phase before weighs this much once it is seen again."""


@dataclass(slots=True, kw_only=True)
class Account:
    """CPU seconds by phase.

    Attributes:
        seconds: What is booked so far.
        open: Whether a part of it waits for the next reading.
    """

    seconds: dict[Phase, float] = field(default_factory=dict)
    open: bool = False


class CpuShares:
    """Divides what the clock of CPU time tells over the phases between two of its readings."""

    def __init__(self) -> None:
        self._read_s = 0.0
        self._waiting: list[tuple[Account, Phase, float]] = []
        self._wall: dict[Phase, float] = {}
        self._cpu: dict[Phase, float] = {}

    def spend(self, account: Account, phase: Phase, wall_s: float) -> None:
        """`phase` lasted `wall_s`; what it used is known after the next reading."""
        account.open = True
        self._waiting.append((account, phase, wall_s))

    def read(self, cpu_s: float) -> None:
        """The clock says `cpu_s`: book what was used since it was read last."""
        used_s, self._read_s = cpu_s - self._read_s, cpu_s
        if len(self._waiting) == 1:
            self._learn(self._waiting[0][1], self._waiting[0][2], used_s)
        weights = [wall_s * self._busy(phase) for _, phase, wall_s in self._waiting]
        whole = sum(weights)
        for (account, phase, _), weight in zip(self._waiting, weights, strict=True):
            share = weight / whole if whole > 0.0 else 1.0 / len(weights)
            account.seconds[phase] = account.seconds.get(phase, 0.0) + share * used_s
            account.open = False
        self._waiting.clear()

    def _learn(self, phase: Phase, wall_s: float, cpu_s: float) -> None:
        self._wall[phase] = MEMORY * self._wall.get(phase, 0.0) + wall_s
        self._cpu[phase] = MEMORY * self._cpu.get(phase, 0.0) + cpu_s

    def _busy(self, phase: Phase) -> float:
        """Threads that a phase kept busy; one, until it was seen alone."""
        wall_s = self._wall.get(phase, 0.0)
        return self._cpu[phase] / wall_s if wall_s > 0.0 else 1.0
