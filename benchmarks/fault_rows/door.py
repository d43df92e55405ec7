"""F26: who gets at the dashboard: where it listens, by the kernel's table, and whom it answers."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fault_rows.row import Fault, Outcome

_START_S = 60.0
_PATHS = ("/", "/scale", "/_stcore/health", "/_stcore/host-config", "/media/x", "/static/x", "/component/x")
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """A dashboard that runs: its port, and the address that it printed."""

    port: int
    address: str

    @property
    def here(self) -> str:
        """The Host header of its own pages."""
        return f"127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The query that carries the token."""
        return urlsplit(self.address).query

    def ask(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and cookie of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, (answer.getheader("Set-Cookie") or "").partition(";")[0]


@contextmanager
def started(runs_dir: Path, *before: str) -> Iterator[Dashboard]:
    """A dashboard in a process of its own, ended by Ctrl-C; `before` is put before its command."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "profiler.cli.main", "dashboard", "--runs-dir", str(runs_dir)]
    process = subprocess.Popen(
        [*before, *command, "--port", str(port)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        found = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))
        dashboard = Dashboard(port=port, address=found[0])
        _wait_until_up(dashboard)
        yield dashboard
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=30)


def _wait_until_up(dashboard: Dashboard) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            dashboard.ask("/")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"the dashboard did not answer within {_START_S:g} s")


def listening_at(port: int) -> set[str]:
    """The addresses at which anybody listens at a port, as the kernel writes them."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in _table(Path("/proc/net") / name)]
    found = (row[1].split(":") for row in rows if row[3] == "0A")
    return {address for address, number in found if int(number, 16) == port}


def _table(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.exists() else []


def _knock(trials: int, folder: Path) -> Outcome:
    failures, asked = [], 0
    passed = 0
    for _ in range(trials):
        with started(folder) as dashboard:
            wrong, count = _wrong_answers(dashboard)
            if (listening := listening_at(dashboard.port)) != {"0100007F"}:
                wrong.append(f"it listens at {sorted(listening)}")
        asked += count
        failures += wrong
        passed += not wrong
    worst = f"{len(failures)} of {asked} strangers let in; listens at 127.0.0.1 only"
    return Outcome(trials=trials, passed=passed, worst=worst, failures=tuple(failures))


def _wrong_answers(dashboard: Dashboard) -> tuple[list[str], int]:
    """What was answered otherwise than it should be, and how many strangers asked."""
    status, cookie = dashboard.ask(f"/?{dashboard.token}", Host=dashboard.here)
    known = {"Cookie": cookie}
    friends = [
        (f"/?{dashboard.token}", {"Host": dashboard.here}, 303),
        *((path, {"Host": dashboard.here, **known}, 200) for path in ("/", "/_stcore/health")),
        ("/_stcore/stream", _websocket(dashboard.here, f"http://{dashboard.here}") | known, 101),
    ]
    strangers = [(path, headers, 403) for path, headers in _strangers(dashboard, known)]
    wrong = [] if status == 303 and cookie else [f"the token got {status} and no cookie"]
    for path, headers, expected in (*friends, *strangers):
        answer, given = dashboard.ask(path, **headers)
        if answer != expected or (given and expected == 403):
            wrong.append(f"{path} with {headers} got {answer} instead of {expected}")
    return wrong, len(strangers)


def _strangers(dashboard: Dashboard, known: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Requests that must not be answered: path and headers."""
    evil = f"evil.example:{dashboard.port}"
    for path in _PATHS:
        yield path, {"Host": dashboard.here}
        yield f"{path}?token=guessed", {"Host": dashboard.here}
        yield path, {"Host": evil, **known}
        yield f"{path}?{dashboard.token}", {"Host": evil}
    stream = "/_stcore/stream"
    yield stream, _websocket(dashboard.here, f"http://{dashboard.here}")
    yield stream, _websocket(evil, f"http://{evil}") | known
    yield stream, _websocket(dashboard.here, "http://evil.example") | known
    yield stream, _websocket(dashboard.here, "http://127.0.0.1:9") | known


def _websocket(host: str, origin: str) -> dict[str, str]:
    return {**_UPGRADE, "Host": host, "Origin": origin}


ROWS = (
    Fault(
        id="F26",
        fault="the dashboard is asked by foreign hosts, by other pages, without its token",
        pass_line="listens at 127.0.0.1 only; 403 for all of them, websocket and files included",
        run=_knock,
        trials=3,
    ),
)
