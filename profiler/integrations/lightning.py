"""`EfficiencyMonitor`: the Lightning callback. It maps Lightning's hooks to phases and steps, and does nothing else.

Every hook runs under a guard: a fault of ours is logged once and the training goes on. Nothing synchronises, no
random number is drawn, no collective is called, and no signal handler is touched.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from profiler.errors import InvalidValueError
from profiler.integrations.arguments import (
    checked_function,
    checked_gpus,
    checked_name,
    checked_peak,
    checked_runs_dir,
)
from profiler.integrations.codecarbon import check_second_opinion
from profiler.integrations.lightning_checkpoint import time_checkpoints
from profiler.integrations.lightning_facts import (
    full_batch,
    place_of,
    with_params,
)
from profiler.integrations.lightning_fetch import silence_fetches
from profiler.integrations.lightning_hooks import StepHooks
from profiler.integrations.lightning_resume import is_fitting, read_point, steps_since, write_point
from profiler.integrations.lightning_step import NEVER_SEEN, OpenStep
from profiler.integrations.open_record import OpenRecord
from profiler.integrations.opening import Ends, close_all, country_of, measure_around, open_session
from profiler.measure.attempt import ResumePoint
from profiler.measure.guard import Guard, guarded
from profiler.measure.idle import checked_idle_s
from profiler.measure.lifetime import at_exit, forget_in_children
from profiler.measure.ranks import GpuChoice
from profiler.measure.session import RunFacts, Session
from profiler.measure.work import WorkCounter

__all__ = ["EfficiencyMonitor", "RunFacts"]


class EfficiencyMonitor(OpenRecord, StepHooks):
    """Records energy, time, work and memory of a `trainer.fit`, and leaves the training as it is.

    Tokens, samples, FLOPs and devices are found out; what cannot be is stored as null with the reason. A step is
    one optimizer update. Energy of other processes on the same GPU is part of the GPU's.

    Args:
        runs_dir: The runs folder; made if need be.
        name: Name of the run; None makes one from the time.
        gpus: `"auto"`: the GPU this trainer's process uses; `"visible"`: all that `CUDA_VISIBLE_DEVICES` leaves; or
            positions among the visible ones, or UUIDs.
        tokens: Tokens in a batch, where they cannot be found out.
        samples: Samples in a batch, likewise.
        model_flops: FLOPs of the forward and backward pass of a batch, without recomputation, if there is a formula.
        peak_flops_per_s: What one device can do at most; a number, `"measure"` (a few seconds before the fit, with its
            memory bandwidth), or None for the datasheet's.
        idle_s: Seconds to wait before the fit, with the sensors read and nothing trained, so that the devices' idle
            power is known; None does not wait. It is shown beside the fit's energy, never subtracted from it.
        facts: What else is known of the run.
        second_opinion: `"codecarbon"` has codecarbon's own tracker estimate the same run, in a process of its own on
            each host; what it says is stored beside our numbers. Its start takes 2 to 3 s before the fit.
        summary: Whether to print a summary at the end; on a terminal only.

    Raises:
        InvalidValueError: An argument cannot mean anything; raised here, before any training.
    """

    def __init__(
        self,
        runs_dir: str | Path = "runs",
        *,
        name: str | None = None,
        gpus: GpuChoice = "auto",
        tokens: Callable[[Any], int] | None = None,
        samples: Callable[[Any], int] | None = None,
        model_flops: Callable[[Any], float] | None = None,
        peak_flops_per_s: float | Literal["measure"] | None = None,
        idle_s: float | None = None,
        facts: RunFacts | None = None,
        second_opinion: str | None = None,
        summary: bool = True,
    ) -> None:
        self.runs_dir = checked_runs_dir(runs_dir)
        self.run_dir: Path | None = None
        self._name, self._gpus, self._peak = (
            checked_name(name),
            checked_gpus(gpus),
            checked_peak(peak_flops_per_s),
        )
        self._tokens = checked_function("tokens", tokens)
        self._samples = checked_function("samples", samples)
        self._model_flops = checked_function("model_flops", model_flops)
        self._facts = facts or RunFacts()
        self._second_opinion = check_second_opinion(second_opinion)
        self._idle_s = checked_idle_s(idle_s)
        self._summary = summary
        self._guard = Guard()
        self._left: ResumePoint | None = None  # of the last fit's end: a checkpoint may be written after it
        self._reset()

    def _reset(self) -> None:
        self._session: Session | None = None
        self._work_counter: WorkCounter | None = None
        self._ends: Ends = []  # what is open: its part, and how to close it
        self._status = "finished"
        self._open_step = OpenStep()
        self._resumed: ResumePoint | None = None
        self._waits = False  # for the checkpoint, with which the record opens
        self._first_step, self._first_global_step = 0, 0

    @guarded("copying the monitor", otherwise={"_guard": Guard()})
    def __getstate__(self) -> dict[str, Any]:
        """Without what is open: its threads and files stay with the process that opened them."""
        blank = EfficiencyMonitor.__new__(EfficiencyMonitor)
        blank._reset()
        return {**self.__dict__, **blank.__dict__}

    # -- what a training may add to its record ---------------------------------------------------------------------

    @guarded("the work so far")
    def model_flops(self) -> float | None:
        """Of the steps of this fit so far, of this process; None outside of a fit, or if those of a step are unknown.

        Asking makes rows of what was noted, so ask now and then, not in every step. On a GPU the last steps may be
        missing: those that it has not come to.
        """
        return self._session.recorder.model_flops() if self._session else None

    # -- Lightning's hooks -----------------------------------------------------------------------------------------

    @guarded("beginning a fit")
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the record: sensors, files, threads."""
        if self._session is None and not self._waits:
            self._guard = Guard()
        self._guard.call("opening the record", self._begin, trainer, pl_module)
        if self._session is None and not self._waits:
            self._end()

    @guarded("beginning a fit")
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the record of a sharded training."""
        self._open_late(trainer, pl_module)

    def _open_late(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the record, if it waited for the checkpoint, which some strategies read after `on_fit_start`."""
        if not self._waits:
            return
        self._waits = False
        self._guard.call("opening the record", self._open, trainer, pl_module)
        if self._session is None:
            self._end()

    @guarded("resuming")
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The training goes on from a checkpoint: of which run, it says."""
        if is_fitting(trainer):
            self._resumed = read_point(checkpoint, self.runs_dir)

    @guarded("resuming")
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the checkpoint say of which run it is, and how many steps were done."""
        if self._session:
            since = steps_since(trainer, pl_module, self._first_global_step)
            self._leave(self._session, self._open_step.number if since is None else self._first_step + since)
            self._session.store_now()
        if self._left:
            write_point(checkpoint, self._left)

    def _leave(self, session: Session, step: int) -> None:
        session.last_step = step
        self._left = ResumePoint(run_id=session.run_dir.name, attempt=session.attempt, step=step)

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._session is not None or self._waits:
            self._guard.fail(
                "recording",
                InvalidValueError(
                    "the same monitor is listed twice among the callbacks, or a fit began within a fit"
                ),
            )
            return
        resumed = self._resumed
        self._reset()
        self._resumed, self._waits = resumed, trainer.strategy.restore_checkpoint_after_setup
        if not self._waits:
            self._open(trainer, pl_module)

    def _open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        part, place = self._guard.call, place_of(trainer)
        forget_in_children(self._forget)
        self._ends.append(("forgetting the interpreter's end", at_exit(self._interpreter_ended)))
        session = open_session(
            self.runs_dir,
            part("counting parameters", with_params, self._facts, pl_module) or self._facts,
            guard=self._guard,
            ends=self._ends,
            place=place,
            device=trainer.strategy.root_device,
            precision=trainer.precision,
            gpus=self._gpus,
            peak=self._peak,
            name=self._name,
            resumed=self._resumed,
            status=lambda: self._status,
        )
        self._ends.append(("the last step", lambda: self._leave(session, self._open_step.number)))
        self._session, self.run_dir = session, session.run_dir
        if self._summary and trainer.is_global_zero:
            self._ends.insert(0, ("the summary", lambda: _print_summary(session.run_dir)))
        self._work_counter = part("counting work", self._count_work, session, pl_module)
        measure_around(
            session,
            guard=self._guard,
            ends=self._ends,
            idle_s=self._idle_s,
            second_opinion=self._second_opinion if place.local_rank == 0 else None,
            country=country_of(self._facts),
        )
        part("timing checkpoints", self._time_checkpoints, trainer)
        self._ends.append(("the data fetcher", lambda: silence_fetches(trainer)))

    def _count_work(self, session: Session, pl_module: pl.LightningModule) -> WorkCounter:
        counter = WorkCounter(
            pl_module,
            notes=session.notes,
            guard=self._guard,
            tokens=self._tokens,
            samples=self._samples,
            model_flops=self._model_flops,
        )
        self._ends.append(("storing FLOPs", lambda: self._store_flops(session, counter)))
        self._ends.append(("counting FLOPs at the end", counter.end_count))
        self._store_flops(session, counter)
        return counter

    def _time_checkpoints(self, trainer: pl.Trainer) -> None:
        self._ends.append(("the trainer's save_checkpoint", time_checkpoints(trainer, self.phase)))

    @guarded("recording")
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed training has its step number only now, and the loader is here."""
        self._open_late(trainer, pl_module)
        self._first_global_step = trainer.global_step
        self._first_step = self._resumed.step if self._resumed else trainer.global_step
        if self._work_counter and self._session:
            self._open_step = OpenStep(self._first_step, self._session.recorder)
            self._work_counter.expect(full_batch(trainer))

    @guarded("recording")
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here to the first batch is data wait."""
        step = self._open_step
        if self._work_counter:
            self._work_counter.begin_epoch()
        self._enter("data")
        step.between, step.shape = "data", NEVER_SEEN

    @guarded("recording")
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation, the sanity check included."""
        self._enter("validation")

    @guarded("recording")
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to waiting for the next batch."""
        self._enter(None if trainer.sanity_checking else self._open_step.between)

    @guarded("recording")
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows until the next epoch is no step's."""
        self._enter(None)

    @guarded("the end of the fit")
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the record."""
        self._end()

    @guarded("an exception in the training")
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the record; nothing raised here may replace the user's own exception."""
        self._interrupted(type(exception).__name__)  # the kind only: a message may hold anything

    @guarded("the teardown")
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the record if nothing else did."""
        if stage == "fit":
            self._end()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _interrupted(self, by: str) -> None:
        self._status = "interrupted"
        if self._session:
            self._session.notes["ended"] = f"{by} after step {self._open_step.number}"
        self._end()

    def _interpreter_ended(self) -> None:
        """A script may end while a fit of another thread goes on."""
        self._guard.call("the end of the interpreter", self._interrupted, "end of the interpreter")

    def _forget(self) -> None:
        """This process was forked: what is open is the parent's, and the locks are as they were in its threads."""
        self._guard.call("forgetting the parent", self._reset)

    def _end(self) -> None:
        self._guard.call("closing the record", self._close)

    def _close(self) -> None:
        close_all(self._ends, self._guard)
        self._reset()


def _print_summary(run_dir: Path) -> None:
    """By a process of its own: reports use Polars, whose threads would not survive a fork of this process."""
    if not sys.stdout.isatty():
        return
    words = [
        sys.executable,
        "-m",
        "profiler.cli.main",
        "show",
        run_dir.name,
        "--runs-dir",
        str(run_dir.parent),
    ]
    subprocess.run(words, check=False, timeout=60)
