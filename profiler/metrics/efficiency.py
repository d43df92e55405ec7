"""Throughput, FLOP/s, MFU, HFU and the place under the roofline of a run, from its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from profiler.metrics.kept import kept_steps
from profiler.metrics.ranks import one_per_batch
from profiler.metrics.roofline import OPERATORS, Limits, Traffic, notes_of, roofline
from profiler.store.manifest import Manifest
from profiler.store.process import StoredProcess

_WORK = ("samples", "tokens", "model_flops", "executed_flops", "operator_bytes")
_SUMMED = ("duration_s", *_WORK)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTotals:
    """Sums over the steps of a run that count, each once; work is of all ranks together, time that of rank 0.

    Attributes:
        steps: Optimizer updates.
        step_s: Wall seconds inside steps, data wait included, validation and checkpoints not.
    """

    steps: int
    step_s: float
    samples: int | None
    tokens: int | None
    model_flops: float | None
    executed_flops: float | None
    operator_bytes: float | None
    step_s_p50: float | None
    step_s_p95: float | None


def step_totals(processes: Sequence[StoredProcess]) -> StepTotals:
    """Sum up the steps that count, each batch once; a quantity that is unknown in one step is unknown in the sum."""
    sums, durations = [], dict[int, list[pl.Series]]()
    counted = one_per_batch(processes)
    for process, steps in zip(counted, kept_steps(counted, *_SUMMED), strict=True):  # not all fit into memory
        if len(steps):
            sums.append(steps.select(_whole_sum(name) for name in _WORK))
            durations.setdefault(process.facts.rank, []).append(steps["duration_s"])
            durations = {rank: durations[rank] for rank in (min(durations),)}
    if not sums:
        return StepTotals(steps=0, step_s=0.0, step_s_p50=None, step_s_p95=None, **dict.fromkeys(_WORK))
    duration_s = pl.concat(next(iter(durations.values())))
    return StepTotals(
        steps=len(duration_s),
        step_s=float(duration_s.sum()),
        step_s_p50=_quantile(duration_s, 0.50),
        step_s_p95=_quantile(duration_s, 0.95),
        **pl.concat(sums).select(_whole_sum(name) for name in _WORK).row(0, named=True),
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
    manifest: Manifest,
    totals: StepTotals,
    energy_j: float | None,
    measured: Traffic | None = None,
    *,
    plus_minus_j: float | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The `efficiency` part of a summary, and the notes that go with it.

    MFU is model FLOPs (no recomputation) per second inside steps, over the dense peak of the run's devices
    together; HFU is the same with everything that was computed twice (PaLM, arXiv 2204.02311, appendix B).

    Args:
        manifest: Has the peaks.
        totals: Of the run.
        energy_j: Of the whole fit, measured or else estimated.
        measured: Traffic of the devices' memory, if it was measured.
        plus_minus_j: Half-width of the energy; work is counted, so that of energy per work follows from it alone.
    """
    flops_per_s = _rate(totals.model_flops, totals.step_s)
    executed_per_s = _rate(totals.executed_flops, totals.step_s)
    mfu, notes = mfu_of(flops_per_s, manifest)
    hfu, hfu_notes = mfu_of(executed_per_s, manifest, "hfu")
    limits = Limits(
        flops_per_s=manifest.peak_flops_per_s,
        bytes_per_s=manifest.peak_bytes_per_s,
        bytes_source=manifest.peak_bytes_source,
    )
    place = roofline(executed_per_s or flops_per_s, measured or _operators(totals), limits)
    return {
        "model_flops": totals.model_flops,
        "executed_flops": totals.executed_flops,
        "flops_source": manifest.flops_source,
        "flops_convention": manifest.flops_convention,
        "flops_counted_over_given": manifest.flops_counted_over_given,
        "flops_per_s": flops_per_s,
        "peak_flops_per_s": manifest.peak_flops_per_s,
        "peak_source": manifest.peak_source,
        "peak_dtype": manifest.peak_dtype,
        "mfu": mfu,
        "hfu": hfu,
        "roofline": asdict(place),
        "tokens_per_j": _rate(totals.tokens, energy_j),
        "energy_per_token_j": _rate(energy_j, totals.tokens),
        "energy_per_token_plus_minus_j": _rate(plus_minus_j, totals.tokens),
        "energy_per_sample_j": _rate(energy_j, totals.samples),
        "energy_per_sample_plus_minus_j": _rate(plus_minus_j, totals.samples),
    }, {**notes, **hfu_notes, **notes_of(place)}


def mfu_of(
    flops_per_s: float | None, manifest: Manifest, name: str = "mfu"
) -> tuple[float | None, dict[str, str]]:
    """FLOPs utilization as a fraction; above 1 it is refused, with the likely cause.

    Args:
        flops_per_s: Model FLOP/s for MFU, executed for HFU.
        manifest: Has the peak, and how both it and the FLOPs are known.
        name: `mfu` or `hfu`.
    """
    share = _rate(flops_per_s, manifest.peak_flops_per_s)
    if share is None or share <= 1.0:
        return share, {}
    why = (
        f"{flops_per_s:.3g} FLOP/s is {share:.3g}x the peak of {manifest.peak_flops_per_s:.3g}, which cannot be:"
        f" {_likely_cause(manifest, share)} {name.upper()} is null."
    )
    return None, {f"efficiency.{name}": why}


def _likely_cause(manifest: Manifest, share: float) -> str:
    """By how the peak and the FLOPs are known; the surest first."""
    ratio = manifest.flops_counted_over_given
    if ratio is not None and ratio < 0.99:
        return f"FLOPs as counted are only {ratio:.3g} of what model_flops= gives, so the formula gives too many."
    source = manifest.peak_source or ""
    if source.startswith("measured"):
        return (
            "perhaps the machine was busy while its peak was measured (measure it again when it is idle), or FLOPs are"
            " counted too high."
        )
    if source == "given":
        return (
            "peak_flops_per_s= is too low for these devices or this dtype. It is one device's dense peak; leave it"
            " out for the datasheet's."
        )
    if manifest.peak_dtype in ("fp32", "tf32", "fp64"):
        return (
            f"the peak is that of {manifest.peak_dtype}, and the products seem to run in a narrower dtype (autocast"
            " within the training step, or tf32 allowed later). Say so with Trainer(precision=)."
        )
    if share > 1.5 and manifest.flops_source and "counted" not in manifest.flops_source:
        return "the formula counts FLOPs twice (of all ranks, or of a whole batch for each microbatch)."
    return "FLOPs are counted that do not run (masked attention, in full), or the clock is above the datasheet's."


def _operators(totals: StepTotals) -> Traffic:
    per_s = _rate(totals.operator_bytes, totals.step_s)
    return Traffic() if per_s is None else Traffic(bytes_per_s=per_s, source=OPERATORS)


def _rate(amount: float | None, per: float | None) -> float | None:
    return None if amount is None or not per else amount / per


def _whole_sum(name: str) -> pl.Expr:
    return pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)


def _quantile(column: pl.Series, q: float) -> float | None:
    value = column.quantile(q, "linear")
    return None if value is None else float(value)
