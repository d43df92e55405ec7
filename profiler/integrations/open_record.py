"""What a training may do with its record while it is open, by whichever integration it was opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from profiler.errors import UnknownNameError
from profiler.measure.guard import Guard, guarded
from profiler.measure.session import Session
from profiler.records import RUN_PHASES, STEP_PHASES, Phase


class OpenRecord:
    """A record that is open while `_session` is there; nothing here raises but for a misspelt phase."""

    _guard: Guard
    _session: Session | None

    @property
    def attempt(self) -> int:
        """Which start of its run this is; 1 while nothing is recorded."""
        return self._session.attempt if self._session else 1

    @guarded("the clock", otherwise=0.0)
    def now(self) -> float:
        """Seconds on the run's clock; 0 while nothing is recorded."""
        return self._session.now() if self._session else 0.0

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Book the time of a block as this phase, not as the one that was open.

        Raises:
            UnknownNameError: There is no such phase.
        """
        if name not in STEP_PHASES + RUN_PHASES:
            raise UnknownNameError("phase", name, STEP_PHASES + RUN_PHASES)
        before = self._guard.call("recording", self._open_phase)
        self._guard.call("recording", self._enter, name)
        try:
            yield
        finally:
            self._guard.call("recording", self._enter, before)

    @guarded("marks")
    def mark(
        self,
        kind: str,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        note: Mapping[str, object] | None = None,
    ) -> None:
        """Store an instant (now, if no time is given) or an interval, with a JSON-able note; reads the sensors."""
        if self._session:
            self._session.sample()
            self._session.recorder.mark(kind, self.now() if start_s is None else start_s, end_s, note)

    def _enter(self, phase: Phase | None) -> None:
        if self._session:
            self._session.recorder.enter(phase)

    def _open_phase(self) -> Phase | None:
        return self._session.recorder.phase if self._session else None
