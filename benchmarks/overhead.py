"""What the monitor costs a training: microseconds of its hooks a step, and step time with it over without.

    python benchmarks/overhead.py [--steps 400] [--rounds 10] [--output benchmarks/results/overhead.json]

A step is made to last about 10 ms of real work (a matrix product). Fits with and without the monitor alternate,
and the ratio of their median step times is taken round by round, so that a machine that drifts does not decide.

`hooks_us_a_step` is all that runs between entering our hooks and leaving them, from the callers' side: two readings of
the clock around each of the six, the announcement of a fetch included. Of that `floor_us_a_step` is what six hooks that
do nothing take in the same place, and `append_us_a_step` what six take that append the time to a queue. Nothing is
subtracted. The fits of the three alternate.
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
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from profiler import EfficiencyMonitor
from profiler.hardware import cpu_power
from profiler.integrations.lightning_fetch import announce_fetches

HOOKS = (
    "_fetch",
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


class Idle(L.Callback):
    """Does nothing in as many hooks as the monitor has in a step, so that what calling them takes is known."""

    def _fetch(self) -> None:
        pass

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            announce_fetches(trainer, self._fetch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        pass

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        pass

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pass

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pass


class Appending(L.Callback):
    """Appends the time to a queue in each hook: the least that a record of phases can be."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, float]] = deque(maxlen=4096)

    def _fetch(self) -> None:
        self._queue.append(("data", time.monotonic()))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._queue.append(("forward", time.monotonic()))
        if batch_idx == 0:
            announce_fetches(trainer, self._fetch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self._queue.append(("backward", time.monotonic()))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._queue.append(("other", time.monotonic()))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._queue.append(("optimizer", time.monotonic()))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._queue.append(("other", time.monotonic()))


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
    hooks, floor, append = _hook_microseconds(products, arguments.steps, arguments.rounds)
    ratios, step_s = _paired_ratios(products, arguments.steps, arguments.rounds)
    result = {
        "command": "python benchmarks/overhead.py",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cpu_power().name}, Python {platform.python_version()}, torch {torch.__version__}",
        "steps_a_fit": arguments.steps,
        "rounds": arguments.rounds,
        "step_ms_without": round(1e3 * step_s, 3),
        "hooks_us_a_step": _quantiles(hooks),
        "append_us_a_step": _quantiles(append),
        "floor_us_a_step": _quantiles(floor),
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


def _hook_microseconds(products: int, steps: int, rounds: int) -> tuple[list[float], ...]:
    """Microseconds of all our hooks together, step by step; the same of hooks that do nothing, and that only append."""
    spent: tuple[list[float], ...] = ([], [], [])
    for _ in range(max(rounds // 2, 1)):
        with tempfile.TemporaryDirectory() as folder:
            for callback, found in zip(
                (EfficiencyMonitor(folder, summary=False), Idle(), Appending()), spent, strict=True
            ):
                timed = _time_hooks(callback)
                _fit(products, steps, [callback])
                found += timed[WARM_UP_STEPS:]
    return spent


def _time_hooks(callback: L.Callback) -> list[float]:
    """Replace a callback's hooks by timed ones; what is returned fills with microseconds a step."""
    spent: list[float] = []
    so_far = [0.0]

    def timed(hook: Callable[..., Any], clock: Callable[[], float]) -> Callable[..., Any]:
        def run(*args: Any) -> None:
            start = clock()
            hook(*args)
            so_far[0] += clock() - start

        return run

    def timed_last(hook: Callable[..., Any], clock: Callable[[], float]) -> Callable[..., Any]:
        def run(*args: Any) -> None:
            start = clock()
            hook(*args)
            spent.append(1e6 * (so_far[0] + clock() - start))
            so_far[0] = 0.0

        return run

    for name in HOOKS:
        wrap = timed_last if name == HOOKS[-1] else timed
        setattr(callback, name, wrap(getattr(callback, name), time.perf_counter))
    return spent


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


def _quantiles(values: list[float]) -> dict[str, float]:
    return {name: round(_quantile(values, q), 1) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


if __name__ == "__main__":
    main()
