"""What every experiment stands on: trials that charge arms with training only, verdicts, the command around."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fixtures_runs import run_joulescale
from typer.testing import CliRunner

from profiler import open_run, record, summarize
from profiler.cli import sweep as sweeping
from profiler.cli.main import app
from profiler.errors import InvalidValueError, UnknownNameError
from profiler.measure.redaction import redact
from profiler.metrics.phenomena import phenomenon_curves
from profiler.store.manifest import as_stored
from profiler.workload import RunRequest, load_workload, workload_names
from workloads import experiment as experiments
from workloads import trial as trials
from workloads.experiment import CommonSettings, Experiment, spinning_note, without_claim
from workloads.settings_checks import check_choice, check_not_negative, check_positive, check_share
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Verdict, judged, mean_and_half_width, wilson

CPU = torch.device("cpu")


class FakeRun:
    """Stands for a `LoopRun`: time passes when a test says so, marks are kept."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.marks: list[tuple[str, dict[str, Any]]] = []
        self.phases: list[str] = []
        self.ended: list[dict[str, Any]] = []

    def now(self) -> float:
        return self.now_s

    def mark(self, kind: str, *, start_s: float, end_s: float | None = None, note: Any = None) -> None:
        self.marks.append((kind, json.loads(json.dumps(note))))

    def steps(self, batches: Any) -> Any:
        yield from batches

    def end_step(self, **did: Any) -> None:
        self.ended.append(did)

    def phase(self, name: str) -> Any:
        self.phases.append(name)
        return nullcontext()

    def notes(self, kind: str) -> list[dict[str, Any]]:
        return [note for found, note in self.marks if found == kind]


def trial_on(run: FakeRun, **options: Any) -> Trial:
    return Trial(run, None, seed=0, device=CPU, **{"num_steps": 4, "display": None, **options})  # type: ignore[arg-type]


# -- arms --------------------------------------------------------------------------------------------------------


def test_an_arm_is_charged_with_its_time_and_not_with_what_is_apart():
    run = FakeRun()
    trial = trial_on(run)
    with trial.arm("student", params=7) as arm:
        run.now_s = 2.0
        with trial.apart():
            run.now_s = 3.0
            assert arm.windows == [(0.0, 2.0)]
        run.now_s = 5.0
        assert arm.windows == [(0.0, 2.0), (3.0, 5.0)]
    run.now_s = 9.0
    assert arm.windows == [(0.0, 2.0), (3.0, 5.0)]
    assert run.notes("arm") == [{"arm": "student", "windows": [[0.0, 2.0], [3.0, 5.0]], "params": 7}]
    assert run.phases == ["validation"]


def test_what_is_apart_within_what_is_apart_is_charged_to_nobody():
    run = FakeRun()
    trial = trial_on(run)
    with trial.arm("student") as arm:
        run.now_s = 1.0
        with trial.apart():
            with trial.apart("data"):
                run.now_s = 2.0
            run.now_s = 4.0
        run.now_s = 5.0
    assert arm.windows == [(0.0, 1.0), (4.0, 5.0)]


def test_an_arm_that_its_own_code_paused_is_not_resumed_by_an_evaluation():
    run = FakeRun()
    trial = trial_on(run)
    with trial.arm("student") as arm:
        run.now_s = 1.0
        arm.pause()
        with trial.apart():
            run.now_s = 2.0
        run.now_s = 3.0
        arm.resume()
        arm.resume()
        run.now_s = 4.0
    assert arm.windows == [(0.0, 1.0), (3.0, 4.0)]


def fail_at(run: FakeRun, now_s: float) -> None:
    run.now_s = now_s
    raise KeyError


def test_an_arm_that_raises_is_stored_with_what_it_took():
    run = FakeRun()
    trial = trial_on(run)
    with pytest.raises(KeyError), trial.arm("student"):
        fail_at(run, 1.0)
    assert run.notes("arm")[0]["windows"] == [[0.0, 1.0]]


