"""One run's metrics, as `joulescale show RUN --json` prints them: every key is there, unknown is null with a note."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from profiler.carbon.factors import CarbonFactors
from profiler.metrics.attribution import phase_shares
from profiler.metrics.carbon import MADE_OF as CARBON_MADE_OF
from profiler.metrics.carbon import Use, carbon, run_factors
from profiler.metrics.components import energy_summary
from profiler.metrics.devices import device_curves, fit_windows
from profiler.metrics.efficiency import efficiency, step_totals, throughput
from profiler.metrics.roofline import measured_traffic
from profiler.metrics.second_opinion import second_opinions
from profiler.metrics.throttling import throttling
from profiler.metrics.verdict import TOO_SHORT, verdict
from profiler.store.runs import StoredProcess, StoredRun

_WHY_NULL: Mapping[str, str] = {
    "workload": "not a reference workload",
    "preset": "not a reference workload",
    "duration_s": "nothing was recorded of the fit",
    "energy.measured_j": "no energy sensor could be read",
    "energy.measured_plus_minus_j": "no energy sensor could be read",
    "energy.measured_at_least_j": "no energy sensor could be read",
    "energy.measured_source": "no energy sensor could be read",
    "energy.estimated_j": "nothing was estimated",
    "energy.estimated_plus_minus_j": "nothing was estimated",
    "efficiency.executed_flops": "executed FLOPs (with recomputation) were not counted",
    "efficiency.flops_convention": "whoever gave the FLOPs did not say what they count",
    "efficiency.flops_counted_over_given": "there is no formula and count of the same batch to compare",
    "efficiency.roofline.bytes_per_s": "neither the memory's activity nor the bytes of operators were recorded",
    "efficiency.roofline.peak_bytes_per_s": "no memory bandwidth is known for these devices",
    "memory.peak_allocated_bytes": "the training ran on the CPU, which has no allocator statistics",
    "memory.peak_reserved_bytes": "the training ran on the CPU, which has no allocator statistics",
    "memory.peak_host_rss_bytes": "no step was long enough ago to be sampled",
    "verdict": TOO_SHORT,
    "phenomenon": "this workload shows no phenomenon of its own",
}
"""Why a key can be null, where no note of the run says it better. A dotted key."""

_HEADLINE = "energy.<headline>_j"

_MADE_OF: Mapping[str, tuple[str, ...]] = {
    "throughput.tokens_per_s": ("tokens",),
    "throughput.samples_per_s": ("samples",),
    "efficiency.flops_source": ("efficiency.model_flops",),
    "efficiency.flops_convention": ("efficiency.model_flops",),
    "efficiency.flops_per_s": ("efficiency.model_flops",),
    "efficiency.peak_source": ("efficiency.peak_flops_per_s",),
    "efficiency.mfu": ("efficiency.model_flops", "efficiency.peak_flops_per_s"),
    "efficiency.hfu": ("efficiency.executed_flops", "efficiency.peak_flops_per_s"),
    "efficiency.roofline.bytes_source": ("efficiency.roofline.bytes_per_s",),
    "efficiency.roofline.peak_bytes_source": ("efficiency.roofline.peak_bytes_per_s",),
    "efficiency.roofline.intensity_flops_per_byte": (
        "efficiency.model_flops",
        "efficiency.roofline.bytes_per_s",
    ),
    "efficiency.roofline.ridge_flops_per_byte": (
        "efficiency.peak_flops_per_s",
        "efficiency.roofline.peak_bytes_per_s",
    ),
    "efficiency.roofline.bound": (
        "efficiency.roofline.intensity_flops_per_byte",
        "efficiency.roofline.ridge_flops_per_byte",
    ),
    "efficiency.roofline.attainable_flops_per_s": ("efficiency.roofline.bound",),
    "efficiency.roofline.share_of_attainable": ("efficiency.roofline.bound",),
    "efficiency.roofline.share_of_bandwidth": (
        "efficiency.roofline.bytes_per_s",
        "efficiency.roofline.peak_bytes_per_s",
    ),
    "efficiency.tokens_per_j": ("tokens", _HEADLINE),
    "efficiency.energy_per_token_j": ("tokens", _HEADLINE),
    **CARBON_MADE_OF,
}
"""What a key is made of: it is null for the reason of the first of these that is null."""

_STORED_AS: Mapping[str, str] = {
    "efficiency.model_flops": "model_flops",
    "efficiency.executed_flops": "executed_flops",
    "efficiency.peak_flops_per_s": "mfu",
    "efficiency.roofline.bytes_per_s": "operator_bytes",
    "efficiency.roofline.peak_bytes_per_s": "peak_bytes_per_s",
}
"""Under which name the recording process noted the reason."""

_OF_STEPS = (
    "tokens",
    "samples",
    "loss",
    "throughput.step_s_p50",
    "throughput.step_s_p95",
    "efficiency.model_flops",
    "memory.peak_allocated_bytes",
    "memory.peak_reserved_bytes",
    "memory.peak_host_rss_bytes",
    "efficiency.executed_flops",
    "efficiency.roofline.bytes_per_s",
)


def summarize(
    run: StoredRun, factors: CarbonFactors | None = None, *, by_phase: bool = True
) -> dict[str, Any]:
    """All metrics of a run.

    Args:
        run: A stored run; what of it is damaged is named in `notes`.
        factors: For emissions; None takes those stored with the run.
        by_phase: Whether to divide energy among phases, which takes up to a second a run; else `phases` is empty.

    Returns:
        JSON-able. Energies are of the whole fit, validation and checkpoints included. `efficiency` and `carbon` take
        the measured energy, or, if there is no energy sensor, the estimated one: `energy.headline` says which.
    """
    processes = run.processes
    curves = device_curves(processes)
    energy, energy_notes = energy_summary(processes, curves)
    totals = step_totals(processes)
    headline_j, headline_bar = energy[f"{energy['headline']}_j"], energy[f"{energy['headline']}_plus_minus_j"]
    traffic = measured_traffic(processes, run.manifest.peak_bytes_per_s)
    efficient, notes = efficiency(run.manifest, totals, headline_j, traffic)
    chosen, bad_factors = run_factors(run, factors)
    use = Use(
        energy_j=headline_j,
        plus_minus_j=headline_bar,
        curves=curves,
        estimated=energy["headline"] == "estimated",
        tokens=totals.tokens,
        samples=totals.samples,
    )
    emitted, carbon_notes = carbon(chosen, use)
    notes |= carbon_notes | bad_factors
    loss, loss_notes = _last_loss(processes)
    summary: dict[str, Any] = {
        "run_id": run.run_id,
        "workload": run.manifest.workload,
        "preset": run.manifest.preset,
        "seed": run.manifest.seed,
        "status": run.status,
        "created_at": run.manifest.created_at,
        "steps": totals.steps,
        "tokens": totals.tokens,
        "samples": totals.samples,
        "duration_s": _duration(processes),
        "loss": loss,
        "params": run.manifest.params,
        "energy": energy,
        "phases": [asdict(share) for share in phase_shares(processes, curves)] if by_phase else [],
        "throughput": throughput(totals),
        "efficiency": efficient,
        "memory": _memory(processes),
        "throttling": throttling(processes),
        "carbon": emitted,
        "second_opinions": second_opinions(processes, curves, chosen),
        "phenomenon": None,
    }
    summary["verdict"] = verdict(run, summary)
    stored = {
        **run.manifest.notes,
        **{k: v for p in processes for k, v in p.facts.notes.items()},
        **energy_notes,
        **notes,
        **loss_notes,
    }
    summary["notes"] = _notes(summary, stored, run.damaged)
    return summary


def _duration(processes: Sequence[StoredProcess]) -> float | None:
    spans = [end - start for p in processes if p.facts.rank == 0 for start, end in fit_windows(p)]
    return sum(spans) if spans else None


def _last_loss(processes: Sequence[StoredProcess]) -> tuple[float | None, dict[str, str]]:
    """The last training loss of rank 0 that was recorded; one that is not finite is null, with a note."""
    frames = [p.steps.select("step", "loss").drop_nulls() for p in processes if p.facts.rank == 0]
    losses = pl.concat(frames) if frames else pl.DataFrame({"step": [], "loss": []})
    if losses.is_empty():
        return None, {}
    last = float(losses["loss"][-1])
    if math.isfinite(last):
        return last, {}
    sound = losses.with_row_index().filter(pl.col("loss").is_finite())
    first_bad = losses["step"][int(sound["index"][-1]) + 1 if len(sound) else 0]
    before = (
        f"; the last finite one was {sound['loss'][-1]:.4g}, of step {sound['step'][-1]}"
        if len(sound)
        else ""
    )
    return None, {"loss": f"the training loss is {last} from step {first_bad} to the end{before}"}


def _memory(processes: Sequence[StoredProcess]) -> dict[str, int | None]:
    """The most of any one rank, in bytes."""
    columns = {
        "peak_allocated_bytes": "memory_peak_bytes",
        "peak_reserved_bytes": "memory_peak_reserved_bytes",
        "peak_host_rss_bytes": "host_rss_bytes",
    }
    steps = pl.concat([p.steps for p in processes]) if processes else None
    return {name: None if steps is None else steps[column].max() for name, column in columns.items()}  # type: ignore[misc]


def _notes(summary: Mapping[str, Any], stored: Mapping[str, str], damaged: Sequence[str]) -> dict[str, str]:
    notes = dict(stored)
    for number, sentence in enumerate(damaged, start=1):
        notes[f"damaged file {number}"] = sentence
    nulls = _null_keys(summary)
    for key in nulls:
        notes[key] = _reason(key, stored, summary, nulls)
    unknown: dict[str, list[str]] = {}
    for phase in summary["phases"]:
        if phase["energy_j"] is None:
            unknown.setdefault(phase["reason"], []).append(phase["phase"])
    if unknown:
        notes["phases.energy_j"] = "; ".join(f"{', '.join(names)}: {why}" for why, names in unknown.items())
    return notes


def _null_keys(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            keys += _null_keys(value, f"{prefix}{key}.")
        elif value is None:
            keys.append(prefix + key)
    return keys


def _reason(key: str, stored: Mapping[str, str], summary: Mapping[str, Any], nulls: Sequence[str]) -> str:
    headline = f"energy.{summary['energy']['headline']}_j"
    parts = (headline if part == _HEADLINE else part for part in _MADE_OF.get(key, ()))
    missing = next((part for part in parts if part in nulls), None)
    if missing is not None:
        return _reason(missing, stored, summary, nulls)
    if key in _OF_STEPS and not summary["steps"]:
        return stored.get("steps", "no training step was recorded")
    if key == headline and summary["energy"]["components"]:
        return "the energy of a device is unknown, and a sum with a hole is no sum"
    return stored.get(_STORED_AS.get(key, key)) or _WHY_NULL.get(key) or "not recorded"
