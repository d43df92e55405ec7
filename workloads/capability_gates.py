"""`CapabilityGates`: a Lightning callback that asks at every fourfold of effective compute what the model can do."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from profiler.errors import InvalidValueError
from profiler.measure.guard import Guard, guarded
from workloads.gatekeeper import Gatekeeper, GateResult, GateRules, Reading
from workloads.verdict import wilson

UNCOUNTED = (
    "FLOPs are not known, so no gate can be due. Put the monitor among the trainer's callbacks; where it cannot count"
    " them, give flops_per_step="
)
LEAPT = (
    "joulescale: step %d went from before gate %d past gate %d: what lies between was not evaluated. Begin with a"
    " higher first_flops, or train in smaller steps."
)

logger = logging.getLogger("joulescale")


class Monitor(Protocol):
    """The part of `EfficiencyMonitor` that the gates talk to."""

    def model_flops(self) -> float | None:
        """Of the fit so far."""
        ...

    def phase(self, name: Any) -> AbstractContextManager[Any]:
        """Book the time within as this phase."""
        ...

    def mark(self, kind: str, *, note: Mapping[str, object]) -> None:
        """Record an instant."""
        ...


Evaluate = Callable[[L.LightningModule], tuple[int, int] | Reading]


class CapabilityGates(L.Callback):
    """Gates for any training with Lightning: `Trainer(callbacks=[monitor, CapabilityGates({...}, rules=...)])`.

    Weights, random numbers and modes are after an evaluation what they were before. An evaluation that fails is said
    once, stands as "unknown" and stops nothing.

    Args:
        capabilities: By name, what evaluates each: takes the module, in evaluation mode and without gradients, and
            returns successes and trials, or a `Reading`.
        rules: Where the gates are.
        monitor: Counts FLOPs, is told the results as the curve "gates", and books evaluations as validation.
        flops_per_step: Model FLOPs of an optimizer step of all ranks together, instead of what the monitor counts.
        efficiency: Effective over model FLOPs: how much more compute a baseline would need for the same.
        stops: Whether a training ends when a capability trips; Lightning ends it after the step.
        on_gate: Is called with the trainer and the results of each gate: to write a checkpoint, say.

    Attributes:
        evaluation_s: Seconds that evaluations have taken.

    Raises:
        InvalidValueError: There is nothing to evaluate, or nobody who counts FLOPs.
    """

    def __init__(
        self,
        capabilities: Mapping[str, Evaluate],
        *,
        rules: GateRules,
        monitor: Monitor | None = None,
        flops_per_step: float | None = None,
        efficiency: float = 1.0,
        stops: bool = False,
        on_gate: Callable[[L.Trainer, Sequence[GateResult]], None] | None = None,
    ) -> None:
        if not capabilities:
            raise InvalidValueError(
                "There are no capabilities to evaluate. Give a function for each, by name."
            )
        if monitor is None and flops_per_step is None:
            raise InvalidValueError(
                "Nobody counts the FLOPs, so no gate would ever be due. Give monitor=EfficiencyMonitor(...), which must"
                " be among the trainer's callbacks, or flops_per_step=."
            )
        for name, number in (("flops_per_step", flops_per_step), ("efficiency", efficiency)):
            if number is not None and not 0.0 < number < math.inf:
                raise InvalidValueError(f"{name} = {number} is not a positive number. Give a positive one.")
        self._capabilities, self._rules, self._monitor = dict(capabilities), rules, monitor
        self._flops_per_step, self._efficiency = flops_per_step, efficiency
        self._stops, self._on_gate = stops, on_gate
        self._reset()

    def _reset(self) -> None:
        self._guard = Guard()
        self._keeper = Gatekeeper(self._rules)
        self._before, self._flops = 0.0, 0.0  # effective: of earlier attempts, and with what was seen since
        self._step, self._look_at = 0, 0
        self.evaluation_s = 0.0

    @property
    def results(self) -> Sequence[GateResult]:
        """All that was found, in order."""
        return tuple(self._keeper.results)

    @property
    def state_key(self) -> str:
        """Two of them may watch one training."""
        return self._generate_state_key(capabilities=sorted(self._capabilities))

    def state_dict(self) -> dict[str, Any]:
        """Gates that were passed stay passed in a training that is gone on with."""
        self._count()
        return {"effective_flops": self._flops, "results": [dataclasses.asdict(one) for one in self.results]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._before = self._flops = float(state_dict["effective_flops"])
        self._keeper = Gatekeeper(self._rules, [GateResult(**one) for one in state_dict["results"]])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begin anew, and refuse what would let ranks come to a gate at different steps.

        Raises:
            InvalidValueError: There are several ranks, and each would count its own FLOPs.
        """
        if stage != "fit":
            return
        if trainer.world_size > 1 and self._flops_per_step is None:
            raise InvalidValueError(
                f"This training has {trainer.world_size} ranks, which may count different FLOPs and would then wait for"
                " each other at a gate for ever. Give CapabilityGates(flops_per_step=), of all ranks together."
            )
        self._reset()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See whether a gate is due."""
        if trainer.global_step >= self._look_at:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count once more, for a checkpoint that is written afterwards."""
        self._step = trainer.global_step
        self._count()

    @guarded("capability gates")
    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = step = trainer.global_step
        if not self._count():
            self._look_at = step + 1
            self._guard.warn("capability gates", UNCOUNTED)
            return
        if self._keeper.is_due(self._flops):
            self._pass(trainer, pl_module, step)
        # Half the way at the pace so far: asking the monitor makes rows, which is not for every step.
        pace = self._flops / max(step, 1)
        missing = self._keeper.next_flops - self._flops
        self._look_at = step + max(1, int(missing / pace / 2)) if pace else step + 1

    def _count(self) -> bool:
        """Bring the effective FLOPs up to date, if they are known."""
        if self._flops_per_step is not None:
            self._flops = self._efficiency * self._flops_per_step * self._step
            return True
        counted = self._monitor.model_flops() if self._monitor else None
        if counted is None:
            return False
        self._flops = self._before + self._efficiency * counted
        return True

    def _pass(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        begun_s, due = time.monotonic(), self._keeper.next_gate
        with self._monitor.phase("validation") if self._monitor else nullcontext():
            readings = self._evaluate(trainer, pl_module)
        self.evaluation_s += time.monotonic() - begun_s
        found = self._keeper.enter(step, self._flops, readings)
        if found[0].gate > due:
            logger.warning(LEAPT, step, due, found[0].gate)
        if self._monitor:
            lines = {"red_line": self._rules.red_line, "buffer": self._rules.buffer}
            for result in found:
                note = {"curve": "gates", "arm": None, **dataclasses.asdict(result), **lines}
                self._monitor.mark("curve", note=note)
        if self._on_gate:
            self._guard.call("on_gate", self._on_gate, trainer, found)
        tripped = any(result.state == "trip" for result in found)
        if self._stops and trainer.strategy.reduce_boolean_decision(tripped, all=False):
            trainer.should_stop = True

    def _evaluate(self, trainer: L.Trainer, module: L.LightningModule) -> dict[str, Reading | None]:
        readings: dict[str, Reading | None] = {}
        with evaluating(module), isolate_rng(), trainer.precision_plugin.forward_context():
            for name, evaluate in self._capabilities.items():
                readings[name] = self._guard.call(f"capability {name!r}", _reading, evaluate, module)
        return readings


def _reading(evaluate: Evaluate, module: L.LightningModule) -> Reading:
    found = Reading(*evaluate(module))
    wilson(found.successes, found.trials)  # refuses what is no share
    return found


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; each part is afterwards in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
