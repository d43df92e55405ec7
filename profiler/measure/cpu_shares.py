"""CPU seconds by phase, where the clock of CPU time is read only now and then.

Reading it is a system call, which takes 5 µs between two steps of real work, and there are six phases to a step. So
what is certain is the CPU time of a stretch between two readings. Where the stretch is one phase it is that phase's;
else it is divided over the phases by what each was last seen to use. Not by their wall seconds: on a busy machine those
tell who had to wait for a core, not who computed.
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
        self._times: dict[Phase, float] = {}
        self._used_s: dict[Phase, float] = {}

    @property
    def waiting(self) -> bool:
        """Whether anything was spent since the last reading."""
        return bool(self._waiting)

    def spend(self, account: Account, phase: Phase, wall_s: float) -> None:
        """`phase` came and lasted `wall_s`; what it used is known after the next reading."""
        account.open = True
        self._waiting.append((account, phase, wall_s))

    def read(self, cpu_s: float) -> None:
        """The clock says `cpu_s`: book what was used since it was read last."""
        used_s, self._read_s = cpu_s - self._read_s, cpu_s
        if len(self._waiting) == 1:
            self._learn(self._waiting[0][1], used_s)
        weights = [self._usual_s(phase, wall_s) for _, phase, wall_s in self._waiting]
        whole_s = sum(weights)
        for (account, phase, _), weight in zip(self._waiting, weights, strict=True):
            share = weight / whole_s if whole_s > 0.0 else 1.0 / len(weights)
            account.seconds[phase] = account.seconds.get(phase, 0.0) + share * used_s
            account.open = False
        self._waiting.clear()

    def _learn(self, phase: Phase, used_s: float) -> None:
        self._times[phase] = MEMORY * self._times.get(phase, 0.0) + 1.0
        self._used_s[phase] = MEMORY * self._used_s.get(phase, 0.0) + used_s

    def _usual_s(self, phase: Phase, wall_s: float) -> float:
        """CPU seconds that a phase uses each time; those of one busy thread, until it was seen alone."""
        return self._used_s[phase] / self._times[phase] if phase in self._times else wall_s
