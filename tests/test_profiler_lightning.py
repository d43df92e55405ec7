"""The Lightning callback over real fits: it changes nothing, finds out what it can, and never raises into training."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from fake_nvml.build import subprocess_env
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from profiler import EfficiencyMonitor, RunFacts, open_run, summarize
from profiler.errors import InvalidValueError
from profiler.integrations import lightning as bridge
from profiler.integrations import lightning_hooks as hooks
from profiler.integrations import opening
from profiler.measure.recorder import Recorder
from profiler.measure.work import WorkCounter
from profiler.store.runs import scan_runs

ROOT = Path(__file__).parents[1]


class Classifier(L.LightningModule):
    """Any model: `net` maps a batch's first tensor to logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", nn.functional.cross_entropy(self.net(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


class Alternating(Classifier):
    """Manual optimization with two optimizers, as a GAN has."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        x, y = batch
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self.net(x), y))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), 1e-2), torch.optim.Adam(self.parameters(), 1e-3)]


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(11, 8),
            nn.LSTM(8, 8, batch_first=True),
            nn.Linear(8, 4),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(tokens))[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(tokens)).mean(1))


def features(n: int = 96) -> TensorDataset:
    return TensorDataset(torch.randn(n, 6), torch.randint(0, 4, (n,)))


def images(n: int = 48) -> TensorDataset:
    return TensorDataset(torch.randn(n, 3, 8, 8), torch.randint(0, 4, (n,)))


def sentences(n: int = 64) -> TensorDataset:
    return TensorDataset(torch.randint(0, 11, (n, 5)), torch.randint(0, 4, (n,)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 4))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


MODELS: dict[str, tuple[Callable[[], L.LightningModule], Callable[[], TensorDataset]]] = {
    "mlp": (lambda: Classifier(mlp()), features),
    "conv": (lambda: Classifier(conv()), images),
    "lstm": (lambda: Classifier(LastState()), sentences),
    "attention": (lambda: Classifier(Attention()), sentences),
    "manual": (lambda: Alternating(mlp()), features),
}


def train(
    model: str, callbacks: list[L.Callback], *, workers: int = 0, validate: bool = True, **options: Any
) -> tuple[dict[str, torch.Tensor], L.Trainer]:
    L.seed_everything(7, verbose=False)
    make, data = MODELS[model]
    module, dataset = make(), data()
    defaults = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    trainer = L.Trainer(
        callbacks=callbacks, enable_progress_bar=False, enable_model_summary=False, **{**defaults, **options}
    )
    loader = DataLoader(dataset, 16, shuffle=True, num_workers=workers)
    trainer.fit(module, loader, DataLoader(dataset, 16) if validate else None)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return state | {"rng": torch.get_rng_state()}, trainer


def stored(runs_dir: Path) -> dict[str, Any]:
    return summarize(open_run(runs_dir, "latest"))


FITS = [(model, {}) for model in MODELS] + [
    (model, options)
    for model in MODELS
    for options in ({"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.5})
    if model != "manual"  # Lightning refuses these options with manual optimization
]


@pytest.mark.parametrize(("model", "options"), FITS, ids=str)
def test_training_is_bit_equal_with_and_without(model: str, options: dict[str, Any], tmp_path: Path) -> None:
    with_us, _ = train(model, [EfficiencyMonitor(tmp_path)], **options)
    without, _ = train(model, [], **options)
    assert with_us.keys() == without.keys()
    for name, value in without.items():
        assert torch.equal(with_us[name], value), name
    assert stored(tmp_path)["status"] == "finished"


def test_bf16_and_loader_workers_are_bit_equal(tmp_path: Path) -> None:
    with_us, _ = train("mlp", [EfficiencyMonitor(tmp_path)], precision="bf16-mixed", workers=1)
    without, _ = train("mlp", [], precision="bf16-mixed", workers=1)
    assert all(torch.equal(with_us[name], value) for name, value in without.items())


def test_steps_phases_and_work_are_found_out(tmp_path: Path) -> None:
    train("attention", [EfficiencyMonitor(tmp_path)])
    run = open_run(tmp_path, "latest")
    summary = summarize(run)
    assert (summary["steps"], summary["samples"]) == (8, 128)
    assert summary["tokens"] is None, "a label for each row: these numbers may be anything"
    steps = run.processes[0].steps
    assert steps["step"].to_list() == list(range(1, 9))
    parts = steps.select("data_s", "forward_s", "backward_s", "optimizer_s", "other_s").sum_horizontal()
    assert (parts - steps["duration_s"]).abs().max() < 1e-9
    assert all(steps[f"{phase}_s"].min() > 0.0 for phase in ("data", "forward", "backward", "optimizer"))
    assert {"forward", "backward", "optimizer", "data", "validation"} <= {
        p["phase"] for p in summary["phases"]
    }
    assert summary["efficiency"]["flops_source"].startswith("counted on the first microbatch of each shape")


def test_counted_flops_are_those_of_the_layers(tmp_path: Path) -> None:
    train("mlp", [EfficiencyMonitor(tmp_path)], max_epochs=1)
    forward = 2 * 16 * (6 * 16 + 16 * 4)
    backward = 2 * forward - 2 * 16 * 6 * 16  # the input needs no gradient
    flops = open_run(tmp_path, "latest").processes[0].steps["model_flops"]
    assert flops.to_list() == pytest.approx([forward + backward] * 6)


def test_a_step_is_one_optimizer_update(tmp_path: Path) -> None:
    _, trainer = train("mlp", [EfficiencyMonitor(tmp_path)], accumulate_grad_batches=4, max_epochs=1)
    steps = open_run(tmp_path, "latest").processes[0].steps
    assert trainer.global_step == len(steps) == 2
    assert steps["samples"].to_list() == [64, 32]
    assert steps["loss"].null_count() == 0


def test_parameters_are_counted_where_nobody_gave_them(tmp_path: Path) -> None:
    train(
        "mlp",
        [EfficiencyMonitor(tmp_path / "a"), EfficiencyMonitor(tmp_path / "b", facts=RunFacts(params=7))],
    )
    assert stored(tmp_path / "a")["params"] == sum(p.numel() for p in mlp().parameters())
    assert stored(tmp_path / "b")["params"] == 7


def test_forward_passes_after_a_manual_backward_pass_are_counted_too(tmp_path: Path) -> None:
    class Twice(Classifier):
        def __init__(self) -> None:
            super().__init__(torch.nn.Linear(6, 4))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for _ in range(2):
                self.optimizers().zero_grad()  # type: ignore[union-attr]
                self.manual_backward(self.net(batch[0]).square().mean())
                self.optimizers().step()  # type: ignore[union-attr]

    L.Trainer(
        max_epochs=1,
        callbacks=[EfficiencyMonitor(tmp_path)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    ).fit(Twice(), DataLoader(features(), 16))
    summary = stored(tmp_path)
    assert summary["efficiency"]["model_flops"] == summary["samples"] * 2 * 2 * (2 * 6 * 4)
    assert summary["efficiency"]["executed_flops"] == summary["efficiency"]["model_flops"]


def test_logged_metrics_are_kept(tmp_path: Path) -> None:
    train("mlp", [EfficiencyMonitor(tmp_path)], log_every_n_steps=3, max_epochs=1)
    metrics = open_run(tmp_path, "latest").processes[0].steps["metrics"].to_list()
    assert [[m["name"] for m in row] for row in metrics] == [[], [], ["train_loss"], [], [], ["train_loss"]]


def test_checkpoints_are_a_phase_and_are_written_as_ever(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=2)
    _, trainer = train("mlp", [EfficiencyMonitor(tmp_path / "runs"), keep], enable_checkpointing=True)
    run = open_run(tmp_path / "runs", "latest")
    marks = run.processes[0].marks
    assert marks["kind"].to_list().count("checkpoint") >= 6
    assert keep.best_model_path
    assert "save_checkpoint" not in trainer.__dict__, "the trainer is left as it was"


def test_tokens_samples_and_flops_can_be_given(tmp_path: Path) -> None:
    monitor = EfficiencyMonitor(
        tmp_path,
        name="mine",
        tokens=lambda b: 100,
        samples=lambda b: 5,
        model_flops=lambda b: 1e6,
        peak_flops_per_s=1e12,
    )
    train("mlp", [monitor], max_epochs=1)
    summary = stored(tmp_path)
    assert (summary["run_id"], summary["tokens"], summary["samples"]) == ("mine", 600, 30)
    assert summary["efficiency"]["model_flops"] == 6e6
    assert summary["efficiency"]["flops_source"] == "given"
    assert summary["efficiency"]["mfu"] == pytest.approx(summary["efficiency"]["flops_per_s"] / 1e12)


def test_what_is_not_found_is_null_with_the_reason(tmp_path: Path) -> None:
    train("mlp", [EfficiencyMonitor(tmp_path)], max_epochs=1)
    summary = stored(tmp_path)
    assert summary["tokens"] is None
    assert "Pass tokens=" in summary["notes"]["tokens"]
    assert summary["efficiency"]["mfu"] is None
    assert 'Pass peak_flops_per_s=, or peak_flops_per_s="measure".' in summary["notes"]["efficiency.mfu"]
    assert summary["energy"]["measured_j"] is None
    assert summary["energy"]["estimated_j"] > 0.0


def test_an_exception_in_the_training_is_the_users_own(tmp_path: Path) -> None:
    class Fails(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ZeroDivisionError("the user's own")

    with pytest.raises(ZeroDivisionError, match="the user's own"):
        train("mlp", [EfficiencyMonitor(tmp_path), Fails()])
    summary = stored(tmp_path)
    assert summary["status"] == "interrupted"
    assert summary["notes"]["ended"] == "ZeroDivisionError after step 1", (
        "its kind; the message may hold secrets"
    )


def test_an_exception_in_the_forward_pass_leaves_no_counting_behind(tmp_path: Path) -> None:
    class Breaks(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            super().training_step(batch, batch_idx)
            raise ZeroDivisionError("in the forward pass")

    trainer = L.Trainer(
        callbacks=[EfficiencyMonitor(tmp_path)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    with pytest.raises(ZeroDivisionError, match="in the forward pass"):
        trainer.fit(Breaks(mlp()), DataLoader(features(), 16))
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


BRIDGES = (
    "open_probes",
    "Session",
    "WorkCounter",
    "logged_numbers",
    "SlowMemory",
    "OpenStep",
    "announce_fetches",
)


def _called_from(name: str) -> Any:
    """The module of the integration that calls it."""
    return next(m for m in (opening, bridge, hooks) if name in vars(m))


@pytest.mark.parametrize("where", BRIDGES)
def test_our_own_faults_never_reach_the_training(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without, _ = train("mlp", [])

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{where} is broken")

    monitor = EfficiencyMonitor(tmp_path)
    monkeypatch.setattr(_called_from(where), where, broken)
    with_us, _ = train("mlp", [monitor], log_every_n_steps=2)
    assert all(torch.equal(with_us[name], value) for name, value in without.items())
    said = [record.getMessage() for record in caplog.records if record.name == "joulescale"]
    assert 1 <= len(said) <= 3
    assert f"{where} is broken" in said[0]
    assert "The training goes on." in said[0]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Recorder, "look"),
        (WorkCounter, "begin"),
        (WorkCounter, "begin_backward"),
        (WorkCounter, "end_count"),
        (WorkCounter, "steady"),
        (EfficiencyMonitor, "_switch_off"),
    ],
)
def test_a_fault_in_a_hook_of_every_step_leaves_nothing_behind(
    owner: type,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without, _ = train("mlp", [], max_epochs=1)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{name} is broken")

    monkeypatch.setattr(owner, name, broken)
    if name == "_switch_off":  # it runs after another fault only
        monkeypatch.setattr(WorkCounter, "work", broken)
    with_us, _ = train("mlp", [EfficiencyMonitor(tmp_path)], max_epochs=1)
    assert all(torch.equal(with_us[name], value) for name, value in without.items())
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    said = [record.getMessage() for record in caplog.records if record.name == "joulescale"]
    assert 1 <= len(said) <= 3
    assert f"{name} is broken" in said[0]
    assert "The training goes on." in said[0]


def test_batches_that_are_alike_are_looked_at_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    begin = WorkCounter.begin

    def counted(counter: WorkCounter, batch: Any) -> None:
        seen.append(batch)
        begin(counter, batch)

    monkeypatch.setattr(WorkCounter, "begin", counted)
    train("mlp", [EfficiencyMonitor(tmp_path)], max_epochs=3)
    assert len(seen) == 3
    assert stored(tmp_path)["samples"] == 3 * 96


def test_batches_of_another_kind_in_between_are_looked_at(tmp_path: Path) -> None:
    """A list that holds no tensor where the last one did, a dict, a shorter batch: none is taken for the last one."""
    x, y = features(16).tensors
    batches = [[x, y], [x, y], ["text", x, y], [], {"x": x, "y": y}, (x, y), [x[:5], y[:5]], [x, y], [x, y]]

    class Any_(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            parts = [part for part in (batch.values() if isinstance(batch, dict) else batch) if len(part) > 4]
            return super().training_step(parts or [x, y], batch_idx)

    L.Trainer(
        max_epochs=1, callbacks=[EfficiencyMonitor(tmp_path)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    ).fit(Any_(mlp()), DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # fmt: skip
    steps = open_run(tmp_path, "latest").processes[0].steps
    assert steps["samples"].to_list() == [16, 16, 16, None, 16, 16, 5, 16, 16]
    assert steps["loss"].null_count() == 0
    assert "recording" not in stored(tmp_path)["notes"]


def test_a_monitor_whose_hooks_a_user_extends_records_as_ever(tmp_path: Path) -> None:
    class Extended(EfficiencyMonitor):
        ends = 0

        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            self.ends += 1

    monitor = Extended(tmp_path)
    train("mlp", [monitor], max_epochs=1)
    assert (monitor.ends, stored(tmp_path)["steps"]) == (6, 6)


def test_a_runs_folder_that_cannot_be_one_is_said_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = EfficiencyMonitor(tmp_path / "file")
    (tmp_path / "file").write_text("not a folder")
    train("mlp", [monitor])
    assert monitor.run_dir is None
    assert "is a file. Name a folder" in caplog.text


def test_a_damaged_tokens_function_switches_off_tokens_only(tmp_path: Path) -> None:
    train("mlp", [EfficiencyMonitor(tmp_path, tokens=lambda batch: batch["nothing"])], max_epochs=1)
    summary = stored(tmp_path)
    assert (summary["steps"], summary["samples"], summary["tokens"]) == (6, 96, None)
    assert "switched off after TypeError" in summary["notes"]["tokens"]


def test_two_fits_of_one_monitor_are_two_runs(tmp_path: Path) -> None:
    monitor = EfficiencyMonitor(tmp_path)
    for _ in range(2):
        train("mlp", [monitor], max_epochs=1)
    assert [run.status for run in scan_runs(tmp_path)] == ["finished", "finished"]


def test_a_name_that_is_taken_by_a_finished_run_is_not_taken_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        train("mlp", [EfficiencyMonitor(tmp_path, name="twice")], max_epochs=1)
    assert [(run.run_id, summarize(run)["steps"]) for run in scan_runs(tmp_path)] == [
        ("twice", 6),
        ("twice-2", 6),
    ]
    assert "'twice' is a finished run already, so this one is 'twice-2'" in caplog.text


def test_the_monitor_can_be_copied_and_pickled_before_and_during_a_fit(tmp_path: Path) -> None:
    copies: list[EfficiencyMonitor] = []

    class Copies(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            monitor = next(c for c in trainer.callbacks if isinstance(c, EfficiencyMonitor))  # type: ignore[attr-defined]
            copies.extend([copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))])

    train("mlp", [EfficiencyMonitor(tmp_path), Copies()], max_epochs=1)
    assert [c.now() for c in copies] == [0.0, 0.0]
    assert stored(tmp_path)["status"] == "finished"


def test_marks_and_phases_of_the_users_own(tmp_path: Path) -> None:
    monitor = EfficiencyMonitor(tmp_path)

    class Evaluates(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            with monitor.phase("validation"):
                monitor.mark("note", note={"epoch": trainer.current_epoch, "score": float("nan")})

    train("mlp", [monitor, Evaluates()], validate=False)
    marks = open_run(tmp_path, "latest").processes[0].marks
    notes = marks.filter(marks["kind"] == "note")["note"].to_list()
    assert [json.loads(n) for n in notes] == [{"epoch": 0, "score": None}, {"epoch": 1, "score": None}]
    assert marks["kind"].to_list().count("validation") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gpus": "all"}, r"gpus='all' is none of 'auto', 'visible', or a list of positions or UUIDs"),
        ({"gpus": [-1]}, r"gpus=\[-1\] is none of"),
        ({"name": "a/b"}, "The run name 'a/b' cannot be a folder's name"),
        ({"tokens": 128}, "tokens=128 is no function of a batch. Give one, such as tokens=lambda batch: 128"),
        ({"model_flops": 1e9}, "model_flops=1000000000.0 is no function of a batch"),
        ({"runs_dir": 5}, "runs_dir=5 is no folder's path. Give one, such as 'runs'"),
        ({"runs_dir": ""}, "runs_dir='' is no folder's path"),
        ({"runs_dir": __file__}, "is a file, so no run can be kept in it. Give a folder"),
        ({"idle_s": -1.0}, "idle_s = -1.0 is no number of seconds above 0 and up to 600"),
        ({"peak_flops_per_s": -1.0}, "peak_flops_per_s=-1.0 is no number of FLOP/s above 0, nor 'measure'"),
        (
            {"peak_flops_per_s": "fast"},
            "peak_flops_per_s='fast' is no number of FLOP/s above 0, nor 'measure'",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_refused_before_training(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        EfficiencyMonitor(**arguments)


def test_the_summary_is_printed_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train("mlp", [EfficiencyMonitor(tmp_path)], max_epochs=1)
    assert capfd.readouterr().out == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    train("mlp", [EfficiencyMonitor(tmp_path)], max_epochs=1)
    assert "(estimated)" in capfd.readouterr().out


def test_what_torch_compile_would_compile_is_compiled(tmp_path: Path) -> None:
    """A function first called under a foreign dispatch mode was never compiled again, and weights differed."""

    class Compiles(Classifier):
        def __init__(self) -> None:
            super().__init__(mlp())
            self.graphs = 0
            self.loss = torch.compile(nn.functional.cross_entropy, backend=self.backend)

        def backend(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
            self.graphs += 1
            return graph.forward

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self.loss(self.net(batch[0]), batch[1])

    module = Compiles()
    trainer = L.Trainer(
        max_epochs=1, callbacks=[EfficiencyMonitor(tmp_path)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, DataLoader(features(), 16))
    assert module.graphs > 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    summary = stored(tmp_path)
    assert summary["efficiency"]["model_flops"] is None
    assert "a part of the model is compiled" in summary["notes"]["efficiency.model_flops"]


def test_a_batch_that_the_module_leaves_out_leaves_no_counting_behind(tmp_path: Path) -> None:
    class Skips(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.current_epoch == 0 else None

    trainer = L.Trainer(
        max_epochs=2, callbacks=[EfficiencyMonitor(tmp_path)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Skips(mlp()), DataLoader(features(), 16))
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert stored(tmp_path)["efficiency"]["model_flops"] == 6 * (
        2 * 16 * (6 * 16 + 16 * 4) + 2 * 2 * 16 * (6 * 16 + 16 * 4) - 2 * 16 * 6 * 16
    )


def test_the_same_monitor_twice_records_nothing_and_says_so(tmp_path: Path) -> None:
    monitor = EfficiencyMonitor(tmp_path)
    without, _ = train("mlp", [])
    with_us, _ = train("mlp", [monitor, monitor])
    assert all(torch.equal(with_us[name], value) for name, value in without.items())
    assert "the same monitor is listed twice" in stored(tmp_path)["notes"]["recording"]
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_the_loss_of_a_short_last_step_is_a_mean_too(tmp_path: Path) -> None:
    class Two(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(batch, batch_idx) * 0.0 + 2.0

    trainer = L.Trainer(
        max_epochs=1, accumulate_grad_batches=4, callbacks=[EfficiencyMonitor(tmp_path)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Two(mlp()), DataLoader(features(), 16))
    assert open_run(tmp_path, "latest").processes[0].steps["loss"].to_list() == [2.0, 2.0]


def test_a_training_that_changes_its_folder_keeps_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    class Moves(L.Callback):
        def on_train_start(self, *args: Any) -> None:
            monkeypatch.chdir(tmp_path / "elsewhere")

    train("mlp", [EfficiencyMonitor("runs"), Moves()])
    assert [run.status for run in scan_runs(tmp_path / "runs")] == ["finished"]
    assert not (tmp_path / "elsewhere" / "runs").exists()


def test_a_resumed_training_goes_on_counting_its_steps(tmp_path: Path) -> None:
    _, trainer = train("mlp", [], max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    module = Classifier(mlp())
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    again = L.Trainer(max_epochs=2, callbacks=[EfficiencyMonitor(tmp_path / "runs")], **options)
    again.fit(module, DataLoader(features(), 16), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    steps = open_run(tmp_path / "runs", "latest").processes[0].steps["step"].to_list()
    assert steps == list(range(7, 13))


def test_save_checkpoint_of_a_copied_trainer_is_the_copys_and_ours_is_taken_away(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Copies(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            seen.append(copy.copy(trainer.save_checkpoint))
            seen.append(trainer)

    def own(*args: Any, **kwargs: Any) -> str:
        return "the user's own"

    trainer = L.Trainer(
        max_epochs=1, callbacks=[EfficiencyMonitor(tmp_path), Copies()], logger=False, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.save_checkpoint = own  # type: ignore[method-assign]
    trainer.fit(Classifier(mlp()), DataLoader(features(), 16))
    assert seen[0].__func__ is L.Trainer.save_checkpoint
    assert seen[0].__self__ is trainer
    assert trainer.save_checkpoint is own


FORKED = """
import os, sys, time
from pathlib import Path
from profiler.records import Step
from profiler.store.writer import JournalWriter

