"""Every exception of joulescale.

    JoulescaleError
    ├── UsageError            a person gave something that cannot work: the command exits with status 2
    │   ├── UnknownNameError      a name that does not exist, with the nearest that does
    │   ├── InvalidValueError     a value of the wrong type or out of range
    │   ├── RunsFolderError       the runs folder is a file, read-only, missing or not ours
    │   ├── RunNotFoundError      no such run in the runs folder
    │   └── CorpusError           training text that is missing, empty or not text
    ├── StoredDataError       a stored file is damaged, or of a schema this version cannot read
    └── SensorError           a sensor is missing or refused to answer; measuring goes on without it

A message says what happened with its value, why it matters, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class JoulescaleError(Exception):
    """Base of all errors that joulescale raises on purpose."""


class UsageError(JoulescaleError):
    """Something a person typed or passed cannot work; the message says what to do instead."""


class UnknownNameError(UsageError):
    """A name that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, why: str = "") -> None:
        """Build the message.

        Args:
            kind: What the name was meant to be, such as "workload".
            name: The name as it was given.
            known: The names that exist.
            why: One more sentence, if the list of names does not say enough.
        """
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        guess = f" Did you mean {nearest[0]!r}?" if nearest else ""
        listed = f" Known: {', '.join(names)}." if 0 < len(names) <= 20 else ""
        super().__init__(f"There is no {kind} named {name!r}.{guess}{listed}{' ' + why if why else ''}")
        self.nearest = nearest[0] if nearest else None


class InvalidValueError(UsageError, ValueError):
    """A value of the wrong type or out of its range."""


class RunsFolderError(UsageError):
    """The runs folder cannot be used as one."""


class RunNotFoundError(UsageError):
    """No run of that name in the runs folder."""


class CorpusError(UsageError):
    """The training text is missing, empty or not text."""


class StoredDataError(JoulescaleError):
    """A stored file is damaged, or of a schema that this version cannot read."""


class SensorError(JoulescaleError):
    """A sensor is missing, or refused to answer."""
