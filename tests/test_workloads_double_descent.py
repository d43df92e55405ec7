"""Workload `double-descent`: its pictures, its FLOPs, and when it says that error went down, up and down again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler.errors import InvalidValueError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.store.runs import open_run
from profiler.workload import RunRequest
from workloads.double_descent import (
    PRESETS,
    WORKLOAD,
    DoubleDescentSettings,
    Evaluation,
    Trained,
    evaluated_at,
    find_peak,
    judge,
    least_squares,
    make_pictures,
    over_steps,
    standard_error,
)
from workloads.pictures import (
    CLASSES,
    SIDE,
    Pictures,
    Reader,
    config_of,
    draw_shapes,
    flops_per_picture,
    mislabelled,
    num_parameters,
)

CPU = torch.device("cpu")

# -- pictures


def test_pictures_are_the_seeds_and_show_their_shape_moved_by_a_pixel_at_most() -> None:
    settings = DoubleDescentSettings(pixel_noise=0.0, label_noise=0.0)
    train, test = make_pictures(settings, 5, CPU)
    again, _ = make_pictures(settings, 5, CPU)
    assert torch.equal(train.pixels, again.pixels)
    assert (len(train), len(test)) == (settings.num_train, settings.num_test)
    shapes = draw_shapes(torch.Generator().manual_seed(5))
    assert float(shapes.std()) == pytest.approx(1, rel=0.01)
    moved = torch.stack([shapes.roll((i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    nearest = (train.pixels - moved[:, train.labels]).abs().amax(dim=(2, 3)).amin(dim=0)
    assert float(nearest.max()) == 0


def test_the_share_of_wrong_labels_is_as_asked_and_each_is_another_class() -> None:
    labels = torch.arange(10_000) % CLASSES
    noisy = mislabelled(
        Pictures(torch.zeros(10_000, SIDE, SIDE), labels), 0.2, torch.Generator().manual_seed(0)
    )
    wrong = noisy.labels != labels
    assert float(wrong.double().mean()) == pytest.approx(0.2, abs=0.015)
    shifts = ((noisy.labels - labels) % CLASSES)[wrong]
    assert torch.bincount(shifts, minlength=CLASSES)[1:].min() > 150


def test_only_training_labels_are_wrong() -> None:
    train, test = make_pictures(DoubleDescentSettings(pixel_noise=0.0, label_noise=0.5), 0, CPU)
    shapes = draw_shapes(torch.Generator().manual_seed(0))
    moved = torch.stack([shapes.roll((i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    for pictures, share in ((train, 0.5), (test, 0.0)):
        distances = (pictures.pixels[:, None, None] - moved).abs().amax(dim=(3, 4)).amin(dim=1)
        wrong = (distances.argmin(dim=1) != pictures.labels).double().mean()
        assert float(wrong) == pytest.approx(share, abs=0.06)


# -- model


@pytest.mark.parametrize("width", [2, 12, 24])
def test_parameters_and_flops_agree_with_torch(width: int) -> None:
    model = Reader(config_of(width))
    assert sum(weight.numel() for weight in model.parameters()) == num_parameters(width)
    pixels, labels = torch.randn(4, SIDE, SIDE), torch.arange(4)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(pixels), labels).backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == pytest.approx(4 * flops_per_picture(width), rel=0.01)


def test_the_readout_fits_all_labels_from_as_many_features_as_pictures_on() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = Pictures(torch.zeros(20, SIDE, SIDE), torch.randint(CLASSES, (20,), generator=generator))
    features = torch.randn(20, 40, generator=generator, dtype=torch.float64)
    _, few = least_squares(features[:, :10], pictures)
    readout, many = least_squares(features, pictures)
    assert float(few) > 0.01
    assert float(many) < 1e-20
    # The smallest of all that fit: it lies in what the pictures span.
    outside = torch.linalg.qr(features.T, mode="complete").Q[:, 20:]
    assert float((outside.T @ readout).abs().max()) < 1e-10


# -- the detector


def models_of(test_errors: Sequence[float], train_errors: Sequence[float]) -> list[Trained]:
    return [
        Trained(
            2 * i + 2, tuple(curve_of([0.9, 0.5, 0.05, 0.4, e], train=t)), windows=[(10.0 * i, 10.0 * i + 4)]
        )
        for i, (e, t) in enumerate(zip(test_errors, train_errors, strict=True))
    ]


def curve_of(errors: Sequence[float], train: float = 0.0) -> list[Evaluation]:
    return [Evaluation(i + 1, e, train, 1.0, trained_until_s=float(i + 1)) for i, e in enumerate(errors)]


SETTINGS = DoubleDescentSettings(num_test=2000)
TRAIN = [0.6, 0.2, 0.1, 0.02, 0.0, 0.0]


def test_a_peak_at_the_threshold_is_double_descent() -> None:
    models = models_of([0.7, 0.13, 0.2, 0.26, 0.19, 0.14], TRAIN)
    verdict = judge(models, SETTINGS)
    assert verdict.outcome == "shown"
    assert verdict.figures["width at the peak"] == 8
    assert verdict.figures["width that first fits every label"] == 8
    assert verdict.figures["rise (standard errors)"] == pytest.approx(
        0.13 / (0.26 * 0.74 / 2000 + 0.13 * 0.87 / 2000) ** 0.5
    )
    assert verdict.figures["lowest test error of a wider width"] == 0.14


@pytest.mark.parametrize(
    ("test_errors", "train_errors", "reason"),
    [
        ([0.7, 0.5, 0.4, 0.3, 0.2, 0.1], TRAIN, "not: a width is worse than a narrower one"),
        ([0.7, 0.13, 0.2, 0.26, 0.26, 0.25], TRAIN, "not: it is worse than a wider one by 3"),
        (
            [0.7, 0.13, 0.2, 0.15, 0.14, 0.13],
            [0.6, 0.5, 0.4, 0.3, 0.0, 0.0],
            "not: the interpolation threshold",
        ),
        ([0.7, 0.190, 0.195, 0.2, 0.195, 0.19], TRAIN, "not: a width is worse"),
    ],
    ids=["only falls", "stays up", "peak elsewhere", "within the noise"],
)
def test_what_is_not_double_descent(test_errors: list[float], train_errors: list[float], reason: str) -> None:
    verdict = judge(models_of(test_errors, train_errors), SETTINGS)
    assert verdict.outcome == "not shown"
    assert reason in verdict.reason


@pytest.mark.parametrize("train_errors", [[0.0] * 6, [0.5] * 6], ids=["all above", "all below"])
def test_widths_on_one_side_of_the_threshold_are_no_test(train_errors: list[float]) -> None:
    verdict = judge(models_of([0.7, 0.13, 0.2, 0.26, 0.19, 0.14], train_errors), SETTINGS)
    assert verdict.outcome == "can't tell"
    assert "both sides of the interpolation threshold" in verdict.reason


def test_what_was_spent_past_the_best_stop_begins_there() -> None:
    models = models_of([0.7, 0.13, 0.2, 0.26, 0.19, 0.14], TRAIN)
    costs = judge(models[:1] * 3, SETTINGS).costs
    assert costs["all widths"].windows == [(0.0, 4.0)] * 3
    assert costs["past the best stops"].windows == [(3.0, 4.0)] * 3


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([0.8, 0.5, 0.2, 0.1, 0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.1], "double descent"),
        ([0.8, 0.5, 0.2, 0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3], "overfits only"),
        ([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2], "no rise"),
        ([0.8, 0.5, 0.1, 0.1, 0.14, 0.1, 0.1, 0.1], "no rise"),  # one wiggle is smoothed away
    ],
)
def test_what_error_does_over_steps(errors: list[float], outcome: str) -> None:
    assert over_steps(curve_of(errors), 2000)[0] == outcome


def test_even_an_error_of_none_has_a_bar() -> None:
    for error in (0.0, 1.0):
        assert 0 < standard_error(error, 1000) < 0.001
    assert find_peak([0.0, 0.0, 0.0], 1000).rise == 0


# -- settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"widths": (2, 4, 8)},
            "widths = 2,4,8 shows no peak: it takes 5 or more positive numbers that grow",
        ),
        ({"widths": (8, 4, 2, 16, 32)}, "widths = 8,4,2,16,32 shows no peak"),
        ({"features": (1, 2)}, "features = 1,2 shows no peak"),
        ({"widths": (1, 2, 4, 8, 16)}, "head_dim = 1 is odd"),
        ({"label_noise": 0.95}, "label_noise = 0.95 leaves labels that say nothing"),
        ({"num_test": 100}, "num_test = 100: of so few new pictures an error is known to 0.05"),
        ({"feature_repeats": 1}, "feature_repeats = 1 gives no error bar"),
        ({"max_steps": 3}, "in max_steps = 3 steps make a curve of fewer than 5 points"),
        ({"pixel_noise": -0.1}, "pixel_noise = -0.1 is negative"),
        ({"lr": -1.0}, "lr = -1.0 is not a positive number"),
    ],
)
def test_settings_that_make_no_test_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        DoubleDescentSettings(**wrong)


def test_evaluations_lie_evenly_over_the_logarithm_and_end_with_the_last_step() -> None:
    steps = sorted(evaluated_at(DoubleDescentSettings(max_steps=10_000, evaluations=5)))
    assert steps == [1, 10, 100, 1000, 10_000]


# -- the whole path


def test_a_smoke_run_records_each_width_and_claims_nothing(tmp_path: Path) -> None:
    settings = PRESETS["smoke"]
    request = RunRequest(
        runs_dir=tmp_path, workload="double-descent", preset="smoke", seed=0, settings=settings
    )
    run = open_run(tmp_path, WORKLOAD.train(request).name)
    found = summarize(run)["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert (found["seeds"], found["shown_in"]) == (3, 2)
    arms = {arm["arm"]: arm["facts"] for arm in found["arms"]}
    assert arms["width 8"]["params"] == num_parameters(8)
    assert arms["width 8"]["model_flops"] == pytest.approx(20 * 60 * flops_per_picture(8))
    assert found["figures"]["random features at their peak, per picture"] == 1
    curves = phenomenon_curves(run)
    assert curves["width"]["width"].to_list() == list(settings.widths)
    assert {"params", "test_error", "train_error", "best_test_error", "test_loss", "standard_error"} <= set(
        curves["width"].columns
    )
    assert len(curves["epoch"]) == len(settings.widths) * len(evaluated_at(settings))
    assert curves["random features"]["features"].to_list() == list(settings.features)
    assert curves["width"]["energy_j"].null_count() == 0
