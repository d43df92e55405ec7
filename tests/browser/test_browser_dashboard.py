"""The dashboard in a real Chromium: from the table to a run, to Scale, to another axis; and nobody else gets in."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fixtures_phenomena import experiment_run, play_curves
from fixtures_runs import ROOT

pytestmark = pytest.mark.browser

CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 30_000


def missing(reason):
    if os.environ.get("JOULESCALE_REQUIRE") == "all":
        pytest.fail(f"JOULESCALE_REQUIRE=all, but {reason}")
    pytest.skip(reason)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def asked(port, path="/", **headers):
    """The answer to one request: its status and its cookie, if it gives one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, (answer.getheader("Set-Cookie") or "").partition(";")[0]


def wait_until_up(server, port):
    for _ in range(300):
        assert server.poll() is None, f"the dashboard ended with status {server.returncode}"
        try:
            return asked(port)
        except OSError:
            time.sleep(0.1)
    pytest.fail("the dashboard did not answer within 30 s")


def start(runs_dir, port):
    """The server, and the address that it printed."""
    command = [sys.executable, "-m", "profiler.cli.main", "dashboard", "--runs-dir", str(runs_dir)]
    server = subprocess.Popen(
        [*command, "--port", str(port)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    printed = ""
    while not (found := re.search(r"http://\S+", printed)):
        line = server.stdout.readline()
        assert line, f"the dashboard ended after saying {printed!r}"
        printed += line
    wait_until_up(server, port)
    return server, found[0]


@pytest.fixture(scope="module")
def some_runs(smoke_runs, tmp_path_factory):
    """The smoke sweep, and two experiments that are older."""
    folder = tmp_path_factory.mktemp("browser") / "runs"
    for day, workload in enumerate(("diffusion", "gates"), 1):
        run = experiment_run(folder, partial(play_curves, workload), name=workload, workload=workload)
        manifest = json.loads((run.path / "run.json").read_text())
        dated = {**manifest, "created_at": f"2020-01-0{day}T00:00:00+00:00"}
        (run.path / "run.json").write_text(json.dumps({k: v for k, v in dated.items() if k != "checksum"}))
    shutil.copytree(smoke_runs, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def address(some_runs):
    """What the command printed, token included."""
    pytest.importorskip("streamlit")
    server, address = start(some_runs, free_port())
    yield address
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=20) == 0


@pytest.fixture(scope="module")
def port(address):
    return urlsplit(address).port


@pytest.fixture(scope="module")
def cookie(address, port):
    """The cookie that the token is worth."""
    status, cookie = asked(port, address.removeprefix(f"http://127.0.0.1:{port}"))
    assert (status, cookie.startswith(f"joulescale-{port}=")) == (303, True)
    return cookie


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        missing("there is no Chromium at /usr/bin/chromium. Install it with: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing("playwright is not installed. Install it with: pip install 'joulescale[dev]'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address, port):
    """A page that was let in, whose every request is remembered: none may leave this machine."""
    page = browser.new_page(viewport={"width": 1440, "height": 1200})
    page.request.get(address)
    page.set_default_timeout(WAIT_MS)
    elsewhere = []
    page.on("request", lambda request: elsewhere.append(request.url))
    yield page
    page.close()
    home = (f"http://127.0.0.1:{port}/", "data:", "blob:")
    assert [url for url in elsewhere if not url.startswith(home)] == []


def chart_words(page):
    """The texts of the first chart, titles of axes among them. Streamlit draws charts as SVG or on a canvas."""
    return page.get_by_test_id("stVegaLiteChart").first.inner_text()


def test_a_click_in_the_table_opens_the_run(page, port, smoke_runs, some_runs):
    page.goto(f"http://127.0.0.1:{port}/")
    table = page.get_by_test_id("stDataFrame")
    table.wait_for()
    page.wait_for_timeout(1500)  # the table is a canvas: it has no element to wait for
    table.click(position={"x": 130, "y": 52})
    page.wait_for_url(re.compile(r"/run\?run="))
    newest = max(path.parent.name for path in smoke_runs.glob("*/run.json"))
    page.get_by_role("heading", name=newest).wait_for()
    page.get_by_text("Energy per token").first.wait_for()
    page.get_by_text("Where the energy went").wait_for()
    assert page.get_by_test_id("stException").count() == 0
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("heading", name="All runs").wait_for()
    page.wait_for_timeout(1000)
    assert "/run?" not in page.url, "going back must not jump to the run again"


def test_scale_changes_with_its_axis(page, port):
    page.goto(f"http://127.0.0.1:{port}/scale")
    page.get_by_text("Energy per token against model size").wait_for()
    page.get_by_role("link", name="Runs").wait_for()
    chart = page.get_by_test_id("stVegaLiteChart")
    chart.wait_for()
    page.wait_for_timeout(1500)
    before = chart.screenshot()
    page.get_by_role("combobox", name="Up").click()
    page.get_by_role("option", name="Loss").click()
    page.get_by_text("Validation loss against model size").wait_for()
    page.wait_for_timeout(1500)
    assert chart.screenshot() != before


def test_points_can_be_downloaded(page, port):
    page.goto(f"http://127.0.0.1:{port}/scale")
    with page.expect_download() as waiting:
        page.get_by_test_id("stDownloadButton").get_by_role("button").click()
    header = Path(waiting.value.path()).read_text().splitlines()[0]
    assert header.startswith("run_id,workload,preset,seed,params,budget_tokens")


def test_an_experiment_is_chosen_in_the_table_and_drawn_against_joules(page, port):
    page.goto(f"http://127.0.0.1:{port}/phenomena")
    page.get_by_role("heading", name="gates/cpu").wait_for()
    page.get_by_text("What it can do at each gate").wait_for()
    table = page.get_by_test_id("stDataFrame").first
    page.wait_for_timeout(1500)  # the table is a canvas: it has no element to wait for
    table.click(position={"x": 130, "y": 87})
    page.get_by_role("heading", name="diffusion/cpu").wait_for()
    page.get_by_text("Vorticity fields").wait_for()
    page.get_by_role("combobox", name="Experiment").click()
    page.get_by_role("option", name="gates/cpu").click()
    page.get_by_role("heading", name="gates/cpu").wait_for()
    page.get_by_text("Joules", exact=True).click()
    page.get_by_text("energy is estimated from CPU time, not measured").first.wait_for()
    assert page.get_by_test_id("stException").count() == 0


def test_an_address_with_a_strange_run_shows_the_newest(page, port):
    page.goto(f"http://127.0.0.1:{port}/run?run=..%2F..%2Fetc")
    page.get_by_text("There is no run named ../../etc in this runs folder").wait_for()


def test_the_printed_address_opens_the_page_and_the_token_leaves_the_address_bar(browser, address, port):
    page = browser.new_page()
    refused = []
    page.on(
        "console",
        lambda message: refused.append(message.text) if "Content Security" in message.text else None,
    )
    page.goto(address)
    page.get_by_role("heading", name="All runs").wait_for(timeout=WAIT_MS)
    assert page.url.startswith(f"http://127.0.0.1:{port}/")
    assert "token" not in page.url
    page.close()
    assert refused == []


PATHS = [
    "/",
    "/scale",
    "/_stcore/health",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/media/x.png",
    "/static/x.js",
]


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_told(port, path):
    here = f"127.0.0.1:{port}"
    assert asked(port, path, Host=here) == (403, "")
    assert asked(port, f"{path}?token=guessed", Host=here) == (403, "")
    assert asked(port, path, Host=here, Cookie=f"joulescale-{port}=guessed") == (403, "")


@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_host_header_is_refused_even_with_the_token(port, address, cookie, path):
    token = urlsplit(address).query
    for host in ("evil.example", f"evil.example:{port}"):
        assert asked(port, f"{path}?{token}", Host=host) == (403, "")
        assert asked(port, path, Host=host, Cookie=cookie) == (403, "")


@pytest.mark.parametrize(
    ("host", "origin", "knows", "status"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", True, 101),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", False, 403),
        ("evil.example:{port}", "http://evil.example:{port}", True, 403),
        ("127.0.0.1:{port}", "http://evil.example", True, 403),
        ("127.0.0.1:{port}", "http://127.0.0.1:1", True, 403),
    ],
)
def test_who_may_open_a_websocket(port, cookie, host, origin, knows, status):
    upgrade = {
        "Host": host.format(port=port),
        "Origin": origin.format(port=port),
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert asked(port, "/_stcore/stream", **upgrade, **({"Cookie": cookie} if knows else {}))[0] == status


def test_no_process_shows_the_token(port, address):
    token = urlsplit(address).query.removeprefix("token=").encode()
    shown = list(shown_by_processes())
    assert any(str(port).encode() in text for text in shown)
    assert [text for text in shown if token in text] == []


def shown_by_processes():
    """Command line and environment of every process, from the kernel."""
    for path in [*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")]:
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def test_nothing_listens_but_loopback(port):
    listening = {address for address, number in listeners() if number == port}
    assert listening == {"0100007F"}, "127.0.0.1, as the kernel writes it"


def listeners():
    """All TCP sockets that listen: address and port, from the kernel's own table."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not Path(table).exists():
            missing(f"there is no {table} on this system")
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, _, number = fields[1].partition(":")
                yield address, int(number, 16)


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_its_end_is_clean_and_leaves_no_server(tmp_path, ending, status):
    pytest.importorskip("streamlit")
    port = free_port()
    server, address = start(tmp_path, port)
    server.send_signal(ending)
    output, _ = server.communicate(timeout=20)
    assert server.returncode == status
    assert address.startswith(f"http://127.0.0.1:{port}/?token=")
    assert "Traceback" not in output
    assert port not in {number for _, number in listeners()}


def test_the_html_of_a_chart_draws_without_a_network(browser, smoke_runs, tmp_path):
    plot = tmp_path / "plot.html"
    command = [sys.executable, "-m", "profiler.cli.main", "scale", "--runs-dir", str(smoke_runs)]
    subprocess.run([*command, "--plot", str(plot)], cwd=ROOT, check=True, capture_output=True)
    page = browser.new_page()
    wanted, errors = [], []
    page.on("request", lambda request: wanted.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(plot.as_uri())
    page.get_by_text("Validation loss against model size").wait_for(timeout=WAIT_MS)
    page.close()
    assert errors == []
    assert [url for url in wanted if not url.startswith(("file:", "data:", "blob:"))] == []
