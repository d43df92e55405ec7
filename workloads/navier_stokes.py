"""Decaying turbulence in two dimensions: the vorticity of a fluid on a periodic square, by a pseudo-spectral method.

    d omega / dt + u . grad omega = nu laplace omega,    u = (d psi / dy, - d psi / dx),    - laplace psi = omega

on [0, 2 pi)^2, of unit density. The velocity is derived from a stream function, so it is free of divergence by
construction. Products are taken on the grid, derivatives between Fourier modes; modes beyond 2/3 of what the grid
holds are cut off, so that no product is aliased (Orszag 1971). Viscosity is integrated exactly, advection by Heun's
method of second order. Fields are float32 of shape (..., n, n), x along the first of the two axes.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def random_vorticity(count: int, n: int, *, rms: float, generator: torch.Generator) -> Tensor:
    """Gaussian fields, (count, n, n), whose modes have an amplitude of K exp(-K^2 / 18): most of it at K = 3.

    Args:
        count: Independent fields.
        n: Points a side.
        rms: Root mean square over all fields.
        generator: Of the random numbers, on the CPU.
    """
    k2, keep = _k2(n), _keep(n)
    shape = k2.sqrt() * torch.exp(-k2 / 18) * keep
    field = _on_grid(torch.fft.rfft2(torch.randn(count, n, n, generator=generator)) * shape, n)
    return field * (rms / _rms_of(shape, n))


def evolve(vorticity: Tensor, *, viscosity: Tensor | float, time: float, dt: float) -> Tensor:
    """The fields after some time.

    Args:
        vorticity: Of shape (..., n, n).
        viscosity: nu, one for all or of a shape that broadcasts to (..., 1, 1).
        time: To go on by; a whole number of steps is taken.
        dt: Longest step. Its error is of second order; u dt must stay well below 2 pi / n.
    """
    n, steps = vorticity.shape[-1], math.ceil(time / dt - 1e-9)
    h = time / max(steps, 1)
    decay = torch.exp(-viscosity * _k2(n).to(vorticity) * h)
    modes = torch.fft.rfft2(vorticity)
    for _ in range(steps):
        before = advection(modes, n)
        guess = decay * (modes + h * before)
        modes = decay * (modes + h / 2 * before) + h / 2 * advection(guess, n)
    return _on_grid(modes, n)


def transformed(fields: Tensor, generator: torch.Generator) -> Tensor:
    """Fields that the same fluid could have: shifted, turned, and mirrored, which turns every eddy's sense."""
    count, n = len(fields), fields.shape[-1]
    shift = torch.randint(n, (2, count, 1), generator=generator).to(fields.device)
    places = (torch.arange(n, device=fields.device) + shift) % n
    each = torch.arange(count, device=fields.device)[:, None, None]
    moved = fields[each, places[0][:, :, None], places[1][:, None, :]]
    turns, mirrors = torch.randint(4, (2,), generator=generator).tolist()
    turned = torch.rot90(moved, turns, (1, 2))
    return -turned.flip(2) if mirrors % 2 else turned


def advection(modes: Tensor, n: int) -> Tensor:
    """- u . grad omega, as modes, of the modes of omega."""
    u, v = _velocity(modes, n)
    ix, iy = (1j * k.to(modes.device) for k in _k(n))
    along = u * _on_grid(ix * modes, n) + v * _on_grid(iy * modes, n)
    change: Tensor = -_keep(n).to(modes.device) * torch.fft.rfft2(along)
    return change


def velocity(vorticity: Tensor) -> tuple[Tensor, Tensor]:
    """Both components of u, of the shape of the vorticity; its mean is 0."""
    return _velocity(torch.fft.rfft2(vorticity), vorticity.shape[-1])


def energy(vorticity: Tensor) -> Tensor:
    """Mean of u^2 / 2 over each square, of shape (...)."""
    u, v = velocity(vorticity)
    return (u.square() + v.square()).mean(dim=(-2, -1)) / 2


def enstrophy(vorticity: Tensor) -> Tensor:
    """Mean of omega^2 / 2 over each square, of shape (...)."""
    return vorticity.square().mean(dim=(-2, -1)) / 2


def spectrum(vorticity: Tensor) -> Tensor:
    """Enstrophy by wave number, of shape (..., n / 2): shell k = 1 .. n / 2 holds the modes within 1/2 of k.

    The shells add up to the enstrophy, but for the mean and for the corners beyond the last.
    """
    n = vorticity.shape[-1]
    power = torch.fft.fft2(vorticity).abs().square() / (2 * n**4)
    k = torch.fft.fftfreq(n, 1 / n, device=vorticity.device)
    shell = (k[:, None].square() + k.square()).sqrt().round().long().flatten()
    shells = torch.zeros(*power.shape[:-2], int(shell.max()) + 1, device=power.device, dtype=power.dtype)
    return shells.index_add(-1, shell, power.flatten(-2))[..., 1 : n // 2 + 1]


def _on_grid(modes: Tensor, n: int) -> Tensor:
    values: Tensor = torch.fft.irfft2(modes, s=(n, n))
    return values


def _velocity(modes: Tensor, n: int) -> tuple[Tensor, Tensor]:
    kx, ky = (k.to(modes.device) for k in _k(n))
    k2 = _k2(n).to(modes.device)
    stream = torch.where(k2 > 0, modes / k2.clamp_min(1.0), 0.0)
    return _on_grid(1j * ky * stream, n), _on_grid(-1j * kx * stream, n)


def _rms_of(amplitude: Tensor, n: int) -> float:
    """What white noise of variance 1 becomes when its modes, those of `rfft2`, are multiplied by an amplitude."""
    twice = torch.full((amplitude.shape[-1],), 2.0)
    twice[0] = twice[-1] = 1.0  # the other modes stand for their conjugates too
    return float(((amplitude.square() * twice).sum() / n**2).sqrt())


@functools.cache
def _k(n: int) -> tuple[Tensor, Tensor]:
    """Wave numbers in x and y of the modes of `rfft2`; of no derivative at the one that has no sign."""
    kx, ky = torch.fft.fftfreq(n, 1 / n)[:, None], torch.fft.rfftfreq(n, 1 / n)[None]
    return torch.where(kx.abs() < n / 2, kx, 0.0), torch.where(ky < n / 2, ky, 0.0)


@functools.cache
def _k2(n: int) -> Tensor:
    k2: Tensor = torch.fft.fftfreq(n, 1 / n)[:, None].square() + torch.fft.rfftfreq(n, 1 / n).square()
    return k2


@functools.cache
def _keep(n: int) -> Tensor:
    """1 for modes that products of which are not aliased, 0 for the rest."""
    largest = torch.maximum(torch.fft.fftfreq(n, 1 / n)[:, None].abs(), torch.fft.rfftfreq(n, 1 / n)[None])
    return (largest < n / 3).float()
