"""Clocks that jump: F17. The wall clock is set by an hour under a living record; the machine sleeps meanwhile."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from fault_rows.row import Fault, Outcome
from fault_rows.sensing import STATUS, Recorded, outcome_of, record

_REALTIME, _BOOTTIME = 0, 7
_HOUR_S = 3600
_AT_S = 1.5
_SLEPT_J = 300
"""What the counter shows of a sleep: less than would be taken for a leap, and a third of the run's joules."""

_JUMPS = {
    "sleep": [(_AT_S, f"shift {_BOOTTIME} {_HOUR_S}"), (_AT_S, f"leap 0 0 {_SLEPT_J}")],
    "-1 h": [(_AT_S, f"shift {_REALTIME} -{_HOUR_S}")],
    "+1 h": [(_AT_S, f"shift {_REALTIME} {_HOUR_S}")],
}


def _jumps(trials: int, folder: Path) -> Outcome:
    def trial(number: int) -> tuple[float, list[str]]:
        name, events = list(_JUMPS.items())[number % len(_JUMPS)]
        recorded = record(folder / str(number), events, 4.0, shim=True)
        off_s = abs(recorded.summary["duration_s"] - recorded.lasted_s)
        wrong = [w for w in map(recorded.wrong_energy, ("GPU-aaaa", "GPU-bbbb")) if w]
        wrong += [] if recorded.status == STATUS else [f"exit status {recorded.status}"]
        wrong += [] if off_s < 0.5 else [f"the duration is off by {off_s:.1f} s"]
        if not recorded.summary["energy"]["measured_j"]:
            wrong.append("no energy is known")
        wrong += _not_happened(recorded, name)
        return off_s, [f"{name}: {why}" for why in wrong]

    return outcome_of(trial, trials, lambda off_s: f"duration off by {off_s:.2f} s")


def _not_happened(recorded: Recorded, name: str) -> list[str]:
    """Why this shows nothing: the clock did not jump."""
    if name == "sleep":
        slept = recorded.process.marks.filter(recorded.process.marks["kind"] == "suspended")
        told_s = [json.loads(note)["slept_s"] for note in slept["note"]]
        return [] if len(told_s) == 1 and abs(told_s[0] - _HOUR_S) < 1.0 else [f"sleeps marked: {told_s} s"]
    manifest = recorded.run.manifest
    assert manifest.ended_at is not None
    labels_s = datetime.fromisoformat(manifest.ended_at) - datetime.fromisoformat(manifest.created_at)
    return [] if abs(labels_s.total_seconds()) > _HOUR_S / 2 else ["the wall clock did not jump"]


ROWS = (
    Fault(
        id="F17",
        fault="the wall clock is set by +1 h and -1 h, the machine sleeps for 1 h: midway",
        pass_line="energy inside its bar, duration as it was; a sleep is marked and its joules are left out",
        run=_jumps,
        trials=9,
        quick=2,
        programs=("gcc",),
    ),
)
