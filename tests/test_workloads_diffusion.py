"""Diffusion: the model's counts, the fluid's symmetries, an exam that is fair, a sampler that arrives, the verdict."""

from __future__ import annotations

import base64
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler.errors import InvalidValueError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.store.runs import open_run
from profiler.workload import RunRequest
from workloads.denoising import Fields, Wiener, draw, make_exam, noised
from workloads.diffusion import (
    PRESETS,
    WORKLOAD,
    DiffusionSettings,
    Physics,
    compare,
    judge,
    lesson,
    make_fields,
    spectrum_error,
)
from workloads.diffusion_transformer import (
    DiT,
    DiTConfig,
    dit_params,
    forward_flops,
    patches,
    torus_table,
    waves,
    whole,
)
from workloads.navier_stokes import random_vorticity
from workloads.verdict import Cost

CPU = torch.device("cpu")
SHAPES = [
    DiTConfig(grid=32, patch=4, classes=3, d_model=32, n_layer=3, head_dim=32),
    DiTConfig(grid=16, patch=2, classes=2, d_model=64, n_layer=2, head_dim=16),
]


@pytest.mark.parametrize("config", SHAPES)
def test_params_and_flops_are_those_of_the_model(config: DiTConfig) -> None:
    model = DiT(config)
    assert dit_params(config) == sum(parameter.numel() for parameter in model.parameters())
    batch = (torch.randn(5, config.grid, config.grid), torch.rand(5), torch.zeros(5, dtype=torch.int64))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*batch)
    assert counter.get_total_flops() == pytest.approx(5 * forward_flops(config), rel=0.001)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*batch).square().mean().backward()
    assert counter.get_total_flops() == pytest.approx(3 * 5 * forward_flops(config), rel=0.01)


def test_patches_are_squares_and_come_back() -> None:
    fields = torch.arange(2 * 36.0).reshape(2, 6, 6)
    cut = patches(fields, 2)
    assert cut.shape == (2, 9, 4)
    assert cut[0, 1].tolist() == [2, 3, 8, 9]
    assert torch.equal(whole(cut, 2), fields)


def test_a_fresh_model_says_nothing_and_its_blocks_change_nothing() -> None:
    model = DiT(SHAPES[0])
    x = torch.randn(2, 64, 32)
    assert torch.equal(model.blocks[0](x, torch.randn(2, 32), torus_table(8, 32)), x)
    fields, kinds = torch.randn(2, 32, 32), torch.tensor([0, 1])
    assert (model(fields, torch.rand(2), kinds) == 0).all()


def test_a_trained_model_hears_time_and_class() -> None:
    torch.manual_seed(0)
    model = DiT(SHAPES[0]).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    fields = torch.randn(1, 32, 32).expand(4, -1, -1)
    told = model(fields, torch.tensor([0.2, 0.2, 0.7, 0.2]), torch.tensor([0, 1, 0, 0]))
    assert torch.allclose(told[0], told[3], atol=1e-5)
    assert not torch.allclose(told[0], told[1], atol=1e-2)
    assert not torch.allclose(told[0], told[2], atol=1e-2)


def test_a_field_that_is_shifted_by_a_patch_gives_an_answer_that_is_shifted() -> None:
    torch.manual_seed(0)
    model = DiT(SHAPES[0]).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    field, rest = torch.randn(1, 32, 32), (torch.tensor([0.3]), torch.tensor([1]))
    told = model(field, *rest)
    assert torch.allclose(model(field.roll((4, -8), (1, 2)), *rest), told.roll((4, -8), (1, 2)), atol=1e-4)
    swapped = patches(field, 4)[:, [1, 0, *range(2, 64)]]
    assert not torch.allclose(
        patches(model(whole(swapped, 4), *rest), 4)[:, 5], patches(told, 4)[:, 5], atol=1e-3
    )


def test_times_are_told_apart() -> None:
    told = waves(torch.tensor([0.0, 0.001, 0.5, 1.0]))
    assert torch.pdist(told).min() > 0.5


SMALL = DiffusionSettings(grid=16, time=0.2, fields=512)


def test_fields_are_of_their_class_and_held_out_ones_are_others() -> None:
    train, held_out = make_fields(SMALL, 0, CPU)
    assert (len(train.values), len(held_out.values)) == (256, 256)
    for kind in range(3):
        both = torch.cat([part.values[part.kinds == kind] for part in (train, held_out)])
        assert float(both.square().mean()) == pytest.approx(1.0, abs=1e-3)
    assert train.scales[0] > train.scales[1] > train.scales[2]  # the thicker, the slower
    alike = (train.values.flatten(1) @ held_out.values.flatten(1).T / 256).abs()
    assert alike.max() < 0.9
    assert torch.equal(make_fields(SMALL, 0, CPU)[0].values, train.values)
    assert not torch.equal(make_fields(SMALL, 1, CPU)[0].values, train.values)


