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
from profiler.store.process import StoredProcess

Windows = Sequence[tuple[float, float]]


_COLUMNS = ("time_s", "energy_j", "power_w", "average_power_w")


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
        return readings, EnergyCurve(readings, self.meter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A sum of energies of one kind. Half-widths are added: the gains of like devices may err alike."""

    energy_j: float
    plus_minus_j: float


def device_curves(processes: Sequence[StoredProcess]) -> list[DeviceCurve]:
    """The curve of every meter of every process, including those whose counter never moved.

    A device that several processes of one attempt read is taken from the first; an estimate from CPU time is each
    process's own.
    """
    seen: set[tuple[int, str, str, str]] = set()
    shelf = CurveShelf()
    curves = []
    for process in processes:
        for meter in process.facts.meters:
            key = (process.facts.attempt, process.facts.host, meter["component"], meter["device"])
            if meter["source"] == "estimated" or key not in seen:
                seen.add(key)
                curves.append(DeviceCurve(process, meter, shelf))
    return curves


def device_readings(process: StoredProcess, meter: Mapping[str, Any], *columns: str) -> pl.DataFrame:
    """Some columns of the readings of one device, in the order of writing."""
    own = (pl.col("device") == meter["device"]) & (pl.col("component") == meter["component"])
    pieces = process.pieces("readings", "component", "device", *columns)
    return pl.concat([piece.filter(own).drop("component", "device") for piece in pieces])


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
    """Windows given on one process's clock, for every process of its attempt, by their clocks' anchors."""

    def on(process: StoredProcess) -> Windows:
        if process.facts.attempt != origin.facts.attempt:
            return []
        shift_s = origin.facts.clock["wall_unix_s"] - process.facts.clock["wall_unix_s"]
        shift_s = 0.0 if process is origin else shift_s
        return [(start + shift_s, end + shift_s) for start, end in windows]

    return on


def total(
    curves: Sequence[DeviceCurve], windows: Callable[[StoredProcess], Windows], *, estimated: bool
) -> Total | None:
    """Energy of all measured, or of all estimated, devices over the windows of their processes.

    Returns:
        None if there is no such device, or if one of them has no energy, be it that its error bar is wider than its
        value, or that its process's tables are lost while others of the attempt have theirs: a sum with a hole is none.
    """
    asked = [(c, windows(c.process)) for c in curves if c.estimated == estimated]
    energies = [c.energy(w) for c, w in asked if w]
    known = [e for e in energies if e is not None and e.is_knowledge]
    recorded = {c.process.facts.attempt for c, w in asked if w}
    lost = any(fit_window(c.process) is None and c.process.facts.attempt in recorded for c, _ in asked)
    if not known or len(known) < len(energies) or lost:
        return None
    return Total(energy_j=sum(e.energy_j for e in known), plus_minus_j=sum(e.plus_minus_j for e in known))
