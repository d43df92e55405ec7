"""Scalars that may still be on their way: asked for without waiting, collected when they have come."""

from __future__ import annotations

from typing import Protocol


class Scalar(Protocol):
    """A number that may not be here yet."""

    def ready(self) -> bool:
        """Whether `value` would return at once."""
        ...

    def value(self) -> float | None:
        """The number; None if there is none."""
        ...


class Scalars(Protocol):
    """Makes scalars of what a training gives as its loss."""

    def later(self, value: object) -> Scalar:
        """`value` as a scalar; nobody may change it any more."""
        ...

    def poll(self, *, last: bool = False) -> None:
        """See what has come, on the training's thread; `last`: nothing will be added any more."""
        ...


class OnHost:
    """A Python number, or a tensor of one element in the host's memory."""

    def __init__(self, value: object) -> None:
        self._value = value

    def ready(self) -> bool:
        """Always."""
        return True

    def value(self) -> float | None:
        """The number; None if it is no single number, or lies on a device."""
        value = self._value
        if value is None or isinstance(value, int | float):
            return value
        import torch  # a recorder without steps (exec) never loads it

        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return None
        return float(value.item()) if value.numel() == 1 and not value.is_complex() else None
