"""What asking the sensors costs a training: step time at 1, 10, 50 and 100 Hz over that without."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from gpu_checks.bench import Bench
from profiler.measure.guard import Guard
from profiler.measure.sampler import Sampler

RATES_HZ = (0, 1, 10, 50, 100)
ROUNDS = 6


def effect_on_steps(bench: Bench) -> dict[str, Any]:
    """Ratios of median step times, round by round, each round in another order."""
    step = _Step(bench.device)
    for _ in range(20):
        step()
    ratios: dict[int, list[float]] = {rate: [] for rate in RATES_HZ[1:]}
    without = []
    for number in range(ROUNDS):
        order = RATES_HZ[number % len(RATES_HZ) :] + RATES_HZ[: number % len(RATES_HZ)]
        median_s = {rate: _median_step_s(bench, step, rate) for rate in order}
        without.append(median_s[0])
        for rate in RATES_HZ[1:]:
            ratios[rate].append(median_s[rate] / median_s[0])
    return {
        "step_ms_without": 1e3 * statistics.median(without),
        "ratio": {
            f"{rate} Hz": {
                "median": statistics.median(found),
                "least": min(found),
                "most": max(found),
            }
            for rate, found in ratios.items()
        },
    }


class _Step:
    """A training step of a few hundred small kernels, about 10 ms: the kind that a busy host slows down."""

    def __init__(self, device: torch.device) -> None:
        width, depth = (2048, 24) if device.type == "cuda" else (64, 4)
        layers = [part for _ in range(depth) for part in (torch.nn.Linear(width, width), torch.nn.GELU())]
        self._net = torch.nn.Sequential(*layers).to(device)
        self._optimizer = torch.optim.AdamW(self._net.parameters(), 1e-4)
        self._input = torch.randn(4096 if device.type == "cuda" else 64, width, device=device)
        self._device = device

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        self._net(self._input).square().mean().backward()
        self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _median_step_s(bench: Bench, step: _Step, rate_hz: int) -> float:
    sampler = (
        None
        if rate_hz == 0
        else Sampler(
            bench.probes.probes,
            clock=time.monotonic,
            emit=lambda reading: None,
            on_lost=lambda device, reason: None,
            guard=Guard(),
            period_s=1.0 / rate_hz,
        )
    )
    if sampler:
        sampler.start()
    times, start = [], time.monotonic()
    while time.monotonic() - start < bench.seconds(2.0) or len(times) < 5:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    if sampler:
        sampler.stop()
    return statistics.median(times)
