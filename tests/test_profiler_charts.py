"""Charts: what they draw, what they refuse with which words, and the files they become."""

from __future__ import annotations

import doctest
import json
import re
import sys
from pathlib import Path

import polars as pl
import pytest
from fixtures_runs import PHASES, make_points, make_power, make_steps
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.errors import InvalidValueError, UnknownNameError, UsageError
from profiler.report import axes, drawing
from profiler.report.axes import AXES, byte_ticks, clock_ticks, linear_ticks, log_ticks, ticks_for, titled
from profiler.report.charts import (
    X_AXES,
    Y_AXES,
    loss_chart,
    memory_chart,
    missing,
    phase_chart,
    power_chart,
    roofline_chart,
    save_chart,
    scale_chart,
    throughput_chart,
    utilization_chart,
)
from profiler.report.drawing import ordered_colours
from profiler.report.timelines import MAX_POINTS, downsample

pytest.importorskip("altair")

MIXED = pl.concat(
    [
        make_points("estimated").filter(pl.col("params") < 100_000),
        make_points("measured").filter(pl.col("params") > 100_000),
    ]
)


def values(chart, layer):
    return chart.to_dict()["layer"][layer]["data"]["values"]


PAIRS = [(x, y) for x in X_AXES for y in Y_AXES if x != y and y not in ("mfu", "emissions_g")]


@pytest.mark.parametrize(("x", "y"), PAIRS)
def test_every_pair_of_axes_draws(x, y):
    spec = scale_chart(make_points(), x, y).to_dict()
    assert spec["title"]["text"].startswith(titled(AXES[y], make_points()).short)
    assert spec["layer"][3]["encoding"]["x"]["title"] == AXES[x].full_title


def test_lines_join_the_mean_of_seeds_and_points_are_every_run():
    chart = scale_chart(make_points(seeds=(0, 1, 2)), "params", "loss")
    lines, dots = values(chart, 2), values(chart, 3)
    assert (len(lines), len(dots)) == (9, 27)
    at = [d["y"] for d in dots if (d["params"], d["budget_tokens"]) == (12_000, 65_536)]
    mean = next(p["y"] for p in lines if (p["params"], p["budget_tokens"]) == (12_000, 65_536))
    assert mean == pytest.approx(sum(at) / 3)
    assert "mean of 3 seeds" in chart.to_dict()["title"]["subtitle"][-1]


def test_one_line_is_a_budget_along_size_and_a_size_along_anything_else():
    assert scale_chart(make_points(), "params", "loss").to_dict()["layer"][2]["encoding"]["color"]["scale"][
        "domain"
    ] == ["65.5 k", "131 k", "262 k"]
    assert scale_chart(make_points(), "energy_j", "loss").to_dict()["layer"][2]["encoding"]["color"]["scale"][
        "domain"
    ] == ["12.0 k", "49.0 k", "200 k"]


def test_estimated_and_measured_are_told_apart_where_joules_matter():
    spec = scale_chart(MIXED, "params", "energy_per_token_j").to_dict()
    assert {row["source"] for row in spec["layer"][3]["data"]["values"]} == {"measured", "estimated"}
    assert spec["layer"][3]["encoding"]["shape"]["legend"]["title"] == "Energy"
    assert "Hollow and dashed: estimated" in spec["title"]["subtitle"][0]
    about_loss = scale_chart(MIXED, "params", "loss").to_dict()
    assert about_loss["layer"][3]["encoding"]["shape"]["legend"] is None


def test_an_estimate_says_so_under_the_title():
    subtitle = scale_chart(make_points("estimated"), "params", "tokens_per_j").to_dict()["title"]["subtitle"]
    assert subtitle[0].startswith("Energy is estimated, not measured")


def test_intervals_stay_above_zero_on_a_logarithm():
    wide = make_points().with_columns(energy_plus_minus_j=pl.col("energy_j") * 3)
    rows = values(scale_chart(wide, "params", "energy_j"), 3)
    assert all(0 < row["y_low"] < row["y"] < row["y_high"] for row in rows)


