"""A process that has imported everything, and forks a child for each trial: an import takes longer than most faults.

A child's life is that of a script: it runs one function with its output in files of its own, and then ends as the
interpreter ends. `python -m fault_rows.zygote` answers requests on its standard input, one line of JSON each.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended: its status as `waitstatus_to_exitcode` gives it; None: it was killed for taking too long."""

    status: int | None
    stdout: str
    stderr: str


class Child:
    """One trial, under way."""

    def __init__(self, zygote: Zygote, pid: int, folder: Path) -> None:
        self._zygote, self.pid, self._folder = zygote, pid, folder

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 60.0) -> Ended:
        """Wait for its end, as long as it prints something from time to time."""
        until_s, printed = time.monotonic() + timeout_s, 0
        while (status := self._zygote.ask({"wait": self.pid})["status"]) is None:
            if (size := (self._folder / "stdout").stat().st_size) > printed:
                until_s, printed = max(until_s, time.monotonic() + timeout_s), size
            if time.monotonic() > until_s:
                os.kill(self.pid, signal.SIGKILL)
                until_s = float("inf")
            time.sleep(POLL_S)
        return Ended(
            status=None if until_s == float("inf") else status,
            stdout=(self._folder / "stdout").read_text(),
            stderr=(self._folder / "stderr").read_text(),
        )


class Zygote:
    """The process that forks; one serves all rows."""

    def __init__(self) -> None:
        paths = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fault_rows.zygote"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asking = threading.Lock()

    def start(
        self,
        task: str,
        folder: Path,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Run `module:function` with keyword arguments, in a child whose output goes to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stdout").touch()
        (folder / "stderr").touch()
        request = {
            "task": task,
            "folder": str(folder),
            "arguments": arguments,
            "environment": environment or {},
        }
        return Child(self, self.ask(request)["pid"], folder)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            return answer


@functools.cache
def zygote() -> Zygote:
    """The one of this process; it ends when its standard input does."""
    return Zygote()


def _serve() -> tuple[str, dict[str, Any]] | None:
    """Answer until the end; in a child: the task that it is for."""
    answers = os.fdopen(os.dup(1), "w")
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG)
            answer = {"status": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            pid = os.fork()
            if pid == 0:
                answers.close()
                _become(Path(request["folder"]), request["environment"])
                return request["task"], request["arguments"]
            answer = {"pid": pid}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return None


def _become(folder: Path, environment: Mapping[str, str]) -> None:
    """A script of its own: own output, no input."""
    os.environ.update(environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.dup2(descriptor, 0)
    os.close(descriptor)


if __name__ == "__main__":
    import importlib

    from fault_rows import injection

    injection.install()
    import torch

    import profiler.integrations.lightning
    import profiler.metrics.summary  # noqa: F401

    torch.set_num_threads(1)
    if found := _serve():
        module, _, function = found[0].partition(":")
        getattr(importlib.import_module(module), function)(**found[1])
