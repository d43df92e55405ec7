"""Why a number of a summary is null: one table of reasons, and what each number is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from profiler.metrics.carbon import MADE_OF as CARBON_MADE_OF
from profiler.metrics.ranks import NO_STRAGGLER
from profiler.metrics.verdict import TOO_SHORT
from profiler.store.run import StoredRun

_WHY_NULL: Mapping[str, str] = {
    "workload": "not a reference workload",
    "preset": "not a reference workload",
    "heartbeat": "the run did not say when it was last alive",
    "partial": "no rank is missing",
    "straggler": NO_STRAGGLER,
    "duration_s": "nothing was recorded of the fit",
    "energy.measured_j": "no energy sensor could be read",
    "energy.measured_at_least_j": "no energy sensor could be read",
    "energy.measured_source": "no energy sensor could be read",
    "energy.estimated_j": "nothing was estimated",
    "efficiency.executed_flops": "executed FLOPs (with recomputation) were not counted",
    "efficiency.flops_convention": "whoever gave the FLOPs did not say what they count",
    "efficiency.flops_counted_over_given": "there is no formula and count of the same batch to compare",
    "efficiency.roofline.bytes_per_s": "neither the memory's activity nor the bytes of operators were recorded",
    "efficiency.roofline.peak_bytes_per_s": "no memory bandwidth is known for these devices",
    "memory.peak_allocated_bytes": "the training ran on the CPU, which has no allocator statistics",
    "memory.peak_reserved_bytes": "the training ran on the CPU, which has no allocator statistics",
    "memory.peak_host_rss_bytes": "no step was long enough ago to be sampled",
    "parent": "the training did not go on from a checkpoint of another run",
    "lost_work.energy_j": "the energy of the time that was lost is not known well enough to be stated",
    "verdict": TOO_SHORT,
    "phenomenon": "this workload shows no phenomenon of its own",
}
"""Why a key can be null, where no note of the run says it better. A dotted key."""

_HEADLINE = "energy.<headline>_j"

_MADE_OF: Mapping[str, tuple[str, ...]] = {
    "energy.measured_plus_minus_j": ("energy.measured_j",),
    "energy.estimated_plus_minus_j": ("energy.estimated_j",),
    "lost_work.plus_minus_j": ("lost_work.energy_j",),
    "lost_work.source": ("lost_work.energy_j",),
    "lost_work.energy_share": ("lost_work.energy_j", _HEADLINE),
    "throughput.tokens_per_s": ("tokens",),
    "throughput.samples_per_s": ("samples",),
    "efficiency.flops_source": ("efficiency.model_flops",),
    "efficiency.flops_convention": ("efficiency.model_flops",),
    "efficiency.flops_per_s": ("efficiency.model_flops",),
    "efficiency.peak_source": ("efficiency.peak_flops_per_s",),
    "efficiency.peak_dtype": ("efficiency.peak_flops_per_s",),
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
    "efficiency.energy_per_token_plus_minus_j": ("tokens", _HEADLINE),
    "efficiency.energy_per_sample_j": ("samples", _HEADLINE),
    "efficiency.energy_per_sample_plus_minus_j": ("samples", _HEADLINE),
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
    "steps",
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


def explain(summary: Mapping[str, Any], stored: Mapping[str, str], run: StoredRun) -> dict[str, str]:
    """The notes of a summary: what was stored or found on the way, what is damaged, and why each null is one.

    Args:
        summary: All but the notes.
        stored: Notes of the recording processes and of the metrics, by subject.
        run: For what of it is damaged.
    """
    notes = dict(stored)
    for number, sentence in enumerate(run.damaged, start=1):
        notes[f"damaged file {number}"] = sentence
    if run.status != "running":  # else it is what its journal is for
        notes |= {f"journal {number}": text for number, text in enumerate(run.unfinished, start=1)}
    nulls = _null_keys(summary)
    for key in nulls:
        notes[key] = _because_damaged(key, run) or _reason(key, stored, summary, nulls)
    unknown: dict[str, list[str]] = {}
    for phase in summary["phases"]:
        if phase["energy_j"] is None:
            unknown.setdefault(phase["reason"], []).append(phase["phase"])
    if unknown:
        notes["phases.energy_j"] = "; ".join(f"{', '.join(names)}: {why}" for why, names in unknown.items())
    return notes


def _because_damaged(key: str, run: StoredRun) -> str | None:
    """That a file is damaged, if the key rests on it."""
    if run.manifest.status == "damaged":
        return "the run's manifest cannot be read"
    if run.incomplete and key == "verdict":
        return "files of the run are damaged"
    rests_on_steps = key in _OF_STEPS or {*_MADE_OF.get(key, ())} & {*_OF_STEPS}
    return "files of the run's steps are damaged" if "steps" in run.incomplete and rests_on_steps else None


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
        gone = "its process ended before any step was stored (rows are stored twice a second)"
        return stored.get("steps", gone if summary["status"] == "lost" else "no training step was recorded")
    if key == headline and summary["energy"]["components"]:
        return stored.get(key, "the energy of a device is unknown, and a sum with a hole is no sum")
    return stored.get(_STORED_AS.get(key, key)) or _WHY_NULL.get(key) or "not recorded"
