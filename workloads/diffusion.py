"""Workload `diffusion`: does denoising improve with the FLOPs of the model, and is what it draws physics?

Transformers of several widths learn to draw the vorticity of decaying turbulence, whose data a solver of ours makes
(`navier_stokes.py`), of three viscosities: the classes. At equal steps, data and noise their losses are compared pair
by pair on held-out fields; the widest then draws samples, whose spectra, energies and enstrophies are those of the
fluid or are not.

Peebles & Xie 2023 (DiT, arXiv 2212.09748), who found that quality follows Gflops. What we change: fields of physics
for latents of images, so that a sample can be held against a law; the loss of v (Salimans & Ho 2022, arXiv 2202.00512)
with a cosine of time for 1000 discrete steps; no FID, which knows photographs only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from profiler.errors import InvalidValueError
from workloads.denoising import Fields, Wiener, draw, make_exam, noised
from workloads.diffusion_transformer import DiT, DiTConfig, dit_params, forward_flops
from workloads.experiment import CommonSettings, Experiment
from workloads.field_pictures import strip_of
from workloads.learning_rate import set_rate, trapezoid
from workloads.navier_stokes import energy, enstrophy, evolve, random_vorticity, spectrum, transformed
from workloads.settings_checks import check_choice, check_positive, check_share
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Verdict, judged, mean_and_half_width

Precision = Literal["32", "bf16"]

HELD_OUT, LEAST_FIELDS, LEAST_SIZES = 256, 512, 3
LEARNT, NEAR_FLOOR, NEAR_REAL = 0.9, 3.0, 0.1
DRAWN = 6
"""Fields in a picture."""

CRITERION = (
    f"of at least {LEAST_SIZES} widths, trained for equal steps on the same fields and noise, each has a lower v-loss"
    f" than the one before, which takes fewer FLOPs: the paired difference over {HELD_OUT} held-out fields, with the"
    " same times and noise for all, has a 95 % interval above 0; and the widest has learnt at least"
    f" {LEARNT} of what the best linear guess, which knows the spectra, gains over none (or there is no verdict)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        grid: Points a side of a field.
        viscosities: Of the fluid, one a class; on the command line joined by `+`.
        rms: Of the vorticity at the beginning, when it is Gaussian.
        time: For which the fluid then moves.
        time_step: Of the solver.
        fields: Made in all; 256 are held out.
        patch: Points a side of a token.
        widths: Of the models, rising; on the command line joined by `+`.
        n_layer: Blocks.
        head_dim: Width of a head.
        lr: Of AdamW without weight decay, at width 64; it falls as the root of the width.
        warmup_steps: Steps in which the rate rises from zero.
        cooldown: Share of the steps over which it falls to zero.
        steps: Updates of each model.
        batch_size: Fields of each, turned, mirrored and shifted at random.
        ema: How much of the averaged weights each update leaves; these are judged.
        noises: Times and noises for each held-out field.
        samples: Fields to draw, over all classes.
        sample_steps: Evaluations of the model for each.
        precision: "32", or "bf16" for autocast.
        compile: Compile the models.
    """

    grid: int = 32
    viscosities: tuple[float, ...] = (0.01, 0.02, 0.05)
    rms: float = 3.0
    time: float = 3.0
    time_step: float = 0.04
    fields: int = 1536
    patch: int = 4
    widths: tuple[int, ...] = (16, 32, 64)
    n_layer: int = 3
    head_dim: int = 16
    lr: float = 5e-3
    warmup_steps: int = 30
    cooldown: float = 0.3
    steps: int = 1000
    batch_size: int = 32
    ema: float = 0.99
    noises: int = 4
    samples: int = 96
    sample_steps: int = 50
    precision: Precision = "32"
    compile: bool = False

    def __post_init__(self) -> None:
        check_positive(
            self, "rms", "time", "time_step", "lr", "steps", "batch_size", "noises", "sample_steps"
        )
        check_choice(self, precision=Precision)
        check_share(self, "cooldown")
        if self.fields < LEAST_FIELDS:
            raise InvalidValueError(
                f"fields = {self.fields} is too few: {HELD_OUT} are held out to judge by, and a model would know the"
                f" rest by heart. Give {LEAST_FIELDS} or more."
            )
        if len(self.widths) < LEAST_SIZES or list(self.widths) != sorted(set(self.widths)):
            raise InvalidValueError(
                f"widths = {'+'.join(map(str, self.widths))} show no order of loss in FLOPs. Give {LEAST_SIZES} or"
                " more, rising, such as 16+32+64."
            )
        if not self.viscosities or min(self.viscosities) <= 0:
            raise InvalidValueError(
                "viscosities must be positive numbers. Give one or more, such as 0.01+0.05."
            )
        if self.samples < 2 * len(self.viscosities):
            raise InvalidValueError(
                f"samples = {self.samples} is too few to compare {len(self.viscosities)} classes with the fluid. Give"
                f" {32 * len(self.viscosities)} or more."
            )
        for width in self.widths:
            self.config(width)

    def config(self, width: int) -> DiTConfig:
        """The shape of one of the models."""
        return DiTConfig(
            grid=self.grid,
            patch=self.patch,
            classes=len(self.viscosities),
            d_model=width,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
        )