def test_no_gradients_are_kept_of_what_is_apart():
    with trial_on(FakeRun()).apart():
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def learnt(arm: Arm, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    arm.learn((weight * torch.tensor([30.0, 40.0])).sum(), optimizer, **options)
    assert weight.grad is not None
    return weight.detach(), weight.grad


def test_learning_is_a_backward_pass_an_update_and_the_end_of_a_step():
    run = FakeRun()
    with trial_on(run).arm("student") as arm:
        for _ in arm.steps(2):
            weight, _ = learnt(arm, samples=5, tokens=10, model_flops=100.0)
    assert weight.tolist() == [-27.0, -36.0]
    assert run.phases == ["backward", "optimizer"] * 2
    assert arm.totals == {"steps": 2, "samples": 10, "tokens": 20, "model_flops": 200.0}
    assert run.notes("arm")[0]["tokens"] == 20
    assert run.ended[0]["tokens"] == 10


def test_gradients_are_clipped_and_may_be_changed_before_the_update():
    with trial_on(FakeRun()).arm("student") as arm:
        _, clipped = learnt(arm, clip=1.0)
        assert clipped.norm() == pytest.approx(1.0)
        seen: list[int] = []
        learnt(arm, before_update=lambda: seen.append(1))
    assert seen == [1]
    assert arm.totals == {"steps": 2}, "what was not told is not in the totals"


def test_points_are_of_the_open_arm_and_hold_plain_numbers():
    run = FakeRun()
    trial = trial_on(run)
    trial.point("curve", x=np.float32(0.5), y=torch.tensor(2), z=float("nan"), kind="a", holds=np.bool_(True))
    with trial.arm("outer"):
        with trial.arm("inner"):
            trial.point("curve", x=1)
        trial.point("curve", x=2)
    first, inner, outer = run.notes("curve")
    assert first == {"curve": "curve", "arm": None, "x": 0.5, "y": 2, "z": None, "kind": "a", "holds": True}
    assert (inner["arm"], outer["arm"]) == ("inner", "outer")


def test_the_verdict_is_one_mark():
    run = FakeRun()
    verdict = judged({"it grew": True}, {"by": 2}, {"joules": Cost(windows=[(0.0, 1.0)], is_bound=True)})
    trial_on(run).conclude(verdict, seeds=3, shown_in=2)
    (note,) = run.notes("phenomenon")
    assert (note["outcome"], note["reason"], note["figures"]) == ("shown", "it grew", {"by": 2})
    assert note["costs"] == {"joules": {"windows": [[0.0, 1.0]], "is_bound": True}}
    assert (note["seeds"], note["shown_in"]) == (3, 2)


def test_progress_is_shown_at_most_twice_a_second_and_never_past_the_end(monkeypatch: pytest.MonkeyPatch):
    shown: list[dict[str, Any]] = []
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: now.s))
    trial = trial_on(FakeRun(), num_steps=2, display=SimpleNamespace(show=lambda **said: shown.append(said)))
    for _ in range(4):
        now.s += 0.3
        trial.show(torch.tensor(1.5), 30)
    assert [one["step"] for one in shown] == [2, 2]
    assert shown[0]["tokens_per_s"] == pytest.approx(100.0)
    assert shown[0]["loss"] == 1.5


# -- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "outcome", "reason"),
    [
        ({"a": True, "b": True}, "shown", "a; b"),
        ({"a": True, "b": False, "c": False}, "not shown", "not: b; not: c"),
        ({"a": True, "b": None}, "can't tell", "could not be judged: b"),
        ({"a": False, "b": None}, "not shown", "not: a"),
    ],
)
def test_all_conditions_must_hold(checks: dict[str, bool | None], outcome: str, reason: str):
    verdict = judged(checks, {})
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_conditions_and_figures_may_be_of_arrays():
    verdict = judged({"a": np.float64(1) > 2}, {"x": np.int64(3), "y": math.inf, "z": torch.tensor(0.5)})
    assert verdict.outcome == "not shown"
    assert verdict.figures == {"x": 3, "y": None, "z": 0.5}
    assert judged({"a": torch.tensor(True)}, {}).outcome == "shown"


