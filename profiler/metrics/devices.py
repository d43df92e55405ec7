"""The energy of a run by device: every process's meters, each over its own fit, joined and never mixed by source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from profiler.metrics.aliasing import Aliasing, aliasing
from profiler.metrics.energy import Energy, EnergyCurve
from profiler.records import RUN_PHASES
from profiler.store.process import StoredProcess

Windows = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCurve:
    """One meter of one process, with the energy curve that its readings make."""

    process: StoredProcess
    meter: Mapping[str, Any]
    readings: pl.DataFrame
    curve: EnergyCurve
    aliasing: Aliasing | None

    @property
    def estimated(self) -> bool:
        """Whether its joules are an estimate; they are then never added to measured ones."""
        return bool(self.meter["source"] == "estimated")

    def energy(self, windows: Windows) -> Energy | None:
        """Energy of disjoint windows with everything that may be wrong with it; None if it is not known at all."""
        share = self.aliasing.share(sum(end - start for start, end in windows)) if self.aliasing else 0.0
        found = self.curve.windows(windows)
        return self.curve.windows(windows, share * found.energy_j) if found and share else found


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
    curves = []
    for process in processes:
        for meter in process.facts.meters:
            key = (process.facts.attempt, process.facts.host, meter["component"], meter["device"])
            if meter["source"] == "estimated" or key not in seen:
                seen.add(key)
                curves.append(_device_curve(process, meter))
    return curves


def _device_curve(process: StoredProcess, meter: Mapping[str, Any]) -> DeviceCurve:
    readings = process.readings.filter(
        (pl.col("device") == meter["device"]) & (pl.col("component") == meter["component"])
    )
    may_alias = meter["source"] == "counter" and meter["component"] in ("gpu", "module")
    durations_s = process.steps["duration_s"].drop_nulls().to_numpy()
    return DeviceCurve(
        process=process,
        meter=meter,
        readings=readings,
        curve=EnergyCurve(readings, meter, _asleep(process)),
        aliasing=aliasing(durations_s, meter["update_period_s"]) if may_alias else None,
    )


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
    steps = process.steps.select("start_s", (pl.col("start_s") + pl.col("duration_s")).alias("end_s"))
    pauses = process.marks.filter(pl.col("kind").is_in(RUN_PHASES)).select("start_s", "end_s")
    spans = pl.concat([steps, pauses]).drop_nulls()
    if len(spans):
        return float(spans["start_s"].min()), float(spans["end_s"].max())  # type: ignore[arg-type]
    times = process.readings["time_s"].drop_nulls()
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
