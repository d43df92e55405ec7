"""Lightning's checkpoints and the runs that they belong to, by real fits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from profiler import EfficiencyMonitor, open_run, summarize
from profiler.integrations.lightning_resume import KEY
from profiler.store.runs import scan_runs


class Numbers(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((4,), float(index))


class Line(L.LightningModule):
    def __init__(self, stop_after: float = math.inf) -> None:
        super().__init__()
        self.layer, self.stop_after = torch.nn.Linear(4, 1), stop_after

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        if self.global_step >= self.stop_after:
            raise KeyError("the user's own")
        return self.layer(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class TwoUpdates(Line):
    """Manual optimization: Lightning counts two steps a batch, which are one of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # type: ignore[override]
        for _ in range(2):
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).square().mean())
            optimizer.step()


class Late(SingleDeviceStrategy):
    """Reads its checkpoint after `on_fit_start`, as sharded strategies do."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


def fit(
    monitors: list[EfficiencyMonitor],
    module: L.LightningModule | None = None,
    *,
    ckpt_path: Any = None,
    callbacks: list[L.Callback] | None = None,
    **options: Any,
) -> L.Trainer:
    defaults = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": bool(callbacks),
    }
    trainer = L.Trainer(
        callbacks=[*monitors, *(callbacks or [])], enable_progress_bar=False, enable_model_summary=False,
        **{**defaults, **options},
    )  # fmt: skip
    trainer.fit(module or Line(), DataLoader(Numbers(), 1), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def attempts(runs_dir: Path) -> list[tuple[int, int | None, int, int]]:
    rows = summarize(open_run(runs_dir, "latest"))["attempts"]
    return [(r["attempt"], r["resumed_from_step"], r["first_step"], r["last_step"]) for r in rows]


def test_a_failed_fit_goes_on_as_the_next_attempt(tmp_path: Path):
    keep = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=4, save_last=True)
    with pytest.raises(KeyError, match="the user's own"):
        fit([EfficiencyMonitor(tmp_path / "r")], Line(stop_after=7), callbacks=[keep])
    keep = ModelCheckpoint(dirpath=tmp_path / "c", every_n_train_steps=4, save_last=True)
    fit([EfficiencyMonitor(tmp_path / "r")], callbacks=[keep], ckpt_path="last")
    assert attempts(tmp_path / "r") == [(1, None, 1, 7), (2, 4, 5, 12)]
    summary = summarize(open_run(tmp_path / "r", "latest"))
    assert (summary["steps"], summary["samples"], summary["lost_work"]["steps"]) == (12, 12, 3)
    assert summary["attempts"][0]["ended"] == "KeyError after step 7"


def test_a_checkpoint_after_the_fit_is_the_runs_end_and_more_epochs_go_on(tmp_path: Path):
    fit([EfficiencyMonitor(tmp_path / "r")]).save_checkpoint(tmp_path / "end.ckpt")
    told = torch.load(tmp_path / "end.ckpt", weights_only=True)[KEY]
    assert list(told.values()) == [{"attempt": 1, "step": 12}]
    fit([EfficiencyMonitor(tmp_path / "r")], max_epochs=2, ckpt_path=tmp_path / "end.ckpt")
    assert attempts(tmp_path / "r") == [(1, None, 1, 12), (2, 12, 13, 24)]
    assert summarize(open_run(tmp_path / "r", "latest"))["lost_work"]["steps"] == 0


def test_a_checkpoint_that_is_read_late_is_known_in_time(tmp_path: Path):
    options: dict[str, Any] = {"strategy": Late(accelerator=CPUAccelerator()), "accelerator": "auto"}
    fit([EfficiencyMonitor(tmp_path / "r")], **options).save_checkpoint(tmp_path / "end.ckpt")
    fit([EfficiencyMonitor(tmp_path / "r")], max_epochs=2, ckpt_path=tmp_path / "end.ckpt", **options)
    assert attempts(tmp_path / "r") == [(1, None, 1, 12), (2, 12, 13, 24)]


def test_steps_are_ours_where_lightning_counts_otherwise(tmp_path: Path):
    fit([EfficiencyMonitor(tmp_path / "r")], TwoUpdates()).save_checkpoint(tmp_path / "end.ckpt")
    fit([EfficiencyMonitor(tmp_path / "r")], TwoUpdates(), max_epochs=2, ckpt_path=tmp_path / "end.ckpt")
    assert attempts(tmp_path / "r") == [(1, None, 1, 12), (2, 12, 13, 24)]


def test_two_monitors_each_go_on_with_their_own_run(tmp_path: Path):
    both = [EfficiencyMonitor(tmp_path / "a"), EfficiencyMonitor(tmp_path / "b")]
    fit(both).save_checkpoint(tmp_path / "end.ckpt")
    again = [EfficiencyMonitor(tmp_path / "b"), EfficiencyMonitor(tmp_path / "a")]
    fit(again, max_epochs=2, ckpt_path=tmp_path / "end.ckpt")
    assert [len(scan_runs(tmp_path / name)) for name in "ab"] == [1, 1]
    assert attempts(tmp_path / "a") == attempts(tmp_path / "b") == [(1, None, 1, 12), (2, 12, 13, 24)]


def test_looking_at_a_checkpoint_is_no_training(tmp_path: Path):
    monitor = EfficiencyMonitor(tmp_path / "r")
    trainer = fit([monitor])
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    trainer.validate(Line(), DataLoader(Numbers(), 1), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    fit([monitor])
    assert [[p.facts.attempt for p in run.processes] for run in scan_runs(tmp_path / "r")] == [[1], [1]]


@pytest.mark.parametrize(
    "spoilt", [{"../x": {"attempt": 1, "step": 2}}, {"x": {"attempt": "no"}}, {"x": 3}, 7]
)
def test_a_spoilt_place_in_a_checkpoint_is_said_and_a_new_run_made(
    tmp_path: Path, spoilt: Any, caplog: pytest.LogCaptureFixture
):
    fit([EfficiencyMonitor(tmp_path / "r")]).save_checkpoint(tmp_path / "end.ckpt")
    checkpoint = torch.load(tmp_path / "end.ckpt", weights_only=True)
    torch.save({**checkpoint, KEY: spoilt}, tmp_path / "end.ckpt")
    fit([EfficiencyMonitor(tmp_path / "r")], max_epochs=2, ckpt_path=tmp_path / "end.ckpt")
    assert "resuming" in caplog.text
    runs = scan_runs(tmp_path / "r")
    assert [run.status for run in runs] == ["finished", "finished"]
    assert runs[1].processes[0].steps["step"].to_list() == [*range(13, 25)]
