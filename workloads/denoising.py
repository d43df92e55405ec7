"""Diffusion: fields with noise, what a model is asked of them, an exam that is the same for all, and drawing.

Time runs from 0, no noise, to 1, nothing else, along a quarter of a circle. A model tells v, the speed along it:
Salimans & Ho 2022 (arXiv 2202.00512), appendix D.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Fields:
    """Vorticity, scaled to a root mean square of 1 in each class.

    Attributes:
        values: Of shape (fields, grid, grid).
        kinds: Class of each, int64 of shape (fields,).
        scales: What 1 stands for in each class, of shape (classes,).
    """

    values: Tensor
    kinds: Tensor
    scales: Tensor

    def part(self, which: slice) -> Fields:
        """Some of them."""
        return replace(self, values=self.values[which], kinds=self.kinds[which])

    def of_kind(self, kind: int) -> Tensor:
        """The fields of a class, in the fluid's units."""
        return self.values[self.kinds == kind] * self.scales[kind]


def noised(fields: Tensor, times: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Fields at times from 0 to 1, and v, which the model is to tell: cos x + sin e, and cos e - sin x."""
    angle = (times * math.pi / 2)[:, None, None]
    return angle.cos() * fields + angle.sin() * noise, angle.cos() * noise - angle.sin() * fields


@dataclass(frozen=True, slots=True)
class Exam:
    """Held-out fields with times and noise that are the same for every model.

    Attributes:
        fields: To be denoised.
        times: Of shape (noises, fields).
        noise: Of shape (noises, fields, grid, grid).
    """

    fields: Fields
    times: Tensor
    noise: Tensor

    def losses(self, guess: nn.Module | None, batch_size: int = 64) -> Tensor:
        """Mean squared error of v for each field; of no guess at all, v = 0, with None."""
        total = torch.zeros(len(self.fields.values), device=self.noise.device)
        for times, noise in zip(self.times, self.noise, strict=True):
            for some in torch.split(torch.arange(len(total), device=total.device), batch_size):
                mixed, v = noised(self.fields.values[some], times[some], noise[some])
                told = guess(mixed, times[some], self.fields.kinds[some]) if guess else torch.zeros_like(v)
                total[some] += (told - v).square().mean(dim=(1, 2))
        return total / len(self.times)


def make_exam(fields: Fields, noises: int, seed: int) -> Exam:
    """Times spread evenly over 0 .. 1 and over the fields."""
    generator = torch.Generator().manual_seed(seed + 1)
    count, device = len(fields.values), fields.values.device
    orders = torch.stack([torch.randperm(count, generator=generator) for _ in range(noises)])
    noise = torch.randn(noises, *fields.values.shape, generator=generator)
    return Exam(fields, ((orders + 0.5) / count).to(device), noise.to(device))


class Wiener(nn.Module):
    """The best guess that is linear in a field: it knows the spectrum of each class, and nothing else.

    For Gaussian fields no model is better; a transformer that is not below it has learnt no more than a spectrum.

    Args:
        fields: Those that the models train on.
    """

    def __init__(self, fields: Fields) -> None:
        super().__init__()
        power = torch.fft.rfft2(fields.values).abs().square()
        self.power = torch.stack(
            [power[fields.kinds == kind].mean(dim=0) for kind in range(len(fields.scales))]
        )

    def forward(self, mixed: Tensor, times: Tensor, kinds: Tensor) -> Tensor:
        """Tell v of noised fields."""
        n = mixed.shape[-1]
        angle = (times * math.pi / 2)[:, None, None]
        power = self.power[kinds]
        share = angle.cos() * power / (angle.cos() ** 2 * power + angle.sin() ** 2 * n**2)
        clean: Tensor = torch.fft.irfft2(torch.fft.rfft2(mixed) * share, s=(n, n))
        v: Tensor = (angle.cos() * mixed - clean) / angle.sin()
        return v


def draw(model: nn.Module, kinds: Tensor, grid: int, *, steps: int, seed: int) -> Tensor:
    """Fields from noise, (samples, grid, grid), by DDIM without new noise (Song et al., arXiv 2010.02502)."""
    x = torch.randn(len(kinds), grid, grid, generator=torch.Generator().manual_seed(seed + 2)).to(
        kinds.device
    )
    angles = torch.linspace(math.pi / 2, 0, steps + 1).tolist()
    for now, then in itertools.pairwise(angles):
        v = model(x, torch.full((len(x),), now * 2 / math.pi, device=x.device), kinds)
        clean, noise = math.cos(now) * x - math.sin(now) * v, math.sin(now) * x + math.cos(now) * v
        x = math.cos(then) * clean + math.sin(then) * noise
    return x
