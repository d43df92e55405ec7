"""The dashboard's pages over no folder, an empty folder and stored runs, without a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from fixtures_ranks import ago, made_process, made_run
from fixtures_runs import ROOT, make_points, make_power
from fixtures_scripted import Script, cpu_only, gpu_and_cpu, scripted_run, waiting_run

from profiler.carbon.factors import CarbonFactors
from profiler.cli import dashboard as launcher
from profiler.cli.dashboard_address import Address
from profiler.errors import InvalidValueError, UsageError
from profiler.measure.peak import Peak
from profiler.measure.session import RunFacts
from profiler.metrics.summary import summarize
from profiler.report.charts import scale_chart, utilization_chart
from profiler.store.runs import scan_runs

pytest.importorskip("streamlit")

from streamlit.testing.v1 import AppTest
from test_profiler_attempts import point, record

from dashboard import charts as boxes
from dashboard import limits, tables
from dashboard.kinds import kind_name, largest_kind, of_kind
from dashboard.plain import plain
from dashboard.run_devices import device_names, error_bars, flags, idle_text
from dashboard.run_efficiency import efficiency_rows
from dashboard.tables import cell

APP = ROOT / "dashboard" / "app.py"
PAGES = ["runs", "run", "scale", "phenomena"]


def open_page(monkeypatch, folder, page="runs", **query):
    monkeypatch.setenv("JOULESCALE_RUNS_DIR", str(folder))
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    for name, value in query.items():
        app.query_params[name] = value
    app = app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
    return app


def charts(app):
    return [json.loads(element.proto.spec) for element in app.get("vega_lite_chart")]


def texts(app):
    kinds = ("title", "markdown", "caption", "info", "warning", "subheader")
    return "\n".join(element.value for kind in kinds for element in app.get(kind))


def runs_in(folder):
    """The folders of the runs, oldest first."""
    return sorted(path.parent for path in folder.glob("*/run.json"))


@pytest.fixture
def some_runs(smoke_runs, tmp_path):
    """A copy of the smoke sweep that a test may damage."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke_runs, folder)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_folder_says_which_command_fills_it(monkeypatch, tmp_path, page):
    app = open_page(monkeypatch, tmp_path, page)
    assert "There are no runs in" in app.info[0].value
    assert app.code[0].value == f"joulescale sweep lm --preset cpu --runs-dir {tmp_path}"


@pytest.mark.parametrize("page", PAGES)
def test_a_missing_folder_says_which_command_fills_it(monkeypatch, tmp_path, page):
    app = open_page(monkeypatch, tmp_path / "none", page)
    assert "There is no runs folder" in app.info[0].value
    assert app.code[0].value.startswith("joulescale sweep lm --preset cpu")


def test_runs_shows_two_charts_and_a_row_for_each_run(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs)
    assert len(charts(app)) == 2
    table = app.dataframe[0].value
    assert sorted(table["run"]) == [run.name for run in runs_in(smoke_runs)]
    assert set(table["status"]) == {"finished"}


def test_of_very_many_runs_the_newest_are_shown_and_others_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "MOST_ROWS", 2)
    monkeypatch.setattr(limits, "MOST_POINTS", 2)
    for name in ("first", "second", "third"):
        scripted_run(tmp_path, name=name)
    app = open_page(monkeypatch, tmp_path)
    assert "2 of 3 runs, the newest, are shown." in texts(app)
    assert "Charts draw every 2nd of the 3 points." in texts(app)
    assert len(app.dataframe[0].value) == 2
    app = app.text_input(key="runs_find").input("first").run()
    assert app.dataframe[0].value["run"].to_list() == ["first"]
    app = open_page(monkeypatch, tmp_path, "scale")
    assert "2 of 3 points are shown." in texts(app)


def test_a_run_that_is_added_shows_up(monkeypatch, some_runs):
    run = runs_in(some_runs)[0]
    app = open_page(monkeypatch, some_runs)
    before = len(app.dataframe[0].value)
    shutil.copytree(run, some_runs / "one-more")
    assert len(app.run().dataframe[0].value) == before + 1


