"""The Phenomena page: experiments with their verdict over seeds and cost, and what one of them looks like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fixtures_phenomena import CURVES, Played, every_workload, experiment_run, play_curves
from fixtures_scripted import scripted_run

pytest.importorskip("streamlit")

from test_dashboard_pages import charts, open_page, texts

from dashboard import phenomenon_list

PAGE = "phenomena"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    every_workload(folder)
    return folder


def choose(app: Any, label: str) -> Any:
    app = app.selectbox(key="phenomena_choice").select(label).run()
    assert not app.exception, app.exception
    return app


def plain_texts(app: Any) -> str:
    return texts(app).replace("\\", "")


def frame(app: Any, column: str) -> Any:
    """The table that begins with this column."""
    return next(one.value for one in app.dataframe if one.value.columns[0] == column)


def test_a_folder_without_experiments_says_how_to_make_one(monkeypatch: Any, tmp_path: Path):
    scripted_run(tmp_path)
    app = open_page(monkeypatch, tmp_path, PAGE)
    assert "No experiment was run in this folder yet." in app.info[0].value
    assert app.code[0].value == f"joulescale run grokking --preset cpu --runs-dir {tmp_path}"


def test_each_experiment_is_a_row_with_its_verdict_over_seeds(monkeypatch: Any, runs: Path):
    table = frame(open_page(monkeypatch, runs, PAGE), "experiment").set_index("experiment")
    assert sorted(table.index) == sorted(f"{workload}/cpu" for workload in CURVES)
    grokking = table.loc["grokking/cpu"]
    assert (grokking["verdict"], grokking["seeds"]) == ("shown", "2 of 3")
    assert float(grokking["energy"]) == pytest.approx(3 * 20 * 0.5 * 4.0, rel=0.01)
    assert "emissions" not in table, "no grid is assumed"


def test_a_country_turns_joules_into_grams(monkeypatch: Any, runs: Path):
    app = open_page(monkeypatch, runs, PAGE)
    app.sidebar.selectbox(key="factors_country").select("FRA").run()
    assert frame(app, "experiment")["emissions"].iloc[0] > 0.0


@pytest.mark.parametrize("workload", CURVES)
@pytest.mark.parametrize("across", ["steps", "energy"])
def test_every_experiment_has_its_pictures(monkeypatch: Any, runs: Path, workload: str, across: str):
    app = open_page(monkeypatch, runs, PAGE)
    app.radio(key="phenomena_across").set_value(across)
    app = choose(app, f"{workload}/cpu")
    assert len(charts(app)) >= 1
    assert "unknown" not in " ".join(info.value for info in app.info)
    assert "Criterion, fixed before: it goes up" in plain_texts(app)
    assert list(frame(app, "training").columns) == ["training", "seed", "params", "steps", "time", "energy"]
    costs = frame(app, "cost").set_index("cost")
    assert "(estimated)" in costs.iloc[0, 0]


def test_seeds_that_did_not_show_it_say_why_and_may_be_chosen(monkeypatch: Any, runs: Path):
    app = choose(open_page(monkeypatch, runs, PAGE), "grokking/cpu")
    assert "shown**], in 2 of 3 seeds; the criterion asks for 2 of 3" in plain_texts(app)
    assert "seed 1, not shown:] by script: not shown" in plain_texts(app)
    assert "3 runs overlaid" in plain_texts(app)
    assert list(frame(app, "figure").columns) == ["figure", "seed 0", "seed 1", "seed 2"]
    app = app.multiselect(key="phenomena_seeds_grokking/cpu").select("seed 1").run()
    assert list(frame(app, "figure").columns) == ["figure", "seed 1"]
    assert "Seed 1; ◆ it groks." in plain_texts(app)


def test_joules_are_called_estimated_where_they_are(monkeypatch: Any, runs: Path):
    app = open_page(monkeypatch, runs, PAGE)
    app.radio(key="phenomena_across").set_value("energy")
    app = choose(app, "grokking/cpu")
    assert "energy is estimated from CPU time, not measured" in plain_texts(app)
    titles = [layer["encoding"]["x"]["title"] for layer in charts(app)[0]["layer"]]
    assert set(titles) == {"Training energy, estimated (J)"}


def test_missing_seeds_are_said_with_the_command_that_runs_them(monkeypatch: Any, tmp_path: Path):
    experiment_run(tmp_path, partial(play_curves, "grokking", seeds=5, shown_in=3))
    app = open_page(monkeypatch, tmp_path, PAGE)
    assert "can't tell**], in 1 of 1 seed; the criterion asks for 3 of 5" in plain_texts(app)
    assert "5 seeds are asked for, and 1 was run" in plain_texts(app)
    assert (
        app.code[0].value == f"joulescale sweep grokking --preset cpu --seeds 0,1,2,3,4 --runs-dir {tmp_path}"
    )


def test_an_interrupted_experiment_cannot_tell_and_its_pictures_say_so(monkeypatch: Any, tmp_path: Path):
    def nothing(played: Played) -> None:
        pass

    experiment_run(tmp_path, nothing, status="interrupted")
    app = open_page(monkeypatch, tmp_path, PAGE)
    assert "it did not come to its end" in plain_texts(app)
    assert "seed 0:] the training did not come to its end" in plain_texts(app)
    assert "No point of the curve" in app.info[0].value


def test_experiments_with_other_settings_or_criteria_are_told_apart(monkeypatch: Any, tmp_path: Path):
    play = partial(play_curves, "grokking")
    experiment_run(tmp_path, play, name="a", settings={"modulus": 53, "lr": 1.0})
    experiment_run(tmp_path, play, name="b", settings={"modulus": 97, "lr": 1.0})
    experiment_run(tmp_path, play, name="c", settings={"modulus": 97, "lr": 1.0}, criterion="another")
    table = frame(open_page(monkeypatch, tmp_path, PAGE), "experiment")
    assert table["experiment"].to_list() == [
        "grokking/cpu, modulus=97",
        "grokking/cpu, modulus=97, earlier (1)",
        "grokking/cpu, modulus=53",
    ]


def test_runs_that_only_tried_the_path_come_last(monkeypatch: Any, tmp_path: Path):
    for preset in ("cpu", "smoke"):
        experiment_run(tmp_path, partial(play_curves, "grokking"), name=preset, preset=preset)
    table = frame(open_page(monkeypatch, tmp_path, PAGE), "experiment")
    assert table["experiment"].to_list() == ["grokking/cpu", "grokking/smoke"]


def test_a_copied_run_is_known_by_its_folder(monkeypatch: Any, tmp_path: Path):
    run = experiment_run(tmp_path, partial(play_curves, "grokking"))
    run.path.rename(tmp_path / "renamed")
    app = open_page(monkeypatch, tmp_path, PAGE)
    assert "shown**], one seed, and one is asked for" in plain_texts(app)


def test_other_peoples_text_is_never_markdown(monkeypatch: Any, tmp_path: Path):
    evil = "![x](http://evil.example/a.png)"

    def play(played: Played) -> None:
        played.point(evil, step=1, height=1.0)
        played.end_arm()
        played.conclude(figures={evil: evil})

    experiment_run(tmp_path, play, workload=evil, criterion=evil)
    app = open_page(monkeypatch, tmp_path, PAGE)
    assert "](http" not in texts(app)


def test_of_very_many_runs_the_newest_are_looked_at(monkeypatch: Any, tmp_path: Path):
    monkeypatch.setattr(phenomenon_list, "MOST_RUNS", 1)
    for name in ("a", "b"):
        experiment_run(tmp_path, partial(play_curves, "grokking"), name=name)
    app = open_page(monkeypatch, tmp_path, PAGE)
    assert "The newest 1 of 2 runs of experiments are looked at." in plain_texts(app)