def test_points_without_a_place_on_the_axis_are_left_out():
    gap = make_points().with_columns(
        pl.when(pl.col("params") > 100_000).then(None).otherwise("loss").alias("loss")
    )
    assert {row["params"] for row in values(scale_chart(gap), 3)} == {12_000, 49_000}


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ("emissions_g", "Emissions is unknown for all 18 points.*Choose a country"),
        ("mfu", "No dense peak is known.*doctor --measure-peak"),
    ],
)
def test_an_axis_that_is_all_unknown_is_refused_with_the_reason(y, words):
    with pytest.raises(UsageError, match=words.replace("Emissions is", r"Emissions \(gCO2e\) is")):
        scale_chart(make_points(), "params", y)


def test_no_joules_at_all_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"No sensor gave joules.*joulescale doctor"):
        scale_chart(make_points(None), "params", "energy_per_token_j")


def test_no_points_is_refused():
    with pytest.raises(UsageError, match="There are no points to draw"):
        scale_chart(make_points().clear())


def test_points_that_never_meet_are_refused():
    halves = make_points().with_columns(
        pl.when(pl.col("params") < 100_000).then("loss").alias("loss"),
        pl.when(pl.col("params") > 100_000).then("energy_j").alias("energy_j"),
    )
    assert missing(halves, "energy_j", "loss") is not None
    assert "None of the 18 points has both training energy and loss" in str(
        missing(halves, "energy_j", "loss")
    )


def test_an_unknown_axis_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no axis named 'parms'. Did you mean 'params'"):
        scale_chart(make_points(), "parms")


def test_a_single_point_has_a_width():
    scale_chart(make_points(seeds=(0,)).head(1), "params", "loss").to_dict()


@given(st.floats(1e-9, 1e15), st.floats(1.05, 1e9))
def test_log_ticks_lie_inside_and_rise(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)
    assert 1 <= len(ticks) <= 8


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_lie_inside(low, span):
    ticks = linear_ticks(low, low + span)
    assert 1 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_ticks_of_bytes_and_seconds_are_round_for_people():
    assert byte_ticks(2**20, 2**26) == [2.0**p for p in range(20, 27)]
    assert clock_ticks(5, 4000) == [5.0, 20.0, 60.0, 300.0, 1200.0, 3600.0]
    assert ticks_for(AXES["mfu"], 0.0, 0.5)[0] == 0.0


def test_colours_of_an_ordered_series_rise_in_lightness():
    def lightness(colour):
        return sum(
            weight * (int(colour[i : i + 2], 16) / 255) ** 2.2
            for weight, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5))
        )

    for count in range(2, 12):
        shades = [lightness(colour) for colour in ordered_colours(count)]
        assert shades == sorted(shades)


