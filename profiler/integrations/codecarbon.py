"""codecarbon's own tracker beside ours, as a second opinion that is recorded and never mixed with our numbers.

It runs in a process of its own, outside the training's process tree: its threads, its 2 to 3 s of start, its handler
of SIGTERM and its CPU time stay out of the training, and one that hangs is killed. It measures the whole machine (its
default), so a process of its own reads the same. No network: see `codecarbon_child.py`.

It needs a country for every number it makes. Where none is given it gets one, since its joules do not depend on it,
and its emissions are not stored.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from profiler.errors import SensorError, UnknownNameError
from profiler.measure.aside import aside
from profiler.measure.guard import told
from profiler.units import G_PER_KG, J_PER_KWH

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LISTENING_S = 0.2
"""Between two looks at whether anybody still listens to it."""
_NOT_YET = ""
_ANY_COUNTRY = "FRA"
_CHILD = Path(__file__).with_name("codecarbon_child.py")

SECOND_OPINIONS = ("codecarbon",)


def check_second_opinion(name: str | None) -> str | None:
    """Return `name`.

    Raises:
        UnknownNameError: It is no tool that can give one.
    """
    if name is not None and name not in SECOND_OPINIONS:
        raise UnknownNameError("second opinion", name, SECOND_OPINIONS)
    return name


class CodecarbonTracker:
    """codecarbon's tracker in a process of its own, started on construction.

    Args:
        country: ISO 3166 alpha-3 code of the grid, or None: then its emissions are left out.
        command: What to start, before the country; tests put a stand-in here.
        start_timeout_s: How long the start may hold up the fit.
        stop_timeout_s: How long the end may hold up the end of the fit.

    Raises:
        SensorError: It did not start in time, or said why not; its process is gone then.
    """

    def __init__(
        self,
        country: str | None,
        *,
        command: Sequence[str] = (sys.executable, "-P", str(_CHILD)),
        start_timeout_s: float = START_TIMEOUT_S,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        self._country, self._stop_timeout_s = country, stop_timeout_s
        self._said: queue.Queue[str | None] = queue.Queue()
        self._ended = threading.Event()
        self._process = subprocess.Popen(
            [*command, country or _ANY_COUNTRY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the training; and all of it can be killed together
            text=True,
        )
        assert self._process.stdout is not None
        self._listening = aside(partial(self._listen, self._process.stdout))
        try:
            self._next("start", start_timeout_s)
        except SensorError:
            self.close()
            raise

    def stop(self) -> dict[str, Any]:
        """End the tracker; what it says, as stored: joules and grams over its last `duration_s` seconds.

        Raises:
            SensorError: It did not answer in time, or with something else.
        """
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.write(
                    "stop\n"
                )  # not by its end: forked loader workers may hold that open
                self._process.stdin.flush()
            return _stored(self._next("stop", self._stop_timeout_s), self._country)
        finally:
            self.close()

    def close(self) -> None:
        """End its processes, whatever they do."""
        if not self._ended.is_set():  # while its end of the pipe is open, its process group is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=self._stop_timeout_s)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _listen(self, lines: IO[str]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                self._said.put(line)
        self._ended.set()
        self._said.put(None)

    def _line(self) -> str | None:
        """What it said next; None if it says no more."""
        try:
            return self._said.get(timeout=LISTENING_S)
        except queue.Empty:
            return None if self._listening.done() and self._said.empty() else _NOT_YET

    def _next(self, what: str, timeout_s: float) -> Mapping[str, Any]:
        until_s = time.monotonic() + timeout_s
        while (line := self._line()) is _NOT_YET:
            if time.monotonic() > until_s:
                raise SensorError(f"codecarbon did not {what} within {timeout_s:g} s")
        if line is None:
            fault = self._listening.exception() if self._listening.done() else None
            why = f"it could not be heard ({told(fault)})" if fault else "its process ended"
            raise SensorError(f"codecarbon did not {what}: {why}")
        try:
            found: Mapping[str, Any] = json.loads(line)
        except ValueError:
            raise SensorError(f"codecarbon did not {what}: its process said {line.strip()!r}") from None
        if "error" in found:
            raise SensorError(f"codecarbon did not {what}: {found['error']}")
        return found


def _stored(said: Mapping[str, Any], country: str | None) -> dict[str, Any]:
    try:
        return {
            "tool": "codecarbon",
            "version": str(said["version"]),
            "duration_s": float(said["duration_s"]),
            "energy_j": float(said["total_kwh"]) * J_PER_KWH,
            "components": {name: float(kwh) * J_PER_KWH for name, kwh in said["kwh"].items()},
            "country": country,
            "emissions_g": None if country is None else float(said["emissions_kg"]) * G_PER_KG,
            "cpu_model": said["cpu_model"],
            "gpu_model": said["gpu_model"],
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SensorError(f"codecarbon said something else than expected ({error!r})") from None
