"""Workload `double-descent`: a larger model is worse, then better. Where, and what was spent past the best step?

One transformer block reads small pictures of ten shapes; a fifth of its training labels are wrong. Over its width, the
error on new pictures falls, rises where the model can just fit every label, the wrong ones too (the interpolation
threshold), and falls again beyond it. With steps in place of width, the error of a wide model may do the same; and the
limit of a random, frozen block with a least-squares readout does it without any training, exactly at as many features
as there are pictures.

Nakkiran et al. 2019 (arXiv 1912.02292), made small: pictures of our own, drawn from the seed, in place of translations;
one block in place of six; the error on new pictures with right labels. Random features: Belkin et al. 2018
(arXiv 1812.11118). No weight decay, and a constant rate to the end, so that the rate is no cause of a second descent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.experiment import CommonSettings, Experiment
from workloads.pictures import (
    CLASSES,
    SIDE,
    Pictures,
    Reader,
    config_of,
    draw_pictures,
    draw_shapes,
    flops_per_picture,
    mislabelled,
    num_parameters,
)
from workloads.settings_checks import check_not_negative, check_positive
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Verdict, Windows, judged

RISE = FALL = 3.0
"""Standard errors by which the peak must stand above what is before and after it."""

INTERPOLATES = 0.02
"""Training error, of labels with noise, from which on a model counts as having fitted them all."""

LEAST_POINTS, LEAST_TEST = 5, 500

CRITERION = (
    "over the widths, by their error on new pictures at the last step: some width is worse than a narrower one by at"
    f" least {RISE:g} standard errors of the difference, and than a wider one by at least {FALL:g}; the narrowest width"
    f" whose training error is at most {INTERPOLATES} is that width or a neighbour of it in the grid"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleDescentSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        widths: Of the residual stream, one model each, narrowest first.
        num_train: Pictures that are trained on, all of them in each step.
        num_test: New pictures.
        label_noise: Share of training labels that are replaced by one of the other classes.
        pixel_noise: Standard deviation of what is added to each pixel; shapes have 1.
        lr: Of Adam, constant.
        max_steps: Of each model.
        evaluations: How often each model is evaluated, evenly over the logarithm of the step.
        features: How many random features are read, one least-squares fit each.
        feature_train: Pictures these are fitted to.
        feature_repeats: Draws of the random block and its pictures, of which the mean is told.
    """

    widths: tuple[int, ...] = (2, 4, 6, 8, 10, 12, 16, 24)
    num_train: int = 800
    num_test: int = 2000
    label_noise: float = 0.2
    pixel_noise: float = 0.3
    lr: float = 3e-3
    max_steps: int = 1000
    evaluations: int = 24
    features: tuple[int, ...] = (8, 16, 32, 48, 64, 80, 96, 112, 120, 128, 136, 144, 160, 192, 256, 384, 512)
    feature_train: int = 128
    feature_repeats: int = 3

    def __post_init__(self) -> None:
        check_positive(self, "num_train", "lr", "max_steps", "feature_train")
        check_not_negative(self, "pixel_noise")
        self._check_grids()
        self._check_counts()
        for width in self.widths:
            config_of(width)

    def _check_grids(self) -> None:
        for name, grid in (("widths", self.widths), ("features", self.features)):
            if len(grid) < LEAST_POINTS or list(grid) != sorted(set(grid)) or grid[0] < 1:
                raise InvalidValueError(
                    f"{name} = {','.join(map(str, grid))} shows no peak: it takes {LEAST_POINTS} or more positive"
                    " numbers that grow, some below the interpolation threshold and some above it. Give such as"
                    f" {name}=2,4,8,16,32."
                )

    def _check_counts(self) -> None:
        if not 0.0 <= self.label_noise < 1 - 1 / CLASSES:
            raise InvalidValueError(
                f"label_noise = {self.label_noise} leaves labels that say nothing about their pictures. Give 0 or more,"
                f" and less than {1 - 1 / CLASSES:g}; double descent is clearest from 0.1 to 0.3."
            )
        if self.num_test < LEAST_TEST:
            raise InvalidValueError(
                f"num_test = {self.num_test}: of so few new pictures an error is known to"
                f" {0.5 / self.num_test**0.5:.2f}, and {RISE:g} times that hides the peak. Give {LEAST_TEST} or more."
            )
        if self.feature_repeats < 2:
            raise InvalidValueError(
                f"feature_repeats = {self.feature_repeats} gives no error bar. Give 2 or more, such as 3."
            )
        if self.evaluations < 2 or len(evaluated_at(self)) < LEAST_POINTS:
            raise InvalidValueError(
                f"evaluations = {self.evaluations} in max_steps = {self.max_steps} steps make a curve of fewer than"
                f" {LEAST_POINTS} points, which shows no peak. Give more of both, such as 24 and 1000."
            )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model after a number of steps; errors are shares, the loss is in nats, both of new pictures but one."""

    step: int
    test_error: float
    train_error: float
    test_loss: float
    trained_until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of one width, and how it came about."""

    width: int
    curve: tuple[Evaluation, ...]
    windows: Windows = ()

    @property
    def end(self) -> Evaluation:
        """After the last step."""
        return self.curve[-1]

    @property
    def best(self) -> Evaluation:
        """Where stopping would have been best; chosen by the error on new pictures, so it flatters."""
        return min(self.curve, key=lambda evaluation: evaluation.test_error)