def test_a_lesson_has_all_times_and_a_sum_that_follows() -> None:
    train, _ = make_fields(SMALL, 0, CPU)
    mixed, times, kinds, v = lesson(train, 64, torch.Generator().manual_seed(0))
    assert mixed.shape == v.shape == (64, 16, 16)
    assert (times.floor() == 0).all()
    assert (times * 64).long().tolist() == list(range(64))
    angle = (times * math.pi / 2)[:, None, None]
    clean = angle.cos() * mixed - angle.sin() * v
    assert float(clean.square().mean()) == pytest.approx(1.0, abs=0.1)
    assert set(kinds.tolist()) == {0, 1, 2}
    alike = (clean.flatten(1) @ train.values.flatten(1).T / 256).abs().amax(dim=1)
    assert (alike > 0.999).float().mean() < 0.1  # shifted and turned, not as they were


def test_noise_and_field_follow_from_what_is_told() -> None:
    x, e, times = torch.randn(3, 8, 8), torch.randn(3, 8, 8), torch.tensor([0.0, 0.4, 1.0])
    mixed, v = noised(x, times, e)
    angle = (times * math.pi / 2)[:, None, None]
    assert torch.allclose(mixed[0], x[0])
    assert torch.allclose(mixed[2], e[2], atol=1e-6)
    assert torch.allclose(angle.cos() * mixed - angle.sin() * v, x, atol=1e-6)
    assert torch.allclose(angle.sin() * mixed + angle.cos() * v, e, atol=1e-6)


class Knowing(nn.Module):
    """Tells the true v of fields that it knows."""

    def __init__(self, fields: Tensor) -> None:
        super().__init__()
        self.fields = fields

    def forward(self, mixed: Tensor, times: Tensor, kinds: Tensor) -> Tensor:
        angle = (times * math.pi / 2)[:, None, None]
        return (angle.cos() * mixed - self.fields) / angle.sin()


def white(count: int = 64) -> Fields:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(count, 16, 16, generator=generator)
    return Fields(values, torch.arange(count) % 2, torch.tensor([2.0, 3.0]))


def test_the_exam_is_the_same_for_all_and_knows_who_knows() -> None:
    fields = white()
    exam = make_exam(fields, 2, seed=0)
    assert exam.losses(Knowing(fields.values), batch_size=64).max() < 1e-4
    nothing = exam.losses(None)
    assert nothing.shape == (64,)
    assert float(nothing.mean()) == pytest.approx(1.0, abs=0.03)
    assert torch.equal(nothing, make_exam(fields, 2, seed=0).losses(None, batch_size=7))
    assert not torch.equal(nothing, make_exam(fields, 2, seed=1).losses(None))
    assert exam.times.mean(dim=1).tolist() == pytest.approx([0.5, 0.5])


def test_the_linear_guess_knows_spectra_only() -> None:
    fields = white(256)
    exam = make_exam(fields, 1, seed=0)
    assert float(exam.losses(Wiener(fields)).mean()) == pytest.approx(
        float(exam.losses(None).mean()), abs=0.02
    )
    smooth = replace(
        fields, values=random_vorticity(256, 16, rms=1.0, generator=torch.Generator().manual_seed(0))
    )
    exam = make_exam(smooth, 1, seed=0)
    linear = exam.losses(Wiener(smooth)).mean()
    assert float(linear) < 0.7
    halved = Wiener(smooth)
    halved.power = halved.power / 4
    assert float(exam.losses(halved).mean()) > float(linear)  # best is best


def test_drawing_arrives_at_the_field_that_is_told() -> None:
    fields = white().values
    assert torch.allclose(draw(Knowing(fields), torch.zeros(64), 16, steps=5, seed=0), fields, atol=1e-4)


def test_a_spectrum_is_compared_by_where_the_enstrophy_is() -> None:
    real = torch.tensor([1.0, 3.0, 0.0])
    assert spectrum_error(real, real) == 0
    assert spectrum_error(2 * real, real) == pytest.approx(math.log(2))
    assert spectrum_error(torch.tensor([2.0, 3.0, 9.0]), real) == pytest.approx(math.log(2) / 2)


def test_fields_of_the_fluid_pass_for_it_and_noise_does_not() -> None:
    fluid, same, others = torch.split(
        random_vorticity(192, 16, rms=2.0, generator=torch.Generator().manual_seed(0)), 64
    )
    assert compare(0.01, same, fluid, others).holds
    found = compare(0.01, 2 * torch.randn(64, 16, 16), fluid, others)
    assert found.spectrum_error > 10 * found.floor
    assert found.energy < 0.7  # white noise has less of it in large eddies
    assert found.enstrophy == pytest.approx(1.0, abs=0.1)
    assert not found.holds


