"""`joulescale exec`: profile any command from outside. Nothing here may keep the command from running.

It is started as soon as the sensors are open, and after `GRACE_S` in any case; whatever of ours fails is said on
standard error and costs the record only. Heavy libraries are loaded on the thread that opens the sensors.
"""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from profiler.carbon.factors import CarbonFactors
from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.child_process import (
    CommandNotStarted,
    Ending,
    adopt_orphans,
    asked_to_end,
    check_program,
    start,
    take_signals,
    wait,
)
from profiler.cli.options import RunsDir, refuse_taken
from profiler.errors import JoulescaleError, UsageError
from profiler.measure.aside import aside
from profiler.store.folder import check_run_name

if TYPE_CHECKING:
    from profiler.measure.command import CommandRecording

GRACE_S = 2.0
"""Seconds that the command waits for its sensors: opening them takes a quarter of that, unless something hangs."""

LAST_CHANCE_S = 2.0
"""Seconds for sensors that are still being opened when the command ends."""


@with_carbon
def exec_command(
    carbon: CarbonOptions,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="CMD...", help="The command and its arguments, best after '--'."),
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    name: Annotated[
        str | None, typer.Option(help="Name of the run; made from the time if none is given.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing at the end.")] = False,
    store_arguments: Annotated[
        bool,
        typer.Option(
            "--store-arguments",
            help="Store the command's arguments with the run, without those that look like secrets.",
        ),
    ] = False,
) -> None:
    """Profile any command: energy of all visible GPUs and of the processors, from its start to its end.

    Its input, output, terminal, signals and exit status are its own. Start it once a node: exec -- torchrun train.py
    """
    mask = take_signals()  # first of all, before there is any thread
    if not command:
        raise UsageError(
            "exec was given no command, so there is nothing to run. Write it as 'joulescale exec -- python train.py'."
        )
    factors = carbon.factors()
    if name is not None:
        check_run_name(name)
        with suppress(OSError):  # a folder that we may not look into costs the record, not the command
            refuse_taken(runs_dir, name)
    try:
        check_program(command[0])
    except CommandNotStarted as refusal:
        _say(str(refusal))
        raise typer.Exit(refusal.status) from None
    recording = _Recording(lambda: _open(runs_dir, command, name, factors, store_arguments))
    recording.wait()
    start_s = time.monotonic()
    ending = _run(command, mask)
    recording.store(start_s, time.monotonic(), ending)
    if recording.run_dir is not None and not quiet:
        _say_summary(runs_dir, recording.run_dir.name)
    raise typer.Exit(ending.status)


def _open(
    runs_dir: Path, command: Sequence[str], name: str | None, carbon: CarbonFactors, store_arguments: bool
) -> CommandRecording:
    from profiler.measure.command import CommandRecording

    return CommandRecording(runs_dir, command, name=name, carbon=carbon, store_arguments=store_arguments)


@final
class _Recording:
    """A recording that may be open, still opening, or failed; the command does not care which.

    Attributes:
        run_dir: Where the run was stored; None before, and if it could not be.
    """

    def __init__(self, opens: Callable[[], CommandRecording]) -> None:
        """Open it on a thread of its own."""
        self.run_dir: Path | None = None
        self._opening = aside(opens)
        self._failed = False

    def wait(self) -> None:
        """Give it a moment to open, and say so if it fails; what takes longer goes on beside the command."""
        wait_for([self._opening], timeout=GRACE_S)
        if self._opening.done() and (error := self._opening.exception()):
            self._fail(error)

    def store(self, start_s: float, end_s: float, ending: Ending) -> None:
        """Store the run of a command that lived from `start_s` to `end_s` by `time.monotonic`."""
        try:
            recording = self._opening.result(timeout=LAST_CHANCE_S)
            recording.close(start_s, end_s, status=ending.status, signal=ending.signal)
            self.run_dir = recording.run_dir
        except Exception as error:  # noqa: BLE001 - the command's status is told whatever of ours fails
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failed:
            return
        self._failed = True
        reason = str(error) if isinstance(error, JoulescaleError) else f"{type(error).__name__}: {error}"
        if not self._opening.done():
            reason = "The sensors were still not open when the command had ended"
        _say(f"{reason.rstrip('.')}. The command goes unrecorded.")


def _run(command: Sequence[str], mask: set[signal.Signals]) -> Ending:
    """Start the command, and stand by until it ends."""
    if (ending := asked_to_end()) is not None:
        return ending
    adopt_orphans()
    try:
        return wait(start(command, mask))
    except CommandNotStarted as refusal:
        _say(str(refusal))
        return Ending(status=refusal.status, signal=None)


def _say_summary(runs_dir: Path, run_id: str) -> None:
    """One line about a stored run; nothing if it cannot be read."""
    with suppress(JoulescaleError, OSError):
        from profiler.metrics.entries import remember
        from profiler.metrics.summary import summarize
        from profiler.report.quantity import format_quantity
        from profiler.report.terminal import energy_text
        from profiler.store.runs import open_run

        summary = summarize(open_run(runs_dir, run_id))
        energy = energy_text(summary["energy"], summary["energy"]["headline"])
        lasted = format_quantity(summary["duration_s"], "s")
        remember(runs_dir / run_id)
        _say(f"{lasted}, {energy}: joulescale show {run_id} --runs-dir {shlex.quote(str(runs_dir))}")


def _say(sentence: str) -> None:
    with suppress(OSError):  # nobody may be left to hear it
        typer.echo(f"joulescale: {sentence}", err=True)