writer = JournalWriter(Path(sys.argv[1]))
for number in range(2):
    writer.append(Step(rank=0, step=number, start_s=0.0, duration_s=1.0, metrics={"a": 1.0}))
    writer.flush(last=True)
child = os.fork()
if child == 0:
    import polars as pl
    frame = pl.DataFrame({"a": list(range(50_000)), "b": [1] * 50_000})
    frame.group_by("a").agg(pl.col("b").sum()).sort("a").collect_schema()
    os._exit(0)
for _ in range(300):
    if os.waitpid(child, os.WNOHANG)[0]:
        sys.exit(0)
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the forked process waits for ever for Polars' threads")
"""


def test_storing_leaves_polars_usable_in_forked_loader_workers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


FIT_OVER_FAKE_GPUS = """
import ctypes, json, sys, time
import lightning as L, torch
from torch.utils.data import DataLoader, TensorDataset
from profiler import EfficiencyMonitor, open_run, summarize
from pathlib import Path

class Slow(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2)
    def training_step(self, batch, i):
        time.sleep(0.02)
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

fake = ctypes.CDLL("libnvidia-ml.so.1")
fake.fake_nvml_time.restype = fake.fake_nvml_joules.restype = ctypes.c_double
fake.fake_nvml_joules.argtypes = [ctypes.c_int, ctypes.c_double]
monitor = EfficiencyMonitor(sys.argv[1], gpus=json.loads(sys.argv[2]), idle_s=1.2)

