"""Workload `dictionary`: the autoencoder and its FLOPs, naming by F1, edits of a stream, the criterion, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from profiler.errors import InvalidValueError, UnknownNameError
from profiler.metrics.phenomena import phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.store.runs import open_run
from profiler.workload import RunRequest
from workloads.byte_lm import cross_entropy
from workloads.character_classes import CLASSES, best_f1, class_ids, mean_f1, of_classes
from workloads.dictionary import PRESETS, WORKLOAD, DictionarySettings, Findings, judge
from workloads.residual_stream import DOSES, Dose, Site, choose_feature, clamp, open_site, randomised, steer
from workloads.sparse_autoencoder import (
    SparseAutoencoder,
    flops_per_vector,
    largest,
    reconstruction_loss,
    survey,
    unexplained_by_pca,
)
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig

CONFIG = TransformerConfig(d_model=16, n_layer=2, head_dim=8, seq_len=12, vocab_size=257)


def small_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    for parameter in model.parameters():  # blocks begin as the identity: here they are to matter
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 256, (3, 12), generator=generator),
            torch.randint(0, 256, (3, 12), generator=generator),
        )
        for _ in range(count)
    ]


def autoencoder(k: int = 4) -> SparseAutoencoder:
    torch.manual_seed(0)
    return SparseAutoencoder(16, 64, k)


# -- the autoencoder


def test_at_most_k_features_fire_and_none_is_negative() -> None:
    codes = autoencoder().codes(torch.randn(50, 16))
    assert ((codes > 0).sum(dim=1) <= 4).all()
    assert (codes >= 0).all()
    assert largest(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), 2).tolist() == [[3.0, 0.0, 2.0, 0.0]]


@pytest.mark.parametrize("has_silent", [False, True])
def test_flops_are_those_that_torch_counts(has_silent: bool) -> None:
    model, x = autoencoder(), torch.randn(32, 16)
    silent = torch.arange(64) < (10 if has_silent else 0)
    with FlopCounterMode(display=False) as counter:
        reconstruction_loss(model, x, silent)[0].backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == 32 * flops_per_vector(16, 64, has_silent=has_silent)


def test_silent_features_are_trained_and_others_are_not_by_the_auxiliary_loss() -> None:
    model, x = autoencoder(k=1), torch.randn(8, 16)
    fired = reconstruction_loss(model, x, torch.zeros(64, dtype=torch.bool))[1]
    silent = ~fired
    assert silent.any()
    without, _ = reconstruction_loss(model, x, torch.zeros(64, dtype=torch.bool))
    alone = torch.autograd.grad(without, model.bias)[0]
    assert (alone[silent] == 0).all()
    helped = torch.autograd.grad(reconstruction_loss(model, x, silent)[0], model.bias)[0]
    assert (helped[silent] != 0).any()


def test_it_learns_what_is_sparse_and_beats_principal_components() -> None:
    torch.manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(32, 16), dim=1)
    used = largest(torch.rand(4000, 32), 2)
    x = used @ parts
    x = (x - x.mean(dim=0)) / (x - x.mean(dim=0)).square().mean().sqrt()
    model = SparseAutoencoder(16, 64, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(300):
        loss, _ = reconstruction_loss(model, x[step % 8 :: 8], torch.zeros(64, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        model.normalise()
    torch.testing.assert_close(model.decoder.norm(dim=1), torch.ones(64))
    assert survey(model, x).fvu < 0.7 * unexplained_by_pca(x, x, 3)


def test_principal_components_leave_the_rest_of_the_variance() -> None:
    x = torch.randn(1000, 3) * torch.tensor([3.0, 2.0, 1.0])
    assert unexplained_by_pca(x, x, 2) == pytest.approx(
        float(x[:, 2].square().sum() / x.square().sum()), abs=5e-3
    )
    assert unexplained_by_pca(x, x, 3) == pytest.approx(0.0, abs=1e-5)


def test_a_survey_counts_the_features_that_never_fire() -> None:
    model = autoencoder()
    with torch.no_grad():
        model.bias[:16] = -1e6
    found = survey(model, torch.randn(500, 16))
    assert (found.largest[:16] == 0).all()
    assert found.dead >= 0.25


# -- names


def test_the_feature_that_is_a_class_is_found_by_its_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    characters = torch.randint(32, 127, (4000,), generator=generator)
    is_of = of_classes(characters)
    digit = list(CLASSES).index("digit")
    values = torch.rand(4000, 6, generator=generator)
    values[:, 3] += 5.0 * is_of[:, digit]
    column, f1 = best_f1(values, is_of)[digit]
    assert column == 3
    assert f1 > 0.8
    assert mean_f1(best_f1(values, is_of)) < f1


def test_what_tells_nothing_has_a_low_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    is_of = of_classes(torch.randint(32, 127, (4000,), generator=generator))
    assert mean_f1(best_f1(torch.rand(4000, 20, generator=generator), is_of)) < 0.25


def test_classes_are_of_characters_and_do_not_overlap() -> None:
    is_of = of_classes(torch.arange(257))
    assert is_of.sum(dim=1).max() == 1
    assert class_ids("digit").tolist() == list(range(48, 58))


# -- the stream


def test_vectors_of_a_site_are_centred_scaled_and_without_the_beginning() -> None:
    site, x = open_site(small_model(), 1, batches())
    assert x.shape == (2 * 3 * 11, 16)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    assert float(x.square().mean()) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(site.unscaled(x)[:11], site.model.stream(batches()[0][0], blocks=1)[0, 1:])


def test_the_untouched_stream_gives_the_models_own_loss() -> None:
    site, _ = open_site(small_model(), 1, batches())
    loss, share = site.effect(batches(), lambda x: x, class_ids("digit"))
    own = [(site.model(x)[:, 1:], y[:, 1:]) for x, y in batches()]
    expected = sum(float(cross_entropy(logits, y)) for logits, y in own) / 2
    assert loss == pytest.approx(expected, rel=1e-5)
    assert 0 < share < 1


def test_a_clamped_feature_changes_nothing_but_its_own_part() -> None:
    model, x = autoencoder(), torch.randn(7, 16)
    changed = clamp(model, 5, 3.0)(x) - x
    expected = (3.0 - model.codes(x)[:, 5])[:, None] * model.decoder[5]
    torch.testing.assert_close(changed, expected)


def made_to_steer() -> tuple[Site, SparseAutoencoder]:
    """A site at the end of a model, and a dictionary whose feature 9 writes digits."""
    site, _ = open_site(small_model(), 2, batches())
    model = autoencoder()
    with torch.no_grad():
        head = site.model.head.weight
        toward = head[class_ids("digit")].mean(dim=0) - head.mean(dim=0)
        model.decoder[9] = torch.nn.functional.normalize(toward, dim=0)
    return site, model


def test_the_feature_that_writes_a_class_is_chosen_and_steers() -> None:
    site, model = made_to_steer()
    ids, highest = class_ids("digit"), torch.full((64,), 4.0)
    assert choose_feature(site, model, highest, batches(), ids, 4) == 9
    doses = list(steer(site, model, 9, 4.0, [1, 2, 3], batches(), ids))
    assert [dose.dose for dose in doses] == list(DOSES)
    assert doses[3].probability > 2 * doses[0].probability
    assert doses[3].probability > 2 * doses[3].control


def test_a_dead_feature_is_not_chosen() -> None:
    site, model = made_to_steer()
    highest = torch.full((64,), 4.0)
    highest[9] = 0.0
    assert choose_feature(site, model, highest, batches(), class_ids("digit"), 4) != 9


def test_a_randomised_model_keeps_scales_and_nothing_else() -> None:
    model = small_model()
    other = randomised(model, 3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert float(b.std()) == pytest.approx(float(a.std()), rel=0.15)
        assert float((a.flatten() @ b.flatten()) / (a.norm() * b.norm())) == pytest.approx(0.0, abs=0.2)
    torch.testing.assert_close(next(small_model().parameters()), next(model.parameters()))


# -- the criterion

RISING = (0.005, 0.05, 0.2, 0.4, 0.5)


def findings(probabilities: tuple[float, ...] = RISING, control: float = 0.01, **changed: Any) -> Findings:
    doses = [Dose(dose, p, control, 2.0 + dose, 2.1) for dose, p in zip(DOSES, probabilities, strict=True)]
    known: dict[str, Any] = {
        "tokens": 50_000,
        "fvu": 0.03,
        "fvu_pca": 0.11,
        "fvu_random": 0.05,
        "dead": 0.1,
        "loss": 1.9,
        "spliced_loss": 1.92,
        "mean_loss": 4.6,
        "base": 0.007,
        "doses": doses,
    }
    return Findings(**{**known, **changed})


def test_a_good_dictionary_that_steers_is_shown() -> None:
    verdict = judge(findings())
    assert verdict.outcome == "shown"
    assert verdict.figures["loss recovered (share)"] == pytest.approx(0.9926, abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"fvu": 0.12, "fvu_pca": 0.2}, "FVU is at most"),
        ({"fvu": 0.09, "fvu_pca": 0.08}, "below that of principal components"),
        ({"dead": 0.21}, "are dead"),
        ({"spliced_loss": 2.1}, "of the loss is recovered"),
        ({"base": 0.09}, "multiplies the class's probability"),
        ({"control": 0.09}, "what random features do"),
        ({"probabilities": (0.005, 0.05, 0.2, 0.4, 0.3)}, "falls at no dose"),
    ],
)
def test_what_misses_a_part_is_not_shown(changed: dict[str, Any], part: str) -> None:
    verdict = judge(findings(**changed))
    assert verdict.outcome == "not shown"
    assert part in verdict.reason


@pytest.mark.parametrize(
    "changed", [{"tokens": 9999}, {"mean_loss": 2.3, "spliced_loss": 1.9}, {"mean_loss": 2.3, "fvu": 0.5}]
)
def test_what_is_no_test_cannot_be_told(changed: dict[str, Any]) -> None:
    assert judge(findings(**changed)).outcome == "can't tell"


# -- bad settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"site": 4}, "behind the last of n_layer = 3 blocks. Give 1 to 3"),
        ({"k": 64}, "not sparse, and what is not sparse reconstructs anything"),
        ({"k": 128, "features": 8192}, "not sparse"),
        ({"candidates": 1024}, "more than 1024 features"),
        ({"fit_steps": 0}, "fit_steps = 0 is not a positive number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        DictionarySettings(**settings)


def test_an_unknown_class_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="newline"):
        DictionarySettings(steer="newlines")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", ["lm_lr", "fit_lr"])
def test_a_training_that_diverged_is_said(tmp_path: Path, rate: str) -> None:
    (tmp_path / "text.txt").write_text("some text, more text. " * 2000)
    settings = dataclasses.replace(PRESETS["smoke"], data=str(tmp_path / "text.txt"), **{rate: 1e38})
    request = RunRequest(runs_dir=tmp_path, workload="dictionary", preset="smoke", seed=0, settings=settings)
    with pytest.raises(InvalidValueError, match=f"diverged, .* Give a smaller {rate}"):
        WORKLOAD.train(request)


def test_too_short_a_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text " * 2000)
    settings = dataclasses.replace(PRESETS["smoke"], data=str(tmp_path / "text.txt"), held_out_sequences=400)
    request = RunRequest(runs_dir=tmp_path, workload="dictionary", preset="smoke", seed=0, settings=settings)
    with pytest.raises(InvalidValueError, match=r"has 31 sequences of 32 to judge by, and 405 are asked for"):
        WORKLOAD.train(request)


# -- the whole path


def test_a_smoke_run_has_its_curves_and_its_arms(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(f"x_{n} = f({n * n}, 'A.b')" for n in range(5000)))
    settings = dataclasses.replace(PRESETS["smoke"], data=str(tmp_path / "text.txt"))
    request = RunRequest(
        runs_dir=tmp_path / "runs", workload="dictionary", preset="smoke", seed=0, settings=settings
    )
    run = open_run(tmp_path / "runs", WORKLOAD.train(request).name)
    found = summarize(run)["phenomenon"]
    assert found["outcome"] == "can't tell"
    names = ["language model", "dictionary", "dictionary of a random transformer"]
    assert [arm["arm"] for arm in found["arms"]] == names
    curves = phenomenon_curves(run)
    assert curves["fit"]["step"].to_list() == [2, 4, 6]
    assert curves["features"]["kind"].to_list() == list(CLASSES)
    assert curves["steering"]["dose"].to_list() == list(DOSES)
    assert {"feature", "probability", "control", "loss"} <= set(curves["steering"].columns)
