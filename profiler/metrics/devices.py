"""The energy of a run by device: every process's meters, each over its own fit, joined and never mixed by source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import polars as pl

from profiler.metrics.aliasing import Aliasing, aliasing
from profiler.metrics.curve_shelf import CurveShelf
from profiler.metrics.energy import Energy, EnergyCurve
from profiler.records import RUN_PHASES
from profiler.store.node import node_of
from profiler.store.process import StoredProcess

Windows = Sequence[tuple[float, float]]

NEARLY_ALL = 0.99
"""Two ranks that end together differ by less in how long they read a device that they share."""


_COLUMNS = ("time_s", "energy_j", "power_w", "average_power_w", "took_s")


@final
class DeviceCurve:
    """One meter of one process, with the energy curve that its readings make.

    The readings of a long run do not all fit into memory: readings and curve are made when they are asked for, and
    kept while there is room (`CurveShelf`). The energy of windows is kept for good.

    Attributes:
        process: Whose readings they are.
        meter: The fields of `Meter` as stored.
    """

    def __init__(self, process: StoredProcess, meter: Mapping[str, Any], shelf: CurveShelf) -> None:
        self.process = process
        self.meter = meter
        self._shelf = shelf
        self._energies: dict[tuple[tuple[float, float], ...], Energy | None] = {}

    @property
    def readings(self) -> pl.DataFrame:
        """Instants, joules and watts of the device."""
        return self._made[0]

    @property
    def curve(self) -> EnergyCurve:
        """The energy that they tell."""
        return self._made[1]

    @cached_property
    def aliasing(self) -> Aliasing | None:
        """Whether the steps keep the sensor's pace."""
        if self.meter["source"] != "counter" or self.meter["component"] not in ("gpu", "module"):
            return None
        durations_s = self.process.columns("steps", "duration_s")["duration_s"].drop_nulls().to_numpy()
        return aliasing(durations_s, self.meter["update_period_s"])

    @property
    def estimated(self) -> bool:
        """Whether its joules are an estimate; they are then never added to measured ones."""
        return bool(self.meter["source"] == "estimated")

    def energy(self, windows: Windows) -> Energy | None:
        """Energy of disjoint windows with everything that may be wrong with it; None if it is not known at all."""
        key = tuple((start, end) for start, end in windows)
        if key not in self._energies:
            self._energies[key] = self._energy(windows)
        return self._energies[key]

    def _energy(self, windows: Windows) -> Energy | None:
        share = self.aliasing.share(sum(end - start for start, end in windows)) if self.aliasing else 0.0
        found = self.curve.windows(windows)
        return self.curve.windows(windows, share * found.energy_j) if found and share else found

    @property
    def _made(self) -> tuple[pl.DataFrame, EnergyCurve]:
        return self._shelf.get(self, self._make)

    def _make(self) -> tuple[pl.DataFrame, EnergyCurve]:
        readings = device_readings(self.process, self.meter, *_COLUMNS)
        return readings, EnergyCurve(readings, self.meter, _asleep(self.process))


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A sum of energies of one kind. Half-widths are added: the gains of like devices may err alike."""

    energy_j: float
    plus_minus_j: float


def device_curves(processes: Sequence[StoredProcess]) -> list[DeviceCurve]:
    """The curve of every meter of every process, including those whose counter never moved.

    A device that several processes of one attempt read at the same time is taken from one of them; an estimate from
    CPU time is each process's own.
    """
    readers: dict[tuple[int, str, str, str], list[StoredProcess]] = {}
    for process in processes:
        for meter in process.facts.meters:
            readers.setdefault(_device_key(process, meter), []).append(process)
    chosen = {key: {p.folder for p in _one_at_a_time(candidates)} for key, candidates in readers.items()}
    shelf = CurveShelf()
    return [
        DeviceCurve(process, meter, shelf)
        for process in processes
        for meter in process.facts.meters
        if meter["source"] == "estimated" or process.folder in chosen[_device_key(process, meter)]
    ]


def _device_key(process: StoredProcess, meter: Mapping[str, Any]) -> tuple[int, str, str, str]:
    """What stands for a device within an attempt. A GPU has a UUID; sockets and their memory are the node's."""
    component = str(meter["component"])
    where = "" if component == "gpu" else node_of(process.facts)
    return process.facts.attempt, where, component, str(meter["device"])


