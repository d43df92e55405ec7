"""A user's function of a batch, in a monitor that may travel to another process: a lambda cannot, the monitor must."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from profiler.errors import InvalidValueError
from profiler.measure.guard import is_the_users


@dataclass(frozen=True, slots=True)
class SentFunction:
    """Calls the user's function. Pickled with the monitor, for a strategy that spawns, it stays behind if it must.

    Attributes:
        argument: Of the monitor, that it was given as.
        function: The user's; None where it stayed behind.
    """

    argument: str
    function: Callable[[Any], Any] | None

    def __call__(self, batch: Any) -> Any:
        """What the user's function says.

        Raises:
            InvalidValueError: It could not be sent to this process.
        """
        if self.function is None:
            raise InvalidValueError(
                f"{self.argument}= is a function that cannot be sent to a process that is spawned, so it is not known"
                " here. Give one that a module defines by name, no lambda"
            )
        return self.function(batch)

    def __deepcopy__(self, memo: dict[int, Any]) -> SentFunction:
        """Functions are not copied, and a copy needs no pickling."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """With the function if it can be pickled."""
        try:
            pickle.dumps(self.function)
            return SentFunction, (self.argument, self.function)
        except BaseException as error:
            if is_the_users(error):
                raise
            return SentFunction, (self.argument, None)
