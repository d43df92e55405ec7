"""The `lm` workload's gpu preset under the monitor: throughput, MFU, joules a token, and what is null."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_checks.bench import Bench
from profiler import open_run, summarize
from profiler.workload import RunRequest
from workloads.lm import WORKLOAD

TOKENS = 2**25


def gpu_preset(bench: Bench) -> dict[str, Any]:
    """One width of the preset, to its smallest budget; other settings as they are."""
    cuda = bench.device.type == "cuda"
    preset = "gpu" if cuda else "smoke"
    settings = WORKLOAD.preset(preset)
    if cuda:
        settings = replace(settings, token_budgets=(TOKENS, 2 * TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        request = RunRequest(
            runs_dir=Path(folder), workload="lm", preset=preset, seed=0, settings=settings, name="lm"
        )
        WORKLOAD.train(request)
        summary = summarize(open_run(Path(folder), "lm"))
    kept = ("steps", "tokens", "duration_s", "loss", "params", "throughput", "efficiency", "energy", "memory")
    return {
        "settings": {
            "d_model": settings.d_model,
            "precision": settings.precision,
            "compile": settings.compile,
        },
        **{key: summary[key] for key in (*kept, "phases", "throttling", "verdict", "notes")},
    }
