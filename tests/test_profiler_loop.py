"""`profiler.record`: a loop of one's own is recorded, is left alone, and ends as it would have ended without us."""

from __future__ import annotations

import gc
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import nn

import profiler
from profiler import open_run, summarize
from profiler.errors import UnknownNameError, UsageError
from profiler.integrations import loop, opening
from profiler.integrations.loop import LoopRun, record
from profiler.measure.recorder import Recorder
from profiler.store.run import StoredRun


def batches(count: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        yield torch.randn(8, 6, generator=generator)


def train(run: LoopRun | None, steps: int = 6) -> dict[str, torch.Tensor]:
    """A training with dropout, so that one random number taken by us would change it."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for batch in batches(steps) if run is None else run.steps(batches(steps)):
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if run is not None:
            run.end_step(samples=len(batch), tokens=48, model_flops=1e3, loss=loss)
    return {**model.state_dict(), "rng": torch.get_rng_state()}


def stored(runs_dir: Path, name: str = "mine") -> StoredRun:
    return open_run(runs_dir, name)


def steps_of(run: StoredRun) -> pl.DataFrame:
    return run.processes[0].columns("steps", "step", "duration_s", "forward_s", "other_s", "tokens", "loss")


def marks_of(run: StoredRun, kind: str) -> list[dict[str, Any]]:
    return run.processes[0].marks.filter(pl.col("kind") == kind).to_dicts()


def test_it_is_one_of_the_public_names():
    assert profiler.record is record


def test_weights_are_bit_equal_with_and_without(tmp_path: Path):
    alone = train(None)
    with record(tmp_path) as run:
        recorded = train(run)
    assert all(torch.equal(alone[key], recorded[key]) for key in alone)


def test_a_finished_loop_is_a_run_with_its_work(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        train(run)
        assert run.run_dir == tmp_path / "mine"
        assert run.attempt == 1
    summary = summarize(stored(tmp_path))
    assert (summary["status"], summary["steps"]) == ("finished", 6)
    assert (summary["samples"], summary["tokens"]) == (48, 288)
    assert summary["efficiency"]["model_flops"] == pytest.approx(6e3)
    assert summary["loss"] == pytest.approx(steps_of(stored(tmp_path))["loss"][-1])
    assert summary["energy"]["components"], "processor time is estimated where nothing is measured"


def test_each_step_is_cut_into_its_phases_without_a_gap(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        for _ in run.steps(range(3)):
            spin(0.01)
            with run.phase("forward"):
                spin(0.02)
            with run.phase("backward"):
                spin(0.01)
    steps = (
        stored(tmp_path)
        .processes[0]
        .columns("steps", "duration_s", "data_s", "forward_s", "backward_s", "optimizer_s", "other_s")
    )
    parts = steps.select(pl.sum_horizontal(pl.exclude("duration_s"))).to_series()
    assert parts.to_list() == pytest.approx(steps["duration_s"].to_list())
    assert steps["forward_s"].min() >= 0.02
    assert steps["backward_s"].min() >= 0.01
    assert steps["other_s"].min() >= 0.01


def spin(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


def test_a_phase_returns_to_the_one_that_was_open_also_after_an_exception(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        for _ in run.steps(range(1)):
            with run.phase("forward"):
                with pytest.raises(KeyError), run.phase("validation"):
                    raise KeyError
                assert run._open_phase() == "forward"
            assert run._open_phase() == "other"
        assert run._open_phase() is None


def test_a_step_that_nobody_ends_ends_with_the_next(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        for _ in run.steps(range(4)):
            pass
    assert steps_of(stored(tmp_path))["step"].to_list() == [1, 2, 3, 4]


def test_steps_are_numbered_through_over_several_loops(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        for _ in range(2):
            for _ in run.steps(range(2)):
                run.end_step()
    assert steps_of(stored(tmp_path))["step"].to_list() == [1, 2, 3, 4]


def test_after_a_break_time_is_of_no_step(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        for number in run.steps(range(9)):
            run.end_step()
            if number == 1:
                break
        assert run._open_phase() is None
        spin(0.05)
        for _ in run.steps(range(1)):
            run.end_step()
    steps = steps_of(stored(tmp_path))
    assert steps["step"].to_list() == [1, 2, 3]
    assert steps["duration_s"][2] < 0.05


def test_a_loop_that_is_let_go_later_does_not_end_the_phase_of_another(tmp_path: Path):
    with record(tmp_path) as run:
        first = run.steps(range(3))
        next(first)
        for _ in run.steps(range(1)):
            del first
            gc.collect()
            assert run._open_phase() == "other"


def test_pauses_are_marks_and_belong_to_no_step(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        for _ in run.steps(range(2)):
            run.end_step()
            with run.phase("validation"):
                spin(0.05)
    run_ = stored(tmp_path)
    assert [mark["end_s"] - mark["start_s"] >= 0.05 for mark in marks_of(run_, "validation")] == [True, True]
    assert steps_of(run_)["duration_s"].max() < 0.05


def test_marks_are_instants_or_intervals_with_a_note(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        run.mark("curve", note={"x": 1, "nan": float("nan"), "hf_token": "abc"})
        run.mark("arm", start_s=0.25, end_s=0.5)
        before_s = run.now()
        assert before_s > 0.0
        assert run.now() >= before_s
    (instant,), (interval,) = (marks_of(stored(tmp_path), kind) for kind in ("curve", "arm"))
    assert json.loads(instant["note"]) == {"x": 1, "nan": None, "hf_token": "[redacted]"}
    assert (instant["end_s"], interval["start_s"], interval["end_s"]) == (None, 0.25, 0.5)


def fall_in_step(run: LoopRun, step: int, error: BaseException) -> None:
    for number in run.steps(range(1, 9)):
        run.end_step()
        if number == step:
            raise error


class Unheard(BaseException):
    """Of no known kind."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Unheard])
def test_an_exception_is_the_users_and_the_run_is_interrupted(tmp_path: Path, kind: type[BaseException]):
    error = kind("mine")
    with pytest.raises(kind) as caught, record(tmp_path, name="mine") as run:
        fall_in_step(run, 3, error)
    assert caught.value is error
    summary = summarize(stored(tmp_path))
    assert (summary["status"], summary["steps"]) == ("interrupted", 3)
    assert summary["notes"]["ended"] == f"{kind.__name__} after step 3"


def test_after_its_end_a_run_takes_nothing_and_says_nothing(tmp_path: Path):
    with record(tmp_path, name="mine") as run:
        train(run, 2)
    train(run, 2)
    run.mark("late")
    assert run.now() == 0.0
    assert summarize(stored(tmp_path))["steps"] == 2


FAULTS = [
    (opening, "open_probes"),
    (opening, "Session"),
    (loop, "open_session"),
    (loop, "measure_around"),
    (Recorder, "enter"),
    (Recorder, "end_step"),
    (Recorder, "mark"),
    (Recorder, "digest"),
    (Recorder, "flush"),
]


@pytest.mark.parametrize(("owner", "name"), FAULTS)
def test_our_own_faults_never_reach_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: Any, name: str
):
    def fault(*args: object, **kwargs: object) -> None:
        raise RuntimeError("ours")

    alone = train(None)
    monkeypatch.setattr(owner, name, fault)
    with caplog.at_level(logging.WARNING, logger="joulescale"), record(tmp_path) as run:
        with run.phase("validation"):
            pass
        run.mark("x", note={"y": 1})
        assert run.now() >= 0.0
        recorded = train(run)
    assert all(torch.equal(alone[key], recorded[key]) for key in alone)
    assert "switched off for this run (RuntimeError: ours)" in caplog.text
    assert len(caplog.records) <= 3


