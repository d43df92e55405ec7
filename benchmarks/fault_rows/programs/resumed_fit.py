"""Trains a few milliseconds a step under the monitor, and writes down each step: the ground truth of a killed run.

Lightning takes five seconds of CPU to import, so this process imports it once. A line of its standard input is a list
of `Asked` fits, which are forked and begin in the same moment. For each it prints the child's number, and then, once
all have ended, their exit statuses. A child writes its number, the step, monotonic seconds and CPU seconds after every
step to the file `truth`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from profiler import EfficiencyMonitor


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One fit.

    Attributes:
        folder: For checkpoints.
        resume: As `ckpt_path`; None begins anew.
        start_s: Monotonic seconds at which the monitor opens, for those that are to do so at once.
        env: Variables of the environment.
    """

    runs_dir: str
    folder: str
    truth: str
    steps: int
    step_s: float = 0.01
    checkpoint_every: int = 20
    name: str | None = None
    resume: str | None = None
    start_s: float = 0.0
    env: dict[str, str] = field(default_factory=dict)


class Numbers(Dataset[torch.Tensor]):
    """As many samples as steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), float(index))


class Small(L.LightningModule):
    """One weight matrix, and some CPU time that is really spent."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self._step_s = step_s

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        end_s = time.process_time() + self._step_s
        while time.process_time() < end_s:
            loss = self.layer(batch).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


class Truth(L.Callback):
    """Writes down each step that was done, before anything else can happen; waits for its moment before the fit."""

    def __init__(self, asked: Asked) -> None:
        self._start_s = asked.start_s
        self._descriptor = os.open(asked.truth, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def on_fit_start(self, *args: Any) -> None:
        time.sleep(max(self._start_s - time.monotonic(), 0.0))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        line = f"{os.getpid()} {trainer.global_step} {time.monotonic()} {time.process_time()}\n"
        os.write(self._descriptor, line.encode())


def fit(asked: Asked) -> None:
    """One training, from its beginning or from its last checkpoint."""
    os.environ.update(asked.env)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep = ModelCheckpoint(
        dirpath=asked.folder, every_n_train_steps=asked.checkpoint_every, save_last=True, save_top_k=1
    )
    monitor = EfficiencyMonitor(asked.runs_dir, name=asked.name, summary=False)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Truth(asked), monitor, keep], default_root_dir=asked.folder,
    )  # fmt: skip
    loader = DataLoader(Numbers(asked.steps), batch_size=1)
    trainer.fit(Small(asked.step_s), loader, ckpt_path=asked.resume, weights_only=True)


def main() -> None:
    """Fork the children of each line."""
    print("ready", flush=True)
    for line in sys.stdin:
        children = []
        for asked in json.loads(line):
            children.append(os.fork())
            if children[-1] == 0:
                fit(Asked(**asked))
                os._exit(0)
        print(*children, flush=True)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(*statuses, flush=True)


if __name__ == "__main__":
    main()
