"""F21: everything once on a machine without a network, with every attempt to reach one counted by strace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fault_rows.row import Fault, Outcome

_FLOW = Path(__file__).parent / "children" / "no_network_flow.py"
_ALONE = ("unshare", "-n") if os.geteuid() == 0 else ("unshare", "-rn")


def _without_network(trials: int, folder: Path) -> Outcome:
    failures: list[str] = []
    passed = foreign = own = 0
    for number in range(trials):
        trial = folder / str(number)
        trial.mkdir()
        ended = subprocess.run(
            [*_ALONE, sys.executable, str(_FLOW), str(trial)], capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            failures.append(f"the flow failed: {ended.stderr[-2000:]}")
            continue
        said = json.loads(ended.stdout)
        wrong = [f"{command} ended with {status}" for command, status in said["failed"].items()]
        wrong += [f"{command} tried to reach {address}" for command, address in said["foreign"]]
        foreign, own = foreign + len(said["foreign"]), own + said["own"]
        failures += wrong
        passed += not wrong
    worst = f"{foreign} connects to elsewhere, {own} to this machine itself"
    return Outcome(trials=trials, passed=passed, worst=worst, failures=tuple(failures))


ROWS = (
    Fault(
        id="F21",
        fault="no network: run with codecarbon's second opinion, exec, list, show, scale, doctor, the dashboard",
        pass_line="everything works, 0 connects",
        run=_without_network,
        trials=2,
        programs=("unshare", "strace"),
    ),
)
