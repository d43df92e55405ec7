"""`benchmarks/gpu.py` is rehearsed over the fake NVML library: a lent GPU's minutes are too few to find slips in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_nvml.build import subprocess_env

ROOT = Path(__file__).parents[1]
SCRIPT = """
gpu GPU-bench NVIDIA H200
power 0 0 200
wave 0 300 0.7 0.5 0
"""


def _run(library: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/gpu.py", "--output", str(folder / "out"), *words]
    env = subprocess_env(library, folder / "nvml.conf", SCRIPT)
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_a_rehearsal_runs_every_kind_of_check_and_writes_both_files(nvml_library: Path, tmp_path: Path):
    checks = ("counter", "activity", "sampling", "phases")
    done = _run(nvml_library, tmp_path, "--device", "cpu", "--scale", "0.02", "--only", ",".join(checks))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert result["rehearsal"] is True
    assert result["gpu"]["name"] == "NVIDIA H200"
    assert set(result["checks"]) == set(checks)
    assert result["checks"]["sampling"]["ratio"].keys() == {"1 Hz", "10 Hz", "50 Hz", "100 Hz"}
    assert result["checks"]["phases"]["recorded_a_step"]["forward"]["seconds"] > 0.0
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "A rehearsal: these numbers mean nothing." in page
    assert page.count("\n## ") == len(checks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_before_anything_is_measured(nvml_library: Path, tmp_path: Path):
    done = _run(nvml_library, tmp_path)
    assert done.returncode == 2
    assert "PyTorch sees no CUDA device here; '--device cpu' rehearses" in done.stderr
    assert not (tmp_path / "out").exists()