def make_fields(settings: DiffusionSettings, seed: int, device: torch.device) -> tuple[Fields, Fields]:
    """Fields to train on and to judge by, each from a beginning of its own."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(settings.fields) % len(settings.viscosities)
    nu = torch.tensor(settings.viscosities, device=device)[kinds.to(device)][:, None, None]
    made = []
    for start in range(0, settings.fields, 256):
        some = nu[start : start + 256]
        first = random_vorticity(len(some), settings.grid, rms=settings.rms, generator=generator).to(device)
        made.append(evolve(first, viscosity=some, time=settings.time, dt=settings.time_step))
    values, kinds = torch.cat(made), kinds.to(device)
    scales = torch.stack(
        [values[kinds == kind].square().mean().sqrt() for kind in range(len(settings.viscosities))]
    )
    fields = Fields(values / scales[kinds][:, None, None], kinds, scales)
    return fields.part(slice(HELD_OUT, None)), fields.part(slice(HELD_OUT))


def lesson(fields: Fields, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch: noised fields, their times, spread evenly over 0 .. 1, their classes, and v."""
    device = fields.values.device
    some = torch.randint(len(fields.values), (count,), generator=generator).to(device)
    times = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    clean = transformed(fields.values[some], generator)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    mixed, v = noised(clean, times.to(device), noise)
    return mixed, times.to(device), fields.kinds[some], v