@dataclass(frozen=True, slots=True)
class Peak:
    """A point of a curve of errors.

    Attributes:
        index: Which.
        rise: How far it is above the lowest point before it, in standard errors of their difference.
        fall: Likewise, after it.
    """

    index: int
    rise: float
    fall: float


def find_peak(errors: Sequence[float], count: int) -> Peak:
    """The inner point that stands out most from both what is before it and what is after it.

    Args:
        errors: At least three, each a share of `count` pictures.
        count: How many pictures the errors are of. Two errors are taken as independent, although they are of the same
            pictures: that is the wider bar.
    """
    peaks = [
        Peak(i, _most_above(errors[i], errors[:i], count), _most_above(errors[i], errors[i + 1 :], count))
        for i in range(1, len(errors) - 1)
    ]
    return max(peaks, key=lambda peak: min(peak.rise, peak.fall))


def _most_above(error: float, others: Sequence[float], count: int) -> float:
    bar = standard_error(error, count)
    return max((error - other) / math.hypot(bar, standard_error(other, count)) for other in others)


def standard_error(error: float, count: int) -> float:
    """Of a share of `count` pictures, never 0: a share of 0 or 1 is taken as half a picture from it."""
    share = min(max(error, 0.5 / count), 1 - 0.5 / count)
    return float((share * (1 - share) / count) ** 0.5)


def over_steps(curve: Sequence[Evaluation], count: int) -> tuple[str, Peak]:
    """What the error of one model did over its steps, smoothed over three evaluations, and where it was worst."""
    errors = [evaluation.test_error for evaluation in curve]
    smooth = [sum(errors[i - 1 : i + 2]) / 3 for i in range(1, len(errors) - 1)]
    peak = find_peak(smooth, count)
    if peak.rise >= RISE and peak.fall >= FALL:
        return "double descent", peak
    rises = max(_most_above(smooth[i], smooth[:i], count) for i in range(1, len(smooth)))
    return "overfits only" if rises >= RISE else "no rise", peak


def judge(models: Sequence[Trained], settings: DoubleDescentSettings) -> Verdict:
    """Hold the models, narrowest first, against the criterion."""
    ends, count = [model.end for model in models], settings.num_test
    peak = find_peak([end.test_error for end in ends], count)
    threshold = next((i for i, end in enumerate(ends) if end.train_error <= INTERPOLATES), None)
    if threshold is None or threshold == 0:
        checks: dict[str, bool | None] = {"the widths lie on both sides of the interpolation threshold": None}
    else:
        checks = {
            f"a width is worse than a narrower one by {RISE:g} standard errors": peak.rise >= RISE,
            f"it is worse than a wider one by {FALL:g}": peak.fall >= FALL,
            "the interpolation threshold is there or at a neighbour": abs(threshold - peak.index) <= 1,
        }
    return judged(checks, _figures(models, peak, threshold, settings), _costs(models))


