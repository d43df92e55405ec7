"""Trainings where something is scarce go on as they would without us, whatever becomes of the record."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from fault_rows.zygote import zygote


@pytest.mark.parametrize(
    "condition",
    [
        "no threads",
        "three files",
        "64 MiB of memory",
        "warnings are errors",
        "no standard error",
        "little stack",
    ],
)
def test_a_training_goes_on_with_little(condition: str, tmp_path: Path) -> None:
    arguments = {"folder": str(tmp_path), "condition": condition}
    ended = zygote().start("fault_rows.scarce_trials:train", tmp_path, arguments).wait(100.0)
    assert ended.status == 0, ended.stderr[-1500:]
    assert (tmp_path / "done").exists()