def test_power_tells_namesakes_apart_and_dashes_the_estimate():
    spec = power_chart(make_power()).to_dict()
    names = spec["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert names == ["EPYC", "H200 …a-1111", "H200 …b-2222"]
    assert "dashed: estimated ± 60.0 %, not measured" in spec["title"]["subtitle"]


@pytest.mark.parametrize(
    ("host", "names"),
    [("node-b", ["EPYC, on node-a", "EPYC, on node-b"]), ("node-a", ["EPYC, rank 0", "EPYC, rank 1"])],
)
def test_what_goes_by_one_id_at_several_places_is_one_line_each(host, names):
    """A package of two nodes, or the estimate of each rank: in one line they would jump to and fro."""
    one = make_power().filter(component="cpu")
    both = pl.concat([one, one.with_columns(host=pl.lit(host), rank=pl.lit(1))], how="vertical_relaxed")
    spec = power_chart(both).to_dict()
    assert spec["layer"][1]["encoding"]["color"]["scale"]["domain"] == names
    again = one.with_columns(host=pl.lit(host), attempt=pl.lit(2))
    resumed = power_chart(pl.concat([one, again], how="vertical_relaxed")).to_dict()
    assert {row["series"] for row in resumed["data"]["values"]} == {"EPYC"}, (
        "an attempt elsewhere is no other"
    )


def test_all_charts_over_time_can_end_alike():
    charts = (power_chart(make_power(), end_s=10_800), throughput_chart(make_steps(), end_s=10_800))
    across = [chart.to_dict()["layer"][1]["encoding"]["x"] for chart in charts]
    assert [(x["title"], x["scale"]["domain"]) for x in across] == 2 * [
        ("Time since the start (h)", [0, 10_800])
    ]


def test_ranks_are_named_by_their_number_under_a_title_that_says_of_what():
    steps = pl.concat([make_steps().with_columns(rank=pl.lit(rank)) for rank in range(2)])
    spec = throughput_chart(steps).to_dict()
    assert spec["title"]["text"] == "Throughput of each rank (tokens/s)"
    assert spec["layer"][1]["encoding"]["color"]["scale"]["domain"] == ["rank 0", "rank 1"]
    many = pl.concat([make_steps().with_columns(rank=pl.lit(rank)) for rank in range(12)])
    assert throughput_chart(many).to_dict()["title"]["subtitle"].startswith("mean of 12 ranks")


def test_utilization_leaves_out_devices_that_report_none():
    names = utilization_chart(make_power()).to_dict()["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert len(names) == 2


def test_memory_is_of_the_process_and_of_the_gpus():
    names = memory_chart(make_steps(), make_power()).to_dict()["layer"][1]["encoding"]["color"]["scale"][
        "domain"
    ]
    assert names[-1] == "Process (host RSS)"
    assert len(names) == 3


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (
            lambda: power_chart(make_power().with_columns(power_w=pl.lit(None, pl.Float64))),
            "Power over time is unknown",
        ),
        (lambda: utilization_chart(make_power().clear()), "utilization is unknown"),
        (lambda: loss_chart(make_steps().clear()), "Loss over time is unknown"),
        (lambda: loss_chart(pl.DataFrame()), "Loss over time is unknown"),
        (lambda: throughput_chart(make_steps().clear()), "counted neither tokens nor samples"),
        (lambda: memory_chart(make_steps().clear()), "Memory over time is unknown"),
        (lambda: phase_chart([]), "the run recorded no phases"),
    ],
)
def test_nothing_to_draw_is_said_in_words(draw, words):
    with pytest.raises(UsageError, match=words):
        draw()


def test_samples_stand_in_where_tokens_were_not_counted():
    steps = make_steps().with_columns(tokens_per_s=pl.lit(None, pl.Float64))
    assert throughput_chart(steps).to_dict()["title"]["text"] == "Throughput (samples/s)"


def test_a_phase_of_unknown_energy_has_no_bar_and_says_so():
    energy = phase_chart(PHASES).to_dict()["hconcat"][1]["data"]["values"]
    assert [row["value"] for row in energy] == [620.0, 1320.0, None]
    assert [row["text"] for row in energy] == ["620 ± 60 J", "1.32 ± 0.13 kJ", "unknown"]


def test_estimated_phases_say_so_above_their_joules():
    panels = phase_chart([{**phase, "source": "estimated"} for phase in PHASES]).to_dict()["hconcat"]
    assert [panel["title"].get("subtitle", []) for panel in panels] == [
        [],
        ["Estimated from CPU time, not measured"],
    ]


def test_a_phase_that_charts_do_not_know_is_drawn_last():
    odd = [{"phase": "warm-up", "duration_s": 1.0, "energy_j": 1.0, "plus_minus_j": None}, *PHASES]
    titles = [row["title"] for row in phase_chart(odd).to_dict()["hconcat"][0]["data"]["values"]]
    assert titles == ["Forward", "Backward", "Other", "warm-up"]


