"""A workload that goes on from a checkpoint is the training that was never stopped, bit by bit."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from fixtures_ranks import made_process, made_run
from fixtures_scripted import Script, scripted_run
from test_workloads_lm import TINY, CountingMonitor
from typer.testing import CliRunner

from profiler.cli.main import make_app
from profiler.cli.point_process import Point
from profiler.cli.resume import check_identity, resumable
from profiler.errors import InvalidValueError
from profiler.measure.session import RunFacts
from profiler.store.claim import Job, claim
from profiler.store.lease import Lease
from profiler.store.runs import open_run
from profiler.store.turn import check_nobody_writes, take_turn
from profiler.workload import stored_settings
from workloads.checkpoints import FOLDER, KEPT, Checkpoints, StepsFrom, last_checkpoint, remove_checkpoints
from workloads.lm import WORKLOAD
from workloads.lm_training import LMModule, fit

SETTINGS = dataclasses.replace(TINY, threads=1)


class StopAfter(L.Callback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= self._step:
            raise ConnectionError("stopped by the test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    text = tmp_path_factory.mktemp("text") / "small.txt"
    text.write_text("".join(f"a short text, line {number}\n" for number in range(200)))
    return WORKLOAD.corpus(dataclasses.replace(TINY, data=str(text)))


def train(
    corpus: Any, run_dir: Path, *, attempt: int = 1, resume: Path | None = None, stop: int | None = None
) -> tuple[CountingMonitor, LMModule | None]:
    monitor = CountingMonitor()
    monitor.attempt = attempt
    schedule, checkpoints = SETTINGS.schedule(), Checkpoints(lambda: run_dir, every_s=0.0)
    options: dict[str, Any] = {"seed": 0, "checkpoints": checkpoints, "resume": resume}
    if stop is None:
        return monitor, fit(SETTINGS, corpus, schedule, monitor, **options)
    with pytest.raises(ConnectionError, match="stopped by the test"):
        fit(SETTINGS, corpus, schedule, monitor, callbacks=[StopAfter(stop)], **options)
    return monitor, None


@pytest.fixture(scope="module")
def never_stopped(corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[CountingMonitor, LMModule]:
    monitor, module = train(corpus, tmp_path_factory.mktemp("whole"))
    assert module is not None
    return monitor, module


def test_stopped_and_gone_on_with_is_never_stopped(
    corpus: Any, tmp_path: Path, never_stopped: tuple[CountingMonitor, LMModule]
) -> None:
    whole, expected = never_stopped
    points: list[dict[str, Any]] = []
    for attempt, stop in enumerate((9, 13, None), 1):  # in a cool-down, and on the trunk after it
        monitor, module = train(
            corpus, tmp_path, attempt=attempt, resume=last_checkpoint(tmp_path), stop=stop
        )
        points += monitor.points()
        assert len(list((tmp_path / FOLDER).glob("*.ckpt"))) <= KEPT
    assert module is not None
    for name, weight in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight), name
    assert [point["loss"] for point in points] == [point["loss"] for point in whole.points()]
    last = points[-1]["windows"]
    assert {int(window[2]) for window in last if len(window) == 3} == {1, 2}  # the others are this attempt's
    assert any(len(window) == 2 for window in last)


def test_windows_end_where_a_checkpoint_begins(never_stopped: tuple[CountingMonitor, LMModule]) -> None:
    windows = never_stopped[0].points()[-1]["windows"]
    assert len(windows) > 10
    assert all(start < end for start, end in windows)
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(windows))


def test_a_disk_that_refuses_costs_the_checkpoint_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    trainer: Any = SimpleNamespace(global_step=7)
    Checkpoints(lambda: tmp_path, every_s=0.0).write(trainer)
    assert "joulescale: no checkpoint at step 7: " in capsys.readouterr().err


def test_checkpoints_are_removed_and_the_newest_is_known(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / FOLDER).mkdir()
    for step in (2, 10):
        torch.save({}, tmp_path / FOLDER / f"step-{step:010d}.ckpt")
    assert last_checkpoint(tmp_path) == tmp_path / FOLDER / "step-0000000010.ckpt"
    remove_checkpoints(tmp_path)
    assert last_checkpoint(tmp_path) is None


def test_steps_from_where_the_training_stands() -> None:
    steps = StepsFrom(lambda: 3, 6)
    assert (list(steps), len(steps)) == ([3, 4, 5], 6)


# -- the command -------------------------------------------------------------------------------------------------


def _run(runs_dir: Path, name: str, status: str) -> Callable[[], Any]:
    facts = RunFacts(workload="lm", seed=3, identity={"data_sha256": "a"})
    scripted_run(runs_dir, Script(steps=1), name=name, facts=facts, status=status)
    return lambda: resumable(runs_dir, name, "lm")


def test_what_cannot_be_gone_on_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"'over' is finished, so .* 'joulescale list' shows which"):
        _run(tmp_path, "over", "finished")()
    with pytest.raises(InvalidValueError, match="'over' is a run of lm, not of other"):
        resumable(tmp_path, "over", "other")
    before = _run(tmp_path, "half", "interrupted")()
    assert before.seed == 3
    check_identity(before, {"data_sha256": "a"})
    with pytest.raises(InvalidValueError, match="begun with data_sha256 = a, and here it is b, so going on"):
        check_identity(before, {"data_sha256": "b"})


TAKES_THE_TURN = (
    "import sys, time; from pathlib import Path; from profiler.store.turn import take_turn;"
    "turn = take_turn(Path(sys.argv[1])); print('taken', flush=True); time.sleep(60)"
)


def test_of_two_that_go_on_at_once_the_second_is_told_of_the_first(tmp_path: Path) -> None:
    _run(tmp_path, "half", "interrupted")
    words = [sys.executable, "-c", TAKES_THE_TURN, str(tmp_path / "half")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"taken\n"
        refused = CliRunner().invoke(
            make_app("run"), ["run", "lm", "--resume", "half", "--runs-dir", str(tmp_path)]
        )
        other.kill()
    assert isinstance(refused.exception, InvalidValueError)
    host, since = re.escape(socket.gethostname()), r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(
        rf"'half' is being written to by process {other.pid} on {host} since {since}, and two trainings in one run"
        " would be neither. Wait for its end, or stop it first.",
        str(refused.exception),
    )
    turn = take_turn(tmp_path / "half")
    assert turn is not None, "whose process was killed has no turn any more"
    turn.release()
    assert open_run(tmp_path, "half").manifest.attempt == 1


def test_a_run_that_a_process_records_is_not_gone_on_with_and_which_process_is_said(tmp_path: Path) -> None:
    run = made_run(tmp_path, status="running", world_size=1)
    folder = made_process(run, world_size=1, status="running", clock={"wall_unix_s": 0.0, "monotonic_s": 0.0})
    lease = Lease(folder)
    with pytest.raises(
        InvalidValueError, match=rf"process {os.getpid()} on .* since 1970-01-01 00:00:00 UTC, and"
    ):
        check_nobody_writes(open_run(tmp_path, "made"))
    lease.release()
    check_nobody_writes(open_run(tmp_path, "made"))
    started = claim(run, 2, Job(key="k", restart=0, start="s"))
    assert started is not None
    with pytest.raises(InvalidValueError, match="'made' is being written to by another process, and two"):
        check_nobody_writes(open_run(tmp_path, "made"))
    started.release()


def test_a_folder_that_may_not_be_written_has_no_turns(tmp_path: Path) -> None:
    assert take_turn(tmp_path / "nothing here") is None


def test_settings_come_back_from_the_manifest() -> None:
    stored = {**dataclasses.asdict(TINY), "token_budgets": [640, 1280], "d_model": 32}
    assert stored_settings(WORKLOAD.preset("cpu"), stored) == dataclasses.replace(TINY, d_model=32)
    with pytest.raises(InvalidValueError, match=r"settings that this version .* does not know \(.*'gone'"):
        stored_settings(TINY, {"gone": 1})


def test_a_point_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    point = Point(
        workload="lm", preset="cpu", seed=1, settings=TINY, texts={"d_model": "32"}, label="",
        options=["--country", "FRA"], resume="lm-1",
    )  # fmt: skip
    words = point.command(tmp_path)
    assert words[3:] == [
        "run",
        "lm",
        "--json",
        "--runs-dir",
        str(tmp_path),
        "--resume",
        "lm-1",
        "--country",
        "FRA",
    ]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / FOLDER
    folder.mkdir()
    for step in (1, 2):
        torch.save({"step": step}, folder / f"step-{step:010d}.ckpt")
    newest = folder / "step-0000000002.ckpt"
    newest.write_bytes(newest.read_bytes()[:300])
    assert last_checkpoint(tmp_path) == folder / "step-0000000001.ckpt"
    assert f"{newest} is damaged" in capsys.readouterr().err


def test_a_run_whose_folder_was_renamed_is_not_gone_on_with(tmp_path: Path):
    run = scripted_run(tmp_path, Script())
    run.path.rename(tmp_path / "other")
    with pytest.raises(InvalidValueError, match=f"'other' was recorded as '{run.run_id}'"):
        resumable(tmp_path, "other", "lm")
