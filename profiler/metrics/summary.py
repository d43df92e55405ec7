"""One run's metrics, as `joulescale show RUN --json` prints them: every key is there, unknown is null with a note."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from profiler.carbon.factors import CarbonFactors
from profiler.metrics.attempts import attempts, lost_work, silent_attempts, with_one_peak
from profiler.metrics.attribution import phase_shares
from profiler.metrics.carbon import Use, carbon, run_factors
from profiler.metrics.components import energy_summary
from profiler.metrics.devices import device_curves, fit_windows
from profiler.metrics.efficiency import efficiency, step_totals, throughput
from profiler.metrics.kept import kept_steps, missing_steps
from profiler.metrics.phenomena import phenomenon
from profiler.metrics.ranks import beside_each_other, merged_notes
from profiler.metrics.reasons import explain
from profiler.metrics.roofline import measured_traffic
from profiler.metrics.second_opinion import second_opinions
from profiler.metrics.throttling import throttling
from profiler.metrics.verdict import verdict
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun


def summarize(
    run: StoredRun, factors: CarbonFactors | None = None, *, by_phase: bool = True
) -> dict[str, Any]:
    """All metrics of a run.

    Args:
        run: A stored run; what of it is damaged is named in `notes`.
        factors: For emissions; None takes those stored with the run.
        by_phase: Whether to divide energy among phases, which takes up to a second a run; else `phases` is empty.

    Returns:
        JSON-able. Energies are of the whole fit, validation and checkpoints included, and of all attempts, with what
        they threw away; steps, tokens and losses are of the steps that count. `efficiency` and `carbon` take the
        measured energy, or, if there is no energy sensor, the estimated one: `energy.headline` says which.
    """
    processes, manifest = run.processes, with_one_peak(run)
    steps_known = "steps" not in run.incomplete
    curves = device_curves(processes)
    energy, energy_notes = energy_summary(processes, curves, whole=_is_whole(run))
    totals = step_totals(processes if steps_known else ())
    headline_j, headline_bar = energy[f"{energy['headline']}_j"], energy[f"{energy['headline']}_plus_minus_j"]
    traffic = measured_traffic(processes, manifest.peak_bytes_per_s)
    efficient, notes = efficiency(manifest, totals, headline_j, traffic, plus_minus_j=headline_bar)
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
    summed = {kind for kind in ("measured", "estimated") if energy[f"{kind}_j"] is not None}
    tried = attempts(run, curves, summed)
    loss, loss_notes = _last_loss(processes) if steps_known else (None, {})
    summary: dict[str, Any] = {
        "run_id": run.run_id,
        "workload": run.manifest.workload,
        "preset": run.manifest.preset,
        "seed": run.manifest.seed,
        "status": run.status,
        "created_at": run.manifest.created_at,
        "heartbeat": run.manifest.heartbeat or None,
        "world_size": run.manifest.world_size,
        "hosts": len({p.facts.host for p in processes}),
        "parent": run.manifest.parent,
        "partial": asdict(run.partial) if run.partial else None,
        "steps": totals.steps if steps_known else None,
        "tokens": totals.tokens,
        "samples": totals.samples,
        "duration_s": _duration(processes),
        "loss": loss,
        "params": run.manifest.params,
        "energy": energy,
        "attempts": tried,
        "lost_work": lost_work(tried, headline_j, energy["headline"]),
        "phases": [asdict(share) for share in phase_shares(processes, curves)]
        if by_phase and not run.incomplete & {"steps", "marks"}
        else [],
        **(beside_each_other(run) if steps_known else {"ranks": [], "straggler": None}),
        "throughput": throughput(totals),
        "efficiency": efficient,
        "memory": _memory(processes if steps_known else ()),
        "throttling": throttling(processes),
        "carbon": emitted,
        "second_opinions": second_opinions(processes, curves, chosen),
        "phenomenon": phenomenon(run, curves) if "marks" not in run.incomplete else None,
    }
    summary["verdict"] = verdict(run, summary) if not run.incomplete else None
    stored = {
        **manifest.notes,
        **merged_notes(processes),
        **missing_steps(processes),
        **silent_attempts(tried),
        **energy_notes,
        **notes,
        **loss_notes,
    }
    summary["notes"] = explain(summary, stored, run)
    return summary


def _is_whole(run: StoredRun) -> bool:
    """Whether nothing is damaged that energies rest on; without a `fit` mark the steps say how long a process ran."""
    ended = all("fit" in p.marks["kind"] for p in run.processes)
    return not run.incomplete & ({"readings", "marks"} if ended else {"readings", "marks", "steps"})


def _duration(processes: Sequence[StoredProcess]) -> float | None:
    spans = [end - start for p in processes if p.facts.rank == 0 for start, end in fit_windows(p)]
    return sum(spans) if spans else None


def _last_loss(processes: Sequence[StoredProcess]) -> tuple[float | None, dict[str, str]]:
    """The last training loss of rank 0 that was recorded; one that is not finite is null, with a note."""
    kept = zip(processes, kept_steps(processes, "loss"), strict=True)
    frames = [steps.drop_nulls() for p, steps in kept if p.facts.rank == 0]
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
    frames = [p.columns("steps", *columns.values()).max() for p in processes]
    steps = pl.concat(frames) if frames else None
    return {name: None if steps is None else steps[column].max() for name, column in columns.items()}  # type: ignore[misc]
