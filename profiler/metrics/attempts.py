"""The attempts of a run, and what was spent on work that was thrown away.

Durations and energies of a run are of all its attempts, the lost work's included. What lies between two attempts
belongs to neither, and each has its own clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from profiler.metrics.carbon import use_of
from profiler.metrics.devices import (
    DeviceCurve,
    Total,
    Windows,
    fit_window,
    fit_windows,
    taken,
    total,
    windows_on,
)
from profiler.metrics.kept import by_attempt, kept_until, up_to
from profiler.store.manifest import Manifest
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun

_AT_ONCE_S = 1e-6
"""Instants closer than this are one: a checkpoint begins where its step ends."""


def attempts(
    run: StoredRun, curves: Sequence[DeviceCurve], summed: Collection[str] = ()
) -> list[dict[str, Any]]:
    """One entry an attempt, as in `show --json`; steps and durations are rank 0's, energies of all devices.

    Args:
        run: A stored run.
        curves: Of its devices.
        summed: The kinds of energy, measured or estimated, of which the run has a sum: only then is `..._in_sum_j`
            known, which is what that sum takes for the attempt, be it too little known to stand alone.
    """
    until = kept_until(run.processes)
    grouped = by_attempt(run.processes)
    latest = max(run.manifest.attempt, *grouped) if grouped else 0  # that one's files may be damaged
    rows = []
    for number, processes in grouped.items():
        own = [c for c in curves if c.process.facts.attempt == number]
        row = _attempt(processes, own, until[number], run.status if number == latest else None)
        rows.append(row | {"energy": _energies(own, summed)})
    return rows


def lost_work(rows: Sequence[Mapping[str, Any]], headline_j: float | None, source: str) -> dict[str, Any]:
    """What all attempts together threw away, and its share of the run's energy.

    Args:
        rows: Of `attempts`.
        headline_j: Energy of the run, measured or estimated.
        source: Which of the two.
    """
    lost = [row["lost"] for row in rows if row["lost"]["duration_s"] > 0.0]
    known = all(part["energy_j"] is not None and part["source"] == source for part in lost)
    energy_j = sum(part["energy_j"] for part in lost) if known else None
    return {
        "steps": sum(part["steps"] for part in lost),
        "duration_s": sum(part["duration_s"] for part in lost),
        "energy_j": energy_j,
        "plus_minus_j": sum(part["plus_minus_j"] for part in lost) if known else None,
        "source": source if known else None,
        "energy_share": None if energy_j is None or not headline_j else energy_j / headline_j,
    }


def silent_attempts(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A note of each attempt that left nothing: what it used is in no sum."""
    why = "stored nothing before its process ended, so its time and energy are in no sum"
    silent = [row["attempt"] for row in rows if row["duration_s"] is None] if len(rows) > 1 else []
    return {f"attempt {number}": f"attempt {number} {why}" for number in silent}


def ended_of(summary: Mapping[str, Any]) -> str | None:
    """What stopped the last attempt of a run, by its rank 0; None if nobody said."""
    return summary["attempts"][-1]["ended"] if summary["attempts"] else None


def with_one_peak(run: StoredRun) -> Manifest:
    """The manifest, without peaks if attempts ran on different numbers of devices: theirs is the last one's."""
    sizes = {p.facts.world_size for p in run.processes}
    if len(sizes) < 2:
        return run.manifest
    numbers = ", ".join(map(str, sorted(sizes)))
    why = f"attempts ran with different numbers of ranks ({numbers}), so there is no one peak"
    notes = {**run.manifest.notes, "mfu": why, "peak_bytes_per_s": why}
    return replace(run.manifest, peak_flops_per_s=None, peak_bytes_per_s=None, notes=notes)


def _attempt(
    processes: Sequence[StoredProcess], curves: Sequence[DeviceCurve], until: int | None, status: str | None
) -> dict[str, Any]:
    leader = min(processes, key=lambda p: p.facts.rank)
    steps, facts = leader.columns("steps", "step")["step"], leader.facts
    return {
        "attempt": facts.attempt,
        "status": status or ("lost" if facts.status == "running" else facts.status),
        "ended": facts.notes.get("ended"),
        "started_at": datetime.fromtimestamp(facts.clock["wall_unix_s"], UTC).isoformat(timespec="seconds"),
        "resumed_from_step": facts.resumed["step"] if facts.resumed else None,
        "steps": len(steps),
        "first_step": steps.min(),
        "last_step": steps.max(),
        "duration_s": sum(end - start for start, end in fit_windows(leader)) or None,
        "lost": _lost(leader, curves, until),
    }


_KINDS = ("measured", "estimated")


def _energies(curves: Sequence[DeviceCurve], summed: Collection[str]) -> dict[str, float | None]:
    """Joules of an attempt by itself, and as the run's sum takes them; each with its half-width."""
    found: dict[str, Total | None] = {}
    for kind in _KINDS:
        estimated = kind == "estimated"
        found[kind] = total(curves, fit_windows, estimated=estimated)
        found[f"{kind}_in_sum"] = taken(curves, fit_windows, estimated=estimated) if kind in summed else None
    return {
        key: value
        for name, amount in found.items()
        for key, value in (
            (f"{name}_j", amount.energy_j if amount else None),
            (f"{name}_plus_minus_j", amount.plus_minus_j if amount else None),
        )
    }


def _lost(leader: StoredProcess, curves: Sequence[DeviceCurve], until: int | None) -> dict[str, Any]:
    """What an attempt did after the checkpoint from which a later one went on."""
    windows = _lost_windows(leader, until)
    if not windows:
        return {"steps": 0, "duration_s": 0.0, "energy_j": 0.0, "plus_minus_j": 0.0, "source": None}
    use, steps = use_of(curves, windows_on(windows, leader)), leader.columns("steps", "step")
    return {
        "steps": len(steps) - len(up_to(steps, until)),
        "duration_s": sum(end - start for start, end in windows),
        "energy_j": use.energy_j,
        "plus_minus_j": use.plus_minus_j,
        "source": use.source,
    }


def _lost_windows(leader: StoredProcess, until: int | None) -> Windows:
    """From the end of the last step that counts, and of its checkpoint, to the attempt's end."""
    fit = fit_window(leader)
    if until is None or fit is None:
        return []
    steps = leader.columns("steps", "step", "start_s", "duration_s")
    kept = up_to(steps, until)
    start_s = fit[0]
    if len(kept):
        start_s = float((kept["start_s"] + kept["duration_s"]).max())  # type: ignore[arg-type]
        after = steps.filter(pl.col("step") > until)["start_s"].min()
        written = leader.marks.filter(
            (pl.col("kind") == "checkpoint") & (pl.col("start_s") >= start_s - _AT_ONCE_S)
        ).sort("start_s")
        ends = written["end_s"] if after is None else written.filter(pl.col("start_s") <= after)["end_s"]
        start_s = max(start_s, float(ends[0] or 0.0)) if len(ends) else start_s
    return [(start_s, fit[1])] if start_s < fit[1] else []
