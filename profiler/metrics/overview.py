"""All runs of a folder at a glance: one row a run. `outcome` is the verdict of an experiment, null for other runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from profiler.carbon.factors import CarbonFactors
from profiler.metrics.attempts import ended_of
from profiler.metrics.summary import summarize
from profiler.store.run import StoredRun

OVERVIEW_SCHEMA = pl.Schema(
    {
        "run_id": pl.String,
        "workload": pl.String,
        "preset": pl.String,
        "status": pl.String,
        "ended": pl.String,
        "partial": pl.Boolean,
        "damaged": pl.Boolean,
        "created_at": pl.String,
        "seed": pl.Int64,
        "params": pl.Int64,
        "steps": pl.Int64,
        "tokens": pl.Int64,
        "duration_s": pl.Float64,
        "loss": pl.Float64,
        "outcome": pl.String,
        "measured_j": pl.Float64,
        "measured_plus_minus_j": pl.Float64,
        "estimated_j": pl.Float64,
        "estimated_plus_minus_j": pl.Float64,
        "energy_source": pl.String,
        "energy_per_token_j": pl.Float64,
        "energy_per_sample_j": pl.Float64,
        "tokens_per_s": pl.Float64,
        "samples_per_s": pl.Float64,
        "mfu": pl.Float64,
        "emissions_g": pl.Float64,
        "emissions_low_g": pl.Float64,
        "emissions_high_g": pl.Float64,
    }
)


def overview(runs: Sequence[StoredRun], factors: CarbonFactors | None = None) -> pl.DataFrame:
    """One row a run, newest first."""
    rows = [{**_row(summarize(run, factors, by_phase=False)), "damaged": run.is_damaged} for run in runs]
    return pl.DataFrame(rows, schema=OVERVIEW_SCHEMA).sort("created_at", descending=True)


def _row(summary: dict[str, Any]) -> dict[str, Any]:
    energy, efficiency = summary["energy"], summary["efficiency"]
    headline = energy["headline"] if energy[f"{energy['headline']}_j"] is not None else None
    kept = (
        "run_id",
        "workload",
        "preset",
        "status",
        "created_at",
        "seed",
        "params",
        "steps",
        "tokens",
        "duration_s",
        "loss",
    )
    return {
        **{key: summary[key] for key in kept},
        "ended": ended_of(summary),
        "partial": summary["partial"] is not None,
        "outcome": summary["phenomenon"]["outcome"] if summary["phenomenon"] else None,
        "measured_j": energy["measured_j"],
        "measured_plus_minus_j": energy["measured_plus_minus_j"],
        "estimated_j": energy["estimated_j"],
        "estimated_plus_minus_j": energy["estimated_plus_minus_j"],
        "energy_source": headline,
        "energy_per_token_j": efficiency["energy_per_token_j"],
        "energy_per_sample_j": efficiency["energy_per_sample_j"],
        "tokens_per_s": summary["throughput"]["tokens_per_s"],
        "samples_per_s": summary["throughput"]["samples_per_s"],
        "mfu": efficiency["mfu"],
        **{key: summary["carbon"][key] for key in ("emissions_g", "emissions_low_g", "emissions_high_g")},
    }