@pytest.mark.parametrize(
    ("successes", "trials_", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # 15 of 148 is Newcombe's example (1998, Stat. Med. 17, 857)
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilsons_interval_has_its_known_values(successes: int, trials_: int, low: float, high: float):
    assert wilson(successes, trials_) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("successes", "trials_"), [(-1, 10), (11, 10), (0, 0)])
def test_what_is_no_share_has_no_interval(successes: int, trials_: int):
    with pytest.raises(ValueError, match=f"{successes} of {trials_} is no share"):
        wilson(successes, trials_)


def test_the_interval_of_a_mean_has_its_known_width():
    mean, half = mean_and_half_width([1.0, 2.0, 3.0, 4.0])
    assert (mean, half) == pytest.approx((2.5, 1.959964 * math.sqrt(5 / 3) / 2))
    with pytest.raises(ValueError, match="two values at least"):
        mean_and_half_width([1.0])


# -- settings ----------------------------------------------------------------------------------------------------


def test_settings_are_refused_with_their_value_and_what_to_give():
    settings = SimpleNamespace(lr=-1.0, size=0, none=None, nan=math.nan, accelerator="gpu")
    check_positive(settings, "none")
    with pytest.raises(InvalidValueError, match=r"lr = -1\.0 is not a positive number\. Give a positive one"):
        check_positive(settings, "lr")
    with pytest.raises(InvalidValueError, match="nan = nan is not a positive number"):
        check_positive(settings, "nan")
    check_not_negative(settings, "size")
    with pytest.raises(InvalidValueError, match=r"lr = -1\.0 is negative\. Give 0 or more"):
        check_not_negative(settings, "lr")
    with pytest.raises(UnknownNameError, match="value of accelerator named 'gpu'"):
        check_choice(settings, accelerator=experiments.Accelerator)


# -- experiments -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CommonSettings):
    """Of the experiment below."""

    steps: int = 3


def answer(trial: Trial) -> Verdict:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with trial.arm("only", params=2) as arm:
        for step in arm.steps(trial.settings.steps):
            with trial.forward():
                loss = (weight - 1).square().sum()
            arm.learn(loss, optimizer, samples=1)
            with trial.apart():
                trial.point("loss", step=step + 1, loss=float(loss))
    return judged({"it fell": True}, {"random": float(torch.rand(()))}, {"joules": Cost(windows=arm.windows)})


def experiment(answer_: Callable[[Trial], Verdict] = answer, **options: Any) -> Experiment:
    return Experiment(
        **{
            "name": "falling",
            "summary": "It falls.",
            "criterion": "the loss falls",
            "source": "none",
            "presets": dict.fromkeys(("smoke", "cpu", "gpu"), Settings(threads=1)),
            "answer": answer_,
            "num_steps": lambda settings: settings.steps,
            "flops_formula": "none",
            "params": lambda settings: 2,
            "seeds": 3,
            "shown_in": 2,
            **options,
        }
    )


def request(runs_dir: Path, preset: str = "cpu", **options: Any) -> RunRequest:
    defaults = {"workload": "falling", "seed": 5, "settings": Settings(threads=1), "name": "mine"}
    return RunRequest(runs_dir=runs_dir, preset=preset, **{**defaults, **options})


@pytest.fixture(autouse=True)
def no_peak(monkeypatch: pytest.MonkeyPatch):
    """Measuring what a processor can do takes a second."""

    def cheap(*args: Any, peak_flops_per_s: object, **kwargs: Any) -> Any:
        return record(*args, **kwargs)

    monkeypatch.setattr(experiments, "record", cheap)


def test_an_experiment_is_a_run_with_its_criterion_and_verdict(tmp_path: Path):
    run_dir = experiment().train(request(tmp_path))
    run = open_run(tmp_path, "mine")
    assert run_dir == tmp_path / "mine"
    assert run.manifest.identity["criterion"] == "the loss falls"
    assert (run.manifest.workload, run.manifest.seed, run.manifest.params) == ("falling", 5, 2)
    summary = summarize(run)
    verdict = summary["phenomenon"]
    assert (summary["status"], summary["steps"]) == ("finished", 3)
    assert (verdict["outcome"], verdict["seeds"], verdict["shown_in"]) == ("shown", 3, 2)
    assert verdict["arms"][0]["facts"] == {"steps": 3, "samples": 3, "params": 2}
    assert phenomenon_curves(run)["loss"]["step"].to_list() == [1, 2, 3]


def test_the_seed_seeds_torch(tmp_path: Path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        experiment().train(request(tmp_path, name=name, seed=seed))
    a, b, c = (summarize(open_run(tmp_path, name))["phenomenon"]["figures"]["random"] for name in "abc")
    assert a == b != c


def test_the_smoke_preset_claims_nothing(tmp_path: Path):
    experiment().train(request(tmp_path, "smoke"))
    verdict = summarize(open_run(tmp_path, "mine"))["phenomenon"]
    assert verdict["outcome"] == "can't tell"
    assert verdict["reason"] == "the smoke preset tries the path and is too short to show anything"
    assert without_claim(judged({"a": False}, {"x": 1})).figures == {"x": 1}


def test_an_experiment_that_raises_is_interrupted_and_cannot_tell(tmp_path: Path):
    def fails(trial: Trial) -> Verdict:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        experiment(fails).train(request(tmp_path))
    summary = summarize(open_run(tmp_path, "mine"))
    assert summary["status"] == "interrupted"
    assert summary["phenomenon"]["outcome"] == "can't tell"


def test_resume_is_refused_with_what_to_do_instead(tmp_path: Path):
    with pytest.raises(
        InvalidValueError, match="falling writes no checkpoints, so 'x' cannot be gone on with"
    ):
        experiment().train(request(tmp_path, resume="x"))
    with pytest.raises(InvalidValueError, match="joulescale run falling --preset cpu --seed 5"):
        experiment().train(request(tmp_path, resume="x"))
    assert list(tmp_path.iterdir()) == []


def test_the_identity_holds_the_criterion_and_the_data():
    identity = experiment(data=lambda settings: {"corpus": "abc"}).identity(Settings())
    assert identity == {"criterion": "the loss falls", "torch": torch.__version__, "corpus": "abc"}


def test_a_gpu_that_is_not_here_and_an_unknown_preset_are_refused():
    if not torch.cuda.is_available():
        with pytest.raises(InvalidValueError):
            experiment().check(Settings(accelerator="cuda"))
    with pytest.raises(UnknownNameError, match="no preset named 'tiny'"):
        experiment().preset("tiny")
    assert experiment().grid("cpu") == {}


@pytest.mark.parametrize(
    ("policy", "says"), [("PASSIVE", False), ("passive", False), ("ACTIVE", True), (None, True)]
)
def test_threads_that_may_have_spun_are_said(monkeypatch: pytest.MonkeyPatch, policy: str | None, says: bool):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert bool(spinning_note("cpu")) is says
    assert spinning_note("cuda") == {}


# -- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """The command with the experiment above as its only workload; `sweep` trains in this process."""
    found = experiment()
    monkeypatch.setattr("profiler.cli.run.load_workload", lambda name: found)
    monkeypatch.setattr(sweeping, "load_workload", lambda name: found)
    asked: list[Any] = []

    def run_point(point: Any, runs_dir: Path, progress: Any) -> str:
        asked.append(point.resume)
        return found.train(request(runs_dir, name=None, seed=point.seed, settings=point.settings)).name

    monkeypatch.setattr(sweeping, "run_point", run_point)
    return SimpleNamespace(run=CliRunner().invoke, asked=asked)


def test_a_sweep_of_seeds_is_one_run_each_and_reuses_them(command: Any, tmp_path: Path):
    words = ["sweep", "falling", "--seeds", "0,1", "--runs-dir", str(tmp_path), "--json"]
    first = command.run(app, words)
    assert first.exit_code == 0, first.output
    assert [point["status"] for point in json.loads(first.stdout)["points"]] == ["finished"] * 2
    again = json.loads(command.run(app, words).stdout)
    assert [point["status"] for point in again["points"]] == ["reused"] * 2
    (together,) = again["phenomena"]
    assert (together["outcome"], together["shown"], together["seeds"]) == ("can't tell", 2, [0, 1])
    said = command.run(app, words[:-1]).stdout
    assert "phenomenon can't tell: in 2 of 2 seeds, and 2 of 3 are asked for" in said


def test_a_sweep_starts_anew_what_cannot_be_gone_on_with(command: Any, tmp_path: Path):
    def fails(trial: Trial) -> Verdict:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        experiment(fails).train(request(tmp_path, seed=0))
    swept = command.run(app, ["sweep", "falling", "--runs-dir", str(tmp_path), "--json"])
    assert swept.exit_code == 0, swept.output
    assert json.loads(swept.stdout)["points"][0]["status"] == "finished"
    assert command.asked == [None]


def test_another_criterion_is_another_run(command: Any, tmp_path: Path):
    experiment(criterion="the loss rises").train(request(tmp_path, seed=0))
    swept = command.run(app, ["sweep", "falling", "--runs-dir", str(tmp_path), "--json"])
    assert json.loads(swept.stdout)["points"][0]["status"] == "finished"


def test_the_command_refuses_to_resume_an_experiment(tmp_path: Path):
    made = run_joulescale(
        "run", "grokking", "--preset", "smoke", "--name", "x", "--runs-dir", str(tmp_path), "--json"
    )
    assert made.returncode == 0, made.stderr
    manifest = tmp_path / "x" / "run.json"
    known = json.loads(manifest.read_text())
    changed = {**{key: value for key, value in known.items() if key != "checksum"}, "status": "interrupted"}
    manifest.write_text(json.dumps(changed))
    refused = run_joulescale("run", "grokking", "--resume", "x", "--runs-dir", str(tmp_path))
    assert refused.returncode == 2
    assert "grokking writes no checkpoints, so 'x' cannot be gone on with" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("name", sorted(workload_names()))
@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu"])
def test_no_setting_of_ours_is_taken_for_a_secret(name: str, preset: str) -> None:
    """A run whose settings are redacted is never found again: it would be run anew each time."""
    settings = as_stored(dataclasses.asdict(load_workload(name).preset(preset)))
    assert redact(settings) == settings


@pytest.mark.parametrize("threads", [0, -3])
def test_threads_that_are_none_are_refused_before_anything_is_written(tmp_path: Path, threads: int) -> None:
    runs = tmp_path / "runs"
    words = ("run", "grokking", "--preset", "smoke", "--set", f"threads={threads}", "--runs-dir", str(runs))
    done = run_joulescale(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"threads = {threads} is not a positive number" in done.stderr
    assert not runs.exists()


@pytest.mark.parametrize("share", [-0.1, 1.01])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(
        InvalidValueError, match=r"share = .* is no share of a whole. Give a number from 0 to 1"
    ):
        check_share(SimpleNamespace(share=share), "share")
