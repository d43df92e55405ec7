"""The hooks of every training step: they note when it goes from phase to phase, and what its microbatches did.

They run from cold caches, ten times slower than in a loop, where each call of a function and each line costs: so each
is its own guard and appends to the recorder's queue itself, and what is not done in every step is done elsewhere.
`make bench-overhead` measures them.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from profiler.integrations.lightning_facts import logged_numbers, next_logging_step
from profiler.integrations.lightning_fetch import announce_fetches
from profiler.integrations.lightning_step import NEVER_SEEN, NO_SHAPE, OpenStep, loss_divisor, loss_in
from profiler.measure.batch import first_shape
from profiler.measure.guard import Guard, guarded
from profiler.measure.recorder import Work
from profiler.measure.session import RunFacts, Session
from profiler.measure.work import WorkCounter


class StepHooks(pl.Callback):
    """What a monitor does within a step; opening and closing the record is its own.

    Outside of a fit, and once recording is switched off, the open step notes nothing.
    """

    _guard: Guard
    _facts: RunFacts
    _session: Session | None
    _work_counter: WorkCounter | None
    _open_step: OpenStep

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is here: forward."""
        try:
            step = self._open_step
            step.note(("forward", step.now(), step.cpu and step.cpu()))
            step.passes = 0
            kind: Any = type(batch)
            if kind is not step.kind or not batch or getattr(batch[0], "shape", 0) != step.shape:
                self._begin_unlike(trainer, batch)
        except BaseException as error:
            if not self._is_ours(error):
                raise

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """Backward."""
        try:
            step = self._open_step
            step.note(("backward", step.now(), step.cpu and step.cpu()))
            step.passes += 1
            if step.counter is not None:
                step.counter.begin_backward()
        except BaseException as error:
            if not self._is_ours(error):
                raise

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Between backward and optimizer: whatever the strategy does there."""
        try:
            step = self._open_step
            if step.counter is not None:
                self._end_pass(pl_module)
            step.note(("other", step.now(), step.cpu and step.cpu()))
        except BaseException as error:
            if not self._is_ours(error):
                raise

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Optimizer."""
        try:
            step = self._open_step
            step.note(("optimizer", step.now(), step.cpu and step.cpu()))
            step.updated = True
        except BaseException as error:
            if not self._is_ours(error):
                raise

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The microbatch is done, and the step if the optimizer ran."""
        try:
            step, ended = self._open_step, None
            work = step.work
            if step.counter is not None or step.passes != 1:
                work = self._work_of_unlike(step, batch)
            if step.updated:
                step.updated = False
                step.number += 1
                logged = self._logged(trainer) if step.number == step.log_at else None
                ended = (step.number, step.divided_by, logged)
            loss = outputs.get("loss") if type(outputs) is dict else loss_in(outputs)
            if step.later is not None:
                loss = step.later(loss)
            now = step.now()
            step.note((step.between, now, step.cpu and step.cpu(), work, loss, ended))
            if now >= step.look_s:
                self._look(now)
        except BaseException as error:
            if not self._is_ours(error):
                raise

    def _fetch(self) -> None:
        """Lightning asks for the next batch: from here on is data wait."""
        try:
            step = self._open_step
            step.note(("data", step.now(), step.cpu and step.cpu()))
        except BaseException as error:
            if not self._is_ours(error):
                raise

    # -- not in every step -----------------------------------------------------------------------------------------

    def _is_ours(self, error: BaseException) -> bool:
        """Whether a fault in a hook was ours, and not what the user's own signal handler raised, say."""
        ours = self._guard.caught("recording", error)
        if ours:
            self._guard.call("ending the record", self._switch_off)
        return ours

    def _switch_off(self) -> None:
        """Nothing is noted any more."""
        self._end_count()
        self._open_step = OpenStep(self._open_step.number)

    def _begin_unlike(self, trainer: pl.Trainer, batch: Any) -> None:
        """A batch whose work may not be known: the first of an epoch, one of another shape, or each."""
        step, counter = self._open_step, self._work_counter
        if first_shape(batch) == step.shape:
            return
        if self._session is None or counter is None or "recording" in self._guard.reasons:
            self._open_step = OpenStep(step.number)
            return
        if step.shape is NEVER_SEEN:
            step.divided_by = loss_divisor(trainer)
            step.log_at = next_logging_step(trainer, step.number)
            step.between = "other" if announce_fetches(trainer, self._fetch) else "data"
        step.counter, step.shape = counter, NO_SHAPE
        counter.begin(batch)

    def _end_pass(self, pl_module: pl.LightningModule) -> None:
        """In automatic optimization the count ends with the backward pass."""
        if pl_module.automatic_optimization:
            self._end_count()
        elif self._work_counter:
            self._guard.call("counting FLOPs", self._work_counter.end_backward)

    @guarded("counting FLOPs")
    def _end_count(self) -> None:
        """Apart from the rest: counting slows operators down, so it must end even if recording has failed."""
        if self._work_counter:
            self._work_counter.end_count()

    def _work_of_unlike(self, step: OpenStep, batch: Any) -> Work:
        """Of the microbatch that ends; if the like of it is known from now on, they need not be looked at."""
        session, counter = self._session, self._work_counter
        if session is None or counter is None:
            return Work()
        if step.counter is None:
            return counter.again(step.passes)
        self._end_count()
        work, steady = counter.work(), counter.steady()
        if steady is not None:
            step.counter, step.kind = None, type(batch) if type(batch) in (list, tuple) else None
            step.shape, step.work = steady
        if session.flops_source is None:
            self._store_flops(session, counter)
        return work

    def _logged(self, trainer: pl.Trainer) -> dict[str, float]:
        step = self._open_step
        step.log_at = next_logging_step(trainer, step.number)
        return logged_numbers(trainer)

    def _look(self, now_s: float) -> None:
        """Whatever is not done in every step."""
        if self._session is None or "recording" in self._guard.reasons:
            self._open_step = OpenStep(self._open_step.number)
            return
        step = self._open_step
        step.cpu, step.look_s = self._session.recorder.look(now_s)

    def _store_flops(self, session: Session, counter: WorkCounter | None) -> None:
        """How FLOPs were got is only known after they were."""
        if counter is None:
            return
        session.flops_source = self._facts.flops_formula or counter.flops_source
        session.flops_convention = self._facts.flops_convention or counter.flops_convention
        session.flops_counted_over_given = counter.counted_over_given
