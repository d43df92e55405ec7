"""Workload `lm`: real trainings of a few seconds on a clock that only counts."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
import pytest
import torch

from profiler.errors import InvalidValueError, UnknownNameError
from profiler.workload import RunRequest, apply_settings, load_workload
from workloads.device import choose_accelerator
from workloads.lm import WORKLOAD
from workloads.lm_settings import LMSettings
from workloads.lm_training import LMModule, fit, mean_and_half_width
from workloads.progress import FD_VARIABLE, JsonLines, ProgressCallback, TerminalBar, choose_display
from workloads.schedule import Schedule

TINY = LMSettings(
    d_model=16,
    n_layer=1,
    seq_len=32,
    batch_size=2,
    token_budgets=(640, 1280),
    warmup_steps=4,
    val_sequences=8,
)


class CountingMonitor:
    """Stands in for the monitor: each look at the clock is a second later than the last."""

    def __init__(self) -> None:
        self.attempt = 1
        self.clock = itertools.count()
        self.marks: list[tuple[str, Any, Any, dict[str, Any]]] = []
        self.phases: list[tuple[str, float]] = []

    def now(self) -> float:
        return float(next(self.clock))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.phases.append((name, self.now()))
        yield

    def mark(
        self,
        kind: str,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        note: Mapping[str, object] | None = None,
    ) -> None:
        self.marks.append((kind, start_s, end_s, dict(note or {})))

    def points(self) -> list[dict[str, Any]]:
        return [note for kind, _, _, note in self.marks if kind == "budget"]


class LossLog(L.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].item())


def train(
    settings: LMSettings, *, schedule: Schedule | None = None, seed: int = 0
) -> tuple[CountingMonitor, LMModule, list[float]]:
    monitor, log = CountingMonitor(), LossLog()
    schedule = schedule or settings.schedule()
    module = fit(settings, WORKLOAD.corpus(settings), schedule, monitor, seed=seed, callbacks=[log])
    return monitor, module, log.losses


def only_trunk(schedule: Schedule) -> Schedule:
    segments = tuple(segment for segment in schedule.segments if segment.kind == "trunk")
    return dataclasses.replace(schedule, segments=segments)


# -- training


def test_a_cooldown_leaves_no_trace_on_the_trunk() -> None:
    schedule = TINY.schedule()
    branch_and_back = Schedule(segments=schedule.segments[:3], warmup_steps=schedule.warmup_steps)
    assert [segment.kind for segment in branch_and_back.segments] == ["trunk", "cooldown", "trunk"]
    _, with_branch, losses = train(TINY, schedule=branch_and_back)
    _, without, trunk_losses = train(TINY, schedule=only_trunk(branch_and_back))
    first, cooldown = branch_and_back.segments[:2]
    assert losses[: first.num_steps] + losses[first.num_steps + cooldown.num_steps :] == trunk_losses
    for name, weight in without.state_dict().items():
        assert torch.equal(with_branch.state_dict()[name], weight), name


def test_same_seed_same_losses_and_another_seed_others() -> None:
    first, _, losses = train(TINY)
    second, _, again = train(TINY)
    assert first.points() == second.points()
    assert losses == again
    _, _, other = train(TINY, seed=1)
    assert other[0] != losses[0]


def test_each_point_says_what_it_cost() -> None:
    monitor, _, losses = train(TINY)
    small, large = monitor.points()
    kinds = [kind for kind, *_ in monitor.marks]
    assert kinds == ["trunk", "cooldown", "budget", "trunk", "cooldown", "budget"]
    assert (small["budget_tokens"], small["tokens"], small["steps"]) == (640, 640, 10)
    assert (large["budget_tokens"], large["tokens"], large["steps"]) == (1280, 1280, 20)
    assert len(losses) == TINY.schedule().num_steps == 22
    assert small["params"] == 12 * 16**2 + 257 * 16
    assert small["model_flops"] == 640 * (6 * small["params"] + 12 * 16 * 32)
    assert 0.0 < small["loss_plus_minus"] < 1.0


def test_windows_are_the_trunk_and_the_own_cooldown_without_validation() -> None:
    monitor, _, _ = train(TINY)
    intervals = [[start, end] for kind, start, end, _ in monitor.marks if kind in ("trunk", "cooldown")]
    first_trunk, first_cooldown, second_trunk, second_cooldown = intervals
    small, large = monitor.points()
    assert small["windows"] == [first_trunk, first_cooldown]
    assert large["windows"] == [first_trunk, second_trunk, second_cooldown]
    assert [name for name, _ in monitor.phases].count("validation") == 2
    for _, when in monitor.phases:
        assert not any(start < when < end for start, end in intervals)


def test_the_smoke_loss_falls_with_the_budget_and_beats_guessing() -> None:
    settings = WORKLOAD.preset("smoke")
    small, large = train(settings)[0].points()
    assert large["loss"] < small["loss"] - 0.1 < math.log(257) - 1.0


def test_a_diverged_loss_is_not_known() -> None:
    assert mean_and_half_width(torch.tensor([1.0, math.nan])) == (None, None)
    assert mean_and_half_width(torch.tensor([2.0])) == (2.0, None)
    mean, plus_minus = mean_and_half_width(torch.tensor([1.0, 3.0]))
    assert mean == 2.0
    assert plus_minus == pytest.approx(1.96)


# -- settings


def test_presets_and_grids_fit_together() -> None:
    for preset in ("smoke", "cpu", "gpu"):
        settings = WORKLOAD.preset(preset)
        for width in WORKLOAD.grid(preset)["d_model"]:
            assert dataclasses.replace(settings, d_model=width).d_model == width
    with pytest.raises(UnknownNameError, match="no preset named 'huge'"):
        WORKLOAD.preset("huge")


def test_settings_are_read_from_text() -> None:
    texts = {"token_budgets": "131072+262144", "precision": "bf16-mixed", "threads": "2", "data": "none"}
    settings = apply_settings(WORKLOAD.preset("cpu"), texts)
    assert settings.token_budgets == (131_072, 262_144)
    assert (settings.precision, settings.threads, settings.data) == ("bf16-mixed", 2, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 20}, r"d_model = 20 cannot be cut into heads of head_dim = 16. Give a multiple of 16."),
        ({"token_budgets": (10,)}, r"token budget 10 is smaller than one step of 64 tokens"),
        ({"batch_size": 0}, r"batch_size = 0 is not a positive number. Give a positive one."),
        ({"lr": math.nan}, r"lr = nan is not a positive number."),
        ({"threads": 0}, r"threads = 0 is not a positive number."),
        ({"warmup_steps": -1}, r"warmup_steps = -1 is negative. Give 0 or more."),
        ({"precision": "16"}, r"precision = '16' is unknown. Give 32-true or bf16-mixed."),
        ({"accelerator": "tpu"}, r"accelerator = 'tpu' is unknown. Give cpu or cuda or auto."),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        dataclasses.replace(TINY, **change)


def test_matrices_learn_slower_in_wider_models() -> None:
    assert TINY.matrix_lr == pytest.approx(TINY.lr * math.sqrt(2))
    assert dataclasses.replace(TINY, d_model=128).matrix_lr == pytest.approx(TINY.lr / 2)


# -- the workload


def request_of(settings: LMSettings, runs_dir: Path) -> RunRequest:
    return RunRequest(runs_dir=runs_dir, workload="lm", preset="smoke", seed=0, settings=settings)


def test_the_entry_point_finds_it() -> None:
    assert load_workload("lm") is WORKLOAD


def test_identity_names_data_and_versions(tmp_path: Path) -> None:
    identity = WORKLOAD.identity(TINY)
    assert set(identity) == {"data_sha256", "torch", "python"}
    (tmp_path / "a.txt").write_text("some text " * 200)
    own = WORKLOAD.identity(dataclasses.replace(TINY, data=str(tmp_path / "a.txt")))
    assert set(own) == {"data_sha256", "torch"}
    assert own["data_sha256"] != identity["data_sha256"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_gpu_preset_without_a_gpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    message = r"accelerator = 'cuda', but torch finds no CUDA device .* Use '--preset cpu' or '--set"
    with pytest.raises(InvalidValueError, match=message):
        WORKLOAD.train(request_of(WORKLOAD.preset("gpu"), tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    assert choose_accelerator("auto") == "cpu"


def test_train_leaves_a_run_with_its_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "small.txt"
    text.write_text("".join(f"a short text, line {number}\n" for number in range(50)))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    run_dir = WORKLOAD.train(request_of(dataclasses.replace(TINY, data=str(text)), tmp_path / "runs"))
    assert "The data repeats: the largest token budget is 1,280" in capsys.readouterr().err
    manifest = json.loads((Path(run_dir) / "run.json").read_text())
    assert (manifest["workload"], manifest["preset"], manifest["seed"]) == ("lm", "smoke", 0)
    assert manifest["settings"]["token_budgets"] == [640, 1280]
    assert manifest["notes"]["data"].startswith("The data repeats")
    assert "OMP_WAIT_POLICY was unset" in manifest["notes"]["omp_wait_policy"]
    marks = pl.read_parquet(Path(run_dir) / "attempt-*" / "*" / "marks-*.parquet")
    points = [json.loads(note) for note in marks.filter(pl.col("kind") == "budget")["note"]]
    assert [point["tokens"] for point in points] == [640, 1280]
    steps = pl.read_parquet(Path(run_dir) / "attempt-*" / "*" / "steps-*.parquet")
    assert steps["tokens"].to_list() == [64] * 22
    assert steps["model_flops"].sum() == pytest.approx(points[0]["model_flops"] / 640 * 64 * 22)
    for point in points:  # a point's windows hold exactly the steps that led to it
        inside = [
            any(start <= middle <= end for start, end in point["windows"])
            for middle in steps["start_s"] + steps["duration_s"] / 2
        ]
        assert sum(inside) == point["steps"]


# -- progress


def test_progress_is_written_as_json_lines_at_most_twice_a_second() -> None:
    reading, writing = os.pipe()
    clock = iter([0.0, 0.1, 0.6, 0.7, 0.8])
    callback = ProgressCallback(JsonLines(writing), steps=4, tokens_per_step=100, clock=lambda: next(clock))
    trainer, module = L.Trainer(logger=False, enable_progress_bar=False), L.LightningModule()
    callback.on_train_start(trainer, module)
    for step in range(4):
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(2.5)}, None, step)
    os.close(writing)
    lines = [json.loads(line) for line in os.fdopen(reading)]
    assert lines == [
        {"step": 2, "steps": 4, "loss": 2.5, "tokens_per_s": pytest.approx(200 / 0.6, abs=0.1)},
        {"step": 4, "steps": 4, "loss": 2.5, "tokens_per_s": pytest.approx(200 / 0.2, abs=0.1)},
    ]


def test_a_reader_that_went_away_does_not_stop_the_training() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    display = JsonLines(writing)
    for step in (1, 2):
        display.show(step=step, steps=2, loss=1.0, tokens_per_s=1.0)
    os.close(writing)


def test_where_progress_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv(FD_VARIABLE, raising=False)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert choose_display() is None
    monkeypatch.setattr("sys.stderr", Terminal())
    display = choose_display()
    assert isinstance(display, TerminalBar)
    display.show(step=1, steps=2, loss=1.0, tokens_per_s=1.0)
    display.close()
    monkeypatch.setenv(FD_VARIABLE, "7")
    assert isinstance(choose_display(), JsonLines)
