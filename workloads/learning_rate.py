"""Learning rates of the experiments."""

from __future__ import annotations

import torch


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameters this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def trapezoid(step: int, steps: int, *, warmup: int, cooldown: float) -> float:
    """Factor of the rate in step 0 .. steps - 1: up from zero, constant, down to zero over the last share of steps.

    >>> [trapezoid(step, 10, warmup=2, cooldown=0.3) for step in (0, 1, 5, 9)]
    [0.5, 1.0, 1.0, 0.25]
    """
    rise = (step + 1) / warmup if warmup else 1.0
    fall = (steps - step) / (round(cooldown * steps) + 1) if cooldown else 1.0
    return min(1.0, rise, fall)