def train(trial: Trial, arm: Arm, width: int, fields: Fields) -> torch.nn.Module:
    """Train a model; the average of its weights. Fields, times and noise are the same for every width."""
    settings: DiffusionSettings = trial.settings
    config = settings.config(width)
    torch.manual_seed(trial.seed)
    model = DiT(config).to(trial.device)
    averaged = AveragedModel(model, avg_fn=lambda old, new, _: torch.lerp(old, new, 1 - settings.ema))
    if settings.compile:
        model.compile()
    peak = settings.lr * math.sqrt(64 / width)
    optimizer = torch.optim.AdamW(model.parameters(), peak, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(model))
    generator = torch.Generator().manual_seed(trial.seed)
    flops = 3 * settings.batch_size * forward_flops(config)
    rate = partial(trapezoid, steps=settings.steps, warmup=settings.warmup_steps, cooldown=settings.cooldown)
    in_bf16 = torch.autocast(trial.device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    for step in arm.steps(settings.steps):
        with trial.run.phase("data"):
            mixed, times, kinds, v = lesson(fields, settings.batch_size, generator)
        set_rate(optimizer, peak * rate(step))
        with trial.forward(), in_bf16:
            loss = (model(mixed, times, kinds).float() - v).square().mean()
        arm.learn(loss, optimizer, clip=1.0, samples=settings.batch_size, model_flops=flops)
    return averaged.module


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """How the samples of a class compare with the fluid.

    Attributes:
        viscosity: Of the class.
        spectrum_error: `spectrum_error` of the samples.
        floor: That of as many fields of the fluid.
        energy: Mean over that of the fluid.
        enstrophy: Likewise.
    """

    viscosity: float
    spectrum_error: float
    floor: float
    energy: float
    enstrophy: float

    @property
    def holds(self) -> bool:
        """Whether they are nearly what the fluid gives."""
        near = all(abs(ratio - 1) <= NEAR_REAL for ratio in (self.energy, self.enstrophy))
        return near and self.spectrum_error < NEAR_FLOOR * self.floor


def spectrum_error(power: Tensor, real: Tensor) -> float:
    """Root mean square of ln(power / real) over wave numbers, each as heavy as its share of the real enstrophy."""
    error = (power.clamp_min(1e-30) / real.clamp_min(1e-30)).log()
    return float((error.square() * real / real.sum()).sum().sqrt())


def compare(viscosity: float, drawn: Tensor, fluid: Tensor, others: Tensor) -> Physics:
    """Hold fields of one class, in the fluid's units, against its fluid.

    Args:
        viscosity: Of the class.
        drawn: Samples.
        fluid: Fields that were held out.
        others: As many others of the fluid as there are samples.
    """
    real = spectrum(fluid).mean(dim=0)
    return Physics(
        viscosity=viscosity,
        spectrum_error=spectrum_error(spectrum(drawn).mean(dim=0), real),
        floor=spectrum_error(spectrum(others).mean(dim=0), real),
        energy=float(energy(drawn).mean() / energy(fluid).mean()),
        enstrophy=float(enstrophy(drawn).mean() / enstrophy(fluid).mean()),
    )


def judge(
    losses: Mapping[int, Sequence[float]],
    *,
    unguessed: Sequence[float],
    linear: Sequence[float],
    physics: Sequence[Physics],
    costs: Mapping[str, Cost],
) -> Verdict:
    """Hold what was seen against the criterion.

    Args:
        losses: Of each held-out field, by width, rising.
        unguessed: Losses of v = 0.
        linear: Losses of the best linear guess.
        physics: Of the samples of each class.
        costs: Of drawing samples.
    """
    means = {width: sum(of_fields) / len(of_fields) for width, of_fields in losses.items()}
    nothing, spectral = sum(unguessed) / len(unguessed), sum(linear) / len(linear)
    widths, learnt = list(losses), (nothing - means[max(losses)]) / (nothing - spectral)
    checks: dict[str, bool | None] = {
        f"the widest has learnt {LEARNT} of what spectra tell": learnt >= LEARNT or None
    }
    figures: dict[str, float | str | None] = {
        f"v-loss, d_model {width}": mean for width, mean in means.items()
    }
    for small, large in itertools.pairwise(widths):
        gain, half = mean_and_half_width([a - b for a, b in zip(losses[small], losses[large], strict=True)])
        checks[f"the loss falls from d_model {small} to {large}"] = gain - half > 0
        figures[f"paired difference, {small} - {large}"] = gain
        figures[f"half-width of its 95 % interval, {small} - {large}"] = half
    figures |= {
        "v-loss of the best linear guess": spectral,
        "v-loss of no guess": nothing,
        "gain of the widest over that of the linear guess": learnt,
    }
    for one in physics:
        figures[f"spectrum error over that of real fields, nu {one.viscosity}"] = (
            one.spectrum_error / one.floor
        )
        figures[f"energy over real, nu {one.viscosity}"] = one.energy
        figures[f"enstrophy over real, nu {one.viscosity}"] = one.enstrophy
    figures["physics of the samples"] = "holds" if all(one.holds for one in physics) else "trend only"
    return judged(checks if learnt >= LEARNT else dict.fromkeys(checks), figures, costs)


def answer(trial: Trial) -> Verdict:
    """Train every width, compare them, and let the widest draw."""
    settings: DiffusionSettings = trial.settings
    with trial.apart("data"):
        fields, held_out = make_fields(settings, trial.seed, trial.device)
    exam = make_exam(held_out, settings.noises, trial.seed)
    losses: dict[int, list[float]] = {}
    for width in settings.widths:
        config = settings.config(width)
        with trial.arm(f"d_model {width}", params=dit_params(config), d_model=width) as arm:
            model = train(trial, arm, width, fields)
            with trial.apart():
                losses[width] = exam.losses(model).tolist()
            loss, half = mean_and_half_width(losses[width])
            gflops = forward_flops(config) / 1e9
            trial.point(
                "loss", d_model=width, params=dit_params(config), gflops=gflops, loss=loss, half_width=half
            )
    with trial.apart():
        physics, cost = look(trial, model, fields, held_out)
        unguessed, linear = exam.losses(None).tolist(), exam.losses(Wiener(fields)).tolist()
    costs = {f"joules to draw {settings.samples} fields, d_model {settings.widths[-1]}": cost}
    return judge(losses, unguessed=unguessed, linear=linear, physics=physics, costs=costs)


def look(
    trial: Trial, model: torch.nn.Module, fields: Fields, held_out: Fields
) -> tuple[list[Physics], Cost]:
    """Draw samples, and record them beside the fluid."""
    settings: DiffusionSettings = trial.settings
    kinds = torch.arange(settings.samples, device=trial.device) % len(settings.viscosities)
    since_s = trial.now()
    values = draw(model, kinds, settings.grid, steps=settings.sample_steps, seed=trial.seed)
    cost = Cost(windows=[(since_s, trial.now())])
    drawn = replace(held_out, values=values, kinds=kinds)
    noise = replace(drawn, values=torch.randn_like(drawn.values))
    found = []
    for kind, nu in enumerate(settings.viscosities):
        samples, fluid = drawn.of_kind(kind), held_out.of_kind(kind)
        found.append(compare(nu, samples, fluid, fields.of_kind(kind)[: len(samples)]))
        for name, some in (("real", fluid), ("sample", samples), ("noise", noise.of_kind(kind))):
            for k, power in enumerate(spectrum(some).mean(dim=0).tolist(), start=1):
                trial.point("spectrum", kind=name, nu=nu, k=k, power=power)
            if name != "noise":
                picture = strip_of(some[:DRAWN].cpu().numpy(), limit=3 * float(held_out.scales[kind]))
                trial.point("fields", kind=name, nu=nu, png=picture)
    return found, cost


PRESETS = {
    "smoke": DiffusionSettings(
        grid=16,
        time=0.2,
        fields=LEAST_FIELDS,
        widths=(16, 32, 48),
        n_layer=1,
        head_dim=16,
        steps=4,
        noises=1,
        samples=6,
        sample_steps=2,
    ),
    "cpu": DiffusionSettings(threads=2),
    "gpu": DiffusionSettings(  # the widths of DiT-S, -B and -L of the paper, on 256 tokens
        grid=128,
        viscosities=(0.001, 0.002, 0.005),
        time_step=0.01,
        fields=50_000,
        patch=8,
        widths=(384, 768, 1024),
        n_layer=12,
        head_dim=64,
        lr=2.5e-4,
        warmup_steps=1000,
        steps=100_000,
        batch_size=256,
        ema=0.9999,
        samples=768,
        sample_steps=100,
        precision="bf16",
        compile=True,
        accelerator="cuda",
    ),
}

WORKLOAD = Experiment(
    name="diffusion",
    summary="Transformers that draw turbulence: loss against FLOPs, and whether the samples obey the fluid's laws.",
    criterion=CRITERION,
    source="arXiv 2212.09748",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: len(settings.widths) * int(settings.steps),
    flops_formula="fields x 3 x forward: tokens x (12 d^2 + 2 tokens d) a block, and 6 d^2 a block of modulation",
    params=lambda settings: dit_params(settings.config(settings.widths[-1])),
    seeds=3,
    shown_in=3,
    precision=lambda settings: str(settings.precision),
)
