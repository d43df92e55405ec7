"""The solver against what is known exactly: decay, a product by hand, what is conserved, what viscosity takes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from workloads.navier_stokes import (
    advection,
    energy,
    enstrophy,
    evolve,
    random_vorticity,
    spectrum,
    transformed,
    velocity,
)

N = 32


def plane() -> tuple[Tensor, Tensor]:
    axis = torch.arange(N) * (2 * math.pi / N)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def turbulence(count: int = 4, rms: float = 3.0) -> Tensor:
    return random_vorticity(count, N, rms=rms, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("k", [1, 3])
def test_a_taylor_green_vortex_decays_as_it_must(k: int) -> None:
    """Vorticity 2 k cos kx cos ky has |wave number|^2 = 2 k^2, and no advection: u falls as exp(-2 nu k^2 t)."""
    x, y = plane()
    first, nu, time = 2 * k * torch.cos(k * x) * torch.cos(k * y), 0.05, 1.3
    u, v = velocity(first)
    assert torch.allclose(u, -torch.cos(k * x) * torch.sin(k * y), atol=1e-5)
    assert torch.allclose(v, torch.sin(k * x) * torch.cos(k * y), atol=1e-5)
    assert float(energy(first)) == pytest.approx(0.25, rel=1e-5)
    assert float(enstrophy(first)) == pytest.approx(k * k / 2, rel=1e-5)
    last, decay = evolve(first, viscosity=nu, time=time, dt=0.02), math.exp(-2 * nu * k**2 * time)
    assert torch.allclose(last, first * decay, atol=1e-4)
    assert float(energy(last)) == pytest.approx(0.25 * decay**2, rel=1e-4)
    assert float(enstrophy(last)) == pytest.approx(k * k / 2 * decay**2, rel=1e-4)


def test_advection_is_what_it_is_by_hand() -> None:
    """Of cos x + cos 2y: u = -sin 2y / 2, v = sin x, so u . grad omega = -3/2 sin x sin 2y."""
    x, y = plane()
    change = torch.fft.irfft2(advection(torch.fft.rfft2(torch.cos(x) + torch.cos(2 * y)), N), s=(N, N))
    assert torch.allclose(change, 1.5 * torch.sin(x) * torch.sin(2 * y), atol=1e-5)


def test_the_velocity_has_no_divergence_and_the_vorticity_as_its_curl() -> None:
    field = turbulence()
    u, v = velocity(field)
    k = torch.fft.fftfreq(N, 1 / N)
    ikx, iky = 1j * k[:, None], 1j * k[None]
    u_modes, v_modes = torch.fft.fft2(u), torch.fft.fft2(v)
    assert (torch.fft.ifft2(ikx * u_modes + iky * v_modes).abs()).max() < 1e-4
    assert torch.allclose(torch.fft.ifft2(ikx * v_modes - iky * u_modes).real, field, atol=1e-4)


def test_without_viscosity_energy_and_enstrophy_stay() -> None:
    first = turbulence()
    last = evolve(first, viscosity=0.0, time=1.0, dt=0.005)
    assert torch.allclose(energy(last), energy(first), rtol=1e-3)
    assert torch.allclose(enstrophy(last), enstrophy(first), rtol=1e-3)
    assert (last - first).abs().mean() > 1.0  # and yet it moved


def test_viscosity_takes_energy_at_twice_nu_times_enstrophy() -> None:
    nu, dt, field = 0.02, 0.01, turbulence()
    before, after = (evolve(field, viscosity=nu, time=1 + change, dt=dt) for change in (-dt, dt))
    middle = evolve(field, viscosity=nu, time=1.0, dt=dt)
    assert torch.allclose((energy(after) - energy(before)) / (2 * dt), -2 * nu * enstrophy(middle), rtol=0.01)


def test_the_step_is_of_second_order() -> None:
    field = turbulence().double()
    exact = evolve(field, viscosity=0.02, time=1.0, dt=0.0025)
    coarse, fine = (
        (evolve(field, viscosity=0.02, time=1.0, dt=dt) - exact).abs().mean() for dt in (0.04, 0.02)
    )
    assert 3.5 < float(coarse / fine) < 5.0


def test_each_field_has_its_own_viscosity() -> None:
    field, nu = turbulence(2), torch.tensor([0.01, 0.05])[:, None, None]
    both = evolve(field, viscosity=nu, time=0.2, dt=0.02)
    assert torch.allclose(both[1], evolve(field[1], viscosity=0.05, time=0.2, dt=0.02), atol=1e-5)


def test_beginnings_have_the_strength_asked_for_and_are_of_their_seed() -> None:
    assert float(turbulence(400).square().mean().sqrt()) == pytest.approx(3.0, rel=0.02)
    assert torch.equal(turbulence(2), turbulence(2))


def test_a_spectrum_has_each_wave_in_its_shell_and_adds_up() -> None:
    x, y = plane()
    shells = spectrum(torch.cos(3 * x) + 2 * torch.cos(4 * x + 3 * y))
    assert shells[2] == pytest.approx(0.25, rel=1e-4)
    assert shells[4] == pytest.approx(1.0, rel=1e-4)
    field = turbulence()
    assert torch.allclose(spectrum(field).sum(dim=1), enstrophy(field), rtol=1e-3)
    assert spectrum(field).shape == (4, N // 2)


def test_what_is_turned_mirrored_and_shifted_moves_as_the_fluid_does() -> None:
    first = random_vorticity(2, 16, rms=3.0, generator=torch.Generator().manual_seed(0))
    for seed in range(8):
        before, after = (
            transformed(field, torch.Generator().manual_seed(seed))
            for field in (first, evolve(first, viscosity=0.02, time=0.5, dt=0.02))
        )
        assert torch.allclose(evolve(before, viscosity=0.02, time=0.5, dt=0.02), after, atol=1e-3)
        assert not torch.allclose(before, first)
