"""Each workload's pictures: drawn against steps and joules, with what is to be noticed marked; refusals say why."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fixtures_phenomena import CURVES, Played, experiment_run, play_curves
from fixtures_scripted import gpu_and_cpu, nothing

pytest.importorskip("altair")

from profiler.errors import UsageError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.report.charts import save_chart
from profiler.report.phenomena import Seen, pictures
from profiler.report.phenomena.plot import MAX_POINTS
from profiler.store.run import StoredRun


def seen_of(run: StoredRun, label: str = "seed 0") -> Seen:
    verdict = summarize(run)["phenomenon"]
    return Seen(
        label=label, curves=phenomenon_curves(run), figures=verdict["figures"], costs=verdict["costs"]
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        workload: seen_of(
            experiment_run(folder, partial(play_curves, workload), name=workload, workload=workload)
        )
        for workload in CURVES
    }


def drawn(workload: str, seen: list[Seen], key: str, across: str = "steps") -> dict[str, Any]:
    picture = next(one for one in pictures(workload, seen, across) if one.key == key)  # type: ignore[arg-type]
    spec: dict[str, Any] = picture.make().to_dict()
    return spec


def points_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The data of the layer of dots."""
    (layer,) = [one for one in spec["layer"] if one["mark"].get("type") == "circle"]
    return data_of(spec, layer)


def data_of(spec: dict[str, Any], layer: dict[str, Any]) -> list[dict[str, Any]]:
    data = layer.get("data") or spec["data"]
    found: list[dict[str, Any]] = data.get("values") or spec["datasets"][data["name"]]
    return found


def words_of(spec: dict[str, Any]) -> list[str]:
    """The words of thresholds."""
    texts = [layer for layer in spec["layer"] if layer["mark"].get("type") == "text"]
    return [row["word"] for layer in texts for row in data_of(spec, layer) if "word" in row]


