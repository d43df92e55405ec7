"""What the monitor costs a training: microseconds of its hooks a step, and step time with it over without.

    python benchmarks/overhead.py [--steps 400] [--rounds 10] [--output benchmarks/results/overhead.json]

A step is made to last about 10 ms of real work (a matrix product). Fits with and without the monitor alternate,
and the ratio of their median step times is taken round by round, so that a machine that drifts does not decide.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from profiler import EfficiencyMonitor
from profiler.hardware import cpu_power

HOOKS = (
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
WARM_UP_STEPS = 20


class MatrixStep(L.LightningModule):
    """A step whose work is `products` matrix products, beside a layer of eight numbers that is trained."""

    def __init__(self, products: int) -> None:
        super().__init__()
        self.net = torch.nn.Linear(8, 8)
        self._products = products
        self._factor = torch.full((256, 256), 1e-3)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        for _ in range(self._products):
            torch.mm(self._factor, self._factor)
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class StepTimes(L.Callback):
    """Seconds from one batch's end to the next."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self.seconds: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        now = time.perf_counter()
        if self._last_s is not None:
            self.seconds.append(now - self._last_s)
        self._last_s = now


def main() -> None:
    """Measure, print, and write the result."""
    arguments = _arguments()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    products = _products_for(0.010)
    hooks = _hook_microseconds(products, arguments.steps)
    ratios, step_s = _paired_ratios(products, arguments.steps, arguments.rounds)
    result = {
        "command": "python benchmarks/overhead.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu_power().name}, Python {platform.python_version()}, torch {torch.__version__}",
        "steps_a_fit": arguments.steps,
        "rounds": arguments.rounds,
        "step_ms_without": round(1e3 * step_s, 3),
        "hooks_us_a_step": {
            q: round(_quantile(hooks, p), 1) for q, p in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        "hooks_share_of_step": round(_quantile(hooks, 0.5) * 1e-6 / step_s, 5),
        "step_time_ratio": {
            "median": round(statistics.median(ratios), 4),
            "least": round(min(ratios), 4),
            "most": round(max(ratios), 4),
        },
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def _products_for(seconds: float) -> int:
    factor = torch.full((256, 256), 1e-3)
    times = [_timed(lambda: torch.mm(factor, factor)) for _ in range(200)]
    return max(round(seconds / statistics.median(times)), 1)


def _hook_microseconds(products: int, steps: int) -> list[float]:
    """Microseconds of all our hooks together, step by step."""
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        monitor = EfficiencyMonitor(folder, summary=False)
        now = [0.0]
        for name in HOOKS:
            setattr(monitor, name, _counting(getattr(monitor, name), now, spent, last=name == HOOKS[-1]))
        _fit(products, steps, [monitor])
    return spent[WARM_UP_STEPS:]


def _counting(
    hook: Callable[..., Any], now: list[float], spent: list[float], *, last: bool
) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> None:
        now[0] += _timed(lambda: hook(*args, **kwargs))
        if last:
            spent.append(1e6 * now[0])
            now[0] = 0.0

    return timed


def _paired_ratios(products: int, steps: int, rounds: int) -> tuple[list[float], float]:
    """Median step time with the monitor over that without, round by round; and the latter's median."""
    ratios, without = [], []
    for number in range(rounds):
        pair = {}
        for with_monitor in (number % 2 == 0, number % 2 == 1):
            with tempfile.TemporaryDirectory() as folder:
                callbacks = [EfficiencyMonitor(folder, summary=False)] if with_monitor else []
                pair[with_monitor] = statistics.median(_fit(products, steps, callbacks)[WARM_UP_STEPS:])
        ratios.append(pair[True] / pair[False])
        without.append(pair[False])
    return ratios, statistics.median(without)


def _fit(products: int, steps: int, callbacks: list[L.Callback]) -> list[float]:
    times = StepTimes()
    L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, times],
    ).fit(MatrixStep(products), DataLoader(TensorDataset(torch.randn(steps, 8)), 1))
    return times.seconds


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