def _figures(
    models: Sequence[Trained], peak: Peak, threshold: int | None, settings: DoubleDescentSettings
) -> dict[str, float | int | str | None]:
    top, count = models[peak.index], settings.num_test
    stopped = find_peak([model.best.test_error for model in models], count)
    outcome, hump = over_steps(models[-1].curve, count)
    return {
        "width at the peak": top.width,
        "width that first fits every label": None if threshold is None else models[threshold].width,
        "parameters per picture at the peak": num_parameters(top.width) / settings.num_train,
        "test error at the peak": top.end.test_error,
        "lowest test error of a narrower width": min(model.end.test_error for model in models[: peak.index]),
        "lowest test error of a wider width": min(model.end.test_error for model in models[peak.index + 1 :]),
        "rise (standard errors)": peak.rise,
        "fall (standard errors)": peak.fall,
        "test error there, best stop": top.best.test_error,
        "rise with best stops (standard errors)": stopped.rise,
        "fall with best stops (standard errors)": stopped.fall,
        f"over the steps of width {models[-1].width}": outcome,
        "rise over steps (standard errors)": hump.rise,
        "fall over steps (standard errors)": hump.fall,
    }


def _costs(models: Sequence[Trained]) -> dict[str, Cost]:
    past = [window for model in models for window in since(model.windows, model.best.trained_until_s)]
    return {
        "all widths": Cost(windows=[window for model in models for window in model.windows]),
        "past the best stops": Cost(windows=past),
    }


def since(windows: Windows, moment_s: float) -> list[tuple[float, float]]:
    """The part of windows that is after a moment.

    >>> since([(0.0, 1.0), (2.0, 5.0)], 3.0)
    [(3.0, 5.0)]
    """
    return [(max(start, moment_s), end) for start, end in windows if end > moment_s]


def answer(trial: Trial) -> Verdict:
    """Train each width on the same pictures, then solve for the readouts of random features."""
    settings: DoubleDescentSettings = trial.settings
    with trial.apart("data"):
        train, test = make_pictures(settings, trial.seed, trial.device)
    models = [_train(trial, width, train, test) for width in settings.widths]
    at_random = _random_features(trial)
    verdict = judge(models, settings)
    return dataclasses.replace(verdict, figures={**verdict.figures, **at_random})


def make_pictures(
    settings: DoubleDescentSettings, seed: int, device: torch.device
) -> tuple[Pictures, Pictures]:
    """Pictures to train on, some under a wrong label, and new ones under right labels."""
    generator = torch.Generator().manual_seed(seed)
    shapes = draw_shapes(generator)
    clean = draw_pictures(shapes, settings.num_train, settings.pixel_noise, generator)
    train = mislabelled(clean, settings.label_noise, generator)
    test = draw_pictures(shapes, settings.num_test, settings.pixel_noise, generator)
    return train.to(device), test.to(device)


