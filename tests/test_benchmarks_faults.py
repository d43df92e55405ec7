"""A few trials of each row of the fault scorecard; all of them run in `make faults`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from fault_rows import all_faults
from fault_rows.row import Fault

QUICK = [fault for fault in all_faults() if fault.quick]


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.id)
def test_the_pass_line_holds(fault: Fault, tmp_path: Path):
    assert fault.quick is not None
    if missing := fault.missing():
        reason = f"{', '.join(missing)} is needed to make this fault"
        if os.environ.get("JOULESCALE_REQUIRE") == "all":
            pytest.fail(reason)
        pytest.skip(reason)
    outcome = fault.run(fault.quick, tmp_path)
    assert outcome.trials == fault.quick
    assert outcome.passed == outcome.trials, (outcome.worst, outcome.failures)


def test_ids_are_given_once():
    ids = [fault.id for fault in all_faults()]
    assert len(ids) == len(set(ids))
