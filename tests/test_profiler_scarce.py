"""Trainings where something is scarce go on as they would without us, whatever becomes of the record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from fault_rows.zygote import zygote

CONDITIONS = [
    "no threads",
    "three files",
    "64 MiB of memory",
    "warnings are errors",
    "no standard error",
    "little stack",
]


def test_a_training_goes_on_with_little(tmp_path: Path) -> None:
    ended = zygote().start("fault_rows.scarce_trials:train", tmp_path, {"folder": str(tmp_path)}).wait(100.0)
    assert ended.status == 0, ended.stderr[-1500:]
    told = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert told == [{condition: []} for condition in CONDITIONS]
