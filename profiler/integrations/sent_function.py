"""A user's function of a batch, in a monitor that may travel to another process: a lambda cannot, the monitor must."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from profiler.errors import InvalidValueError


class SentFunction:
    """Calls the user's function. Pickled with the monitor, for a strategy that spawns, it stays behind if it must."""

    def __init__(self, argument: str, function: Callable[[Any], Any] | None) -> None:
        self._argument, self._function = argument, function

    def __call__(self, batch: Any) -> Any:
        """What the user's function says.

        Raises:
            InvalidValueError: It could not be sent to this process.
        """
        if self._function is None:
            raise InvalidValueError(
                f"{self._argument}= is a function that cannot be sent to a process that is spawned, so it is not known"
                " here. Give one that a module defines by name, no lambda"
            )
        return self._function(batch)

    def __deepcopy__(self, memo: dict[int, Any]) -> SentFunction:
        """Functions are not copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """With the function if it can be pickled."""
        try:
            pickle.dumps(self._function)
        except Exception:  # noqa: BLE001 - whatever a user's object does there must not end the launch of a training
            return SentFunction, (self._argument, None)
        return SentFunction, (self._argument, self._function)
