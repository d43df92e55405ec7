"""What F21 runs in a network namespace of its own, where only the loopback interface is.

Says on standard output what failed, and which addresses anybody tried to reach.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from fault_rows.door import started

from profiler import open_run, summarize

ROOT = Path(__file__).parents[3]
RUN = "fit"
NOWHERE = "192.0.2.1"
"""An address for documentation: nobody has it."""

_SIOCSIFFLAGS, _IFF_UP_AND_RUNNING = 0x8914, 0x41
_ADDRESS = re.compile(r"\b(?:connect|send\w+)\(.*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"([^\"]+)\"")
_OWN = re.compile(r"127\.|::1$|::ffff:127\.")

_CONNECT = f"import socket; socket.socket().connect_ex(('{NOWHERE}', 80))"
_PAGES = """
import os, sys
os.environ["JOULESCALE_RUNS_DIR"] = sys.argv[1]
from streamlit.testing.v1 import AppTest
app = AppTest.from_file(sys.argv[2], default_timeout=120).run()
for page in ("runs", "run", "scale"):
    app = app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
"""


def main() -> None:
    """Run everything, and say what came of it."""
    folder = Path(sys.argv[1])
    _loopback_up()
    with socket.socket() as probe:
        assert probe.connect_ex((NOWHERE, 80)) == errno.ENETUNREACH, "there is a network after all"
    failed = {}
    for name, command in _commands(folder / "runs").items():
        ended = subprocess.run(
            [*_counted(folder, name), *command], capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            failed[name] = f"{ended.returncode}: {ended.stderr[-300:]}"
    if not summarize(open_run(folder / "runs", RUN))["second_opinions"]:
        failed["run"] = "codecarbon gave no second opinion"
    with started(folder / "runs", *_counted(folder, "dashboard")) as dashboard:
        status, cookie = dashboard.ask(f"/?{dashboard.token}")
        if (status, dashboard.ask("/", Cookie=cookie)[0]) != (303, 200):
            failed["dashboard"] = f"{status} for its own address"
    reached = list(_reached(folder))
    assert ("control", NOWHERE) in reached, "strace did not see the control's connect"
    foreign = [found for found in reached if not _OWN.match(found[1]) and found[0] != "control"]
    own = sum(bool(_OWN.match(address)) for _, address in reached)
    print(json.dumps({"failed": failed, "foreign": foreign, "own": own}))


def _commands(runs: Path) -> dict[str, list[str]]:
    """By name; the control tries to reach somebody, and must be seen."""
    joulescale = [sys.executable, "-m", "profiler.cli.main"]
    where = ["--runs-dir", str(runs)]
    return {
        "control": [sys.executable, "-c", _CONNECT],
        "run": [
            *joulescale,
            "run",
            "lm",
            "--preset",
            "smoke",
            "--name",
            RUN,
            "--second-opinion",
            "codecarbon",
            *where,
        ],
        "exec": [*joulescale, "exec", *where, "--", sys.executable, "-c", "pass"],
        "list": [*joulescale, "list", *where],
        "show": [*joulescale, "show", RUN, "--country", "FRA", *where],
        "scale": [*joulescale, "scale", *where],
        "doctor": [*joulescale, "doctor"],
        "pages": [sys.executable, "-c", _PAGES, str(runs), str(ROOT / "dashboard" / "app.py")],
    }


def _counted(folder: Path, name: str) -> list[str]:
    trace = ["--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
    return ["strace", "-f", "-qq", *trace, "-o", str(folder / f"{name}.strace")]


def _reached(folder: Path) -> Iterator[tuple[str, str]]:
    """Command and address of every attempt to reach somebody by IP."""
    for path in sorted(folder.glob("*.strace")):
        for line in path.read_text(errors="replace").splitlines():
            if found := _ADDRESS.search(line):
                yield path.stem, found[1]


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP_AND_RUNNING))


if __name__ == "__main__":
    main()