def test_a_run_shows_its_metrics_charts_and_reasons(monkeypatch, smoke_runs):
    run_id = runs_in(smoke_runs)[0].name
    app = open_page(monkeypatch, smoke_runs, "run", run=run_id)
    assert app.title[0].value == plain(run_id)
    shown = {metric.label: metric.value for metric in app.metric}
    assert list(shown) == [
        "Energy",
        "Energy per token",
        "Throughput",
        "MFU",
        "Peak memory",
        "Emissions (CO2e)",
    ]
    assert "±" in shown["Energy"]
    assert shown["Energy"].endswith("J")
    assert shown["Emissions (CO2e)"] == "unknown"
    assert len(charts(app)) >= 5
    assert "no country is assumed" in texts(app).replace("\\", "")


def test_a_run_says_what_the_numbers_say_and_what_to_try(monkeypatch, tmp_path):
    waiting_run(tmp_path, steps=40, data_s=0.2)
    shown = texts(open_page(monkeypatch, tmp_path, "run")).replace("\\", "")
    assert "Data-bound: 50% of the step time" in shown
    assert "Try first: more DataLoader workers" in shown


def test_a_country_turns_joules_into_emissions(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs, "run")
    app.sidebar.selectbox(key="factors_country").select("FRA").run()
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Emissions (CO2e)"].endswith("g")


def test_the_address_names_a_run_by_the_list_only(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs, "run", run="../../etc")
    assert "There is no run named" in app.warning[0].value
    newest = runs_in(smoke_runs)[-1].name
    assert app.title[0].value == plain(newest)


