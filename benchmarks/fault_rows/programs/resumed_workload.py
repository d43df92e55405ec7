"""Trains the workload `lm` once whole and once killed with -9 at two random steps, and compares the weights bit by bit.

    python resumed_workload.py FOLDER SEED

Prints one JSON object: whether the weights are equal, and the steps at which it was killed. Each training is a process
of its own, forked after torch was imported.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from profiler.workload import RunRequest
from workloads import lm
from workloads.lm_settings import LMSettings


class Killer(L.Callback):
    """Kills its own process after a step, as nobody can expect."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(request: RunRequest, weights: Path, kill: int | None) -> int:
    """Train in a process of its own; its exit status."""
    child = os.fork()
    if child == 0:
        fit = lm.fit

        def watched(*args: Any, **options: Any) -> Any:
            killers = [Killer(kill)] if kill else []
            module = fit(*args, **{**options, "callbacks": [*options["callbacks"], *killers]})
            torch.save(module.state_dict(), weights)
            return module

        lm.fit = watched
        lm.WORKLOAD.train(request)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Train whole, train killed, compare."""
    folder, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    text = folder / "text.txt"
    text.write_text("".join(f"a short text, line {number}\n" for number in range(500)))
    settings: LMSettings = dataclasses.replace(
        lm.WORKLOAD.preset("smoke"), token_budgets=(4096, 8192, 16384), data=str(text), threads=1
    )
    steps = settings.schedule().num_steps
    whole = RunRequest(
        runs_dir=folder / "runs", workload="lm", preset="smoke", seed=3, settings=settings, name="whole"
    )
    assert train(whole, folder / "whole.pt", None) == 0
    killed = dataclasses.replace(whole, name="killed", checkpoint_every_s=0.02)
    kills = sorted(chance.sample(range(3, steps), 2))
    for number, kill in enumerate([*kills, None]):
        request = dataclasses.replace(killed, resume="killed") if number else killed
        status = train(request, folder / "killed.pt", kill)
        assert status == (-signal.SIGKILL if kill else 0), status
    first, second = (torch.load(folder / name) for name in ("whole.pt", "killed.pt"))
    equal = all(torch.equal(second[name], value) for name, value in first.items())
    print(json.dumps({"equal": equal, "kills": kills, "steps": steps}))


if __name__ == "__main__":
    main()
