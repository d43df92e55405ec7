"""What a phenomenon's file declares, and how that becomes a workload of the `joulescale` command.

An experiment is a question with a criterion, presets of settings, and a function that trains under the monitor and
answers. The criterion is part of a run's identity: it is stored before the first step, and a run that was made under
another one is another run.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from profiler.errors import InvalidValueError, JoulescaleError
from profiler.integrations.loop import record
from profiler.measure.session import RunFacts
from profiler.workload import RunRequest, check_preset
from workloads.device import Accelerator, choose_accelerator, threads
from workloads.progress import choose_display
from workloads.settings_checks import check_positive
from workloads.trial import Trial
from workloads.verdict import Verdict

FLOPS_CONVENTION = (
    "multiply-add = 2; matrix products and attention of forward and backward, in full; no recomputation, look-up,"
    " element-wise work, optimizer, evaluation or making of data"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """What every experiment's settings begin with.

    Attributes:
        accelerator: "cpu", "cuda", or "auto" for a GPU if there is one.
        threads: Threads of torch's CPU operators; None leaves torch's own choice.
    """

    accelerator: Accelerator = "cpu"
    threads: int | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A phenomenon as a workload.

    Attributes:
        name: Of the workload.
        summary: One line for people.
        criterion: When the phenomenon counts as shown, in words, with the numbers.
        source: The paper, with its number on arXiv.
        presets: Settings by the names smoke, cpu and gpu; a frozen dataclass that extends `CommonSettings`.
        answer: Trains, and says what came of it.
        num_steps: Steps of all trainings together, at most: for the progress and the order of a sweep.
        flops_formula: How the model FLOPs are got.
        params: Parameters of the model that the experiment is about.
        seeds: How many seeds the question takes.
        shown_in: In how many of them the phenomenon must show.
        precision: Of the arithmetic, as torch's or Lightning's name of it.
        data: What the trainings read, for the identity: hashes and versions.
    """

    name: str
    summary: str
    criterion: str
    source: str
    presets: Mapping[str, Any]
    answer: Callable[[Trial], Verdict]
    num_steps: Callable[[Any], int]
    flops_formula: str
    params: Callable[[Any], int | None]
    seeds: int = 1
    shown_in: int = 1
    precision: Callable[[Any], str] = lambda settings: "32"
    data: Callable[[Any], Mapping[str, str]] = field(default=lambda settings: {})
    resumes: bool = False

    def preset(self, preset: str) -> Any:
        """The settings of a preset."""
        return self.presets[check_preset(preset)]

    def grid(self, preset: str) -> Mapping[str, Sequence[Any]]:
        """Nothing: one run is the whole experiment. Seeds are what a sweep varies."""
        return {}

    def identity(self, settings: Any) -> Mapping[str, str]:
        """The criterion, what the trainings read, and torch's version."""
        return {"criterion": self.criterion, "torch": torch.__version__, **self.data(settings)}

    def check(self, settings: Any) -> None:
        """Refuse a GPU that is not here, and threads that are none."""
        check_positive(settings, "threads")
        choose_accelerator(settings.accelerator)

    def cost(self, settings: Any) -> float:
        """By its steps."""
        return float(self.num_steps(settings))

    def train(self, request: RunRequest) -> Path:
        """Run the experiment once under the monitor; return the run's folder."""
        if request.resume is not None:
            raise InvalidValueError(
                f"{self.name} writes no checkpoints, so {request.resume!r} cannot be gone on with. Start it anew: "
                f"joulescale run {self.name} --preset {request.preset} --seed {request.seed}."
            )
        settings = request.settings
        device = torch.device(choose_accelerator(settings.accelerator))
        recording = record(
            request.runs_dir,
            name=request.name,
            device=device,
            precision=self.precision(settings),
            peak_flops_per_s="measure" if device.type == "cpu" and request.preset != "smoke" else None,
            idle_s=request.idle_s,
            facts=self._facts(request),
            second_opinion=request.second_opinion,
        )
        display = choose_display()
        try:
            with threads(settings.threads), recording as run:
                torch.manual_seed(request.seed)
                trial = Trial(
                    run,
                    settings,
                    seed=request.seed,
                    device=device,
                    num_steps=self.num_steps(settings),
                    display=display,
                )
                verdict = self.answer(trial)
                trial.conclude(
                    without_claim(verdict) if request.preset == "smoke" else verdict,
                    seeds=self.seeds,
                    shown_in=self.shown_in,
                )
                run_dir = run.run_dir
        finally:
            if display is not None:
                display.close()
        if run_dir is None:
            raise JoulescaleError("The training ended, but no run was recorded. The warning above says why.")
        return run_dir

    def _facts(self, request: RunRequest) -> RunFacts:
        return RunFacts(
            workload=self.name,
            preset=request.preset,
            seed=request.seed,
            settings=dataclasses.asdict(request.settings),
            identity=self.identity(request.settings),
            params=self.params(request.settings),
            flops_formula=self.flops_formula,
            flops_convention=FLOPS_CONVENTION,
            carbon=request.carbon,
            notes=spinning_note(choose_accelerator(request.settings.accelerator)),
        )


def without_claim(verdict: Verdict) -> Verdict:
    """The verdict of a run that was only to try the whole path."""
    return dataclasses.replace(
        verdict,
        outcome="can't tell",
        reason="the smoke preset tries the path and is too short to show anything",
    )


def spinning_note(accelerator: str) -> dict[str, str]:
    """That threads may have spun at barriers, where they may."""
    policy = os.environ.get("OMP_WAIT_POLICY")
    if accelerator != "cpu" or (policy or "").upper() == "PASSIVE":
        return {}
    return {
        "omp_wait_policy": (
            f"OMP_WAIT_POLICY was {policy or 'unset'}, not PASSIVE: threads may have spun at barriers, which "
            "costs CPU time and energy for no work. Start the run with the joulescale command, or set it."
        )
    }
