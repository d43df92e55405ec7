"""`EfficiencyMonitor`: the Lightning callback. It maps Lightning's hooks to phases and steps, and does nothing else.

Every hook runs under a guard: a fault of ours is logged once and the training goes on. Nothing synchronises, no
random number is drawn, no collective is called, and no signal handler is touched.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from profiler.carbon.factors import CarbonFactors
from profiler.errors import InvalidValueError, UnknownNameError
from profiler.integrations.arguments import (
    checked_function,
    checked_gpus,
    checked_name,
    checked_peak,
    checked_runs_dir,
)
from profiler.integrations.codecarbon import CodecarbonTracker, check_second_opinion
from profiler.integrations.lightning_checkpoint import time_checkpoints
from profiler.integrations.lightning_facts import (
    SlowMemory,
    find_peak,
    full_batch,
    gpu_wish,
    phase_clock,
    phase_note,
    with_params,
)
from profiler.integrations.lightning_hooks import StepHooks
from profiler.integrations.lightning_step import NEVER_SEEN, OpenStep
from profiler.measure.guard import Guard, guarded
from profiler.measure.idle import checked_idle_s, record_idle
from profiler.measure.probes import OpenProbes, open_probes
from profiler.measure.ranks import GpuChoice, Place
from profiler.measure.session import RunFacts, Session
from profiler.measure.work import WorkCounter
from profiler.records import RUN_PHASES, STEP_PHASES, Phase

__all__ = ["EfficiencyMonitor", "RunFacts"]


class EfficiencyMonitor(StepHooks):
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
        self._fit_start_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self._session: Session | None = None
        self._probes: OpenProbes | None = None
        self._work_counter: WorkCounter | None = None
        self._opinion: CodecarbonTracker | None = None
        self._unwrap_checkpoint: Callable[[], None] = _nothing
        self._open_step = OpenStep()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open session: its threads and files stay with the process that opened them."""
        blank = EfficiencyMonitor.__new__(EfficiencyMonitor)
        blank._reset()
        return {**self.__dict__, **blank.__dict__}

    # -- what a training may add to its record ---------------------------------------------------------------------

    def now(self) -> float:
        """Seconds on the run's clock; 0 outside of a fit."""
        return self._session.now() if self._session else 0.0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Book the time of a block as this phase, not as the one that was open.

        Raises:
            UnknownNameError: There is no such phase.
        """
        if name not in STEP_PHASES + RUN_PHASES:
            raise UnknownNameError("phase", name, STEP_PHASES + RUN_PHASES)
        before = self._session.recorder.phase if self._session else None
        self._guard.call("recording", self._enter, name)
        try:
            yield
        finally:
            self._guard.call("recording", self._enter, before)

    @guarded("marks")
    def mark(
        self,
        kind: str,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        note: Mapping[str, object] | None = None,
    ) -> None:
        """Store an instant (now, if no time is given) or an interval, with a JSON-able note; reads the sensors."""
        if self._session:
            self._session.sample()
            self._session.recorder.mark(kind, self.now() if start_s is None else start_s, end_s, note)

    # -- Lightning's hooks -----------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the record: sensors, files, threads."""
        if self._session is not None:
            self._guard.fail(
                "recording", InvalidValueError("the same monitor is listed twice among the callbacks")
            )
            return
        self._guard = Guard()
        self._guard.call("opening the record", self._open, trainer, pl_module)

    def _open(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        place = Place(rank=trainer.global_rank, local_rank=trainer.local_rank, world_size=trainer.world_size)
        device = trainer.strategy.root_device
        peak, peak_note = find_peak(self._peak, device, trainer.precision, place.world_size)
        self._probes = open_probes(place, gpu_wish(self._gpus, device))
        session = self._session = Session(
            self.runs_dir,
            with_params(self._facts, pl_module),
            place=place,
            probes=self._probes.probes,
            guard=self._guard,
            name=self._name,
            peak=peak,
            phases_known=device.type in ("cpu", "cuda"),
            memory=SlowMemory(device).read,
            **phase_clock(device),
        )
        self.run_dir = session.run_dir
        session.notes.update(self._probes.notes | peak_note)
        session.notes.update(phase_note(device))
        self._work_counter = WorkCounter(
            pl_module,
            notes=session.notes,
            guard=self._guard,
            tokens=self._tokens,
            samples=self._samples,
            model_flops=self._model_flops,
        )
        self._store_flops(session, self._work_counter)
        if self._idle_s is not None:
            record_idle(session, self._idle_s)
        if self._second_opinion and place.local_rank == 0:
            country = CarbonFactors.of(self._facts.carbon).country
            self._opinion = self._guard.call("second opinion", CodecarbonTracker, country)
        self._fit_start_s = session.now()
        self._unwrap_checkpoint = time_checkpoints(trainer, self.phase)

    @guarded("recording")
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed training has its step number only now, and the loader is here."""
        if self._work_counter and self._session:
            self._open_step = OpenStep(trainer.global_step, self._session.recorder)
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

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the record."""
        self._guard.call("closing the record", self._close, trainer, "finished")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the record; nothing raised here may replace the user's own exception."""
        if self._session:  # the kind only: a message may hold anything
            self._session.notes["ended"] = f"{type(exception).__name__} after step {self._open_step.number}"
        self._guard.call("closing the record", self._close, trainer, "interrupted")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the record if nothing else did."""
        self._guard.call("closing the record", self._close, trainer, "finished")

    # -- inside ----------------------------------------------------------------------------------------------------

    def _enter(self, phase: Phase | None) -> None:
        if self._session:
            self._session.recorder.enter(phase)

    def _close(self, trainer: pl.Trainer, status: str) -> None:
        session, probes, counter, unwrap, opinion = (
            self._session,
            self._probes,
            self._work_counter,
            self._unwrap_checkpoint,
            self._opinion,
        )
        self._reset()
        self._guard.call("the trainer's save_checkpoint", unwrap)
        if counter:
            self._guard.call("counting FLOPs", counter.end_count)
        if session:
            self._guard.call("storing FLOPs", self._store_flops, session, counter)
            self._guard.call("storing at the end", self._store, session, status, opinion)
        if probes:
            self._guard.call("closing the sensors", probes.close)
        if opinion:
            self._guard.call("ending the second opinion", opinion.close)
        if session and self._summary and trainer.is_global_zero and sys.stdout.isatty():
            _print_summary(session.run_dir)

    def _store(self, session: Session, status: str, opinion: CodecarbonTracker | None) -> None:
        session.recorder.enter(None)
        session.recorder.mark("fit", self._fit_start_s, session.now())
        if opinion:
            self._guard.call("second opinion", _hear, session, opinion)
        session.close(status)


def _hear(session: Session, opinion: CodecarbonTracker) -> None:
    """Store what a second opinion says, over the seconds that it is of."""
    session.sample()
    end_s = session.now()
    said = opinion.stop()
    session.recorder.mark("second_opinion", end_s - float(said["duration_s"]), end_s, said)


def _nothing() -> None:
    """Nothing is wrapped."""


def _print_summary(run_dir: Path) -> None:
    """By a process of its own: reports use Polars, whose threads would not survive a fork of this process."""
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
