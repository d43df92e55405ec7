"""What a row of the scorecard is: a real fault, in real processes, tried so many times, against a pass line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a row.

    Attributes:
        trials: How often the fault was made.
        passed: How often the pass line held.
        worst: The worst figure that was seen, with its unit and what it is of.
        failures: One sentence for each trial that failed.
    """

    trials: int
    passed: int
    worst: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row.

    Attributes:
        id: As in the scorecard, F1 to F27 and L1 to L5.
        fault: What is done.
        pass_line: What must hold in every trial.
        run: Makes the fault so many times, in a folder of its own, and says what came of it.
        trials: How often in `make faults`.
        quick: How often in `make test`; None leaves it to `make faults`.
        programs: What must be on the PATH.
    """

    id: str
    fault: str
    pass_line: str
    run: Callable[[int, Path], Outcome]
    trials: int
    quick: int | None = None
    programs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The programs that this machine lacks."""
        return [program for program in self.programs if shutil.which(program) is None]
