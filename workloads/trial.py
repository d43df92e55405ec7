"""One seeded execution of an experiment under the monitor: its trainings, what is apart from them, its curves.

An experiment often trains more than one model: a teacher and students, or one model in several widths. Each is an arm,
which is charged with the time in which it trained and with no other: evaluations and data that are made on the way are
recorded beside it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor

from profiler.integrations.loop import LoopRun
from profiler.records import Phase
from workloads.progress import INTERVAL_S, Display
from workloads.verdict import Verdict, plain_number


@final
class Arm:
    """One training of a trial; `Trial.arm` makes them.

    Attributes:
        name: As given.
    """

    def __init__(self, name: str, trial: Trial) -> None:
        self.name = name
        self._trial = trial
        self._closed: list[tuple[float, float]] = []
        self._since_s: float | None = trial.now()
        self._totals: dict[str, float] = {}

    @property
    def windows(self) -> list[tuple[float, float]]:
        """The time in which it trained so far, in seconds on the run's clock."""
        return self._closed if self._since_s is None else [*self._closed, (self._since_s, self._trial.now())]

    @property
    def is_charged(self) -> bool:
        """Whether time goes to its account right now."""
        return self._since_s is not None

    @property
    def totals(self) -> Mapping[str, float]:
        """What its steps did: `steps`, and the samples, tokens and model FLOPs that were told."""
        return self._totals

    def steps(self, count: int) -> Iterator[int]:
        """Count steps from 0; each is recorded as one, which ends with `learn`, or `did` after an update of its own."""
        yield from self._trial.run.steps(range(count))

    def learn(
        self,
        loss: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None = None,
        before_update: Callable[[], None] | None = None,
        samples: int | None = None,
        tokens: int | None = None,
        model_flops: float | None = None,
    ) -> None:
        """Backward pass and update; the step ends here.

        Args:
            loss: What to descend.
            optimizer: Its gradients are cleared first.
            clip: The norm to which gradients are clipped.
            before_update: What changes the gradients.
            samples: Trained on in this step.
            tokens: Likewise.
            model_flops: FLOPs of forward and backward pass.
        """
        with self._trial.run.phase("backward"):
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        with self._trial.run.phase("optimizer"):
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(_parameters(optimizer), clip)
            if before_update is not None:
                before_update()
            optimizer.step()
        self.did(loss, samples=samples, tokens=tokens, model_flops=model_flops)

    def did(
        self,
        loss: Tensor,
        *,
        samples: int | None = None,
        tokens: int | None = None,
        model_flops: float | None = None,
    ) -> None:
        """The step ends here, after an update by other means than `learn`."""
        self._trial.run.end_step(samples=samples, tokens=tokens, model_flops=model_flops, loss=loss)
        told = {"steps": 1, "samples": samples, "tokens": tokens, "model_flops": model_flops}
        for name, amount in told.items():
            if amount is not None:
                self._totals[name] = self._totals.get(name, 0) + amount
        self._trial.show(loss, tokens or samples or 0)

    def pause(self) -> None:
        """What follows is not charged to it."""
        if self._since_s is not None:
            self._closed.append((self._since_s, self._trial.now()))
            self._since_s = None

    def resume(self) -> None:
        """What follows is charged to it again."""
        if self._since_s is None:
            self._since_s = self._trial.now()


@final
class Trial:
    """What an experiment's code is given.

    Args:
        run: The record.
        settings: The experiment's own.
        seed: Seeds every random choice; torch's generator is seeded already.
        device: Where to train.
        num_steps: Steps of all arms together, at most: for the progress.
        display: Where it is shown, if anywhere.
    """

    def __init__(
        self,
        run: LoopRun,
        settings: Any,
        *,
        seed: int,
        device: torch.device,
        num_steps: int,
        display: Display | None,
    ) -> None:
        self.run, self.settings, self.seed, self.device = run, settings, seed, device
        self._num_steps, self._display = max(num_steps, 1), display
        self._step, self._amount = 0, 0
        self._shown_s, self._shown_amount = time.monotonic(), 0
        self._open: Arm | None = None

    def now(self) -> float:
        """Seconds on the run's clock, when the device is done with what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.run.now()

    @contextmanager
    def arm(self, name: str, **facts: object) -> Iterator[Arm]:
        """One training, under a name of its own. It is stored with its windows, its totals and `facts`, as `params`."""
        start_s, outer = self.now(), self._open
        arm = self._open = Arm(name, self)
        try:
            yield arm
        finally:
            arm.pause()
            self._open = outer
            note = {"arm": name, "windows": arm.windows, **arm.totals, **facts}
            self.run.mark("arm", start_s=start_s, end_s=self.now(), note=note)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Book the time within as a step's forward pass."""
        with self.run.phase("forward"):
            yield

    @contextmanager
    def apart(self, phase: Phase = "validation") -> Iterator[list[tuple[float, float]]]:
        """What is no training: evaluations, or with "data" the making of data. Not charged to the open arm.

        Yields:
            A list that holds its window when it has ended: for a `Cost` of its own.
        """
        arm = self._open if self._open is not None and self._open.is_charged else None
        start_s = self.now()
        window: list[tuple[float, float]] = []
        if arm is not None:
            arm.pause()
        try:
            with self.run.phase(phase), torch.no_grad():
                yield window
        finally:
            window.append((start_s, self.now()))
            if arm is not None:  # not within another `apart`, which has paused it already
                arm.resume()

    def point(self, curve: str, **values: float | int | str | bool | None) -> None:
        """Record a point of a curve: what came out at this moment of the open arm."""
        plain = {name: plain_number(value) for name, value in values.items()}
        note = {"curve": curve, "arm": self._open.name if self._open else None, **plain}
        self.run.mark("curve", start_s=self.now(), note=note)

    def conclude(self, verdict: Verdict, **facts: object) -> None:
        """Record the verdict."""
        costs = {
            name: {"windows": list(cost.windows), "is_bound": cost.is_bound}
            for name, cost in verdict.costs.items()
        }
        note = {
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "figures": dict(verdict.figures),
            "costs": costs,
            "break_even": {name: dataclasses.asdict(each) for name, each in verdict.break_even.items()},
            **facts,
        }
        self.run.mark("phenomenon", start_s=self.now(), note=note)

    def show(self, loss: Tensor, amount: int) -> None:
        """Say how far the trial is, at most twice a second: reading the loss makes the host wait for a GPU."""
        self._step, self._amount = self._step + 1, self._amount + amount
        now_s = time.monotonic()
        if self._display is None or now_s - self._shown_s < INTERVAL_S:
            return
        rate = (self._amount - self._shown_amount) / (now_s - self._shown_s)
        step = min(self._step, self._num_steps)
        self._display.show(step=step, steps=self._num_steps, loss=float(loss.detach()), tokens_per_s=rate)
        self._shown_s, self._shown_amount = now_s, self._amount


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
