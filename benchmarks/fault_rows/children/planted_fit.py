"""The training of F27: what it must not leave behind comes on standard input; it fails with one more secret."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from profiler import EfficiencyMonitor, RunFacts

LAST_STEP = 5
FLUSH_S = 1.6
"""Until whatever is written every second has been."""


class Model(L.LightningModule):
    """Fails after some steps, with a secret in what it says."""

    def __init__(self, plan: dict[str, Any], hf_token: str) -> None:
        super().__init__()
        self.save_hyperparameters("hf_token")
        self.plan, self.layer = plan, torch.nn.Linear(2, 2)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """One step; the last one copies the run's folder and fails."""
        if index == LAST_STEP:
            time.sleep(FLUSH_S)
            folder = Path(self.plan["folder"])
            shutil.copytree(folder / "runs", folder / "copy", ignore_dangling_symlinks=True)
            raise RuntimeError(f"401 Unauthorized for token={self.plan['planted']['exception']}")
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), 0.1)


def main() -> None:
    """Train until it fails."""
    plan = json.loads(sys.stdin.read())
    planted, marker = plan["planted"], plan["marker"]
    facts = RunFacts(
        settings={
            "name": marker,
            "hf_token": planted["settings"],
            "nested": {"loggers": [{"api_key": planted["settings"]}]},
            "data": f"s3://me:{planted['address']}@bucket/x",
            "argv": sys.argv,
        },
        notes={"source": f"fetched from https://me:{planted['note']}@host/x"},
    )

    def tokens(batch: object) -> int:
        raise ValueError(f"no tokens for password={planted['hook']}")

    monitor = EfficiencyMonitor(Path(plan["folder"]) / "runs", facts=facts, tokens=tokens)
    model = Model(plan, planted["settings"])
    trainer = L.Trainer(
        max_steps=LAST_STEP + 5,
        callbacks=[monitor, Marker(monitor, f"token={planted['mark']} {marker}")],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, DataLoader(TensorDataset(torch.randn(64, 2)), 4))


class Marker(L.Callback):
    """Marks an instant with a text of the user's."""

    def __init__(self, monitor: EfficiencyMonitor, text: str) -> None:
        self._monitor, self._text = monitor, text

    def on_train_batch_end(self, *_: Any) -> None:
        """Mark it."""
        self._monitor.mark("phenomenon", note={"text": self._text})


if __name__ == "__main__":
    main()
