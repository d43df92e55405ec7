"""Random power traces of eight kinds, and what goes wrong while they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rng = np.random.Generator

LENGTH_S = 72.0
FIRST_S, LAST_S = 1.2, LENGTH_S - 1.5
"""Between these every sampler has read at least once before and after."""

LENGTHS_S = (0.01, 0.1, 1.0, 10.0, 60.0)
ABOUT = (0.85, 1.1)
"""Windows are about so long: a multiple of the update period would make a plain difference right by chance."""

WINDOWS_A_LENGTH = (8, 8, 6, 4, 2)
RANDOM_LENGTHS = 6
UUID = "GPU-00000000-0000-0000-0000-{:012d}"
NAME = "NVIDIA Fake 700W"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Piecewise constant power of one GPU, and how its counter tells it.

    Attributes:
        start_s: Start of each piece in seconds, rising from 0.
        watts: Power of each piece.
        update_s: Seconds between two changes of the counter.
        seen_s: The first seconds of each update that a part-time sensor sees; 0: it sees all.
        gain: What the counter says of a true joule.
        reset_s: When the counter falls to 0; None: never.
        lost: From when to when the counter refuses to answer.
        stalls: From when to when the sampler's thread is not let run.
        jitter_s: Scale of the sampler's lateness, exponential.
    """

    kind: str
    start_s: Array
    watts: Array
    update_s: float
    seen_s: float = 0.0
    gain: float = 1.0
    reset_s: float | None = None
    lost: tuple[float, float] | None = None
    stalls: tuple[tuple[float, float], ...] = ()
    jitter_s: float = 0.002

    @property
    def trouble(self) -> str:
        """What went wrong while it was read."""
        if self.reset_s is not None:
            return "reset"
        return "lost" if self.lost else "stalls" if self.stalls else "none"

    def script(self, gpu: int) -> str:
        """The fake library's words for the counter of this trace, the power aside."""
        lines = [f"gpu {UUID.format(gpu)} {NAME}", f"update {gpu} {self.update_s}", f"gain {gpu} {self.gain}"]
        lines += [f"parttime {gpu} {self.seen_s}"] if self.seen_s else []
        lines += [f"reset {gpu} {self.reset_s}"] if self.reset_s is not None else []
        return "\n".join([*lines, f"offset {gpu} {1e5 * (1 + gpu)}"])

    def power_script(self, gpu: int) -> str:
        """The fake library's words for its power."""
        pairs = zip(self.start_s.tolist(), self.watts.tolist(), strict=True)
        return "\n".join(f"power {gpu} {start:.6f} {watts:.3f}" for start, watts in pairs)


def _levels(rng: Rng) -> tuple[float, float]:
    low = rng.uniform(30, 200)
    return low, low + rng.uniform(50, 700 - low)


def _pieces(seconds: Array, watts: Array) -> tuple[Array, Array]:
    start = np.concatenate([[0.0], np.cumsum(seconds)[:-1]])
    keep = start < LENGTH_S
    return start[keep], watts[keep]


def _count(mean_s: float) -> int:
    return int(1.5 * LENGTH_S / mean_s) + 20


def _constant(rng: Rng) -> tuple[Array, Array]:
    return np.array([0.0]), np.array([rng.uniform(50, 700)])


