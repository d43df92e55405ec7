"""`record`: a training loop of one's own under the monitor, whatever the framework.

    with profiler.record("runs", name="my-run") as run:
        for batch in run.steps(loader):
            with run.phase("forward"):
                loss = model(batch)
            ...
            run.end_step(tokens=batch.numel(), loss=loss)

Nothing here raises into the training: a fault of ours is logged once and switches its part off.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, final

import torch

from profiler.errors import InvalidValueError
from profiler.integrations.arguments import checked_gpus, checked_name, checked_peak, checked_runs_dir
from profiler.integrations.codecarbon import check_second_opinion
from profiler.integrations.open_record import OpenRecord
from profiler.integrations.opening import Ends, close_all, country_of, measure_around, open_session
from profiler.measure.guard import Guard, guarded
from profiler.measure.idle import checked_idle_s
from profiler.measure.lifetime import at_exit, forget_in_children
from profiler.measure.ranks import GpuChoice, place_from
from profiler.measure.recorder import Work
from profiler.measure.session import RunFacts, Session

__all__ = ["LoopRun", "record"]

T = TypeVar("T")


@final
class LoopRun(OpenRecord):
    """A training loop that is recorded; `record` opens and closes it.

    Attributes:
        run_dir: The run's folder; None if nothing could be recorded, which the log says.
    """

    def __init__(self) -> None:
        self.run_dir: Path | None = None
        self._guard = Guard()
        self._session: Session | None = None
        self._ends: Ends = []  # what is open: its part, and how to close it
        self._status = "finished"
        self._step = 0
        self._is_open = False
        self._looping: Iterator[Any] | None = None  # what `steps` goes through

    def steps(self, batches: Iterable[T]) -> Iterator[T]:
        """Go through `batches`; each is one step, which ends with `end_step`, or when the next is asked for.

        The time until a batch is there is data wait, the rest of a step is `other` where no phase is named. What comes
        after a `break` is of no step; of a step that is broken out of before its end nothing is known, and what was
        computed in it is in the duration of the next.
        """
        batch_of = self._looping = iter(batches)
        try:
            while True:
                self._guard.call("recording", self._enter, "data")
                try:
                    batch = next(batch_of)
                except StopIteration:
                    break
                self._guard.call("recording", self._enter, "other")
                self._is_open = True
                yield batch
                if self._is_open:
                    self.end_step()
        finally:
            if self._looping is batch_of:  # else another loop goes on, and this one was let go of late
                self._is_open = False
                self._guard.call("recording", self._enter, None)

    @guarded("recording")
    def end_step(
        self,
        *,
        samples: int | None = None,
        tokens: int | None = None,
        model_flops: float | None = None,
        loss: object = None,
    ) -> None:
        """End the step that is open, and say what it did.

        Args:
            samples: Trained on.
            tokens: Likewise.
            model_flops: FLOPs of forward and backward pass, without recomputation.
            loss: A number or a tensor of one element, which is read later; its graph is let go.
        """
        self._is_open = False
        if self._session is None:
            return
        self._step += 1
        self._session.last_step = self._step
        work = Work(samples=samples, tokens=tokens, model_flops=model_flops)
        known = loss.detach() if isinstance(loss, torch.Tensor) else loss
        self._session.recorder.end_step(self._step, work, loss=known, then="other")

    def _open(
        self,
        asked: Mapping[str, Any],
        *,
        facts: RunFacts,
        device: torch.device,
        idle_s: float | None,
        second_opinion: str | None,
    ) -> None:
        place = place_from(os.environ)
        forget_in_children(self._forget)
        self._ends.append(("forgetting the interpreter's end", at_exit(self._interpreter_ended)))
        session = open_session(
            facts=facts,
            guard=self._guard,
            ends=self._ends,
            place=place,
            device=device,
            resumed=None,
            status=lambda: self._status,
            **asked,
        )
        self._session, self.run_dir = session, session.run_dir
        session.flops_source, session.flops_convention = facts.flops_formula, facts.flops_convention
        measure_around(
            session,
            guard=self._guard,
            ends=self._ends,
            idle_s=idle_s,
            second_opinion=second_opinion if place.local_rank == 0 else None,
            country=country_of(facts),
        )

    def _interrupted(self, by: str) -> None:
        self._status = "interrupted"
        if self._session:
            self._session.notes["ended"] = f"{by} after step {self._step}"
        self._close()

    def _interpreter_ended(self) -> None:
        self._guard.call("the end of the interpreter", self._interrupted, "end of the interpreter")

    def _forget(self) -> None:
        """This process was forked: what is open is the parent's."""
        self._session, self._ends = None, []

    def _close(self) -> None:
        close_all(self._ends, self._guard)
        self._session = None


@contextmanager
def record(
    runs_dir: str | Path = "runs",
    *,
    name: str | None = None,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    gpus: GpuChoice = "auto",
    peak_flops_per_s: float | Literal["measure"] | None = None,
    idle_s: float | None = None,
    facts: RunFacts | None = None,
    second_opinion: str | None = None,
) -> Iterator[LoopRun]:
    """Record the training in this block.

    Args:
        runs_dir: The runs folder; made if need be.
        name: Name of the run; None makes one from the time.
        device: Where the training runs.
        precision: "32", "16" or "bf16", optionally as Lightning writes them, for MFU; None: it has none.
        gpus: As for `EfficiencyMonitor`; likewise the rest.
        peak_flops_per_s: What one device can do at most.
        idle_s: Seconds of an idle baseline before the block.
        facts: What else is known of the run.
        second_opinion: Whose tracker is to run beside ours.

    Raises:
        InvalidValueError: An argument cannot mean anything; raised before any training.
    """
    asked = {
        "runs_dir": checked_runs_dir(runs_dir),
        "name": checked_name(name),
        "gpus": checked_gpus(gpus),
        "peak": checked_peak(peak_flops_per_s),
        "precision": precision,
    }
    run = LoopRun()
    opened = functools.partial(
        run._open,
        asked,
        facts=facts or RunFacts(),
        device=_checked_device(device),
        idle_s=checked_idle_s(idle_s),
        second_opinion=check_second_opinion(second_opinion),
    )
    run._guard.call("opening the record", opened)
    try:
        yield run
    except BaseException as error:
        run._guard.call("an exception in the training", run._interrupted, type(error).__name__)
        raise
    finally:
        run._guard.call("closing the record", run._close)


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidValueError(
            f"device={device!r} is no device of torch. Give one, such as 'cpu' or 'cuda'."
        ) from None
