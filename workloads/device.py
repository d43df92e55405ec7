"""Where a workload trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from profiler.errors import InvalidValueError

Accelerator = Literal["cpu", "cuda", "auto"]


def choose_accelerator(wanted: str) -> str:
    """The accelerator to train on: "cpu" or "cuda".

    Raises:
        InvalidValueError: A GPU is asked for, and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        raise InvalidValueError(
            "accelerator = 'cuda', but torch finds no CUDA device here, so the run was not started. "
            "Use '--preset cpu' or '--set accelerator=cpu', or start it on a machine with an NVIDIA GPU."
        )
    return "cuda" if has_cuda and wanted != "cpu" else "cpu"


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Have torch's CPU operators use `count` threads in this block; None leaves torch's own choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
