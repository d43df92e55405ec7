"""Throughput, FLOP/s and MFU of a run from its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from profiler.store.manifest import Manifest
from profiler.store.runs import StoredProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Sums over the steps of a run; work is of all ranks together, time that of rank 0.

    Attributes:
        steps: Optimizer updates.
        step_s: Wall seconds inside steps, data wait included, validation and checkpoints not.
    """

    steps: int
    step_s: float
    samples: int | None
    tokens: int | None
    model_flops: float | None
    step_s_p50: float | None
    step_s_p95: float | None


def step_totals(processes: Sequence[StoredProcess]) -> StepTotals:
    """Sum up the steps; a quantity that is unknown in one step is unknown in the sum."""
    every = pl.concat([p.steps for p in processes]) if processes else None
    if every is None or every.is_empty():
        return StepTotals(
            steps=0, step_s=0.0, samples=None, tokens=None, model_flops=None, step_s_p50=None, step_s_p95=None
        )
    durations = every.filter(pl.col("rank") == every["rank"].min())["duration_s"]
    return StepTotals(
        steps=len(durations),
        step_s=float(durations.sum()),
        samples=_whole_sum(every["samples"]),
        tokens=_whole_sum(every["tokens"]),
        model_flops=_whole_sum(every["model_flops"]),
        step_s_p50=_quantile(durations, 0.50),
        step_s_p95=_quantile(durations, 0.95),
    )


def throughput(totals: StepTotals) -> dict[str, Any]:
    """The `throughput` part of a summary: global rates over the time inside steps."""
    return {
        "tokens_per_s": _rate(totals.tokens, totals.step_s),
        "samples_per_s": _rate(totals.samples, totals.step_s),
        "step_s_p50": totals.step_s_p50,
        "step_s_p95": totals.step_s_p95,
    }


def efficiency(
    manifest: Manifest, totals: StepTotals, energy_j: float | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The `efficiency` part of a summary, and the notes that go with it.

    MFU is model FLOPs (no recomputation) per second inside steps, over the dense peak of the run's devices
    together (PaLM, arXiv 2204.02311, appendix B).

    Args:
        manifest: Has the peak.
        totals: Of the run.
        energy_j: Of the whole fit, measured or else estimated.
    """
    flops_per_s = _rate(totals.model_flops, totals.step_s)
    mfu, notes = mfu_of(flops_per_s, manifest.peak_flops_per_s)
    return {
        "model_flops": totals.model_flops,
        "flops_source": manifest.flops_source,
        "flops_per_s": flops_per_s,
        "peak_flops_per_s": manifest.peak_flops_per_s,
        "peak_source": manifest.peak_source,
        "mfu": mfu,
        "hfu": None,
        "tokens_per_j": _rate(totals.tokens, energy_j),
        "energy_per_token_j": _rate(energy_j, totals.tokens),
    }, notes


def mfu_of(flops_per_s: float | None, peak_flops_per_s: float | None) -> tuple[float | None, dict[str, str]]:
    """Model FLOPs utilization as a fraction; above 1 it is refused, with the likely cause."""
    mfu = _rate(flops_per_s, peak_flops_per_s)
    if mfu is None or mfu <= 1.0:
        return mfu, {}
    why = (
        f"{flops_per_s:.3g} FLOP/s is above the peak of {peak_flops_per_s:.3g}, which cannot be: the peak is of"
        " another dtype or device, or FLOPs are counted twice. MFU is null."
    )
    return None, {"efficiency.mfu": why}


def _rate(amount: float | None, per: float | None) -> float | None:
    return None if amount is None or not per else amount / per


def _whole_sum(column: pl.Series) -> Any:
    return None if column.null_count() else column.sum()


def _quantile(column: pl.Series, q: float) -> float | None:
    value = column.quantile(q, "linear")
    return None if value is None else float(value)
