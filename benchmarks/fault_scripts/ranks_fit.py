"""One rank of a Lightning training on the CPU, over made sensors, as `fault_rows/ranks.py` starts them.

    python ranks_fit.py '{"runs_dir": ..., "devices": 2, "nodes": 1, "steps": 60, ...}'

Prints one line of JSON at the end: what it trained, and the seconds of its fit on the kernel's clock.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from profiler import EfficiencyMonitor
from profiler.integrations import opening as bridge
from profiler.measure.probes import open_probes

TOLD = json.loads(sys.argv[1])
BATCH, STEP_S, SLOW_S = 4, 0.02, 0.06


class Small(L.LightningModule):
    """A training whose steps take about 20 ms, on one rank more."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    def configure_model(self) -> None:
        """Shard it, where a mesh says so."""
        if TOLD.get("parallel"):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Sleep for the step's time, and die if this is the step to die in."""
        self._die_if_told()
        time.sleep(SLOW_S if self.global_rank == TOLD.get("slow_rank") else STEP_S)
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain."""
        return torch.optim.SGD(self.parameters(), 0.1)

    def _die_if_told(self) -> None:
        if (self.global_rank, self.global_step) == (TOLD.get("kill_rank"), TOLD.get("kill_step")):
            os.kill(os.getpid(), signal.SIGKILL)


class Start(L.Callback):
    """Notes when the monitor has opened its record: listed after it."""

    def on_fit_start(self, *_: Any) -> None:
        """The sensors count from about here."""
        self.start_s = time.monotonic()


class End(L.Callback):
    """Notes when the monitor is about to close its record: listed before it."""

    def __init__(self, start: Start) -> None:
        self.start = start

    def on_fit_end(self, trainer: L.Trainer, *_: Any) -> None:
        """The sensors count until about here."""
        said = {"rank": trainer.global_rank, "start_s": self.start.start_s, "end_s": time.monotonic()}
        os.write(1, f"{json.dumps(said)}\n".encode())  # in one piece: ranks share a pipe


def strategy() -> Any:
    """DDP, or a mesh of shards and tensor slices."""
    if TOLD.get("parallel"):
        shards, slices = TOLD["parallel"]
        return ModelParallelStrategy(
            data_parallel_size=shards, tensor_parallel_size=slices, process_group_backend="gloo"
        )
    return DDPStrategy(process_group_backend="gloo", timeout=timedelta(minutes=3))


def main() -> None:
    """Train."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    bridge.open_probes = partial(open_probes, rapl_root=Path(TOLD["rapl"]))  # type: ignore[attr-defined]
    gpus = TOLD["gpus"][int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))]
    start = Start()
    monitor = EfficiencyMonitor(TOLD["runs_dir"], gpus=gpus, name=TOLD.get("name"))
    data = TensorDataset(
        torch.randn(BATCH * TOLD["steps"] * TOLD.get("shares", TOLD["devices"] * TOLD["nodes"]), 8)
    )
    L.Trainer(
        accelerator="cpu",
        devices=TOLD["devices"],
        num_nodes=TOLD["nodes"],
        strategy=strategy(),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[End(start), monitor, start],
    ).fit(Small(), DataLoader(data, BATCH))


if __name__ == "__main__":
    main()
