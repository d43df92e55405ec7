"""A run of several attempts: which run a training is, which steps count, and what was spent on lost work."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest
from fixtures_scripted import NEVER_S, FakeClock, spend
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import InvalidValueError
from profiler.measure.attempt import Allotment, ResumePoint, Wish, allot
from profiler.measure.guard import Guard
from profiler.measure.ranks import Place
from profiler.measure.recorder import Recorder, Work
from profiler.measure.run_name import this_job
from profiler.measure.sensors.base import Probe
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts, Session
from profiler.metrics.kept import kept_steps
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.metrics.timeline import length_s, power_timeline, step_timeline
from profiler.report.attempt_rows import attempt_cells, lost_text, sum_texts
from profiler.report.charts import loss_chart
from profiler.report.facts import status_text
from profiler.report.terminal import run_table
from profiler.store.claim import JOB_NAME, Job, attempts_of, claim, is_alive, job_of
from profiler.store.folder import writable_runs_dir
from profiler.store.run import StoredRun
from profiler.store.runs import open_run, scan_runs

ALONE = Place(rank=0, local_rank=0, world_size=1)
STEP_S, POWER_W = 0.5, 200.0


def record(
    runs_dir: Path,
    steps: Sequence[int],
    *,
    name: str | None = None,
    status: str = "interrupted",
    resumed: ResumePoint | None = None,
    checkpoint_after: int | None = None,
    facts: RunFacts | None = None,
    place: Place = ALONE,
    **of_counter: float,
) -> Session:
    """One attempt by script: steps of half a second at 200 W, a checkpoint of a second after one of them."""
    clock = FakeClock()
    known = {"relative_uncertainty": 0.01, "update_period_s": 0.05, **of_counter}
    counter = ScriptedEnergy([(10.0, POWER_W)] * 200, clock=clock, device="GPU-a", **known)
    session = Session(
        runs_dir, facts or RunFacts(), place=place, probes=[Probe(counter=counter)], guard=Guard(), name=name,
        resumed=resumed, clock=clock, sampling_period_s=NEVER_S,
    )  # fmt: skip
    recorder = session.recorder = Recorder(
        session.emit, clock=session.now, cpu_clock=clock.cpu, rank=place.rank
    )
    recorder.enter("forward")
    for step in steps:
        spend(session, clock, STEP_S)
        work = Work(samples=1, tokens=10, model_flops=1e6)
        recorder.end_step(step, work, loss=10.0 - step, then="forward")
        if step == checkpoint_after:
            with recorder.within("checkpoint"):
                spend(session, clock, 1.0)
    recorder.enter(None)
    session.last_step = steps[-1] if steps else None
    if status == "finished":
        recorder.mark("fit", 0.0, session.now())
    session.close(status)
    return session


def point(session: Session, step: int) -> ResumePoint:
    return ResumePoint(run_id=session.run_dir.name, attempt=session.attempt, step=step)


# -- which run a training is -------------------------------------------------------------------------------------


def test_a_checkpoints_run_is_gone_on_with(tmp_path: Path):
    first = record(tmp_path, range(1, 11))
    second = record(tmp_path, range(7, 9), resumed=point(first, 6))
    third = record(tmp_path, range(7, 21), resumed=point(first, 6), status="finished")
    assert [s.attempt for s in (first, second, third)] == [1, 2, 3]
    assert {s.run_dir for s in (first, second, third)} == {first.run_dir}
    run = open_run(tmp_path, "latest")
    assert [p.facts.resumed and p.facts.resumed["attempt"] for p in run.processes] == [None, 1, 1]
    assert (run.status, run.manifest.last_step, run.manifest.parent) == ("finished", 20, None)


def test_a_finished_run_goes_on_from_its_end_and_never_from_before_it(tmp_path: Path):
    first = record(tmp_path, range(1, 11), name="base", status="finished")
    variant = record(tmp_path, range(6, 9), resumed=point(first, 5))
    assert (variant.run_dir.name, variant.attempt) == ("base-2", 1)
    assert open_run(tmp_path, "base-2").manifest.parent == {"run_id": "base", "attempt": 1, "step": 5}
    assert "went on from step 5 of 'base', attempt 1" in variant.notes["went on from"]
    assert variant.guard._warned == {"the run's name"}
    longer = record(tmp_path, range(11, 13), resumed=point(first, 10), status="finished")
    assert (longer.run_dir.name, longer.attempt) == ("base", 2)
    again = record(tmp_path, range(11, 13), resumed=point(first, 10))
    assert again.run_dir.name == "base-3"
    once_more = record(tmp_path, range(6, 9), resumed=point(first, 5))
    assert (once_more.run_dir.name, once_more.attempt) == ("base-2", 2)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"settings": {"d": 2}}, {"workload": "x"}, {"identity": {"a": "b"}}]
)
def test_a_training_of_another_kind_is_a_run_of_its_own(tmp_path: Path, other: dict[str, object]):
    facts = RunFacts(seed=0, settings={"d": (1, 2)}, workload="lm")
    first = record(tmp_path, range(1, 5), name="base", facts=facts)
    same = record(tmp_path, range(3, 5), resumed=point(first, 2), facts=facts)
    assert same.run_dir == first.run_dir
    changed = RunFacts(**{"seed": 0, "settings": {"d": (1, 2)}, "workload": "lm", **other})  # type: ignore[arg-type]
    own = record(tmp_path, range(3, 5), resumed=point(first, 2), facts=changed)
    assert own.run_dir.name == "base-2"
    assert f"is a training with another {next(iter(other))}" in allot_again(tmp_path, first, other).why


def allot_again(runs_dir: Path, first: Session, other: dict[str, object]) -> Allotment:
    wish = Wish(name="base", likeness=other, resumed=point(first, 2))
    return allot(runs_dir, wish, ALONE)


def test_a_run_that_is_not_here_is_named_as_the_parent(tmp_path: Path):
    lost = ResumePoint(run_id="elsewhere", attempt=3, step=7)
    session = record(tmp_path, range(8, 10), resumed=lost)
    assert open_run(tmp_path, session.run_dir.name).manifest.parent == {
        "run_id": "elsewhere", "attempt": 3, "step": 7,
    }  # fmt: skip
    again = record(tmp_path, range(9, 10), resumed=point(session, 8))
    assert open_run(tmp_path, again.run_dir.name).manifest.parent["run_id"] == "elsewhere"


def test_another_name_than_the_checkpoints_run_has_is_another_run(tmp_path: Path):
    first = record(tmp_path, range(1, 5), name="base")
    tuned = record(tmp_path, range(3, 5), name="tuned", resumed=point(first, 2))
    assert (tuned.run_dir.name, tuned.attempt) == ("tuned", 1)
    assert open_run(tmp_path, "tuned").manifest.parent["run_id"] == "base"


def test_a_run_that_still_runs_is_left_alone(tmp_path: Path):
    runs_dir = writable_runs_dir(tmp_path)
    going = allot(runs_dir, Wish(name="busy"), ALONE)
    assert is_alive(going.run_dir, 1)
    second = allot(runs_dir, Wish(name="busy"), ALONE)
    assert (second.run_dir.name, second.why) == ("busy-2", "'busy' is being started by another training")
    assert going.lease is not None
    going.lease.release()
    assert (allot(runs_dir, Wish(name="busy"), ALONE).run_dir.name, is_alive(going.run_dir, 1)) == (
        "busy",
        False,
    )


def test_a_name_that_is_no_folders_name_is_refused(tmp_path: Path):
    with pytest.raises(InvalidValueError, match="cannot be a folder's name"):
        allot(tmp_path, Wish(name="../up"), ALONE)


def _take(runs_dir: str, barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    given = allot(Path(runs_dir), Wish(name="one"), ALONE)
    results.put((given.run_dir.name, given.attempt))  # type: ignore[attr-defined]
    barrier.wait()  # type: ignore[attr-defined]  # all leases are held until all have asked


def test_of_many_that_ask_at_once_no_two_get_the_same(tmp_path: Path):
    fork = multiprocessing.get_context("fork")
    barrier, results = fork.Barrier(8), fork.Queue()
    children = [fork.Process(target=_take, args=(str(tmp_path), barrier, results)) for _ in range(8)]
    for child in children:
        child.start()
    found = [results.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert sorted(found) == sorted(("one" if n == 1 else f"one-{n}", 1) for n in range(1, 9))


def test_an_attempts_folder_is_taken_once_and_says_whose_it_is(tmp_path: Path):
    job = Job(key="a", restart=0, start="b")
    lease = claim(tmp_path / "run", 1, job)
    assert lease is not None
    assert claim(tmp_path / "run", 1, Job(key="c", restart=0, start="")) is None
    assert (job_of(tmp_path / "run", 1), attempts_of(tmp_path / "run")) == (job, [1])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["attempt-1"]


# -- many ranks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "a"}', b"\xff"])
def test_an_attempt_that_cannot_say_whose_it_is_is_named_as_damaged(tmp_path: Path, content: bytes):
    run = open_run(tmp_path, record(tmp_path, range(1, 3)).run_dir.name)
    assert (run.damaged, run.is_damaged) == ((), False)
    (run.path / "attempt-1" / JOB_NAME).write_bytes(content)
    again = open_run(tmp_path, run.run_id)
    (sentence,) = again.damaged
    assert f"attempt-1/{JOB_NAME} is damaged, so nobody can tell which start" in sentence
    assert summarize(again)["notes"]["damaged file 1"] == sentence
    assert status_text(summarize(again)).endswith(", damaged")
    assert summarize(again)["steps"] == 2, "no number rests on it"


def _job_env(monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    for key, value in {"MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none", **env}.items():
        monkeypatch.setenv(key, value)


def _ranks(runs_dir: Path, steps: Sequence[int], **options: object) -> list[tuple[str, int]]:
    sessions = [
        record(runs_dir, steps, place=Place(rank=rank, local_rank=rank, world_size=2), **options)  # type: ignore[arg-type]
        for rank in (1, 0)
    ]
    return [(s.run_dir.name, s.attempt) for s in sessions]


def test_all_ranks_of_a_job_come_to_one_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _job_env(monkeypatch)
    (first, _), (same, _) = _ranks(tmp_path, range(1, 5))
    assert first == same
    resumed = ResumePoint(run_id=first, attempt=1, step=2)
    assert _ranks(tmp_path, range(3, 5), resumed=resumed) == [(first, 2)] * 2  # the same port, another start
    assert _ranks(tmp_path, range(1, 3)) == [(first.replace("-1", "-2"), 1)] * 2
    _job_env(monkeypatch, TORCHELASTIC_RESTART_COUNT="1")
    assert _ranks(tmp_path, range(1, 3)) == [(first.replace("-1", "-2"), 2)] * 2


def test_a_job_is_known_by_its_launcher_and_a_process_alone_by_itself():
    env = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}
    many = Place(rank=1, local_rank=1, world_size=2)
    assert this_job(many, env) == this_job(many, env)
    assert this_job(many, env).restart == 2
    assert this_job(many, env).key != this_job(many, {**env, "SLURM_JOB_ID": "8"}).key
    assert this_job(ALONE, env) != this_job(ALONE, env)


def test_attempts_on_other_numbers_of_ranks_have_no_one_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _job_env(monkeypatch)
    (name, _), _ = _ranks(tmp_path, range(1, 5))
    record(tmp_path, range(3, 5), resumed=ResumePoint(run_id=name, attempt=1, step=2))
    summary = summarize(open_run(tmp_path, name))
    assert "attempts ran with different numbers of ranks (1, 2)" in summary["notes"]["efficiency.mfu"]
    assert summary["steps"] == 4


# -- what counts -------------------------------------------------------------------------------------------------


def _thrice(tmp_path: Path) -> StoredRun:
    first = record(tmp_path, range(1, 11), checkpoint_after=6)
    record(tmp_path, range(7, 9), resumed=point(first, 6))
    record(tmp_path, range(7, 13), resumed=point(first, 6), status="finished")
    return open_run(tmp_path, "latest")


def test_steps_count_once_and_joules_of_all_attempts(tmp_path: Path):
    summary = summarize(_thrice(tmp_path))
    assert (summary["steps"], summary["tokens"], summary["loss"]) == (12, 120, -2.0)
    seconds = [10 * STEP_S + 1.0, 2 * STEP_S, 6 * STEP_S]
    assert summary["duration_s"] == pytest.approx(sum(seconds))
    assert summary["energy"]["measured_j"] == pytest.approx(POWER_W * sum(seconds), rel=1e-3)
    assert [row["energy"]["measured_j"] for row in summary["attempts"]] == pytest.approx(
        [POWER_W * s for s in seconds], rel=1e-3
    )
    assert len(summary["energy"]["components"]) == 1
    assert summary["efficiency"]["tokens_per_j"] == pytest.approx(120 / summary["energy"]["measured_j"])
    assert summary["efficiency"]["model_flops"] == 12e6


def test_what_was_thrown_away_is_told_from_the_end_of_the_checkpoint(tmp_path: Path):
    summary = summarize(_thrice(tmp_path))
    lost = [row["lost"] for row in summary["attempts"]]
    assert [row["steps"] for row in lost] == [4, 2, 0]
    assert [row["duration_s"] for row in lost] == pytest.approx([4 * STEP_S, 2 * STEP_S, 0.0])
    assert lost[0]["energy_j"] == pytest.approx(POWER_W * 4 * STEP_S, rel=0.01)
    assert abs(lost[0]["energy_j"] - POWER_W * 4 * STEP_S) <= lost[0]["plus_minus_j"]
    whole = summary["lost_work"]
    assert (whole["steps"], whole["source"]) == (6, "measured")
    assert whole["energy_share"] == pytest.approx(whole["energy_j"] / summary["energy"]["measured_j"])


def test_attempts_are_told_in_a_table_and_a_sentence(tmp_path: Path):
    summary = summarize(_thrice(tmp_path))
    cells = attempt_cells(summary)
    assert [row["steps"] for row in cells] == ["1 to 10", "7 to 8", "7 to 12"]
    assert [row["went on from"] for row in cells] == ["", "step 6", "step 6"]
    assert [row["ended"] for row in cells] == ["interrupted", "interrupted", "finished"]
    assert lost_text(summary).startswith("Lost, since the next attempt went on from before: 6 steps")
    assert "of the run's energy and emissions" in lost_text(summary)
    assert run_table(summary) is not None
    record(tmp_path, range(1, 3), name="single")
    assert lost_text(summarize(open_run(tmp_path, "single"))) == "No work was lost between the attempts."


def test_what_the_sum_takes_for_an_attempt_adds_up_though_it_is_no_knowledge_alone(tmp_path: Path):
    first = record(tmp_path, range(1, 3), update_period_s=3600.0)  # its counter never moves
    record(tmp_path, range(1, 11), name=first.run_dir.name, status="finished")
    summary = summarize(open_run(tmp_path, "latest"))
    energies = [row["energy"] for row in summary["attempts"]]
    assert energies[0]["measured_j"] is None
    assert energies[0]["measured_in_sum_j"] == energies[0]["measured_in_sum_plus_minus_j"] > 0.0
    for key in ("j", "plus_minus_j"):
        whole = sum(energy[f"measured_in_sum_{key}"] for energy in energies)
        assert whole == pytest.approx(summary["energy"][f"measured_{key}"])
    assert [row["energy"] for row in attempt_cells(summary)] == ["100 ± 100 J", "1.000 ± 0.013 kJ"]
    assert sum_texts(summary) == [
        "The energy of attempt 1 is not known alone, since its bar is as wide as its value; the run's energy counts"
        " it so."
    ]
    assert sum_texts(summarize(_thrice(tmp_path / "known"))) == []


def test_why_attempts_do_not_add_up_stands_beside_them(tmp_path: Path):
    (told,) = _thrice(tmp_path).path.glob("attempt-3/*/process.json")
    told.write_bytes(b"{")
    summary = summarize(open_run(tmp_path, "latest"))
    assert "unknown" not in [row["energy"] for row in attempt_cells(summary)]
    (said,) = sum_texts(summary)
    assert said.startswith(
        "These energies make no sum: the run's energy is not known, for files that it rests on"
    )


def test_an_attempt_that_stored_nothing_is_said_to_be_in_no_sum(tmp_path: Path):
    first = record(tmp_path, range(1, 7))
    record(tmp_path, [], resumed=point(first, 4))
    record(tmp_path, range(5, 9), resumed=point(first, 4), status="finished")
    (said,) = sum_texts(summarize(open_run(tmp_path, "latest")))
    assert said.startswith("Attempt 2 stored nothing before its process ended")


def test_steps_that_only_a_checkpoint_holds_are_missed_and_said_to_be(tmp_path: Path):
    first = record(tmp_path, range(1, 9))
    record(tmp_path, range(13, 15), resumed=point(first, 12))
    summary = summarize(open_run(tmp_path, "latest"))
    assert summary["notes"]["steps missing"].startswith("steps 9 to 12 are in no table")
    assert summary["steps"] == 10
    assert "steps missing" not in summarize(_thrice(tmp_path / "whole"))["notes"]


def test_an_attempt_that_recorded_nothing_takes_nothing_away(tmp_path: Path):
    first = record(tmp_path, range(1, 7))
    record(tmp_path, [], resumed=point(first, 4))
    record(tmp_path, range(5, 9), resumed=point(first, 4), status="finished")
    summary = summarize(open_run(tmp_path, "latest"))
    assert summary["steps"] == 8
    assert summary["attempts"][1]["duration_s"] is None
    assert "attempt 2 stored nothing" in summary["notes"]["attempt 2"]
    assert summary["energy"]["measured_j"] == pytest.approx(POWER_W * 10 * STEP_S, rel=0.01)


def test_how_an_earlier_attempt_ended_is_not_how_the_run_did(tmp_path: Path):
    first = record(tmp_path, range(1, 5))
    file = next(first.run_dir.glob("attempt-1/*/process.json"))
    known = {key: value for key, value in json.loads(file.read_text()).items() if key != "checksum"}
    file.write_text(json.dumps({**known, "notes": {"ended": "KeyboardInterrupt after step 4"}}))
    record(tmp_path, range(5, 7), resumed=point(first, 4), status="finished")
    summary = summarize(open_run(tmp_path, "latest"))
    assert "ended" not in summary["notes"]
    assert summary["attempts"][0]["ended"] == "KeyboardInterrupt after step 4"


def test_attempts_follow_each_other_in_time_without_the_time_between(tmp_path: Path):
    run = _thrice(tmp_path)
    steps, power = step_timeline(run), power_timeline(run)
    assert steps["time_s"].is_sorted()
    assert steps.filter("lost")["step"].to_list() == [7, 8, 9, 10, 7, 8]
    assert power["attempt"].unique().to_list() == [1, 2, 3]
    assert power["time_s"].max() == pytest.approx(summarize(run)["duration_s"], abs=0.1)
    assert length_s(run) == pytest.approx(summarize(run)["duration_s"], abs=0.1)
    assert loss_chart(steps).to_dict()["layer"][0]["encoding"]["x"]["field"] == "step"


@settings(max_examples=12, deadline=None)
@given(
    ends=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    backs=st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_whatever_was_killed_every_step_counts_once(
    ends: list[int], backs: list[int], tmp_path_factory: pytest.TempPathFactory
):
    runs_dir, done, last = tmp_path_factory.mktemp("any"), 0, None
    for end, back in zip(ends, backs, strict=False):
        begun = max(done - back, 0) if last else 0
        resumed = ResumePoint(run_id="any", attempt=last.attempt, step=begun) if last and begun else None
        last = record(runs_dir, range(begun + 1, begun + 1 + end), name="any", resumed=resumed)
        done = begun + end
    run = open_run(runs_dir, "any")
    kept = list(itertools.chain(*(steps["step"].to_list() for steps in kept_steps(run.processes))))
    summary = summarize(run)
    assert len(kept) == len(set(kept)) == summary["steps"]
    rows = sum(len(p.steps) for p in run.processes)
    assert summary["lost_work"]["steps"] == rows - len(kept)
    if summary["energy"]["measured_j"] is not None:
        told = [row["energy"]["measured_in_sum_j"] for row in summary["attempts"]]
        assert summary["energy"]["measured_j"] == pytest.approx(sum(j for j in told if j is not None))


# -- points ------------------------------------------------------------------------------------------------------


def test_a_points_windows_may_lie_in_two_attempts(tmp_path: Path):
    first = record(tmp_path, range(1, 11), checkpoint_after=6)
    clock_start = 0.0
    second = record_with_point(
        tmp_path, point(first, 6), windows=[[clock_start, 6 * STEP_S, 1], [0.0, 4 * STEP_S]]
    )
    points = scale_points([open_run(tmp_path, second.run_dir.name)])
    assert points["duration_s"].to_list() == pytest.approx([10 * STEP_S])
    assert points["energy_j"].to_list() == pytest.approx([POWER_W * 10 * STEP_S], rel=0.01)
    for path in sorted((first.run_dir / "attempt-1").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert scale_points(scan_runs(tmp_path))["energy_j"].to_list() == [None]


def record_with_point(runs_dir: Path, resumed: ResumePoint, windows: list[list[float]]) -> Session:
    clock = FakeClock()
    counter = ScriptedEnergy(
        [(10.0, POWER_W)] * 200, clock=clock, device="GPU-a", relative_uncertainty=0.01, update_period_s=0.05
    )
    session = Session(
        runs_dir, RunFacts(), place=ALONE, probes=[Probe(counter=counter)], guard=Guard(), resumed=resumed,
        clock=clock, sampling_period_s=NEVER_S,
    )  # fmt: skip
    recorder = session.recorder = Recorder(session.emit, clock=session.now, cpu_clock=clock.cpu)
    recorder.enter("forward")
    for step in range(7, 11):
        spend(session, clock, STEP_S)
        recorder.end_step(step, Work(tokens=10), then="forward")
    recorder.enter(None)
    note = {"params": 1, "budget_tokens": 100, "tokens": 100, "windows": windows}
    recorder.mark("budget", session.now(), note=note)
    recorder.mark("fit", 0.0, session.now())
    session.close("finished")
    return session


def test_an_attempt_whose_files_are_damaged_makes_no_smaller_sum_of_joules(tmp_path: Path):
    run = _thrice(tmp_path)
    (told,) = run.path.glob("attempt-3/*/process.json")
    told.write_bytes(told.read_bytes()[:-20])
    summary = summarize(open_run(tmp_path, "latest"))
    assert (summary["energy"]["measured_j"], summary["energy"]["estimated_j"]) == (None, None)
    assert "damaged or unreadable" in summary["notes"]["energy.measured_j"]
    assert summary["carbon"]["emissions_g"] is None
    assert [row["status"] for row in summary["attempts"]] == ["interrupted", "interrupted"]
