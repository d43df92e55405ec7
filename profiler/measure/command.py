"""A command recorded from outside: all visible GPUs, the processors, and the CPU time of what it started.

There are no steps to be seen from there: the run is one `fit` over the life of the command. Of its arguments only the
number is stored, unless asked for: they may hold secrets, and redaction finds only those that look like one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from profiler.carbon.factors import CarbonFactors
from profiler.measure.guard import Guard
from profiler.measure.probes import GpuWish, open_probes
from profiler.measure.ranks import Place
from profiler.measure.redaction import redact
from profiler.measure.sensors.cpu_time import descendants_time
from profiler.measure.session import RunFacts, Session
from profiler.words import counted

_NO_STEPS = "no steps: exec sees the command from outside"


class CommandRecording:
    """Opens on construction: makes the run's folder, starts sampling.

    Args:
        runs_dir: The runs folder; made if need be.
        command: The program and its arguments.
        name: The run's name; None makes one.
        carbon: As for `RunFacts`.
        store_arguments: Store the arguments, redacted.

    Raises:
        RunsFolderError: The folder cannot be written to.
    """

    def __init__(
        self,
        runs_dir: Path,
        command: Sequence[str],
        *,
        name: str | None,
        carbon: CarbonFactors,
        store_arguments: bool = False,
    ) -> None:
        self._command, self._stores_arguments = command, store_arguments
        self._ending: dict[str, int | None] = {"exit_status": None, "signal": None}
        self._probes = open_probes(
            Place(rank=0, local_rank=0, world_size=1), GpuWish(choice="visible"), of_children=True
        )
        self._session = Session(
            runs_dir,
            RunFacts(
                settings={
                    "program": command[0],
                    "arguments": redact(list(command))[1:] if store_arguments else len(command) - 1,
                    "ending": self._ending,
                },
                carbon=carbon,
                notes={"steps": _NO_STEPS, "mfu": _NO_STEPS, "command": self._told("running")},
            ),
            place=Place(rank=0, local_rank=0, world_size=1),
            probes=self._probes.probes,
            guard=Guard("command"),
            name=name,
        )
        self._session.notes.update(self._probes.notes)

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self._session.run_dir

    def close(self, start_s: float, end_s: float, *, status: int, signal: int | None) -> None:
        """Store the run.

        Args:
            start_s: When the command started, by `time.monotonic`; sensors may have been opened later.
            end_s: When it ended.
            status: Its exit status.
            signal: The signal that ended it, if one did: the run is then `interrupted`.
        """
        session = self._session
        session.sample()
        shift_s = session.now() - time.monotonic()
        cpu_s = descendants_time().read()  # those that live on, in the background, included
        self._ending.update(exit_status=status, signal=signal)
        session.notes["command"] = self._told(f"exit status {status}, {cpu_s:.3g} s of CPU time")
        late_s = -(start_s + shift_s)
        if late_s > 0.0:
            session.notes["start"] = f"the sensors were open {late_s:.2g} s after the command had started"
        note = {"exit_status": status, "signal": signal, "cpu_s": cpu_s}
        session.recorder.mark("fit", start_s + shift_s, end_s + shift_s, note)
        session.close("finished" if signal is None else "interrupted")
        self._probes.close()

    def _told(self, state: str) -> str:
        arguments = counted(len(self._command) - 1, "argument")
        stored = "stored redacted" if self._stores_arguments else "not stored: they may hold secrets"
        return f"{self._command[0]} with {arguments} ({stored}), {state}"
