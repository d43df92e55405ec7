"""The dashboard's pages over no folder, an empty folder and stored runs, without a browser."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_runs import ROOT
from fixtures_scripted import waiting_run

from profiler.cli import dashboard as launcher
from profiler.errors import InvalidValueError, UsageError

pytest.importorskip("streamlit")

from streamlit.testing.v1 import AppTest

from dashboard.plain import plain
from dashboard.server import OwnHostOnly

APP = ROOT / "dashboard" / "app.py"
PAGES = ["runs", "run", "scale"]


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
    assert sorted(table["run_id"]) == [run.name for run in runs_in(smoke_runs)]
    assert set(table["status"]) == {"finished"}


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
    assert "no country is assumed" in app.table[0].value.to_string().replace("\\", "")


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
    assert "Parts of this run are damaged" in app.warning[0].value
    assert plain(part.name) in app.warning[0].value
    assert charts(app)


def test_other_peoples_text_is_never_markdown(monkeypatch, some_runs):
    run = runs_in(some_runs)[0]
    manifest = json.loads((run / "run.json").read_text())
    manifest["notes"]["evil"] = "![x](http://evil.example/a.png) <script>alert(1)</script>"
    manifest["workload"] = "[lm](http://evil.example)"
    (run / "run.json").write_text(json.dumps(manifest))
    app = open_page(monkeypatch, some_runs, "run", run=run.name)
    everything = texts(app) + app.table[0].value.to_string()
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
    assert (then["x"]["title"], then["y"]["title"]) == ("Training tokens", "Loss (nats/token)")
    assert len(app.dataframe[0].value) > 0


def test_scale_says_why_emissions_cannot_be_drawn(monkeypatch, smoke_runs):
    app = open_page(monkeypatch, smoke_runs, "scale")
    app.selectbox(key="scale_y").select("emissions_g").run()
    assert "Choose a country" in texts(app)
    app.sidebar.selectbox(key="factors_country").select("FRA").run()
    assert charts(app)[0]["layer"][3]["encoding"]["y"]["title"] == "Emissions (gCO2e)"


def answer(host, kind="http", port="8501"):
    """What the server's guard answers to a request: its messages, or what the application behind it says."""
    sent = []

    async def app(scope, receive, send):
        sent.append("let through")

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "headers": [] if host is None else [(b"host", h.encode()) for h in host.split(",")],
    }
    asyncio.run(OwnHostOnly(app, port)(scope, None, send))
    return sent


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost:8501", "LOCALHOST:8501"])
def test_own_hosts_are_let_through(host):
    assert answer(host) == ["let through"]
    assert answer(host, "websocket") == ["let through"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8501", "127.0.0.1:8502", "127.0.0.1", None, "localhost:8501,evil.example"],
)
def test_foreign_hosts_are_refused(host):
    assert answer(host)[0]["status"] == 403
    assert answer(host, "websocket")[0]["type"] == "websocket.close"


def test_the_command_line_keeps_streamlit_at_home():
    command = launcher._command(Path("server.py"), 8600)
    for flag in (
        "--server.address=127.0.0.1",
        "--server.port=8600",
        "--server.allowedHosts=127.0.0.1",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
        "--server.enableStaticServing=false",
    ):
        assert flag in command
    assert command[1] == "-P"


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
