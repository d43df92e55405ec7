"""A verdict in words: where the time and the joules of a run went, and what to try first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from profiler.metrics.evidence import gather
from profiler.metrics.findings import JUDGES, Case
from profiler.metrics.straggling import judge_straggler
from profiler.store.run import StoredRun

MIN_STEPS = 20
MIN_STEP_S = 2.0
TOO_SHORT = (
    f"a verdict needs {MIN_STEPS} steps and {MIN_STEP_S:g} s of them after the first three; this run has less"
)


def verdict(run: StoredRun, summary: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """What the numbers of a run say, the heaviest first after `where`; None if the run is too short to be judged.

    Args:
        run: For its tables.
        summary: Of that run, as far as it is made.
    """
    evidence = gather(run)
    if evidence.steps < MIN_STEPS or evidence.step_s < MIN_STEP_S:
        return None
    case = Case(
        evidence=evidence,
        summary=summary,
        peak_dtype=run.manifest.peak_dtype,
        openmp_policy=run.manifest.environment.get("OMP_WAIT_POLICY"),
    )
    found = [finding for judge in (*JUDGES, judge_straggler) if (finding := judge(case)) is not None]
    ordered = sorted(found, key=lambda f: (f.finding != "where", -f.share))
    return [asdict(finding) for finding in ordered]