def _train(trial: Trial, width: int, train: Pictures, test: Pictures) -> Trained:
    settings: DoubleDescentSettings = trial.settings
    model = Reader(config_of(width)).to(trial.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    stops, curve = evaluated_at(settings), []
    params, flops = num_parameters(width), len(train) * flops_per_picture(width)
    with trial.arm(f"width {width}", params=params) as arm:
        for step in arm.steps(settings.max_steps):
            with trial.forward():
                loss = F.cross_entropy(model(train.pixels), train.labels)
            arm.learn(loss, optimizer, samples=len(train), tokens=SIDE * len(train), model_flops=flops)
            if step + 1 in stops:
                curve.append(_evaluate(trial, arm, step + 1, model, train, test))
                at, point = curve[-1], {"width": width, "step": step + 1}
                trial.point("epoch", **point, test_error=at.test_error, train_error=at.train_error)
        trained = Trained(width, tuple(curve), arm.windows)
        end = trained.end
        trial.point(
            "width",
            width=width,
            params=params,
            test_error=end.test_error,
            train_error=end.train_error,
            best_test_error=trained.best.test_error,
            test_loss=end.test_loss,
            standard_error=standard_error(end.test_error, len(test)),
        )
    return trained


def _evaluate(
    trial: Trial, arm: Arm, step: int, model: Reader, train: Pictures, test: Pictures
) -> Evaluation:
    until_s = arm.windows[-1][1]
    with trial.apart():
        logits = model(test.pixels)
        return Evaluation(
            step=step,
            test_error=error(logits, test),
            train_error=error(model(train.pixels), train),
            test_loss=float(F.cross_entropy(logits, test.labels)),
            trained_until_s=until_s,
        )


def error(scores: Tensor, pictures: Pictures) -> float:
    """Share of pictures whose class has not the highest score."""
    return float((scores.argmax(dim=-1) != pictures.labels).double().mean())


def evaluated_at(settings: DoubleDescentSettings) -> set[int]:
    """The steps after which a model is evaluated; the last is one of them."""
    ratios = (i / (settings.evaluations - 1) for i in range(settings.evaluations))
    return {round(settings.max_steps**ratio) for ratio in ratios}


def _random_features(trial: Trial) -> dict[str, float]:
    """Fit readouts of more and more random features; where the mean error over the draws is largest."""
    settings: DoubleDescentSettings = trial.settings
    pairs, means = settings.feature_train * settings.feature_repeats, []
    with trial.apart("data"):
        draws = [
            draw_features(settings, trial.seed + i, trial.device) for i in range(settings.feature_repeats)
        ]
    with trial.arm("random features") as arm:
        for step in arm.steps(len(settings.features)):
            count = settings.features[step]
            fits = [least_squares(train.values[:, :count], train.pictures) for train, _ in draws]
            left = torch.stack([residual for _, residual in fits]).mean()
            arm.did(left, samples=pairs, tokens=SIDE * pairs, model_flops=4.0 * pairs * count * CLASSES)
            with trial.apart():
                errors = torch.tensor(
                    [
                        error(test.values[:, :count] @ readout, test.pictures)
                        for (_, test), (readout, _) in zip(draws, fits, strict=True)
                    ]
                )
            means.append(float(errors.mean()))
            bar = float(errors.std()) / len(errors) ** 0.5
            trial.point("random features", features=count, test_error=means[-1], standard_error=bar)
    top = settings.features[find_peak(means, settings.num_test).index]
    return {
        "random features at their peak": top,
        "random features at their peak, per picture": top / settings.feature_train,
    }


@dataclass(frozen=True, slots=True)
class Featured:
    """Pictures, and their random features: float64 of shape (pictures, features)."""

    pictures: Pictures
    values: Tensor


def draw_features(
    settings: DoubleDescentSettings, seed: int, device: torch.device
) -> tuple[Featured, Featured]:
    """What a block that nobody trains makes of pictures to fit and of new ones."""
    few = dataclasses.replace(settings, num_train=settings.feature_train)
    block = Reader(config_of(max(settings.features))).to(device)
    train, test = make_pictures(few, seed, device)
    return (
        Featured(train, block.features(train.pixels).double()),
        Featured(test, block.features(test.pixels).double()),
    )


def least_squares(features: Tensor, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """The readout that fits best, the smallest of all such, and the mean square of what it leaves.

    By the pseudo-inverse in float64: near as many features as pictures nothing coarser solves it.
    """
    wanted = F.one_hot(pictures.labels, CLASSES).double() - 1 / CLASSES
    readout = torch.linalg.pinv(features) @ wanted
    return readout, (features @ readout - wanted).square().mean()


PRESETS = {
    "smoke": DoubleDescentSettings(
        widths=(2, 4, 6, 8, 16),
        num_train=60,
        num_test=500,
        max_steps=20,
        evaluations=8,
        features=(4, 8, 16, 32, 64),
        feature_train=16,
        feature_repeats=2,
    ),
    "cpu": DoubleDescentSettings(threads=1),
    "gpu": DoubleDescentSettings(
        widths=(2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 256),
        num_train=4000,
        num_test=20_000,
        lr=1e-3,
        max_steps=20_000,
        evaluations=40,
        features=(16, 64, 256, 512, 768, 896, 960, 1000, 1024, 1048, 1088, 1152, 1280, 1536, 2048, 4096),
        feature_train=1024,
        feature_repeats=5,
        accelerator="cuda",
    ),
}

WORKLOAD = Experiment(
    name="double-descent",
    summary="Test error over width: worst where every label just fits, then better; joules spent past the best stop.",
    criterion=CRITERION,
    source="arXiv 1912.02292",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: len(settings.widths) * settings.max_steps + len(settings.features),
    flops_formula="pictures x (6 (8 x 12 d^2 + 10 d) + 4 x 64 d + 12 d x 8^2) a step; 40 x features: a readout",
    params=lambda settings: num_parameters(settings.widths[-1]),
    seeds=3,
    shown_in=2,
)
