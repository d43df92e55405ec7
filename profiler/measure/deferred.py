"""Scalars that are still on their way from the GPU: asked for without waiting, collected when they have come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Scalar(Protocol):
    """A number that may not be here yet."""

    def ready(self) -> bool:
        """Whether `value` would return at once."""
        ...

    def value(self) -> float | None:
        """The number; None if there is none."""
        ...


class Now:
    """A number that is here already, or that there is none."""

    def __init__(self, number: float | None) -> None:
        self._number = number

    def ready(self) -> bool:
        """Always."""
        return True

    def value(self) -> float | None:
        """The number."""
        return self._number


class FromGpu:
    """A scalar copied from a CUDA tensor into pinned memory on its own stream's order; never synchronises."""

    def __init__(self, tensor: torch.Tensor) -> None:
        import torch  # a recorder without steps (exec) never loads it

        self._host = torch.empty((), dtype=torch.float32, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()

    def ready(self) -> bool:
        """Whether the copy is done."""
        return bool(self._copied.query())

    def value(self) -> float:
        """The number; only valid once `ready`."""
        return float(self._host)


def scalar_of(value: object) -> Scalar | None:
    """`value` as a scalar that can be collected later; None if it is no single number.

    Args:
        value: A Python number or a tensor with one element, on any device.
    """
    if isinstance(value, int | float):
        return Now(float(value))
    import torch

    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            return None
        if value.is_cuda:
            return FromGpu(value.detach().reshape(()))
        return Now(value.item()) if value.device.type == "cpu" else None
    return None
