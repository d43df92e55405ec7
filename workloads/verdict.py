"""Did the phenomenon show? The answer of a run, by a criterion that was fixed and stored before it began."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Outcome = Literal["shown", "not shown", "can't tell"]
Windows = Sequence[tuple[float, float]]
Figure = float | int | str | bool | None

Z_95 = 1.959963984540054
"""Half-width of a 95 % interval in standard errors of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The windows of time whose joules something took; the joules follow from the record when it is read.

    Attributes:
        windows: Seconds on the run's clock, disjoint.
        is_bound: Whether what was waited for had not come by then (right-censored): it costs more than this.
    """

    windows: Windows
    is_bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """What was paid once so that each later use costs less; after how many uses it has paid, in joules, is read later.

    Attributes:
        paid: The windows in which it was paid, disjoint.
        before: Windows of uses as they were.
        uses_before: How many uses these were.
        after: Windows of uses as they are now.
        uses_after: How many.
    """

    paid: Windows
    before: Windows
    uses_before: int
    after: Windows
    uses_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run showed.

    Attributes:
        outcome: "can't tell" where the run was no test of the criterion.
        reason: Which part of the criterion failed or could not be judged; for "shown", what was seen.
        figures: The numbers that the criterion was held against, by name with unit; None is unknown.
        costs: What of it is priced in joules, by name.
        break_even: What of it may pay for itself, by name with the unit of a use.
    """

    outcome: Outcome
    reason: str
    figures: Mapping[str, Figure]
    costs: Mapping[str, Cost] = field(default_factory=dict)
    break_even: Mapping[str, BreakEven] = field(default_factory=dict)


def judged(
    checks: Mapping[str, bool | None],
    figures: Mapping[str, Figure],
    costs: Mapping[str, Cost] | None = None,
) -> Verdict:
    """The verdict of a criterion that is a list of conditions, all of which must hold.

    Args:
        checks: Each condition in words, and whether it held; None if the run was no test of it.
        figures: As in `Verdict`.
        costs: Likewise.

    >>> judged({"it grew": True, "it shrank": False}, {}).reason
    'not: it shrank'
    """
    unjudged = [words for words, holds in checks.items() if holds is None]
    failed = [words for words, holds in checks.items() if holds is not None and not holds]
    found: tuple[Outcome, str] = ("shown", "; ".join(checks))
    if failed:
        found = ("not shown", "not: " + "; not: ".join(failed))
    elif unjudged:
        found = ("can't tell", "could not be judged: " + "; ".join(unjudged))
    plain = {name: plain_number(value) for name, value in figures.items()}
    return Verdict(outcome=found[0], reason=found[1], figures=plain, costs=costs or {})


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `successes` of `trials` were seen.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22, 209; unlike the normal interval it holds at 0 and 1.

    >>> low, high = wilson(0, 400)
    >>> low == 0.0, round(high, 4)
    (True, 0.0095)
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share")
    share, z2 = successes / trials, Z_95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)


def mean_and_half_width(values: ArrayLike) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval, of independent values; of differences, for pairs.

    Raises:
        ValueError: There are fewer than two.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) < 2:
        raise ValueError("an interval takes two values at least")
    return float(numbers.mean()), float(Z_95 * numbers.std(ddof=1) / math.sqrt(len(numbers)))


def plain_number(value: Any) -> Figure:
    """A figure as JSON has it, also of a tensor or an array of one number; what is not finite is unknown."""
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number