class Clock(L.Callback):
    def on_train_start(self, *_):
        self.offset = fake.fake_nvml_time() - monitor.now()

clock = Clock()
L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
          enable_model_summary=False, callbacks=[monitor, clock]).fit(
    Slow(), DataLoader(TensorDataset(torch.randn(100, 2)), 1))
run = open_run(Path(sys.argv[1]), "latest")
fit = run.processes[0].marks.filter(run.processes[0].marks["kind"] == "fit").row(0, named=True)
truth = {f"GPU-{name * 4}": fake.fake_nvml_joules(i, fit["end_s"] + clock.offset)
         - fake.fake_nvml_joules(i, fit["start_s"] + clock.offset) for i, name in enumerate("ab")}
idle = run.processes[0].marks.filter(run.processes[0].marks["kind"] == "idle").row(0, named=True)
assert idle["end_s"] - idle["start_s"] >= 1.2 and idle["end_s"] <= fit["start_s"]
idle_j = sum(fake.fake_nvml_joules(i, idle["end_s"] + clock.offset)
             - fake.fake_nvml_joules(i, idle["start_s"] + clock.offset) for i in (0, 1))
idle_w = idle_j / (idle["end_s"] - idle["start_s"])
print(json.dumps({"truth": truth, "idle_w": idle_w, "summary": summarize(run)}))
"""

TWO_TRACES = """
    clock real
    gpu GPU-aaaa NVIDIA H100 80GB HBM3
    power 0 0 100
    wave 0 300 0.7 0.4 0.1
    gpu GPU-bbbb NVIDIA H100 80GB HBM3
    power 1 0 400
    wave 1 200 1.3 0.5 0
    set 1 reasons 5