def test_long_series_are_thinned_and_keep_their_extremes():
    long = pl.DataFrame({"time_s": [0.01 * i for i in range(50_000)]}).with_columns(
        series=pl.lit("gpu"),
        attempt=pl.lit(1),
        source=pl.lit("counter"),
        value=pl.when(pl.int_range(pl.len()) == 31_007).then(900.0).otherwise(300.0),
    )
    thin = downsample(long)
    assert len(thin) <= MAX_POINTS
    assert thin["high"].max() == 900.0
    assert thin["low"].min() == 300.0
    assert thin["value"].mean() == pytest.approx(long["value"].mean(), rel=0.01)


def test_short_series_are_drawn_as_they_are():
    short = make_steps(20).select(series=pl.lit("a"), source=pl.lit("counter"), time_s="time_s", value="loss")
    assert downsample(short)["value"].to_list() == short["value"].to_list()


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_a_chart_becomes_a_file_and_nothing_else_is_left(tmp_path, suffix):
    path = tmp_path / f"chart.{suffix}"
    save_chart(scale_chart(make_points()), path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    start = {"svg": b"<svg", "png": b"\x89PNG", "html": b"<!DOCTYPE html>"}[suffix]
    assert path.read_bytes().startswith(start)


def test_a_picture_in_a_folder_that_is_not_there_or_refuses_is_one_sentence(tmp_path):
    with pytest.raises(InvalidValueError, match=r"there is no folder '.*nope'. Make it, or name another"):
        save_chart(scale_chart(make_points()), tmp_path / "nope" / "a.svg")
    with pytest.raises(InvalidValueError, match=r"Cannot draw to '/proc/a.svg': .*Name another file"):
        save_chart(scale_chart(make_points()), Path("/proc/a.svg"))
    assert not (tmp_path / "nope").exists()


def test_the_svg_holds_its_axes_in_words_and_follows_dark_mode(tmp_path):
    save_chart(scale_chart(MIXED, "params", "energy_per_token_j"), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for words in (
        "Model size (parameters)",
        "Energy per token (J/token)",
        "measured",
        "estimated",
        "Token budget",
    ):
        assert words in text
    assert "prefers-color-scheme: dark" in text


def test_the_html_needs_no_network_and_no_name_can_end_its_script(tmp_path):
    evil = make_points().with_columns(run_id=pl.lit("</script><script>alert(1)</script>"))
    save_chart(scale_chart(evil), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    outside_script = re.sub(r"<script.*</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=""", outside_script)
    assert "default-src 'none'" in page
    assert page.count("</script>") == 1


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.SVGZ"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(InvalidValueError, match=r"no kind of picture.*Use .svg, .png or .html"):
        save_chart(scale_chart(make_points()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_altair_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(UsageError, match=r"pip install 'joulescale\[dashboard\]'"):
        scale_chart(make_points())


def test_without_the_converter_the_message_names_the_extra(monkeypatch, tmp_path):
    chart = scale_chart(make_points())
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UsageError, match=r"pip install 'joulescale\[dashboard\]'"):
        save_chart(chart, tmp_path / "a.svg")


def test_examples_in_the_docstrings():
    assert doctest.testmod(axes).failed == 0
    assert doctest.testmod(drawing).failed == 0


OWN = make_points(seeds=(0,)).with_columns(
    workload=pl.lit(None, pl.String),
    preset=pl.lit(None, pl.String),
    seed=pl.lit(None, pl.Int64),
    params=pl.lit(None, pl.Int64),
    run_id=pl.format("own-{}", pl.int_range(pl.len())),
    loss_kind=pl.lit("training"),
)


def test_own_trainings_are_named_as_such_and_each_run_is_a_series():
    spec = scale_chart(OWN.head(3), "energy_j", "loss").to_dict()
    colour = spec["layer"][2]["encoding"]["color"]
    assert colour["scale"]["domain"] == ["own-0", "own-1", "own-2"]
    assert colour["legend"]["title"] == "Run"
    assert spec["title"]["subtitle"][-1] == "own trainings: 3 runs, 3 points, seed unknown."
    assert spec["title"]["text"] == "Training loss against training energy, one point a run"
    one = scale_chart(OWN.head(1), "energy_j", "loss").to_dict()
    assert one["title"]["subtitle"][-1] == "own trainings: 1 run, 1 point, seed unknown."


def test_runs_of_unknown_size_stand_beside_the_sizes():
    both = pl.concat([make_points(seeds=(0,)), OWN.head(2)])
    colour = scale_chart(both, "energy_j", "loss").to_dict()["layer"][2]["encoding"]["color"]
    assert colour["scale"]["domain"] == ["12.0 k", "49.0 k", "200 k", "own-0", "own-1"]
    assert colour["legend"]["title"] == "Parameters, or run"


@pytest.mark.parametrize(
    ("workloads", "kinds", "title"),
    [
        (["lm"], ["validation"], "Validation loss (nats/token)"),
        ([None], ["training"], "Training loss"),
        (["lm", None], ["validation"], "Validation loss"),
        (["lm"], ["validation", "training"], "Loss (nats/token)"),
    ],
)
def test_a_loss_has_a_unit_only_where_its_workload_says_so(workloads, kinds, title):
    points = make_points().with_columns(
        workload=pl.Series([workloads[k % len(workloads)] for k in range(18)], dtype=pl.String),
        loss_kind=pl.Series([kinds[k % len(kinds)] for k in range(18)]),
    )
    assert titled(AXES["loss"], points).full_title == title


def steps_of_two_attempts(count=40):
    """The second went on from step 30 and did the last ten of the first again, with the same losses."""
    first = make_steps(count).with_columns(lost=pl.col("step") > 29, attempt=pl.lit(1))
    return pl.concat([first, make_steps(count).filter(pl.col("step") > 29).with_columns(attempt=pl.lit(2))])


def test_lost_steps_lie_beneath_those_that_count_broader_and_of_another_colour():
    spec = loss_chart(steps_of_two_attempts()).to_dict()
    lost, kept = (
        next(layer for layer in spec["layer"] if fate(layer) == word) for word in ("lost", "counts")
    )
    assert spec["layer"].index(lost) < spec["layer"].index(kept)
    assert [row["step"] for row in lost["data"]["values"]] == list(range(30, 40))
    assert lost["mark"]["strokeWidth"] > 2 * kept["mark"]["strokeWidth"]
    assert lost["mark"]["color"] != kept["mark"]["color"]
    assert lost["encoding"]["y"]["scale"] == kept["encoding"]["y"]["scale"]
    assert (
        spec["title"]["subtitle"] == "2 attempts; broad orange: lost, since a later one went on from before"
    )


def fate(layer):
    return layer["data"]["values"][0]["fate"].partition(":")[0]


def test_many_lost_steps_are_means_in_a_band_and_say_so():
    many = steps_of_two_attempts(3000).with_columns(loss=pl.col("loss") + pl.col("step") % 2)
    spec = loss_chart(many).to_dict()
    assert spec["title"]["subtitle"].endswith("; means of slices, band: least to most")
    band = spec["layer"][0]
    assert band["encoding"]["y2"]["field"] == "high"
    assert all(row["low"] < row["loss"] < row["high"] for row in band["data"]["values"])


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_left_out_and_said_to_be(odd):
    """JSON has no such numbers: a training that diverged left its page without any chart."""
    for steps in (make_steps(), steps_of_two_attempts()):
        diverged = steps.with_columns(loss=pl.when(pl.col("step") == 35).then(odd).otherwise("loss"))
        spec = loss_chart(diverged).to_dict()
        json.dumps(spec, allow_nan=False)
        assert spec["title"]["subtitle"].endswith("where it is not finite it is left out")
    with pytest.raises(UsageError, match="Training loss is at no time a finite number"):
        loss_chart(make_steps().with_columns(loss=pl.lit(odd)))


def test_lost_steps_without_a_loss_are_no_chart():
    unlogged = steps_of_two_attempts().with_columns(loss=pl.lit(None, pl.Float64))
    with pytest.raises(UsageError, match="Loss over time is unknown"):
        loss_chart(unlogged)


def test_loss_over_time_has_a_unit_only_for_workloads_that_say_so():
    assert loss_chart(make_steps(), "lm").to_dict()["title"]["text"] == "Training loss (nats/token)"
    assert loss_chart(make_steps()).to_dict()["title"]["text"] == "Training loss"


def test_bars_of_estimates_are_hollow_and_times_are_not():
    estimated = [{**phase, "source": "estimated", "method": "cpu time"} for phase in PHASES]
    panels = phase_chart(estimated).to_dict()["hconcat"]
    for panel, hollow in zip(panels, (False, True), strict=True):
        fill = panel["layer"][0]["encoding"]["fillOpacity"]
        assert fill["condition"] == {"test": "datum.estimated", "value": 0.0}
        assert {row["estimated"] for row in panel["data"]["values"]} == {hollow}
        assert panel["layer"][0]["mark"]["stroke"] == panel["layer"][0]["mark"]["color"]


def test_measured_phases_say_their_method_above_the_bars():
    methods = ("regression", "regression", None)
    phases = [{**phase, "source": "measured", "method": m} for phase, m in zip(PHASES, methods, strict=True)]
    subtitle = phase_chart(phases).to_dict()["hconcat"][1]["title"]["subtitle"]
    assert subtitle == ["Forward, backward: by regression over changes of the counter"]


def test_one_sample_is_a_dot_within_the_time_of_the_run():
    steps = make_steps().with_columns(
        host_rss_bytes=pl.when(pl.col("step") == 20).then(pl.col("host_rss_bytes"))
    )
    spec = memory_chart(steps).to_dict()
    dots = spec["layer"][2]
    assert dots["encoding"]["opacity"]["condition"] == {"test": "datum.alone", "value": 1.0}
    assert [row["alone"] for row in spec["data"]["values"]] == [True]
    assert dots["encoding"]["x"]["scale"]["domain"] == [0, pytest.approx(5.0)]
    many = memory_chart(make_steps()).to_dict()["data"]["values"]
    assert not any(row["alone"] for row in many)


def test_time_in_use_of_a_processor_is_that_of_the_whole_machine():
    power = make_power().with_columns(utilization=pl.lit(0.5))
    names = utilization_chart(power).to_dict()["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert "EPYC, whole machine" in names
    assert [name for name in names if "whole machine" in name] == ["EPYC, whole machine"]


def test_series_at_one_place_stand_side_by_side():
    dots = values(scale_chart(make_points(seeds=(0,)), "params", "energy_per_token_j"), 3)
    of_one_size = sorted({row["x"] for row in dots if row["params"] == 49_000})
    assert len(of_one_size) == 3
    assert of_one_size[1] == pytest.approx(49_000)
    assert of_one_size[2] / of_one_size[0] < 1.15
    said = scale_chart(make_points(), "params", "energy_per_token_j").to_dict()["title"]["subtitle"][-1]
    assert said.endswith("points of one size stand side by side.")
    apart = values(scale_chart(make_points(seeds=(0,)), "model_flops", "loss"), 3)
    assert {row["x"] for row in apart} == set(make_points(seeds=(0,))["model_flops"].to_list())
    two = make_points(seeds=(0,)).filter((pl.col("params") < 100_000) | (pl.col("budget_tokens") == 65_536))
    alone = [row["x"] for row in values(scale_chart(two, "params", "loss"), 3) if row["params"] == 200_000]
    assert alone == [200_000], "what stands alone stays where it is"


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 40))
def test_many_series_never_spread_over_more_than_a_share_of_the_axis(count):
    points = make_points(seeds=(0,)).head(1)
    many = pl.concat([points.with_columns(budget_tokens=pl.lit(k + 1)) for k in range(count)])
    encoding = scale_chart(many, "params", "loss").to_dict()["layer"][3]
    xs = [row["x"] for row in encoding["data"]["values"]]
    low, high = encoding["encoding"]["x"]["scale"]["domain"]
    assert max(xs) / min(xs) <= (high / low) ** 0.07


def test_one_model_size_is_not_magnified():
    one = make_points(seeds=(0,)).filter(pl.col("params") == 12_000)
    x = scale_chart(one, "params", "loss").to_dict()["layer"][3]["encoding"]["x"]
    low, high = x["scale"]["domain"]
    assert high / low >= 4
    assert len(x["axis"]["values"]) >= 3


def test_a_legend_of_sources_only_where_there_are_two():
    encoding = scale_chart(make_points("estimated"), "params", "energy_j").to_dict()["layer"][3]["encoding"]
    assert encoding["shape"]["legend"] is None


def test_grid_lines_are_fainter_than_error_bars(tmp_path):
    save_chart(scale_chart(make_points()), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert 'stroke-opacity="0.12"' in text
    bars = scale_chart(make_points()).to_dict()["layer"][0]["mark"]
    assert bars["opacity"] >= 0.6


PLACE = {
    "bytes_per_s": 3e12,
    "bytes_source": "measured dram activity x bandwidth of the datasheet",
    "peak_bytes_per_s": 4.8e12,
    "peak_bytes_source": "datasheet: NVIDIA H200",
    "intensity_flops_per_byte": 100.0,
    "ridge_flops_per_byte": 206.0,
    "bound": "memory",
    "share_of_attainable": 0.625,
}
EFFICIENCY = {
    "roofline": PLACE,
    "peak_flops_per_s": 989e12,
    "peak_dtype": "bf16",
    "peak_source": "datasheet: NVIDIA H200",
}


def test_the_roofline_has_both_roofs_the_ridge_and_the_run():
    spec = roofline_chart(EFFICIENCY).to_dict()
    roof, ridge, names, run = (layer["data"]["values"] for layer in spec["layer"])
    slope = [point["y"] / point["x"] for point in roof[:2]]
    assert slope == pytest.approx([4.8e12, 4.8e12], rel=0.01)
    assert roof[1] == ridge[0] == {"x": 206.0, "y": 989e12}
    assert roof[2]["y"] == 989e12
    assert [name["name"] for name in names] == ["memory", "compute"]
    assert (run[0]["x"], run[0]["y"]) == (100.0, 3e14)
    assert spec["title"]["subtitle"] == [
        "Memory-bound, at 62.5 % of its limit (100 FLOP/B; the ridge is at 206).",
        "Roofs: memory 4.80 TB/s, datasheet; compute 989 TFLOP/s bf16, datasheet; ridge 206 FLOP/B.",
    ]
    assert spec["layer"][3]["mark"]["filled"] is True


def test_a_traffic_of_operators_is_a_hollow_point_that_says_so():
    place = {**PLACE, "bytes_source": "operators of forward and backward", "bound": None}
    spec = roofline_chart({**EFFICIENCY, "roofline": place}).to_dict()
    assert spec["layer"][3]["mark"]["filled"] is False
    assert spec["title"]["subtitle"][0].startswith("At 100 FLOP/B, or more: hollow")


@pytest.mark.parametrize("gone", ["intensity_flops_per_byte", "ridge_flops_per_byte", "bytes_per_s"])
def test_a_run_without_a_place_under_the_roofline_says_why(gone):
    with pytest.raises(UsageError, match=r"place of this run under the roofline is unknown: it needs FLOPs"):
        roofline_chart({**EFFICIENCY, "roofline": {**PLACE, gone: None}})