def marked(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [point for point in points_of(spec) if point["mark"]]


def subtitle(spec: dict[str, Any]) -> str:
    return " ".join(spec["title"]["subtitle"])


@pytest.mark.parametrize("across", ["steps", "energy"])
@pytest.mark.parametrize("workload", CURVES)
def test_every_picture_is_drawn_against_steps_and_joules(seen: dict[str, Seen], workload: str, across: str):
    found = pictures(workload, [seen[workload]], across)  # type: ignore[arg-type]
    assert len({one.key for one in found}) == len(found) > 0
    against_energy = 0
    for picture in found:
        spec = picture.make().to_dict()
        assert spec["title"]["text"]
        assert all("encoding" in layer for layer in spec["layer"])
        titles = [(layer["encoding"].get("x") or {}).get("title") for layer in spec["layer"]]
        against_energy += "Training energy, estimated (J)" in titles
        if "Training energy, estimated (J)" in titles:
            assert "nergy is estimated from CPU time, not measured" in subtitle(spec)
    assert bool(against_energy) is (across == "energy" and workload != "distillation")


def test_the_grok_is_a_diamond_on_the_curve_of_what_was_held_out(seen: dict[str, Seen]):
    spec = drawn("grokking", [seen["grokking"]], "accuracy")
    (grok,) = marked(spec)
    assert (grok["x"], grok["series"], grok["y"]) == (300.0, "held out", 0.97)
    assert "◆ it groks" in subtitle(spec)
    assert spec["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"
    (in_joules,) = marked(drawn("grokking", [seen["grokking"]], "accuracy", "energy"))
    assert in_joules["x"] == pytest.approx(15 * 0.5 * 4.0), "300 steps are its 15th point, half a second each"


def test_several_seeds_are_overlaid_and_counted(seen: dict[str, Seen]):
    one = seen["grokking"]
    never = Seen(label="seed 1", curves=one.curves, figures={"t_gen (step)": None})
    spec = drawn("grokking", [one, never], "accuracy")
    assert {point["seed"] for point in points_of(spec)} == {"seed 0", "seed 1"}
    assert "2 runs overlaid; ◆ 1 of 2 grok." in subtitle(spec)
    assert "no grok" in subtitle(drawn("grokking", [never], "accuracy"))


def test_the_peak_and_the_threshold_are_marked(seen: dict[str, Seen]):
    one = [seen["double-descent"]]
    spec = drawn("double-descent", one, "width")
    (peak,) = marked(spec)
    assert (peak["x"], peak["y"], peak["series"]) == (6.0, 0.464, "test error"), (
        "not the narrowest, which is worse"
    )
    assert words_of(spec) == ["training set fitted"]
    assert peak["low"] == pytest.approx(peak["y"] - 0.013)
    (peak,) = marked(drawn("double-descent", one, "random features"))
    assert peak["x"] == 304.0
    assert {p["series"] for p in points_of(drawn("double-descent", one, "epoch"))} == {"width 6", "width 32"}


def test_against_joules_lines_follow_the_sweep_and_not_its_joules(seen: dict[str, Seen]):
    spec = drawn("double-descent", [seen["double-descent"]], "width", "energy")
    (line,) = [layer for layer in spec["layer"] if layer["mark"].get("type") == "line"]
    assert line["encoding"]["order"]["field"] == "place"
    places = [p["place"] for p in points_of(spec) if p["series"] == "test error"]
    assert places == sorted(places)


def test_the_crossover_has_four_students_and_the_gain_its_interval(seen: dict[str, Seen]):
    one = [seen["distillation"]]
    assert len({p["series"] for p in points_of(drawn("distillation", one, "crossover"))}) == 4
    gain = drawn("distillation", one, "gain")
    assert words_of(gain) == ["no gain"]
    assert points_of(gain)[0]["low"] == pytest.approx(2.68 - 2.35 - 0.02)


def test_stages_say_where_tokens_are_removed_and_answers_what_they_take(seen: dict[str, Seen]):
    one = [seen["chain-of-thought"]]
    assert words_of(drawn("chain-of-thought", one, "stages")) == ["1 removed", "2 removed", "3 removed"]
    assert words_of(drawn("chain-of-thought", one * 2, "stages")) == []
    names = [p["name"] for p in points_of(drawn("chain-of-thought", one, "answers"))]
    assert names == ["explicit, 4 tokens", "internalised, 1 token", "direct, 1 token"]
    (joules,) = points_of(drawn("chain-of-thought", one, "joules"))
    assert (joules["name"], joules["series"]) == ("explicit", "10 at a time")
    assert joules["value"] == pytest.approx(0.5 * 4.0 / 1000)


def test_a_dictionary_shows_doses_classes_and_a_control(seen: dict[str, Seen]):
    one = [seen["dictionary"]]
    doses = points_of(drawn("dictionary", one, "steering"))
    assert {p["series"] for p in doses} == {"the feature clamped", "random features clamped"}
    assert [p["name"] for p in points_of(drawn("dictionary", one, "features"))][:2] == ["space", "space"]


def test_streams_are_drawn_by_their_cache(seen: dict[str, Seen]):
    one = [seen["attention-sinks"]]
    for key in ("loss", "tokens_per_s", "kv_bytes"):
        assert {p["series"] for p in points_of(drawn("attention-sinks", one, key))} == {
            "sink 0",
            "sink 1",
            "dense",
        }


def test_gates_have_red_lines_and_a_diamond_where_one_was_crossed(seen: dict[str, Seen]):
    one = [seen["gates"]]
    spec = drawn("gates", one, "accuracy")
    assert words_of(spec) == ["red line", "safety buffer"]
    assert [(p["series"], p["x"]) for p in marked(spec)] == [("copy", 16e9)]
    assert {p["dashed"] for p in points_of(drawn("gates", one, "forecast"))} == {True, False}


def test_fields_are_pictures_and_spectra_are_by_viscosity(seen: dict[str, Seen]):
    one = [seen["diffusion"]]
    assert [p.key for p in pictures("diffusion", one)] == [
        "loss",
        "spectrum 0.005",
        "spectrum 0.05",
        "fields",
    ]
    spec = drawn("diffusion", one, "fields")
    images = [layer for layer in spec["layer"] if layer["mark"]["type"] == "image"]
    assert len(images) == 4
    assert data_of(spec, images[0])[0]["url"].startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("png", ["", "AAAA", "not base64!", "iVBORw0KGgo="])
def test_what_is_no_picture_is_left_out(tmp_path: Path, png: str):
    def play(played: Played) -> None:
        played.point("fields", kind="real", nu=0.1, png=png)
        played.conclude()

    with pytest.raises(UsageError, match="no pictures of fields that can be read"):
        drawn("diffusion", [seen_of(experiment_run(tmp_path, play))], "fields")


def test_an_experiment_without_pictures_of_its_own_has_its_curves(seen: dict[str, Seen]):
    spec = drawn("somebody-elses", [seen["somebody-elses"]], "drift")
    assert spec["title"]["text"] == "Drift against x"
    assert [(p["x"], p["y"], p["series"]) for p in points_of(spec)][1] == (2.0, 4.0, "Height")


@pytest.mark.parametrize("workload", CURVES)
def test_before_its_first_point_each_picture_says_so(workload: str):
    for picture in pictures(workload, [Seen(label="seed 0", curves={})]):
        with pytest.raises(
            UsageError, match=r"No point of the curve '.+' was recorded yet|answer are unknown"
        ):
            picture.make()


def test_joules_that_nobody_knows_are_no_axis(tmp_path: Path):
    run = experiment_run(tmp_path, partial(play_curves, "grokking"), counters=nothing)
    with pytest.raises(
        UsageError, match=r"The joules of these trainings are unknown.* Draw against steps instead"
    ):
        drawn("grokking", [seen_of(run)], "accuracy", "energy")


def test_measured_joules_are_not_called_estimated(tmp_path: Path):
    run = experiment_run(tmp_path, partial(play_curves, "grokking"), counters=gpu_and_cpu)
    spec = drawn("grokking", [seen_of(run)], "accuracy", "energy")
    assert spec["layer"][0]["encoding"]["x"]["title"] == "Training energy (J)"
    assert "estimated" not in subtitle(spec)
    mixed = Seen(
        label="seed 1",
        curves={"accuracy": seen_of(run).curves["accuracy"].with_columns(source=pl.lit("estimated"))},
    )
    both = drawn("grokking", [seen_of(run), mixed], "accuracy", "energy")
    assert "energy of some runs is measured, of others estimated" in subtitle(both)


def test_a_curve_of_nothing_above_zero_cannot_be_on_a_log_axis(tmp_path: Path):
    def play(played: Played) -> None:
        played.point("accuracy", step=0, train=0.0, validation=0.0)
        played.conclude()

    with pytest.raises(UsageError, match="nothing of it is known above zero"):
        drawn("grokking", [seen_of(experiment_run(tmp_path, play))], "accuracy")


def test_long_curves_are_thinned_and_keep_their_end(tmp_path: Path):
    def play(played: Played) -> None:
        for step in range(1, 1001):
            played.point("accuracy", step=step, train=0.5, validation=0.5)
        played.conclude(figures={"t_gen (step)": 500})

    spec = drawn("grokking", [seen_of(experiment_run(tmp_path, play))], "accuracy")
    held_out = [p["x"] for p in points_of(spec) if p["series"] == "held out"]
    assert len(held_out) <= MAX_POINTS
    assert held_out[-1] == 1000.0
    assert 500.0 in held_out


def test_names_of_others_are_text_in_a_file(tmp_path: Path):
    def play(played: Played) -> None:
        played.point("</script><b>", step=1, height=1.0)
        played.point("</script><b>", step=2, height=2.0)
        played.conclude()

    seen = [seen_of(experiment_run(tmp_path, play))]
    (picture,) = pictures("anything", seen)
    save_chart(picture.make(), tmp_path / "x.html")
    assert not re.search(r"</script><b>", (tmp_path / "x.html").read_text())