def _one_at_a_time(readers: Sequence[StoredProcess]) -> list[StoredProcess]:
    """Of the processes that read one device, as few as were not at it at the same time.

    The first is taken, unless it ended much sooner than another that read the same seconds: it may have been killed.
    """
    spans = {p.folder: _span_on_node(p) for p in readers}
    readers = [p for p in readers if _lasts(spans[p.folder]) > 0.0] or readers[:1]
    longest_s = max(map(_lasts, spans.values()))
    in_order = sorted(readers, key=lambda p: _lasts(spans[p.folder]) < NEARLY_ALL * longest_s)
    chosen: list[StoredProcess] = []
    for process in in_order:
        start, end = spans[process.folder]
        if not any(start < spans[c.folder][1] and spans[c.folder][0] < end for c in chosen):
            chosen.append(process)
    return chosen


def _lasts(span: tuple[float, float]) -> float:
    return span[1] - span[0]


def _span_on_node(process: StoredProcess) -> tuple[float, float]:
    """A process's fit on the clock that all processes of its node share: the kernel's, or else the wall's."""
    clock = process.facts.clock
    zero_s = clock["monotonic_s"] if process.facts.boot_id else clock["wall_unix_s"]
    start, end = fit_window(process) or (0.0, 0.0)
    return zero_s + start, zero_s + end


def device_readings(process: StoredProcess, meter: Mapping[str, Any], *columns: str) -> pl.DataFrame:
    """Some columns of the readings of one device, in the order of writing."""
    own = (pl.col("device") == meter["device"]) & (pl.col("component") == meter["component"])
    pieces = process.pieces("readings", "component", "device", *columns)
    return pl.concat([piece.filter(own).drop("component", "device") for piece in pieces])


def _asleep(process: StoredProcess) -> Windows:
    """Seconds between which the machine slept, somewhere; on the run's clock a sleep takes no time."""
    marks = process.marks.filter(pl.col("kind") == "suspended").drop_nulls("end_s")
    return [(float(start), float(end)) for start, end in marks.select("start_s", "end_s").iter_rows()]


def fit_window(process: StoredProcess) -> tuple[float, float] | None:
    """First and last second of a process's fit: its mark, or, if it was killed, what its rows span.

    These are its steps, validations and checkpoints; before any of them, its readings.
    """
    marks = process.marks.filter(pl.col("kind") == "fit").drop_nulls("end_s")
    if len(marks):
        return float(marks["start_s"][0]), float(marks["end_s"][-1])
    steps = process.columns("steps", "start_s", "duration_s")
    steps = steps.select("start_s", (pl.col("start_s") + pl.col("duration_s")).alias("end_s"))
    pauses = process.marks.filter(pl.col("kind").is_in(RUN_PHASES)).select("start_s", "end_s")
    spans = pl.concat([steps, pauses]).drop_nulls()
    if len(spans):
        return float(spans["start_s"].min()), float(spans["end_s"].max())  # type: ignore[arg-type]
    times = process.columns("readings", "time_s")["time_s"].drop_nulls()
    return (float(times.min()), float(times.max())) if len(times) > 1 else None  # type: ignore[arg-type]


def fit_windows(process: StoredProcess) -> Windows:
    """The fit of a process as the only window; none if nothing was recorded."""
    window = fit_window(process)
    return [window] if window else []


def windows_on(windows: Windows, origin: StoredProcess) -> Callable[[StoredProcess], Windows]:
    """Windows given on one process's clock, for every process of its attempt."""

    def on(process: StoredProcess) -> Windows:
        if process.facts.attempt != origin.facts.attempt:
            return []
        shift_s = clock_shift(origin, process)
        return [(start + shift_s, end + shift_s) for start, end in windows]

    return on


