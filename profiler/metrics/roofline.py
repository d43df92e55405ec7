"""Where a run lies under the roofline of its devices: bound by memory or by compute, and how far from either.

Intensity is FLOPs for each byte that goes to or from memory. Below the ridge, peak FLOP/s over bandwidth, a device is
fed too slowly to reach its peak: attainable is intensity x bandwidth; above it, the peak.

The traffic is measured where the GPU says how busy its memory was (GPM, Hopper and newer): that share of the bandwidth,
everything included. Else it is the sum of what the operators of forward and backward take and give, each once. Fusion
and caches make the real traffic less, so the real intensity is usually higher: above the ridge the run is bound by
compute all the same, and below it nothing is said.

Source: Williams, Waterman and Patterson 2009 (Roofline, CACM 52(4)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from profiler.store.process import StoredProcess

MEASURED = "measured dram activity x bandwidth of the datasheet"
OPERATORS = "operators of forward and backward, each operand once, none fused: usually more than really moves"
NOT_SHOWN = (
    "the operators' own traffic is usually more than really moves, so below the ridge it cannot show that memory is the"
    " limit: a GPU that measures its memory's activity (Hopper and newer) can"
)

_GPU = ("gpu", "module")

MIN_READINGS = 3
"""Readings of the memory's activity inside steps that make a mean of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """One run under one roof; what is not known is None.

    Attributes:
        bytes_per_s: Traffic to and from the memory of all devices together.
        bytes_source: How that is known.
        intensity_flops_per_byte: Executed FLOP/s over `bytes_per_s`.
        ridge_flops_per_byte: Peak FLOP/s over the memory's bandwidth.
        bound: What the roof is made of at this intensity.
        attainable_flops_per_s: The roof there.
        share_of_attainable: Executed FLOP/s over it.
        share_of_bandwidth: `bytes_per_s` over the bandwidth.
    """

    bytes_per_s: float | None = None
    bytes_source: str | None = None
    peak_bytes_per_s: float | None = None
    peak_bytes_source: str | None = None
    intensity_flops_per_byte: float | None = None
    ridge_flops_per_byte: float | None = None
    bound: Literal["memory", "compute"] | None = None
    attainable_flops_per_s: float | None = None
    share_of_attainable: float | None = None
    share_of_bandwidth: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run's devices can do and move together; None if unknown."""

    flops_per_s: float | None
    bytes_per_s: float | None
    bytes_source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes per second inside steps, and how that is known; None if it is not."""

    bytes_per_s: float | None = None
    source: str | None = None


def roofline(flops_per_s: float | None, traffic: Traffic, limits: Limits) -> Roofline:
    """Place a run.

    >>> limits = Limits(flops_per_s=1000.0, bytes_per_s=10.0, bytes_source="datasheet")
    >>> place = roofline(100.0, Traffic(bytes_per_s=5.0, source="measured"), limits)
    >>> place.bound, place.intensity_flops_per_byte, place.attainable_flops_per_s, place.share_of_attainable
    ('memory', 20.0, 200.0, 0.5)
    """
    known = Roofline(
        bytes_per_s=traffic.bytes_per_s,
        bytes_source=traffic.source,
        peak_bytes_per_s=limits.bytes_per_s,
        peak_bytes_source=limits.bytes_source,
        intensity_flops_per_byte=_over(flops_per_s, traffic.bytes_per_s),
        ridge_flops_per_byte=_over(limits.flops_per_s, limits.bytes_per_s),
        share_of_bandwidth=_over(traffic.bytes_per_s, limits.bytes_per_s),
    )
    intensity, ridge = known.intensity_flops_per_byte, known.ridge_flops_per_byte
    if intensity is None or ridge is None or flops_per_s is None or limits.flops_per_s is None:
        return known
    if intensity < ridge and known.bytes_source == OPERATORS:
        return known
    roof = limits.flops_per_s * min(1.0, intensity / ridge)
    return replace(
        known,
        bound="memory" if intensity < ridge else "compute",
        attainable_flops_per_s=roof,
        share_of_attainable=flops_per_s / roof if flops_per_s <= roof else None,
    )


def notes_of(place: Roofline) -> Mapping[str, str]:
    """Why a place is not known although everything it is made of is, by key of a summary."""
    if place.intensity_flops_per_byte is None or place.ridge_flops_per_byte is None:
        return {}
    if place.bound is None:
        return {"efficiency.roofline.bound": NOT_SHOWN}
    if place.share_of_attainable is None:
        return {
            "efficiency.roofline.share_of_attainable": "the run is faster than its roof: see efficiency.mfu"
        }
    return {}


def measured_traffic(processes: Sequence[StoredProcess], peak_bytes_per_s: float | None) -> Traffic | None:
    """The mean share of time in which memory worked, inside steps, of all devices that say so, times the bandwidth."""
    if peak_bytes_per_s is None:
        return None
    activity = [mean for p in processes for mean in _activity_of_devices(p)]
    if not activity or None in activity:
        return None
    share = sum(a for a in activity if a is not None) / len(activity)
    return Traffic(bytes_per_s=share * peak_bytes_per_s, source=MEASURED)


def _activity_of_devices(process: StoredProcess) -> list[float | None]:
    """Of each GPU of a process; None for one that told too seldom."""
    steps = process.columns("steps", "start_s", "duration_s")
    steps = steps.select("start_s", end_s=pl.col("start_s") + pl.col("duration_s")).sort("start_s")
    if steps.is_empty():
        return []
    return [_activity(_readings_of(process, device), steps) for device in _gpus(process)]


def _gpus(process: StoredProcess) -> list[str]:
    """Those that have readings."""
    pieces = process.pieces("readings", "component", "device")
    found = [
        piece.filter(pl.col("component").is_in(_GPU))["device"].unique(maintain_order=True)
        for piece in pieces
    ]
    return list(dict.fromkeys(device for piece in found for device in piece))


def _readings_of(process: StoredProcess, device: str) -> pl.DataFrame:
    own = pl.col("component").is_in(_GPU) & (pl.col("device") == device)
    pieces = process.pieces("readings", "component", "device", "time_s", "dram_activity")
    rows = [piece.filter(own).select("time_s", "dram_activity") for piece in pieces]
    return pl.concat(rows).sort("time_s")


def _activity(readings: pl.DataFrame, steps: pl.DataFrame) -> float | None:
    """Mean inside steps; None if it was told too seldom. A reading stands for the time since the last."""
    inside = (
        readings.with_columns(since_s=pl.col("time_s") - pl.col("time_s").shift())
        .join_asof(steps, left_on="time_s", right_on="start_s", strategy="backward", check_sortedness=False)
        .filter(
            pl.col("time_s") <= pl.col("end_s"), pl.col("dram_activity").is_finite(), pl.col("since_s") > 0
        )
    )
    if len(inside) < MIN_READINGS:
        return None
    mean = (pl.col("dram_activity") * pl.col("since_s")).sum() / pl.col("since_s").sum()
    return float(inside.select(mean).item())


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b
