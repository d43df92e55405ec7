"""A user's function in a monitor that is copied and pickled."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from profiler.errors import InvalidValueError
from profiler.integrations.sent_function import SentFunction


class Unpicklable:
    """Raises what is no `Exception` where it is pickled."""

    def __call__(self, batch: Any) -> int:
        return len(batch)

    def __reduce__(self) -> Any:
        raise GeneratorExit


def test_a_function_with_a_name_travels() -> None:
    assert pickle.loads(pickle.dumps(SentFunction("tokens", len)))([1, 2]) == 2


@pytest.mark.parametrize("function", [lambda batch: len(batch), Unpicklable()], ids=["lambda", "object"])
def test_one_that_cannot_travel_stays_behind_and_says_so(function: Any) -> None:
    sent = SentFunction("tokens", function)
    assert copy.deepcopy(sent)([1, 2]) == sent([1, 2]) == 2
    arrived = pickle.loads(pickle.dumps(sent))
    with pytest.raises(
        InvalidValueError, match="tokens= is a function that cannot be sent to a process that is spawned"
    ):
        arrived([1, 2])
