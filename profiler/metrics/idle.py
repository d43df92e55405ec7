"""What the measured devices draw when nothing is trained, by the `idle` mark that a run may have. Never subtracted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from profiler.metrics.devices import DeviceCurve, Windows, fit_windows, joined, same_devices
from profiler.store.process import StoredProcess

NOT_ASKED = "the idle baseline was not measured: ask for it with EfficiencyMonitor(idle_s=30) or --idle-s 30"
NOT_MEASURED = "no energy sensor told the idle power of every device in the seconds before the fit"


def idle_windows(process: StoredProcess) -> Windows:
    """The seconds before the fit in which a process waited and read its sensors."""
    marks = process.marks.filter(pl.col("kind") == "idle").drop_nulls("end_s")
    return [(float(s), float(e)) for s, e in marks.select("start_s", "end_s").iter_rows()]


def idle_baseline(curves: Sequence[DeviceCurve], measured_j: float | None) -> dict[str, Any] | None:
    """Idle power of all measured devices together, and what it comes to over the fit.

    Args:
        curves: Every device's.
        measured_j: Measured energy of the whole fit.

    Returns:
        `power_w` and `plus_minus_w` of the sum, `energy_j` over the fit's duration, and `share` of the measured energy;
        None if it was not asked for or could not be measured. Half-widths are added, as gains may err alike.
    """
    groups = same_devices([c for c in curves if not c.estimated])
    found = [_idle_of(group) for group in groups if any(idle_windows(c.process) for c in group)]
    known = [part for part in found if part is not None]
    if not known or len(known) < len(found):
        return None
    watts = np.array(known)
    energy_j = float(watts[:, 0] @ watts[:, 2])
    return {
        "power_w": float(np.sum(watts[:, 0])),
        "plus_minus_w": float(np.sum(watts[:, 1])),
        "energy_j": energy_j,
        "share": energy_j / measured_j if measured_j else None,
    }


def _idle_of(curves: Sequence[DeviceCurve]) -> tuple[float, float, float] | None:
    """Idle watts of a device, half-width, and the seconds of its fit, over all attempts."""
    energy = joined(curves, idle_windows)
    if energy is None or not energy.is_knowledge:
        return None
    idle_s = sum(_length_s(idle_windows(c.process)) for c in curves)
    fit_s = sum(_length_s(fit_windows(c.process)) for c in curves)
    return energy.energy_j / idle_s, energy.plus_minus_j / idle_s, fit_s


def why_no_idle(curves: Sequence[DeviceCurve]) -> str:
    """The reason for a missing baseline."""
    return NOT_MEASURED if any(idle_windows(c.process) for c in curves) else NOT_ASKED


def _length_s(windows: Windows) -> float:
    return sum(end - start for start, end in windows)