"""


def fit_over_fake_gpus(library: Path, folder: Path, gpus: Any, **environment: str) -> dict[str, Any]:
    env = subprocess_env(library, folder / "gpus", TWO_TRACES, **environment)
    command = [sys.executable, "-c", FIT_OVER_FAKE_GPUS, str(folder / "runs"), json.dumps(gpus)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_two_gpus_of_known_traces_lie_within_the_printed_bars(nvml_library: Path, tmp_path: Path) -> None:
    found = fit_over_fake_gpus(nvml_library, tmp_path, "visible")
    energy = found["summary"]["energy"]
    gpus = {c["device"]: c for c in energy["components"] if c["component"] == "gpu"}
    assert gpus.keys() == {"GPU-aaaa", "GPU-bbbb"}
    for uuid, gpu in gpus.items():
        assert gpu["source"] == "counter"
        assert abs(gpu["energy_j"] - found["truth"][uuid]) <= gpu["plus_minus_j"], uuid
        assert gpu["plus_minus_j"] < 0.2 * gpu["energy_j"]
    held_back = [{"device": "GPU-bbbb", "reason": "software power cap", "share": 1.0}]
    assert found["summary"]["throttling"] == held_back, "idling (bit 1) holds nothing back"
    assert abs(energy["idle"]["power_w"] - found["idle_w"]) <= energy["idle"]["plus_minus_w"]
    assert energy["headline"] == "measured"
    assert energy["measured_j"] == pytest.approx(sum(g["energy_j"] for g in gpus.values()))
    assert energy["estimated_j"] > 0.0, "the CPU's estimate stands in a column of its own"


@pytest.mark.parametrize(
    ("visible", "gpus", "device"),
    [
        ("1", "visible", "GPU-bbbb"),
        ("GPU-bbbb", "visible", "GPU-bbbb"),
        ("1,0", [0], "GPU-bbbb"),
        ("0", [0], "GPU-aaaa"),
    ],
)
def test_cuda_visible_devices_picks_the_right_gpu(
    nvml_library: Path, tmp_path: Path, visible: str, gpus: Any, device: str
) -> None:
    found = fit_over_fake_gpus(nvml_library, tmp_path, gpus, CUDA_VISIBLE_DEVICES=visible)
    measured = [c for c in found["summary"]["energy"]["components"] if c["component"] == "gpu"]
    assert [c["device"] for c in measured] == [device]
    assert abs(measured[0]["energy_j"] - found["truth"][device]) <= measured[0]["plus_minus_j"]


@pytest.mark.parametrize("slow", ["callback", "loader"])
def test_a_slow_callback_is_no_data_wait_and_a_slow_loader_is(slow: str, tmp_path: Path) -> None:
    class Slow(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            time.sleep(0.02 if slow == "callback" else 0.0)

    class Late(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            time.sleep(0.02 / 16 if slow == "loader" else 0.0)
            return super().__getitem__(index)

    L.Trainer(
        max_epochs=2,
        callbacks=[EfficiencyMonitor(tmp_path), Slow()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    ).fit(Classifier(mlp()), DataLoader(Late(*features().tensors), 16))
    phases = {row["phase"]: row["duration_s"] for row in stored(tmp_path)["phases"]}
    at_least_s = 10 * 0.02  # of twelve batches; the last ends its epoch
    booked, spared = ("other", "data") if slow == "callback" else ("data", "other")
    assert phases[booked] >= at_least_s
    assert phases[spared] < phases[booked] / 2
