"""Runs to read: a smoke sweep made once by the real command, and frames of points and timelines made by hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[1]


def run_joulescale(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """The `joulescale` command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "profiler.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="session")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder that `joulescale sweep lm --preset smoke` filled."""
    folder = tmp_path_factory.mktemp("smoke") / "runs"
    made = run_joulescale("sweep", "lm", "--preset", "smoke", "--runs-dir", str(folder))
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def make_points(source: str | None = "estimated", seeds: tuple[int, ...] = (0, 1)) -> pl.DataFrame:
    """Points as `scale_points` gives them: three sizes, three budgets; `source` None for no joules at all."""
    rows = [
        _point(params, budget, seed, source)
        for seed in seeds
        for params in (12_000, 49_000, 200_000)
        for budget in (65_536, 131_072, 262_144)
    ]
    nothing_known = ("mfu", "emissions_g", "emissions_low_g", "emissions_high_g", "energy_j")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(nothing_known, pl.Float64))


def _point(params: int, budget: int, seed: int, source: str | None) -> dict[str, object]:
    flops = 6.0 * params * budget
    energy = None if source is None else flops / 2e9 + seed
    error = None if energy is None else 0.2 * energy
    return {
        "run_id": f"lm-{params}-{seed}",
        "workload": "lm",
        "preset": "cpu",
        "seed": seed,
        "params": params,
        "budget_tokens": budget,
        "tokens": budget,
        "model_flops": flops,
        "loss": 1.7 + 20 / params**0.34 + 20 / budget**0.28 + 0.01 * seed,
        "loss_plus_minus": 0.01,
        "loss_kind": "validation",
        "damaged": False,
        "energy_j": energy,
        "energy_plus_minus_j": error,
        "energy_source": source,
        "duration_s": flops / 1e9,
        "energy_per_token_j": energy and energy / budget,
        "energy_per_token_plus_minus_j": error and error / budget,
        "tokens_per_j": energy and budget / energy,
        "tokens_per_j_plus_minus": energy and 0.2 * budget / energy,
        "flops_per_s": 1e9,
        "mfu": None,
        "memory_bytes": 300_000_000 + 40 * params,
        "emissions_g": None,
        "emissions_low_g": None,
        "emissions_high_g": None,
    }


def make_power(count: int = 50) -> pl.DataFrame:
    """Power as `power_timeline` gives it: two GPUs of one name that are measured, a CPU that is estimated."""
    devices = [("GPU-aaaa-1111", "H200", "gpu"), ("GPU-bbbb-2222", "H200", "gpu"), ("cpu0", "EPYC", "cpu")]
    return pl.DataFrame(
        [
            {
                "component": component,
                "device": device,
                "name": name,
                "source": "counter" if component == "gpu" else "estimated",
                "relative_uncertainty": 0.05 if component == "gpu" else 0.6,
                "host": "node-a",
                "rank": 0,
                "attempt": 1,
                "time_s": 0.1 * index,
                "power_w": 300.0 + 50 * math.sin(index / 9) if component == "gpu" else 80.0,
                "utilization": 0.9 if component == "gpu" else None,
                "memory_used_bytes": 60 * 2**30 if component == "gpu" else None,
                "temperature_c": 60.0,
                "throttle_reasons": 0,
            }
            for device, name, component in devices
            for index in range(count)
        ]
    )


def make_steps(count: int = 50) -> pl.DataFrame:
    """Steps as `step_timeline` gives them: one rank, on a CPU."""
    return pl.DataFrame(
        [
            {
                "rank": 0,
                "attempt": 1,
                "step": index,
                "lost": False,
                "time_s": 0.1 * (index + 1),
                "loss": 5.5 * (index + 1) ** -0.1,
                "tokens_per_s": 12_000.0,
                "samples_per_s": 100.0,
                "step_s": 0.1,
                "memory_allocated_bytes": None,
                "host_rss_bytes": 450 * 2**20 + index,
            }
            for index in range(count)
        ],
        schema_overrides={"memory_allocated_bytes": pl.Int64},
    )


PHASES = [
    {"phase": "forward", "duration_s": 31.0, "energy_j": 620.0, "plus_minus_j": 60.0},
    {"phase": "backward", "duration_s": 61.0, "energy_j": 1320.0, "plus_minus_j": 130.0},
    {"phase": "other", "duration_s": 2.0, "energy_j": None, "plus_minus_j": None},
]
