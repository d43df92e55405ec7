"""Small words in sentences for people."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its word, in the plural unless it is one.

    Args:
        count: How many.
        one: The words for one.
        many: The words for any other number; by default those for one with an s.

    >>> counted(1, "run"), counted(3, "run"), counted(1, "run has", "runs have")
    ('1 run', '3 runs', '1 run has')
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"