def _square(rng: Rng) -> tuple[Array, Array]:
    low, high = _levels(rng)
    period_s, duty = 10 ** rng.uniform(-1.7, 1.0), rng.uniform(0.2, 0.8)
    count = 2 * (_count(period_s) // 2)
    seconds = np.where(np.arange(count) % 2, 1 - duty, duty) * period_s
    return _pieces(seconds, np.where(np.arange(count) % 2, low, high))


def _steps(rng: Rng) -> tuple[Array, Array]:
    low, high = _levels(rng)
    mean_s = 10 ** rng.uniform(-1.7, 0.7)
    count = 2 * _count(mean_s)
    return _pieces(rng.exponential(mean_s, count) + 1e-3, rng.uniform(low, high, count))


def _ramps(rng: Rng) -> tuple[Array, Array]:
    low, high = _levels(rng)
    mean_s = 10 ** rng.uniform(-0.5, 1.0)
    corners_s = np.cumsum(rng.uniform(0.3, 1.7, _count(mean_s)) * mean_s)
    start = np.arange(0.0, LENGTH_S, 0.01)
    return start, np.interp(start, corners_s, rng.uniform(low, high, len(corners_s)))


def _bursts(rng: Rng) -> tuple[Array, Array]:
    low, high = _levels(rng)
    quiet_s, busy_s = 10 ** rng.uniform(-1, 1), 10 ** rng.uniform(-1.7, 0)
    count = 2 * _count(quiet_s + busy_s)
    seconds = np.where(np.arange(count) % 2, rng.exponential(busy_s, count), rng.exponential(quiet_s, count))
    return _pieces(seconds + 1e-3, np.where(np.arange(count) % 2, rng.uniform(0.7 * high, high, count), low))


def _noise(rng: Rng) -> tuple[Array, Array]:
    low, high = _levels(rng)
    piece_s = rng.uniform(0.01, 0.05)
    count = _count(piece_s)
    walk = np.cumsum(rng.normal(0, 1, count)) * 10 ** rng.uniform(-2, -0.5)
    watts = low + (high - low) * (1 - np.abs(1 - walk % 2))
    return _pieces(np.full(count, piece_s), watts)


def _training(rng: Rng) -> tuple[Array, Array]:
    """Steps of data wait, forward, backward, optimizer, with jitter; a pause for validation now and then."""
    low, high = _levels(rng)
    step_s = 10 ** rng.uniform(-1.5, 0.3)
    shares = rng.dirichlet([1.0, 4.0, 8.0, 1.0])
    levels = np.array([low, *rng.uniform(0.6 * high, high, 2), rng.uniform(low, high)])
    steps = _count(step_s)
    jitter = np.exp(rng.normal(0, 10 ** rng.uniform(-2.5, -0.7), steps))
    seconds = (step_s * jitter)[:, None] * shares
    watts = np.tile(levels, (steps, 1))
    every = int(rng.integers(20, 200))
    seconds[every::every, 0] += rng.uniform(0.2, 3.0)
    return _pieces(seconds.ravel(), watts.ravel())


def _phases(rng: Rng) -> tuple[Array, Array]:
    """Idle, then two or three long loads with a fast ripple: the shape of a script that loads, trains, evaluates."""
    count = int(LENGTH_S / 0.02)
    level = np.interp(
        np.arange(count), np.sort(rng.integers(0, count, 8)), rng.choice([60.0, 250.0, 450.0, 650.0], 8)
    )
    return _pieces(np.full(count, 0.02), level * np.exp(rng.normal(0, 0.1, count)))


KINDS: Mapping[str, Callable[[Rng], tuple[Array, Array]]] = {
    "constant": _constant,
    "square": _square,
    "steps": _steps,
    "ramps": _ramps,
    "bursts": _bursts,
    "noise": _noise,
    "training": _training,
    "phases": _phases,
}


def random_trace(rng: Rng, number: int, *, part_time: bool = False) -> Trace:
    """The `number`-th trace: kinds take turns; one in five is disturbed by a reset, a loss or stalls."""
    kind = list(KINDS)[number % len(KINDS)]
    start_s, watts = KINDS[kind](rng)
    trouble = rng.choice(["reset", "lost", "stalls", *["none"] * 12])
    at = rng.uniform(5, LENGTH_S - 15)
    return Trace(
        kind=kind,
        start_s=start_s,
        watts=watts,
        update_s=0.1 if part_time else float(rng.choice([0.01, 0.02, 0.05, 0.1, rng.uniform(0.01, 0.1)])),
        seen_s=float(rng.uniform(0.02, 0.025)) if part_time else 0.0,
        gain=1 + rng.uniform(-0.05, 0.05),
        reset_s=at if trouble == "reset" else None,
        lost=(at, at + rng.uniform(0.2, 6.0)) if trouble == "lost" else None,
        stalls=tuple((s, s + rng.uniform(0.5, 3.0)) for s in rng.uniform(3, LENGTH_S - 8, 3))
        if trouble == "stalls"
        else (),
        jitter_s=float(rng.choice([0.0003, 0.002, 0.02])),
    )


def true_joules(trace: Trace, time_s: Array) -> Array:
    """The exact integral of the trace's power from 0."""
    ends_s = np.append(trace.start_s, 1e4)
    joules = np.concatenate([[0.0], np.cumsum(np.diff(ends_s) * trace.watts)])
    return np.interp(time_s, ends_s, joules)


def windows_of(rng: Rng) -> list[tuple[str, float, float]]:
    """Group, start and end of every window that a trace is asked for."""
    lengths = [
        (f"{s:g} s", s * rng.uniform(*ABOUT))
        for s, n in zip(LENGTHS_S, WINDOWS_A_LENGTH, strict=True)
        for _ in range(n)
    ]
    lengths += [("random, 10 ms to 60 s", float(s)) for s in 10 ** rng.uniform(-2, 1.778, RANDOM_LENGTHS)]
    starts = [float(rng.uniform(FIRST_S, LAST_S - s)) for _, s in lengths]
    return [(name, start, start + s) for (name, s), start in zip(lengths, starts, strict=True)]


def seeded(seed: int, number: int, part_time: bool) -> tuple[Trace, list[tuple[str, float, float]], Rng]:
    """A trace, its windows, and the generator for whatever else is random about it."""
    rng = np.random.default_rng([seed, int(part_time), number])
    trace = random_trace(rng, number, part_time=part_time)
    return trace, windows_of(rng), rng