def clock_shift(origin: StoredProcess, process: StoredProcess) -> float:
    """Seconds to add to an instant of one process's clock for the same instant on another's, of the same attempt.

    On one machine the kernel's clock tells. Between machines the wall clocks may differ by anything, but ranks wait
    for each other in every step: the ends of the steps that both have are the same instants, to milliseconds.
    """
    if process is origin:
        return 0.0
    ours, theirs = origin.facts, process.facts
    if ours.boot_id is not None and ours.boot_id == theirs.boot_id:
        return ours.clock["monotonic_s"] - theirs.clock["monotonic_s"]
    ends = [
        p.columns("steps", "step", "start_s", "duration_s").select(
            "step", end_s=pl.col("start_s") + pl.col("duration_s")
        )
        for p in (origin, process)
    ]
    between = ends[0].join(ends[1], on="step").select(pl.col("end_s_right") - pl.col("end_s"))
    shift = between["end_s_right"].median()
    if isinstance(shift, float):
        return shift
    return ours.clock["wall_unix_s"] - theirs.clock["wall_unix_s"]


def total(
    curves: Sequence[DeviceCurve], windows: Callable[[StoredProcess], Windows], *, estimated: bool
) -> Total | None:
    """Energy of all measured, or of all estimated, devices over the windows of their processes.

    Returns:
        None if there is no such device, or if one of them has no energy, be it that its error bar is wider than its
        value, or that its process's tables are lost while others of the attempt have theirs: a sum with a hole is none.
    """
    asked = [(c, windows(c.process)) for c in curves if c.estimated == estimated]
    groups = same_devices([c for c, w in asked if w])
    energies = [joined(group, windows) for group in groups]
    known = [e for e in energies if e is not None and e.is_knowledge]
    recorded = {c.process.facts.attempt for c, w in asked if w}
    lost = any(fit_window(c.process) is None and c.process.facts.attempt in recorded for c, _ in asked)
    if not known or len(known) < len(energies) or lost:
        return None
    return Total(energy_j=sum(e.energy_j for e in known), plus_minus_j=sum(e.plus_minus_j for e in known))


def taken(
    curves: Sequence[DeviceCurve], windows: Callable[[StoredProcess], Windows], *, estimated: bool
) -> Total | None:
    """What one attempt is worth within `total` of all of them: what bounds it, where its energy is no knowledge."""
    asked = [(c, w) for c in curves if c.estimated == estimated and (w := windows(c.process))]
    parts = [part for c, w in asked if (part := c.energy(w) or _bounded(c, w)) is not None]
    if not parts or len(parts) < len(asked):
        return None
    return Total(energy_j=sum(p.energy_j for p in parts), plus_minus_j=sum(p.plus_minus_j for p in parts))


def same_devices(curves: Sequence[DeviceCurve]) -> list[list[DeviceCurve]]:
    """The curves of each device, one an attempt; an estimate is of a process, so of a rank."""
    groups: dict[tuple[str, int, str, str], list[DeviceCurve]] = {}
    for curve in curves:
        facts, meter = curve.process.facts, curve.meter
        where = "" if meter["component"] == "gpu" else node_of(facts)
        rank = facts.rank if curve.estimated else 0
        groups.setdefault((where, rank, meter["component"], meter["device"]), []).append(curve)
    return list(groups.values())


def joined(curves: Sequence[DeviceCurve], windows: Callable[[StoredProcess], Windows]) -> Energy | None:
    """Energy of one device over all of its attempts; None if it is not known of any, or nothing bounds it in one.

    An attempt that ended before its counter moved twice used between nothing and the most that the device can draw.
    """
    asked = [(c, w) for c in curves if (w := windows(c.process))]
    found = [c.energy(w) for c, w in asked]
    if len(asked) == 1 or not any(found):
        return found[0] if found else None
    parts = [e or _bounded(c, w) for e, (c, w) in zip(found, asked, strict=True)]
    seconds = [sum(end - start for start, end in w) for _, w in asked]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    covered = sum(part.coverage * s for part, s in zip(known, seconds, strict=True))
    return Energy(
        energy_j=sum(part.energy_j for part in known),
        plus_minus_j=sum(part.plus_minus_j for part in known),
        coverage=covered / sum(seconds) if sum(seconds) > 0.0 else 1.0,
        at_least_j=sum(part.at_least_j for part in known),
    )


def _bounded(curve: DeviceCurve, windows: Windows) -> Energy | None:
    """Half of the most that a device can have used, give or take as much."""
    most_w = curve.meter.get("power_max_w")
    if most_w is None:
        return None
    half_j = float(most_w) * sum(end - start for start, end in windows) / 2.0
    return Energy(energy_j=half_j, plus_minus_j=half_j, coverage=0.0, at_least_j=0.0)
