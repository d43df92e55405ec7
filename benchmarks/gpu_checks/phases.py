"""Time and joules of forward, backward and optimizer of a real training, against the same parts run apart.

Under the monitor phases are cut by CUDA events without synchronising, and joules come from the regression over counter
intervals. Apart, each part is repeated for seconds with the counter read at both ends.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from gpu_checks.bench import Bench
from profiler import EfficiencyMonitor, open_run, summarize
from profiler.metrics.energy import EnergyCurve
from workloads.lm_settings import PRESETS, LMSettings
from workloads.lm_training import LMModule

PARTS = ("forward", "backward", "optimizer")
VOCABULARY = 257


def against_separate_timing(bench: Bench) -> dict[str, Any]:
    """Seconds and joules a step, both ways, and their ratios."""
    cuda = bench.device.type == "cuda"
    settings = replace(PRESETS["gpu" if cuda else "smoke"], compile=False)
    recorded, step_s = _recorded(bench, settings)
    apart = _apart(bench, settings)
    ratios = {
        part: {
            unit: _ratio(recorded.get(part, {}).get(unit), apart[part][unit])
            for unit in ("seconds", "joules")
        }
        for part in PARTS
    }
    return {
        "step_s": step_s,
        "recorded_a_step": recorded,
        "apart_a_step": apart,
        "recorded_over_apart": ratios,
    }


def _recorded(bench: Bench, settings: LMSettings) -> tuple[dict[str, dict[str, Any]], float | None]:
    cuda = bench.device.type == "cuda"
    batch, rows = settings.batch_size, settings.batch_size * 16
    tokens = torch.randint(VOCABULARY, (rows, settings.seq_len + 1))
    loader = DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch, shuffle=True, pin_memory=cuda)
    with tempfile.TemporaryDirectory() as folder:
        monitor = EfficiencyMonitor(
            folder, name="phases", gpus=[bench.probe.counter.meter.device], summary=False
        )
        L.Trainer(
            accelerator="cuda" if cuda else "cpu", devices=1, precision=settings.precision, callbacks=[monitor],
            max_time={"seconds": max(round(bench.seconds(40.0)), 3)}, max_epochs=-1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(LMModule(settings, vocab_size=VOCABULARY), loader)  # fmt: skip
        summary = summarize(open_run(Path(folder), "phases"))
    steps = max(summary["steps"], 1)
    found = {
        row["phase"]: {
            "seconds": row["duration_s"] / steps,
            "joules": None if row["energy_j"] is None else row["energy_j"] / steps,
            "plus_minus": None if row["plus_minus_j"] is None else row["plus_minus_j"] / steps,
            "method": row.get("method"),
        }
        for row in summary["phases"]
    }
    return found, summary["throughput"]["step_s_p50"]


def _apart(bench: Bench, settings: LMSettings) -> dict[str, dict[str, Any]]:
    """Each part repeated alone; backward is what forward and backward take more than forward."""
    module = LMModule(settings, vocab_size=VOCABULARY).to(bench.device)
    optimizer = module.configure_optimizers()
    tokens = torch.randint(VOCABULARY, (settings.batch_size, settings.seq_len + 1), device=bench.device)
    mixed = settings.precision == "bf16-mixed"

    def forward() -> torch.Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=mixed):
            return module.token_losses((tokens[:, :-1], tokens[:, 1:])).mean()

    def both() -> None:
        module.zero_grad()
        forward().backward()

    both()
    alone = _repeat(bench, forward)
    together = _repeat(bench, both)
    return {
        "forward": alone,
        "backward": {unit: _difference(together[unit], alone[unit]) for unit in alone},
        "optimizer": _repeat(bench, optimizer.step),
    }


def _repeat(bench: Bench, part: Callable[[], Any]) -> dict[str, float | None]:
    """Seconds and joules of one repetition, over several seconds of them."""
    for _ in range(3):
        part()
    bench.load.wait()
    rows, done, start_s = [], 0, time.monotonic()
    while time.monotonic() - start_s < bench.seconds(8.0):
        part()
        bench.load.wait()
        done += 1
        rows.append((time.monotonic(), bench.probe.counter.read()))
    end_s = time.monotonic()
    readings = pl.DataFrame(rows, schema={"time_s": pl.Float64, "energy_j": pl.Float64}, orient="row")
    meter = {"update_period_s": 0.1, "relative_uncertainty": 0.0, "power_max_w": None}
    middle = (start_s + 0.1 * (end_s - start_s), end_s - 0.1 * (end_s - start_s))
    found = EnergyCurve(readings, meter).windows([middle])
    each_s = (end_s - start_s) / done
    return {"seconds": each_s, "joules": found.energy_j / (middle[1] - middle[0]) * each_s if found else None}


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b
