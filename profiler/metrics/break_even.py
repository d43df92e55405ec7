"""After how many uses has something paid for itself? Joules that were paid once, over joules that each use saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NO_ENERGY = "the joules of a part of it are unknown"
MIXED = "some of its joules are measured and some estimated, which do not divide"
NO_SAVING = "a use costs no less than before"


def break_even(
    paid: Mapping[str, Any],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    uses_before: int,
    uses_after: int,
) -> dict[str, Any]:
    """The number of uses from which on something saves energy.

    Args:
        paid: What it took, with `energy_j`, `plus_minus_j` and `source`.
        before: What `uses_before` uses without it took, likewise.
        after: What `uses_after` uses with it took.
        uses_before: A number of uses.
        uses_after: Likewise.

    Returns:
        `uses`, from `least` to `most` by the error bars at their ends (`most` is null where they leave open whether
        a use saves anything); their `source`; and, where `uses` is null, the `reason`.

    >>> joules = {"plus_minus_j": 0.0, "source": "measured"}
    >>> spent, old, new = ({"energy_j": e, **joules} for e in (900.0, 40.0, 10.0))
    >>> break_even(spent, old, new, uses_before=10, uses_after=10)["uses"]
    300.0
    """
    parts = (paid, before, after)
    if any(part["energy_j"] is None for part in parts):
        return _unknown(NO_ENERGY)
    if len({part["source"] for part in parts}) > 1:
        return _unknown(MIXED)
    saved_j = before["energy_j"] / uses_before - after["energy_j"] / uses_after
    if saved_j <= 0:
        return _unknown(NO_SAVING)
    bar_j = (before["plus_minus_j"] or 0.0) / uses_before + (after["plus_minus_j"] or 0.0) / uses_after
    paid_bar_j = paid["plus_minus_j"] or 0.0
    return {
        "uses": paid["energy_j"] / saved_j,
        "least": max(paid["energy_j"] - paid_bar_j, 0.0) / (saved_j + bar_j),
        "most": (paid["energy_j"] + paid_bar_j) / (saved_j - bar_j) if saved_j > bar_j else None,
        "source": paid["source"],
        "reason": None,
    }


def _unknown(reason: str) -> dict[str, Any]:
    return {"uses": None, "least": None, "most": None, "source": None, "reason": reason}
