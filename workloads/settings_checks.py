"""Checks that settings share: each refuses with the value and what to give instead."""

from __future__ import annotations

import math
from typing import Any, get_args

from profiler.errors import InvalidValueError, UnknownNameError


def check_positive(settings: Any, *names: str) -> None:
    """Refuse what is not above 0; None passes.

    Raises:
        InvalidValueError: One is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise InvalidValueError(f"{name} = {value} is not a positive number. Give a positive one.")


def check_not_negative(settings: Any, *names: str) -> None:
    """Refuse what is below 0.

    Raises:
        InvalidValueError: One is.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise InvalidValueError(f"{name} = {value} is negative. Give 0 or more.")


def check_share(settings: Any, *names: str) -> None:
    """Refuse what is no share of a whole.

    Raises:
        InvalidValueError: One is below 0 or above 1.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise InvalidValueError(f"{name} = {value} is no share of a whole. Give a number from 0 to 1.")


def check_choice(settings: Any, **kinds: Any) -> None:
    """Refuse a text that is none of a `Literal`'s.

    Raises:
        UnknownNameError: One is not; the message names the nearest.
    """
    for name, kind in kinds.items():
        if getattr(settings, name) not in get_args(kind):
            raise UnknownNameError(f"value of {name}", getattr(settings, name), get_args(kind))