def test_a_damaged_part_is_named_and_the_rest_is_shown(monkeypatch, some_runs):
    run = runs_in(some_runs)[0]
    part = min(run.glob("attempt-*/*/readings-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    app = open_page(monkeypatch, some_runs, "run", run=run.name)
    assert "Files of this run are damaged" in app.warning[0].value
    assert plain(part.name) in app.warning[0].value
    assert charts(app)


def test_other_peoples_text_is_never_markdown(monkeypatch, some_runs):
    run = runs_in(some_runs)[0]
    manifest = json.loads((run / "run.json").read_text())
    manifest["notes"]["evil"] = "![x](http://evil.example/a.png) <script>alert(1)</script>"
    manifest["workload"] = "[lm](http://evil.example)"
    (run / "run.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "checksum"}))
    app = open_page(monkeypatch, some_runs, "run", run=run.name)
    everything = texts(app)
    assert "evil" in everything
    assert "](http" not in everything
    assert not re.search(r"(?<!\\)<", everything)


def test_scale_draws_one_line_a_budget_and_changes_with_its_axes(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs, "scale")
    first = charts(app)[0]["layer"][3]["encoding"]
    assert (first["x"]["title"], first["y"]["title"]) == (
        "Model size (parameters)",
        "Energy per token (J/token)",
    )
    app.selectbox(key="scale_x").select("tokens")
    app.selectbox(key="scale_y").select("loss").run()
    then = charts(app)[0]["layer"][3]["encoding"]
    assert (then["x"]["title"], then["y"]["title"]) == ("Training tokens", "Validation loss (nats/token)")
    assert len(app.dataframe[0].value) > 0


def test_scale_says_why_emissions_cannot_be_drawn(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs, "scale")
    app.selectbox(key="scale_y").select("emissions_g").run()
    assert "Choose a country" in texts(app)
    app.sidebar.selectbox(key="factors_country").select("FRA").run()
    assert charts(app)[0]["layer"][3]["encoding"]["y"]["title"] == "Emissions (gCO2e)"


def test_the_command_line_keeps_streamlit_at_home():
    command = launcher._command(Path("server.py"), Address(host="127.0.0.1", port=8600, token="t0ken"))
    for flag in (
        "--server.address=127.0.0.1",
        "--server.port=8600",
        "--server.allowedHosts=127.0.0.1",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
        "--server.enableStaticServing=false",
        "--server.enableAgentApi=false",
    ):
        assert flag in command
    assert command[1] == "-P"
    assert not any("t0ken" in word for word in command)


def test_a_port_in_use_is_refused_with_another():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen at 127.0.0.1:{port}.*--port {port + 1}"):
            launcher.dashboard(Path("runs"), port)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(InvalidValueError, match="is not within 1 to 65535"):
        launcher.dashboard(Path("runs"), port)


def test_without_streamlit_the_message_names_the_extra(monkeypatch):
    find = launcher.importlib.util.find_spec
    monkeypatch.setattr(
        launcher.importlib.util, "find_spec", lambda name: None if name == "streamlit" else find(name)
    )
    with pytest.raises(UsageError, match=r"needs streamlit.*pip install 'joulescale\[dashboard\]'"):
        launcher.dashboard()


def test_another_package_called_dashboard_is_named(tmp_path):
    (tmp_path / "dashboard").mkdir()
    (tmp_path / "dashboard" / "__init__.py").touch()
    code = "from profiler.cli.dashboard import dashboard; dashboard()"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"Another package of that name comes first: {tmp_path}" in ended.stderr


def test_choosing_another_run_changes_the_page_and_its_address(monkeypatch, smoke_runs):
    first, *_, last = (run.name for run in runs_in(smoke_runs))
    app = open_page(monkeypatch, smoke_runs, "run", run=first)
    app.selectbox(key="run_choice").select(last).run()
    assert app.title[0].value == plain(last)
    assert app.query_params["run"] == last
    assert app.run().title[0].value == plain(last)


SAMPLES = Script(tokens=None, samples=64)


@pytest.fixture(scope="module")
def own_runs(tmp_path_factory):
    """Six trainings of a user's own, one run of lm, and one of two GPUs with everything known: by script."""
    folder = tmp_path_factory.mktemp("own")
    for number in range(6):
        scripted_run(folder, SAMPLES, counters=cpu_only, name=f"own-{number}", facts=RunFacts())
    scripted_run(folder, Script(loss=None), counters=cpu_only, name="no-loss", facts=RunFacts())
    facts = RunFacts(workload="lm", preset="gpu", seed=0, params=1234, carbon=FACTORS)
    peak = Peak(
        flops_per_s=1e11, dtype="bf16", source="datasheet: A", bytes_per_s=1e10, bytes_source="datasheet: A"
    )
    scripted_run(
        folder, Script(budget_after=(5, 10)), counters=gpu_and_cpu, name="measured", facts=facts, peak=peak
    )
    return folder


FACTORS = CarbonFactors(country="FRA", pue=1.2, wue_l_per_kwh=1.8, price_per_kwh=0.3, currency="EUR")


def cards(app):
    return {metric.label: metric.value for metric in app.metric}


def written(dataframe):
    """What the cells of a table show, by column."""
    from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df

    return convert_arrow_bytes_to_pandas_df(dataframe.proto.arrow_data.styler.display_values)


def test_a_run_without_tokens_shows_samples(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "run", run="own-0")
    assert cards(app)["Throughput"] == "80.0 samples/s"
    assert cards(app)["Energy per sample"].endswith("mJ/sample")
    assert "time inside steps only" in texts(app)


def test_tables_write_numbers_as_charts_do_and_sort_them_as_numbers(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs)
    table = app.dataframe[0]
    rows = dict(zip(table.value["run"], written(table).itertuples(), strict=True))
    assert rows["measured"].params == "1.23 k"
    assert rows["measured"].energy_per.endswith(" mJ/token")
    assert rows["own-0"].energy_per.startswith("~ ")
    assert rows["own-0"].energy_per.endswith(" mJ/sample")
    assert rows["own-0"].tokens == "–"
    assert table.value["energy_per"].dtype.kind == "f"
    assert table.value["loss"].dtype.kind == "f"
    assert "emissions" in table.value.columns


def test_columns_of_which_nothing_is_known_are_left_out(monkeypatch, smoke_runs):
    assert "emissions" not in open_page(monkeypatch, smoke_runs).dataframe[0].value.columns


def test_the_main_columns_fit_a_screen_of_1400_pixels(monkeypatch, smoke_runs):
    config = json.loads(open_page(monkeypatch, smoke_runs).dataframe[0].proto.columns)
    order = ("run", "status", "kind", "params", "tokens", "loss", "energy", "energy_per", "mfu", "duration")
    selector, page = 34, 1400 - 250 - 2 * 80
    assert sum(config[name]["width"] for name in order) + selector <= page


def test_damaged_runs_are_marked_in_the_table_and_beneath(monkeypatch, some_runs):
    run = runs_in(some_runs)[0]
    part = min(run.glob("attempt-*/*/readings-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    app = open_page(monkeypatch, some_runs)
    assert "finished, damaged" in set(app.dataframe[0].value["status"])
    assert "1 run has damaged files" in texts(app)


def test_one_run_is_one(monkeypatch, tmp_path):
    scripted_run(tmp_path)
    assert "1 run: 1 finished" in texts(open_page(monkeypatch, tmp_path))


def test_pages_open_on_the_workload_and_not_on_own_trainings(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "scale")
    assert "lm/gpu" in texts(app).replace("\\", "")
    assert app.selectbox(key="scale_kind").options == ["lm/gpu", "own trainings"]
    app.selectbox(key="scale_kind").set_value((None, None))
    app.selectbox(key="scale_x").select("energy_j")
    app.selectbox(key="scale_y").select("loss").run()
    shown = texts(app).replace("\\", "")
    assert "own trainings: 6 runs, 6 points, seed unknown" in shown
    assert "None" not in shown
    assert charts(app)[0]["layer"][3]["encoding"]["y"]["title"] == "Training loss"


def test_kinds_prefer_a_workload_then_many_points():
    own = make_points().with_columns(workload=pl.lit(None, pl.String), preset=pl.lit(None, pl.String))
    few = make_points().head(2).with_columns(preset=pl.lit("gpu"))
    assert largest_kind(pl.concat([own, few, make_points().head(3)])) == ("lm", "cpu")
    assert largest_kind(own) == (None, None)
    assert largest_kind(own.clear()) == (None, None)
    assert len(of_kind(pl.concat([own, few]), None, None)) == 18
    assert kind_name((None, None)) == "own trainings"


def test_points_say_what_plus_minus_is_and_what_their_loss_is(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs, "scale")
    assert set(app.dataframe[0].value["loss_kind"]) == {"validation"}
    said = texts(app).replace("\\", "")
    assert said.count("± of energy: half its error bar") == 1
    assert said.count("± of val. loss: half its 95 % interval") == 1


def test_a_measured_run_shows_its_devices_compute_and_footprint(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "run", run="measured")
    said = texts(app).replace("\\", "")
    devices = app.dataframe[0]
    assert list(devices.value["source"]) == ["counter", "estimated"]
    assert list(written(devices)["coverage"]) == ["100 %", "100 %"]
    for words in (
        "of 100 GFLOP/s bf16, datasheet",
        "unknown: executed FLOPs",
        "unknown: neither the memory's activity",
        "average; France",
        "WUE 1.8 L/kWh",
        "0.3 EUR/kWh",
        "1.20 (given)",
        "by the error bar of energy only",
    ):
        assert words in said, words


def test_devices_are_told_apart_in_full_with_their_error_bars_beneath(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "run", run="own-0")
    table = next(frame for frame in app.dataframe if "coverage" in frame.value.columns)
    assert written(table)["energy"].str.startswith("~ ").all(), "an estimate has its sign"
    config = json.loads(table.proto.columns)
    letters = len("NVIDIA H100 80GB HBM3 …000002")
    assert config["device"]["width"] >= 8 * letters, "namesakes differ in the end of their names"
    parts = [
        {"component": kind, "uncertainty_source": source}
        for kind, source in (("gpu", "a paper"), ("cpu", "a table"), ("gpu", "a paper"))
    ]
    assert error_bars(parts) == ["Error bar of GPUs: a paper", "Error bar of CPUs: a table"]


def test_whole_numbers_beyond_what_a_browser_counts_are_shown_and_sorted():
    cells = [cell(value, "FLOP") for value in (2.8e16, 3e15)] + [None]
    shown = tables._sortable(cells)
    assert [c and c.text for c in shown] == ["28.0 PFLOP", "3.00 PFLOP", None]
    assert shown[1] < shown[0] < 2**53
    small = [cell(value, "FLOP") for value in (2.8e15, 3e12)]
    assert tables._sortable(small) is small


def test_a_reason_of_several_is_said_once(monkeypatch, tmp_path):
    notes = dict.fromkeys(
        ("efficiency.mfu", "efficiency.hfu", "efficiency.roofline.bound"), "no peak is known"
    )
    scripted_run(tmp_path)
    (run,) = scan_runs(tmp_path)
    summary = summarize(run) | {"notes": notes}
    summary["efficiency"] |= {"mfu": None, "hfu": None}
    summary["efficiency"]["roofline"] |= {"bound": None}
    assert efficiency_rows(summary)["MFU, HFU, Bound by"] == "unknown: no peak is known"


def test_flags_of_a_device_stand_beneath_its_table():
    parts = [
        {"name": "H200", "device": "GPU-a-1111", "host": "a"},
        {"name": "H200", "device": "GPU-b-2222", "host": "a"},
    ]
    assert device_names(parts) == ["H200 …a-1111", "H200 …b-2222"]
    notes = {"energy.components GPU-a-1111 shared": "two others", "energy.components GPU-a-11119": "no"}
    assert flags(parts[0], notes) == ["two others"]
    idle = {"power_w": 70.0, "plus_minus_w": 3.5, "energy_j": 700.0, "share": 0.25}
    assert idle_text(idle).startswith(
        "Idle, before the training: 70.0 ± 3.5 W. Over the training that comes to 700 J, 25.0 %"
    )


def test_a_second_opinion_stands_beside_ours_by_component(monkeypatch, tmp_path):
    opinion = {
        "tool": "codecarbon",
        "version": "3.3.2",
        "duration_s": 4.0,
        "energy_j": 28.0,
        "components": {"cpu": 20.0, "gpu": 0.0, "ram": 8.0},
        "country": "FRA",
        "emissions_g": 0.02,
    }
    scripted_run(tmp_path, Script(second_opinion=opinion), counters=cpu_only)
    app = open_page(monkeypatch, tmp_path, "run")
    table = app.table[0].value.map(lambda text: text.replace("\\", ""))
    cpu, _, memory = table.itertuples(index=False)
    assert tuple(cpu) == ("codecarbon 3.3.2", "CPU", "20.0 J", "~ 16.0 J (estimated)", "+25 %")
    assert tuple(memory)[1:] == ("memory", "8.00 J", "unknown", "–")
    assert "codecarbon 3.3.2 says 28.0 J" in texts(app).replace("\\", "")


@pytest.mark.parametrize(
    ("key", "value"), [("intensity_g_per_kwh", 56.0), ("pue", 1.5), ("wue_l_per_kwh", 2.0)]
)
def test_factors_of_the_sidebar_are_those_of_the_page(monkeypatch, own_runs, key, value):
    app = open_page(monkeypatch, own_runs, "run", run="measured")
    app.sidebar.number_input(key=f"factors_{key}").set_value(value).run()
    said = texts(app).replace("\\", "")
    assert {"intensity_g_per_kwh": "56.0 g/kWh", "pue": "1.50 (given)", "wue_l_per_kwh": "WUE 2 L/kWh"}[
        key
    ] in said


def test_a_price_counts_once_its_currency_is_said(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "run", run="own-0")
    app.sidebar.number_input(key="factors_price_per_kwh").set_value(0.5).run()
    assert not app.exception
    assert "Cost needs a price and its currency." in "".join(c.value for c in app.sidebar.caption)
    app.sidebar.text_input(key="factors_currency").input("CHF").run()
    assert "0.5 CHF/kWh" in texts(app).replace("\\", "")


def test_embodied_carbon_asks_for_its_lifetime(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "run", run="measured")
    app.sidebar.number_input(key="factors_embodied_g").set_value(150_000.0).run()
    assert "Embodied carbon needs the lifetime" in "".join(c.value for c in app.sidebar.caption)
    app.sidebar.number_input(key="factors_lifetime_years").set_value(4.0).run()
    assert "Embodied carbon" in texts(app).replace("\\", "")


def test_legends_lie_beneath_charts_as_wide_as_a_telephone():
    spec = scale_chart(make_points()).to_dict()
    assert boxes._legend_beneath(spec) == 2
    legend = spec["layer"][3]["encoding"]["color"]["legend"]
    assert (legend["orient"], legend["columns"], legend["direction"]) == ("bottom", 3, "horizontal")
    long = utilization_chart(
        make_power().with_columns(name=pl.lit("NVIDIA RTX 6000 Ada Generation"))
    ).to_dict()
    assert boxes._legend_beneath(long) == 2
    assert long["layer"][1]["encoding"]["color"]["legend"]["columns"] == 1


def test_a_lost_run_explains_itself_beneath_its_name(monkeypatch, some_runs):
    run = runs_in(some_runs)[0]
    manifest = json.loads((run / "run.json").read_text())
    began = {"created_at": "2026-01-02T09:00:00+00:00"}
    manifest |= {"status": "running", "heartbeat": "2026-01-02T09:00:41+00:00", **began}
    (run / "run.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "checksum"}))
    app = open_page(monkeypatch, some_runs, "run", run=run.name)
    assert "last sign of life 2026-01-02 09:00:41 UTC" in texts(app).replace("\\", "")


def test_an_odd_last_chart_is_as_wide_as_two(monkeypatch, own_runs):
    app = open_page(monkeypatch, own_runs, "run", run="no-loss")
    widths = [round(column.proto.weight, 2) for column in app.get("column")]
    assert widths.count(1.0) == 1


def test_a_partial_run_says_so_first_and_many_ranks_are_one_row_a_host(monkeypatch, tmp_path):
    run = made_run(tmp_path, world_size=16)
    for rank in range(16):
        made_process(
            run,
            rank,
            world_size=16,
            host=f"node-{rank // 8}",
            boot_id=f"boot-{rank // 8}",
            **({"status": "running", "heartbeat": ago(600)} if rank == 9 else {}),
        )
    page = open_page(monkeypatch, tmp_path, "run", run="made")
    (warning,) = [w.value.replace("\\", "") for w in page.warning if "partial" in w.value]
    assert "Its numbers lack 1 of 16 ranks, in whole or in part: rank 9 on node-1 ended without" in warning
    assert "By rank" in [s.value for s in page.subheader]
    (table,) = [t.value for t in page.dataframe if "who" in t.value.columns]
    assert table["who"].to_list() == ["0-7", "8-15"]
    assert table["status"].to_list() == ["8 finished", "7 finished, 1 lost"]
    runs = open_page(monkeypatch, tmp_path)
    assert plain("sums over ranks are what they were at least (≥)") in texts(runs)


def test_a_run_of_many_attempts_shows_each_and_what_was_lost(monkeypatch, tmp_path):
    first = record(tmp_path, range(1, 11), checkpoint_after=6)
    record(tmp_path, range(7, 13), resumed=point(first, 6), status="finished")
    app = open_page(monkeypatch, tmp_path, "run", run=first.run_dir.name)
    (table,) = [t.value for t in app.dataframe if "went on from" in t.value.columns]
    assert table["steps"].to_list() == ["1 to 10", "7 to 12"]
    lost = "Lost, since the next attempt went on from before: 4 steps"
    assert plain(lost) in texts(app)
    assert sum("lost: done again later" in json.dumps(chart) for chart in charts(app)) == 1


def test_a_training_that_diverged_has_its_page(monkeypatch, tmp_path):
    losses = [1.0] * 30 + [float("inf"), float("nan")] * 5
    waiting_run(tmp_path, steps=40, data_s=0.01, losses=losses)
    app = open_page(monkeypatch, tmp_path, "run")
    assert "where it is not finite it is left out" in texts(app)
    assert "the training loss is" in texts(app), "from which step on stands among what is not known"