GOOD = Physics(viscosity=0.01, spectrum_error=0.05, floor=0.03, energy=1.02, enstrophy=0.95)
LOSSES = {32: [0.51, 0.61, 0.72, 0.60], 64: [0.50, 0.60, 0.70, 0.59], 128: [0.49, 0.59, 0.69, 0.57]}


def verdict_of(losses: dict[int, list[float]], physics: Physics = GOOD) -> Any:
    costs = {"joules to draw": Cost(windows=[(0.0, 1.0)])}
    return judge(losses, unguessed=[1.0] * 4, linear=[0.57] * 4, physics=[physics], costs=costs)


def test_losses_that_fall_pair_by_pair_are_shown_although_fields_differ_more() -> None:
    verdict = verdict_of(LOSSES)
    assert verdict.outcome == "shown"
    assert verdict.figures["paired difference, 32 - 64"] == pytest.approx(0.0125)
    assert verdict.figures["physics of the samples"] == "holds"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({128: LOSSES[64]}, "not: the loss falls from d_model 64 to 128"),
        ({64: [0.51, 0.60, 0.73, 0.60]}, "not: the loss falls from d_model 32 to 64"),
        ({128: [0.40, 0.40, 0.90, 0.67]}, "not: the loss falls from d_model 64 to 128"),
    ],
)
def test_what_does_not_fall_is_said(change: dict[int, list[float]], reason: str) -> None:
    verdict = verdict_of({**LOSSES, **change})
    assert (verdict.outcome, verdict.reason) == ("not shown", reason)


def test_models_that_know_less_than_a_spectrum_are_no_test() -> None:
    verdict = verdict_of({width: [loss + 0.1 for loss in losses] for width, losses in LOSSES.items()})
    assert verdict.outcome == "can't tell"
    assert verdict.figures["gain of the widest over that of the linear guess"] == pytest.approx(0.315 / 0.43)


@pytest.mark.parametrize(
    "change",
    [{"energy": 0.89}, {"enstrophy": 1.11}, {"spectrum_error": 0.091}],
    ids=lambda change: next(iter(change)),
)
def test_physics_that_fails_is_a_trend_only(change: dict[str, float]) -> None:
    assert verdict_of(LOSSES, replace(GOOD, **change)).figures["physics of the samples"] == "trend only"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": 511}, r"fields = 511 is too few: 256 are held out to judge by.* Give 512 or more."),
        (
            {"widths": (32, 64)},
            r"widths = 32\+64 show no order of loss in FLOPs. Give 3 or more, rising, such as 16",
        ),
        ({"widths": (64, 32, 128)}, r"widths = 64\+32\+128 show no order"),
        (
            {"widths": (32, 40, 64)},
            r"d_model = 40 cannot be cut into heads of head_dim = 16. Give a multiple of 16.",
        ),
        ({"head_dim": 2}, r"head_dim = 2 cannot turn with x and y alike. Give a multiple of 4, such as 16."),
        (
            {"viscosities": (0.01, 0.0)},
            r"viscosities must be positive numbers. Give one or more, such as 0.01\+0.05.",
        ),
        ({"samples": 5}, r"samples = 5 is too few to compare 3 classes with the fluid. Give 96 or more."),
        ({"patch": 5}, r"patch = 5 does not cut a grid of 32 into whole patches. Give a divisor of 32."),
        ({"steps": 0}, r"steps = 0 is not a positive number"),
    ],
)
def test_settings_that_test_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        DiffusionSettings(**change)


def test_the_smoke_preset_goes_the_whole_way(tmp_path: Path) -> None:
    request = RunRequest(
        runs_dir=tmp_path, workload="diffusion", preset="smoke", seed=0, settings=PRESETS["smoke"]
    )
    run = open_run(tmp_path, WORKLOAD.train(request).name)
    found = summarize(run)["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert [arm["facts"]["d_model"] for arm in found["arms"]] == [16, 32, 48]
    assert [arm["facts"]["steps"] for arm in found["arms"]] == [4, 4, 4]
    curves = phenomenon_curves(run)
    assert curves["loss"]["gflops"].is_sorted()
    assert {"params", "half_width"} <= set(curves["loss"].columns)
    assert curves["loss"]["arm"].to_list() == ["d_model 16", "d_model 32", "d_model 48"]
    assert (curves["loss"]["duration_s"] > 0).all()
    assert curves["spectrum"].group_by("kind", "nu").len()["len"].to_list() == [8] * 9
    assert curves["fields"].select("kind", "nu").n_unique() == 6
    assert base64.b64decode(curves["fields"]["png"][0]).startswith(b"\x89PNG")
