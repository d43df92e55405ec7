"""Points of efficiency against scale: one row for each model size and token budget that was trained.

A workload marks the end of each cool-down branch as a `budget` with its windows: the trunk up to there and the
branch's own cool-down. Its joules are those of these windows, which may lie in several attempts: what an attempt lost
is in none of them. A budget that a later attempt reached again is the later's. A run without such marks is one point:
its whole fit against its last training loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from profiler.carbon.factors import CarbonFactors
from profiler.metrics.attempts import with_one_peak
from profiler.metrics.carbon import Use, carbon, run_factors, use_of
from profiler.metrics.devices import (
    DeviceCurve,
    Windows,
    device_curves,
    windows_on,
)
from profiler.metrics.efficiency import mfu_of
from profiler.metrics.summary import summarize
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun

WindowsOf = Callable[[StoredProcess], Windows]

POINT_SCHEMA = pl.Schema(
    {
        "run_id": pl.String,
        "workload": pl.String,
        "preset": pl.String,
        "seed": pl.Int64,
        "params": pl.Int64,
        "budget_tokens": pl.Int64,
        "tokens": pl.Int64,
        "model_flops": pl.Float64,
        "loss": pl.Float64,
        "loss_plus_minus": pl.Float64,
        "loss_kind": pl.String,
        "energy_j": pl.Float64,
        "energy_plus_minus_j": pl.Float64,
        "energy_source": pl.String,
        "duration_s": pl.Float64,
        "energy_per_token_j": pl.Float64,
        "energy_per_token_plus_minus_j": pl.Float64,
        "tokens_per_j": pl.Float64,
        "tokens_per_j_plus_minus": pl.Float64,
        "flops_per_s": pl.Float64,
        "mfu": pl.Float64,
        "memory_bytes": pl.Int64,
        "emissions_g": pl.Float64,
        "emissions_low_g": pl.Float64,
        "emissions_high_g": pl.Float64,
        "data_sha256": pl.String,
        "damaged": pl.Boolean,
    }
)


def scale_points(runs: Sequence[StoredRun], factors: CarbonFactors | None = None) -> pl.DataFrame:
    """All points of the given runs, by parameters, then tokens. Runs with no training step give none.

    Neither do runs whose steps or marks are damaged, or that lack ranks: what is left of them is no point of the whole.

    `loss_kind` says whether the loss is of held-out data (validation) or of the last step (training).
    Memory is the peak that the allocator reserved on one GPU, or, on CPUs, the peak resident memory of the process.
    """
    whole = [run for run in runs if not is_broken(run) and not is_partial(run)]
    rows = [row for run in whole for row in _points_of(run, factors)]
    return pl.DataFrame(rows, schema=POINT_SCHEMA).sort("params", "tokens", "seed", nulls_last=True)


def is_broken(run: StoredRun) -> bool:
    """Whether steps, marks or the manifest of a run are damaged, so that it has no place on a chart of scale."""
    return run.status == "damaged" or bool(run.incomplete & {"steps", "marks"})


def is_partial(run: StoredRun) -> bool:
    """Whether ranks of a run are missing: what the others did and used is no point of the whole."""
    return run.partial is not None


def _points_of(run: StoredRun, factors: CarbonFactors | None) -> list[dict[str, Any]]:
    chosen, _ = run_factors(run, factors)
    leaders = [p for p in run.processes if p.facts.rank == 0]
    curves = device_curves(run.processes)
    marks = [
        (p, json.loads(note)) for p in leaders for note in p.marks.filter(pl.col("kind") == "budget")["note"]
    ]
    budgets = {note["budget_tokens"]: (_windows(run, process, note), note) for process, note in marks}
    for (
        curve
    ) in curves:  # a long run's do not all fit into memory: each is asked for everything while it is there
        for windows, _ in budgets.values():
            if windows and (of_curve := windows(curve.process)):
                curve.energy(of_curve)
    if budgets:
        return [_branch_point(run, windows, note, curves, chosen) for windows, note in budgets.values()]
    return (
        [_whole_run_point(run, curves, chosen)]
        if any(len(p.columns("steps", "step")) for p in leaders)
        else []
    )


def _branch_point(
    run: StoredRun,
    windows: WindowsOf | None,
    note: Mapping[str, Any],
    curves: Sequence[DeviceCurve],
    factors: CarbonFactors,
) -> dict[str, Any]:
    use = use_of(curves, windows) if windows else Use(energy_j=None)
    duration_s = sum(end - start for start, end, *_ in note["windows"])
    point = {
        "params": note["params"],
        "budget_tokens": note["budget_tokens"],
        "tokens": note["tokens"],
        "model_flops": note.get("model_flops"),
        "loss": note.get("loss"),
        "loss_plus_minus": note.get("loss_plus_minus"),
        "loss_kind": "validation",
        "duration_s": duration_s,
        "flops_per_s": _ratio(note.get("model_flops"), duration_s),
    }
    return _complete(run, point, use, factors)


def _windows(run: StoredRun, process: StoredProcess, note: Mapping[str, Any]) -> WindowsOf | None:
    """Windows of rank 0's clocks: `[start, end]` in the mark's own attempt, `[start, end, attempt]` in another.

    None if one of these attempts is not there any more.
    """
    leaders = {p.facts.attempt: p for p in run.processes if p.facts.rank == 0}
    windows: dict[int, list[tuple[float, float]]] = {}
    for start_s, end_s, *attempt in note["windows"]:
        number = int(attempt[0]) if attempt else process.facts.attempt
        windows.setdefault(number, []).append((float(start_s), float(end_s)))
    if windows.keys() - leaders.keys():
        return None
    parts = [windows_on(of, leaders[number]) for number, of in windows.items()]
    return lambda p: [window for part in parts for window in part(p)]


def _whole_run_point(run: StoredRun, curves: Sequence[DeviceCurve], factors: CarbonFactors) -> dict[str, Any]:
    summary = summarize(run, factors, by_phase=False)
    use = use_of(curves)
    point = {
        "params": summary["params"],
        "budget_tokens": summary["tokens"],
        "tokens": summary["tokens"],
        "model_flops": summary["efficiency"]["model_flops"],
        "loss": summary["loss"],
        "loss_plus_minus": None,
        "loss_kind": "training",
        "duration_s": summary["duration_s"],
        "flops_per_s": summary["efficiency"]["flops_per_s"],
    }
    return _complete(run, point, use, factors)


def _complete(
    run: StoredRun,
    point: dict[str, Any],
    use: Use,
    factors: CarbonFactors,
) -> dict[str, Any]:
    manifest = with_one_peak(run)
    energy_j, bar = use.energy_j, use.plus_minus_j
    emissions, _ = carbon(factors, use)
    per_token, per_joule = _ratio(energy_j, point["tokens"]), _ratio(point["tokens"], energy_j)
    share = _ratio(bar, energy_j)
    return {
        **point,
        "run_id": run.run_id,
        "workload": manifest.workload,
        "preset": manifest.preset,
        "seed": manifest.seed,
        "energy_j": energy_j,
        "energy_plus_minus_j": bar,
        "energy_source": use.source,
        "energy_per_token_j": per_token,
        "energy_per_token_plus_minus_j": _product(per_token, share),
        "tokens_per_j": per_joule,
        "tokens_per_j_plus_minus": _product(per_joule, share),
        "mfu": mfu_of(point["flops_per_s"], manifest)[0],
        "memory_bytes": _peak_memory(run),
        "emissions_g": emissions["emissions_g"],
        "emissions_low_g": emissions["emissions_low_g"],
        "emissions_high_g": emissions["emissions_high_g"],
        "data_sha256": manifest.data.get("sha256"),
        "damaged": run.is_damaged,
    }


def _peak_memory(run: StoredRun) -> int | None:
    for column in ("memory_peak_reserved_bytes", "host_rss_bytes"):
        peaks = [p.columns("steps", column)[column].max() for p in run.processes]
        known = [int(peak) for peak in peaks if peak is not None]  # type: ignore[arg-type]
        if known:
            return max(known)
    return None


def _ratio(amount: float | None, per: float | None) -> float | None:
    return None if amount is None or not per else amount / per


def _product(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b
