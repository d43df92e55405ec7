"""The training of workload `lm`: the module, the callback that walks a schedule, and one `trainer.fit`.

Lightning knows a single epoch of steps. Which of them belong to the trunk and which to a branch, at what rate
they learn and what happens between them is the business of `ScheduleCallback`.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from workloads.checkpoints import Checkpoints, StepsFrom
from workloads.corpus import Corpus
from workloads.device import threads
from workloads.lm_settings import LMSettings
from workloads.progress import ProgressCallback, choose_display
from workloads.schedule import Schedule, Segment
from workloads.transformer import Transformer
from workloads.transformer_config import model_flops_per_token, num_params

Batch = Sequence[Tensor]


class LMModule(L.LightningModule):
    """The model with its loss and optimizer."""

    def __init__(self, settings: LMSettings, *, vocab_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.transformer = Transformer(settings.config(vocab_size))
        if settings.compile:
            self.transformer.compile()

    def token_losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each target, in nats, of shape (batch, time)."""
        inputs, targets = batch
        logits = self.transformer(inputs).float().flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of a batch, in nats per token."""
        return self.token_losses(batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW in one kernel; `peak_lr` is what the schedule's factor multiplies."""
        settings, embedding = self.settings, self.transformer.embedding.weight
        matrices = [p for p in self.transformer.parameters() if p is not embedding]
        groups = [
            {"params": matrices, "peak_lr": settings.matrix_lr, "weight_decay": settings.weight_decay},
            {"params": [embedding], "peak_lr": settings.lr, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


class ScheduledBatches(Dataset[tuple[Tensor, Tensor]]):
    """The batch of each step, in the order of execution: branches and trunk read the same positions."""

    def __init__(self, corpus: Corpus, schedule: Schedule, settings: LMSettings, *, seed: int) -> None:
        self._positions = [position for _, position in schedule.steps()]
        self._corpus, self._settings, self._seed = corpus, settings, seed

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        return self._corpus.train_batch(
            self._positions[step],
            batch_size=self._settings.batch_size,
            seq_len=self._settings.seq_len,
            seed=self._seed,
        )


class Monitor(Protocol):
    """The part of `EfficiencyMonitor` that a workload talks to."""

    @property
    def attempt(self) -> int:
        """Which start of its run this is."""
        ...

    def now(self) -> float:
        """Seconds on the run's clock."""
        ...

    def phase(self, name: Any) -> AbstractContextManager[Any]:
        """Book the time within as this phase, and not as a step's."""
        ...

    def mark(
        self,
        kind: str,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        note: Mapping[str, object] = ...,
    ) -> None:
        """Record an interval or an instant."""
        ...


class ScheduleCallback(L.Callback):
    """Walks the schedule: sets each step's learning rate, branches, evaluates, comes back to the trunk.

    The windows of time that a point is charged with are those of the trunk so far and of its own cool-down.
    What lies between segments (copying state, evaluating, checkpoints) belongs to none. Windows and the trunk's state
    go into checkpoints; a window is `[start_s, end_s, attempt]`, since each attempt has its own clock.
    """

    def __init__(
        self,
        *,
        schedule: Schedule,
        corpus: Corpus,
        settings: LMSettings,
        monitor: Monitor,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._steps = list(schedule.steps())
        self._schedule, self._corpus, self._settings, self._monitor = schedule, corpus, settings, monitor
        self._checkpoints = checkpoints
        self._trunk_windows: list[list[float]] = []
        self._segment_windows: list[list[float]] = []
        self._branch_state: dict[str, Any] = {}
        self._resumed = False
        self._begun_s = 0.0  # of the segment, in this attempt
        self._start_s: float | None = None  # of the window that is open

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside weights and optimizer."""
        open_now = [] if self._start_s is None else [self._window(self._start_s, self._monitor.now())]
        return {
            "trunk": [*self._trunk_windows],
            "segment": [*self._segment_windows, *open_now],
            "branch": self._branch_state,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._trunk_windows, self._segment_windows = state_dict["trunk"], state_dict["segment"]
        self._branch_state = state_dict["branch"]
        self._resumed = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warm up, then enter the first segment, or go on in the one of the checkpoint."""
        warm_up(trainer, self._corpus, self._settings)
        if self._checkpoints is not None:
            self._checkpoints.start()
        if self._resumed:
            self._begun_s = self._start_s = self._now(trainer)
        else:
            self._enter(self._steps[0][0], trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate."""
        factor = self._schedule.lr_factor(*self._steps[batch_idx])
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = factor * group["peak_lr"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the last step of a segment, leave it and enter the next; write a checkpoint when it is time."""
        segment, position = self._steps[batch_idx]
        is_last = batch_idx + 1 == len(self._steps)
        if position + 1 == segment.end_position:
            self._leave(segment, trainer, is_last=is_last)
            if not is_last:
                self._enter(self._steps[batch_idx + 1][0], trainer)
        if self._checkpoints is not None and self._checkpoints.due and not is_last:
            self._close_window(trainer)
            self._checkpoints.write(trainer)
            self._start_s = self._now(trainer)

    def _enter(self, segment: Segment, trainer: L.Trainer) -> None:
        if segment.kind == "cooldown":
            with self._monitor.phase("checkpoint"):
                self._branch_state = copy_state(trainer)
        self._begun_s = self._start_s = self._now(trainer)

    def _window(self, start_s: float, end_s: float) -> list[float]:
        return [start_s, end_s, self._monitor.attempt]

    def _close_window(self, trainer: L.Trainer) -> float:
        assert self._start_s is not None
        end_s = self._now(trainer)
        self._segment_windows.append(self._window(self._start_s, end_s))
        self._start_s = None
        return end_s

    def _leave(self, segment: Segment, trainer: L.Trainer, *, is_last: bool) -> None:
        end_s = self._close_window(trainer)
        windows, self._segment_windows = self._segment_windows, []
        self._monitor.mark(
            segment.kind,
            start_s=self._begun_s,
            end_s=end_s,
            note={"budget_tokens": segment.budget_tokens, "steps": segment.num_steps},
        )
        if segment.kind == "trunk":
            self._trunk_windows += windows
            return
        self._mark_point(segment, trainer, windows=[*self._trunk_windows, *windows])
        if not is_last:  # the model of the last branch is the one that is kept
            with self._monitor.phase("checkpoint"):
                restore_state(trainer, self._branch_state)
        self._branch_state = {}

    def _mark_point(self, segment: Segment, trainer: L.Trainer, *, windows: list[list[float]]) -> None:
        with self._monitor.phase("validation"):
            loss, plus_minus = self._evaluate(trainer)
        config = self._settings.config(self._corpus.vocab_size)
        steps = segment.end_position
        tokens = steps * self._settings.tokens_per_step
        note = {
            "budget_tokens": segment.budget_tokens,
            "tokens": tokens,
            "params": num_params(config),
            "loss": loss,
            "loss_plus_minus": plus_minus,
            "windows": [w[:2] if w[2] == self._monitor.attempt else w for w in windows],
            "steps": steps,
            "model_flops": tokens * model_flops_per_token(config),
        }
        self._monitor.mark("budget", start_s=self._monitor.now(), note=note)

    def _evaluate(self, trainer: L.Trainer) -> tuple[float | None, float | None]:
        module = trainer.lightning_module
        assert isinstance(module, LMModule)
        batches = self._corpus.validation_batches(
            num_sequences=self._settings.val_sequences,
            batch_size=self._settings.batch_size,
            seq_len=self._settings.seq_len,
        )
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            losses = [
                module.token_losses([t.to(module.device) for t in batch]).mean(dim=1) for batch in batches
            ]
        return mean_and_half_width(torch.cat(losses).double())

    def _now(self, trainer: L.Trainer) -> float:
        # A handful of times in a run: without it, kernels still queued would be charged to the next segment.
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        return self._monitor.now()


def warm_up(trainer: L.Trainer, corpus: Corpus, settings: LMSettings) -> None:
    """One pass that is thrown away, so that compiling and allocating are in no point's windows.

    Compiling takes half a minute and the first window is in all points: it would flatten every curve.
    """
    module = trainer.lightning_module
    assert isinstance(module, LMModule)
    batch = corpus.train_batch(0, batch_size=settings.batch_size, seq_len=settings.seq_len, seed=0)
    with trainer.precision_plugin.forward_context():
        loss = module.token_losses([t.to(module.device) for t in batch]).mean()
    torch.autograd.backward(loss)
    module.zero_grad(set_to_none=True)


def copy_state(trainer: L.Trainer) -> dict[str, Any]:
    """A copy of everything that training changes: weights and optimizer state."""
    assert trainer.model is not None
    return copy.deepcopy(
        {"model": trainer.model.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
    )


def restore_state(trainer: L.Trainer, state: Mapping[str, Any]) -> None:
    """Put weights and optimizer back, bit for bit. The optimizer adopts the copy, so use each copy once."""
    assert trainer.model is not None
    trainer.model.load_state_dict(state["model"])
    trainer.optimizers[0].load_state_dict(state["optimizer"])


def mean_and_half_width(losses: Tensor) -> tuple[float | None, float | None]:
    """Mean of the sequences' losses and half the width of its 95 % interval; None where there is none.

    The interval holds for sequences drawn at random from the validation part. It says how well the loss of
    this model is known, not how much another seed would change it.
    """
    mean = losses.mean().item()
    if not math.isfinite(mean):
        return None, None
    return mean, 1.96 * losses.std().item() / math.sqrt(len(losses)) if len(losses) > 1 else None


def fit(
    settings: LMSettings,
    corpus: Corpus,
    schedule: Schedule,
    monitor: Monitor,
    *,
    seed: int,
    accelerator: str = "cpu",
    callbacks: Sequence[L.Callback] = (),
    checkpoints: Checkpoints | None = None,
    resume: Path | None = None,
) -> LMModule:
    """Run a schedule from freshly seeded weights, or from a checkpoint; return the module as the last step left it."""
    torch.manual_seed(seed)
    module = LMModule(settings, vocab_size=corpus.vocab_size)
    walker = ScheduleCallback(
        schedule=schedule, corpus=corpus, settings=settings, monitor=monitor, checkpoints=checkpoints
    )
    display = choose_display()
    if display is not None:
        shown = ProgressCallback(display, steps=schedule.num_steps, tokens_per_step=settings.tokens_per_step)
        callbacks = [*callbacks, shown]
    batches = ScheduledBatches(corpus, schedule, settings, seed=seed)
    with _quiet_lightning(), threads(settings.threads):
        trainer = L.Trainer(
            accelerator=accelerator,
            devices=1,
            precision=settings.precision,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, walker],
        )
        steps = StepsFrom(lambda: int(trainer.global_step), schedule.num_steps)
        loader = DataLoader(batches, sampler=steps, batch_size=None, pin_memory=accelerator == "cuda")
        trainer.fit(module, loader, ckpt_path=resume, weights_only=True if resume else None)
    return module


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice on loaders and devices, which is for its own users. Errors still show."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
