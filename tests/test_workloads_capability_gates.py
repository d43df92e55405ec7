"""`CapabilityGates` on small trainings with Lightning: when it looks, what it leaves alone, and when it stops."""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from profiler import EfficiencyMonitor, open_run
from profiler.errors import InvalidValueError
from profiler.metrics.phenomena import phenomenon_curves
from workloads.capability_gates import CapabilityGates, Evaluate, evaluating
from workloads.gatekeeper import GateResult, GateRules, Reading
from workloads.lm import WORKLOAD as LM
from workloads.lm_settings import LMSettings
from workloads.lm_training import LMModule
from workloads.lm_training import fit as fit_lm
from workloads.transformer_config import model_flops_per_token

RULES = GateRules(first_flops=100.0)
STEP = 50.0
"""FLOPs of a step: gates are due at steps 2, 8, 32."""


class Line(L.LightningModule):
    """Learns y = 2 x, with a part that is never in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.dropout = torch.nn.Dropout(0.5)
        self.frozen = torch.nn.Dropout(0.5).eval()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        out: torch.Tensor = self.layer(self.frozen(self.dropout(batch)))
        return (out - 2 * batch.mean(dim=1, keepdim=True)).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path: Path, *callbacks: L.Callback, steps: int = 40, **options: Any) -> tuple[L.Trainer, Line]:
    torch.manual_seed(0)
    module = Line()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
    )
    data = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    trainer.fit(module, DataLoader(data, batch_size=4), **options)  # type: ignore[arg-type]
    return trainer, module


def never(module: L.LightningModule) -> tuple[int, int]:
    return 0, 100


def gates(evaluate: Evaluate = never, **options: Any) -> CapabilityGates:
    return CapabilityGates({"skill": evaluate}, **{"rules": RULES, "flops_per_step": STEP, **options})


class Growing:
    """Succeeds at more and more."""

    def __init__(self) -> None:
        self.successes = itertools.chain((0, 60, 99), itertools.repeat(100))

    def __call__(self, module: L.LightningModule) -> Reading:
        return Reading(next(self.successes), 100, 1.0)


def test_it_looks_at_every_fourfold_of_effective_compute(tmp_path: Path) -> None:
    seen = gates()
    fit(tmp_path, seen)
    assert [(result.gate, result.step) for result in seen.results] == [(0, 2), (1, 8), (2, 32)]
    assert [result.effective_flops for result in seen.results] == [100.0, 400.0, 1600.0]


def test_a_more_efficient_algorithm_comes_to_its_gates_sooner(tmp_path: Path) -> None:
    seen = gates(efficiency=2.0)
    fit(tmp_path, seen)
    assert [result.step for result in seen.results] == [1, 4, 16]


def test_a_training_stops_when_a_capability_trips_and_only_if_asked(tmp_path: Path) -> None:
    seen = gates(Growing(), stops=True)
    trainer, _ = fit(tmp_path, seen, steps=1000)
    assert (trainer.global_step, seen.results[-1].state) == (32, "trip")
    trainer, _ = fit(tmp_path, gates(Growing()), steps=40)
    assert trainer.global_step == 40


def test_weights_random_numbers_and_modes_are_what_they_were(tmp_path: Path) -> None:
    modes: list[tuple[bool, bool, bool]] = []

    def noisy(module: L.LightningModule) -> tuple[int, int]:
        assert isinstance(module, Line)
        modes.append((module.training, module.dropout.training, torch.is_grad_enabled()))
        torch.rand(3)
        np.random.rand(3)
        return 1, 2

    class Modes(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            assert isinstance(pl_module, Line)
            modes.append((pl_module.training, pl_module.dropout.training, pl_module.frozen.training))

    _, plain = fit(tmp_path)
    _, watched = fit(tmp_path, gates(noisy), Modes())
    assert modes == [(False, False, False)] * 3 + [(True, True, False)]
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_an_evaluation_that_fails_is_unknown_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(module: L.LightningModule) -> tuple[int, int]:
        raise RuntimeError("no such data set")

    seen = CapabilityGates({"broken": broken, "sound": never}, rules=RULES, flops_per_step=STEP, stops=True)
    with caplog.at_level(logging.WARNING, "joulescale"):
        trainer, module = fit(tmp_path, seen)
    assert trainer.global_step == 40
    assert module.training
    assert [(result.skill, result.state) for result in seen.results] == [
        ("broken", "unknown"),
        ("sound", "clear"),
    ] * 3
    assert [line.getMessage() for line in caplog.records if "broken" in line.getMessage()] == [
        "joulescale: capability 'broken': switched off for this run (RuntimeError: no such data set)."
        " The training goes on."
    ]


def test_more_successes_than_trials_are_no_reading(tmp_path: Path) -> None:
    seen = gates(lambda module: (3, 2))
    fit(tmp_path, seen)
    assert {result.state for result in seen.results} == {"unknown"}


def test_a_hook_is_told_the_results_and_can_write_a_checkpoint(tmp_path: Path) -> None:
    def keep(trainer: L.Trainer, found: Sequence[GateResult]) -> None:
        if any(result.state != "clear" for result in found):
            trainer.save_checkpoint(tmp_path / f"gate-{found[0].gate}.ckpt")

    fit(tmp_path, gates(Growing(), on_gate=keep))
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["gate-1.ckpt", "gate-2.ckpt"]


def test_gates_that_were_passed_stay_passed_in_a_training_that_goes_on(tmp_path: Path) -> None:
    first, second = gates(Growing()), gates(never)
    trainer, _ = fit(tmp_path, first, steps=10)
    trainer.save_checkpoint(tmp_path / "ten.ckpt")
    fit(tmp_path, second, steps=40, ckpt_path=tmp_path / "ten.ckpt", weights_only=True)
    assert [result.step for result in second.results] == [2, 8, 32]
    assert second.results[:2] == first.results


def test_a_second_fit_begins_anew(tmp_path: Path) -> None:
    seen = gates()
    fit(tmp_path, seen)
    fit(tmp_path, seen, steps=10)
    assert [result.step for result in seen.results] == [2, 8]


def test_a_step_that_leaps_over_gates_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = gates(flops_per_step=2000.0)
    with caplog.at_level(logging.WARNING, "joulescale"):
        fit(tmp_path, seen, steps=1)
    assert [result.gate for result in seen.results] == [2]
    assert "Begin with a higher first_flops" in caplog.text


class FakeMonitor:
    """Says the FLOPs that it is given; keeps phases and marks."""

    def __init__(self, flops: float | None = None) -> None:
        self.flops = flops
        self.asked = 0
        self.phases: list[str] = []
        self.marks: list[Mapping[str, object]] = []

    def model_flops(self) -> float | None:
        self.asked += 1
        return self.flops

    @contextmanager
    def phase(self, name: Any) -> Iterator[None]:
        self.phases.append(name)
        yield

    def mark(self, kind: str, *, note: Mapping[str, object]) -> None:
        assert kind == "curve"
        self.marks.append(note)


def test_flops_that_are_never_known_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = gates(monitor=FakeMonitor(), flops_per_step=None)
    with caplog.at_level(logging.WARNING, "joulescale"):
        fit(tmp_path, seen)
    assert seen.results == ()
    assert caplog.text.count("Put the monitor among the trainer's callbacks") == 1


@pytest.mark.parametrize("comes_first", [True, False])
def test_with_the_monitor_flops_are_counted_and_results_recorded(tmp_path: Path, comes_first: bool) -> None:
    monitor = EfficiencyMonitor(tmp_path / "runs", summary=False)
    # A step is 3 matrix products less the one for inputs: 2 x (2 x 4 samples x 4 inputs) FLOPs.
    seen = CapabilityGates({"skill": Growing()}, rules=GateRules(first_flops=256.0), monitor=monitor)
    fit(tmp_path, *([seen, monitor] if comes_first else [monitor, seen]), steps=80)
    late = 1 if comes_first else 0  # the monitor has not seen the end of the step yet
    assert [result.step for result in seen.results] == [4 + late, 16 + late, 64 + late]
    assert monitor.run_dir is not None
    run = open_run(tmp_path / "runs", monitor.run_dir.name)
    curve = phenomenon_curves(run)["gates"]
    assert curve["state"].to_list() == ["clear", "warn", "trip"]
    assert curve["effective_flops"].to_list() == [256.0, 1024.0, 4096.0]
    assert curve.select("red_line", "buffer").unique().row(0) == (0.9, 0.5)
    kinds = run.processes[0].marks["kind"].to_list()
    assert kinds.count("validation") == 3


def test_compute_that_the_monitor_counted_goes_on_with_the_training(tmp_path: Path) -> None:
    def watched() -> list[Any]:
        monitor = EfficiencyMonitor(tmp_path / "runs", summary=False)
        rules = GateRules(first_flops=256.0)
        return [monitor, CapabilityGates({"skill": never}, rules=rules, monitor=monitor)]

    trainer, _ = fit(tmp_path, *watched(), steps=40)
    trainer.save_checkpoint(tmp_path / "forty.ckpt")
    monitor, seen = watched()
    fit(tmp_path, monitor, seen, steps=80, ckpt_path=tmp_path / "forty.ckpt", weights_only=True)
    assert [result.step for result in seen.results] == [4, 16, 64]
    assert seen.state_dict()["effective_flops"] == 80 * 64.0


def test_outside_of_a_fit_the_monitor_knows_of_no_flops(tmp_path: Path) -> None:
    monitor = EfficiencyMonitor(tmp_path / "runs", summary=False)
    fit(tmp_path, monitor, steps=2)
    assert monitor.model_flops() is None


def test_the_reference_workload_can_be_examined(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 400)
    settings = LMSettings(
        d_model=16,
        n_layer=1,
        seq_len=32,
        batch_size=2,
        token_budgets=(640,),
        warmup_steps=4,
        val_sequences=8,
        data=str(text),
    )
    corpus = LM.corpus(settings)

    def next_byte(module: L.LightningModule) -> Reading:
        assert isinstance(module, LMModule)
        (batch,) = corpus.validation_batches(num_sequences=8, batch_size=8, seq_len=32)
        losses = module.token_losses(batch)
        return Reading(int((losses < math.log(2)).sum()), losses.numel(), float(losses.mean()))

    monitor = EfficiencyMonitor(tmp_path / "runs", summary=False)
    a_step = settings.tokens_per_step * model_flops_per_token(settings.config(corpus.vocab_size))
    rules = GateRules(first_flops=1.9 * a_step)  # the second at 7.6 steps
    seen = CapabilityGates({"next byte": next_byte}, rules=rules, monitor=monitor)
    fit_lm(settings, corpus, settings.schedule(), monitor, seed=0, callbacks=[monitor, seen])
    assert [result.step for result in seen.results] == [2, 8]
    first, second = seen.results
    assert second.cross_entropy < first.cross_entropy  # type: ignore[operator]


def test_the_monitor_is_asked_now_and_then_and_not_in_every_step(tmp_path: Path) -> None:
    monitor = FakeMonitor(0.0)
    seen = gates(monitor=monitor, flops_per_step=None)

    class Counter(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, *args: Any) -> None:
            monitor.flops = STEP * (trainer.global_step + 1)

    fit(tmp_path, Counter(), seen, steps=128)
    assert [result.step for result in seen.results] == [2, 8, 32, 128]
    assert monitor.asked < 40
    assert monitor.phases == ["validation"] * 4
    assert [note["gate"] for note in monitor.marks] == [0, 1, 2, 3]


def test_the_example_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[1] / "docs" / "workloads" / "gates.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"module": Line(), "data": DataLoader(torch.randn(32, 4), batch_size=4), "exam": Growing()}  # type: ignore[arg-type]
    exec(example, names)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        "gate-0.ckpt",
        "gate-1.ckpt",
        "gate-2.ckpt",
    ]
    assert names["trainer"].should_stop  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flops_per_step": None}, "Nobody counts the FLOPs"),
        ({"flops_per_step": 0.0}, "flops_per_step = 0.0 is not a positive number"),
        ({"efficiency": -1.0}, "efficiency = -1.0 is not a positive number"),
    ],
)
def test_arguments_without_meaning_are_refused(options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        gates(**options)


def test_without_capabilities_there_is_nothing_to_do() -> None:
    with pytest.raises(InvalidValueError, match="There are no capabilities to evaluate"):
        CapabilityGates({}, rules=RULES, flops_per_step=1.0)


def test_several_ranks_must_agree_on_flops_before_they_train() -> None:
    class Two:
        world_size = 2

    alone = gates(monitor=FakeMonitor(0.0), flops_per_step=None)
    with pytest.raises(InvalidValueError, match="has 2 ranks"):
        alone.setup(Two(), Line(), "fit")  # type: ignore[arg-type]
    gates().setup(Two(), Line(), "fit")  # type: ignore[arg-type]


def test_modes_come_back_though_an_evaluation_fails() -> None:
    module = Line()
    with pytest.raises(ZeroDivisionError), evaluating(module):
        _ = 1 // 0
    assert (module.training, module.frozen.training, torch.is_grad_enabled()) == (True, False, True)