def test_a_folder_that_cannot_be_written_costs_the_record_only(tmp_path: Path, caplog: Any):
    (tmp_path / "runs").mkdir(mode=0o500)
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, logger="joulescale"), record(tmp_path / "file" / "runs") as run:
        train(run)
    assert run.run_dir is None
    assert "opening the record" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"runs_dir": ""}, r"runs_dir='' is no folder's path\. Give one, such as 'runs'"),
        ({"name": "../x"}, r"'\.\./x'"),
        ({"gpus": "all"}, r"gpus='all' is none of 'auto', 'visible', or a list"),
        ({"peak_flops_per_s": -1.0}, r"peak_flops_per_s=-1\.0 is no number of FLOP/s above 0"),
        ({"idle_s": -2.0}, r"idle"),
        ({"second_opinion": "crystal ball"}, r"crystal ball"),
        (
            {"device": "toaster"},
            r"device='toaster' is no device of torch\. Give one, such as 'cpu' or 'cuda'",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_any_training(tmp_path: Path, wrong: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message), record(**{"runs_dir": tmp_path, **wrong}):
        pytest.fail("the block was entered")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_phase_names_the_nearest(tmp_path: Path):
    with record(tmp_path) as run, pytest.raises(UnknownNameError, match="forward"), run.phase("forwards"):  # type: ignore[arg-type]
        pass


def test_a_folder_that_is_deleted_in_the_middle_is_said_with_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tmp_path / "runs"
    with record(runs) as run:
        for step in run.steps(range(20)):
            run.end_step(samples=1)
            if step == 5:
                assert run._session is not None
                run._session.store_now()  # into the journal
                shutil.rmtree(runs)
                runs.touch()
    said = [message for message in caplog.messages if "storing the rest" in message]
    assert len(said) == 1
    assert re.search(r"\d+ rows could not be written to .* and are lost", said[0])
