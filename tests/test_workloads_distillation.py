"""Workload `distillation`: what the teacher writes, students' data and FLOPs, the crossover, break-even, refusals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler.errors import InvalidValueError, UnknownNameError
from profiler.metrics.break_even import MIXED, NO_ENERGY, NO_SAVING, break_even
from profiler.metrics.phenomena import phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.report.phenomenon_rows import break_even_texts
from profiler.store.runs import open_run
from profiler.workload import RunRequest
from workloads.byte_lm import cross_entropy, load_bytes, sequence_losses, write
from workloads.corpus import load_corpus
from workloads.distillation import (
    PRESETS,
    WORKLOAD,
    Comparison,
    DistillationSettings,
    compare,
    crossover,
    judge,
)
from workloads.lesson import Lesson, SoftLabels, make_lesson, real_text, soft_cross_entropy
from workloads.school import Trained
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, model_flops_per_sequence, num_all_params

SMALL = TransformerConfig(d_model=16, n_layer=2, head_dim=8, seq_len=12, vocab_size=257)
BOS = 256


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "numbers.txt"
    path.write_text(" ".join(str(n * n) for n in range(20_000)))
    return str(path)


def small_model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(SMALL)
    for parameter in model.parameters():  # blocks begin as the identity: here they are to matter
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def lesson(sequences: int = 6, top: int = 32) -> Lesson:
    return make_lesson(small_model(), sequences=sequences, at_once=4, length=12, top=top, bos=BOS, seed=3)


# -- what is written, and learnt from


def test_a_model_writes_as_its_probabilities_have_it() -> None:
    model, drawn, told = small_model(), [], []
    generator = torch.Generator().manual_seed(0)
    for probabilities, token in write(model, streams=3, length=12, bos=BOS, generator=generator):
        drawn.append(token)
        told.append(probabilities)
    tokens = torch.cat(drawn, dim=1)
    inputs = torch.cat((torch.full((3, 1), BOS), tokens[:, :-1]), dim=1)
    logits = model(inputs)
    logits[..., BOS] = -torch.inf
    torch.testing.assert_close(torch.stack(told, dim=1), logits.softmax(dim=-1), rtol=1e-4, atol=1e-6)
    assert (tokens != BOS).all()


def test_a_lesson_is_of_the_seed_and_its_labels_add_up() -> None:
    first, again = lesson(), lesson()
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.shape == (6, 12)
    assert first.labels.ids.shape == (6, 12, 32)
    totals = first.labels.probabilities.float().sum(dim=-1)
    torch.testing.assert_close(totals, torch.ones(6, 12), rtol=0, atol=2e-3)


def test_a_soft_batch_begins_each_sequence_and_keeps_targets_in_place() -> None:
    made = lesson()
    inputs, labels = made.soft_batch([4, 1], BOS, torch.device("cpu"))
    assert inputs[:, 0].tolist() == [BOS, BOS]
    assert torch.equal(inputs[:, 1:], made.tokens[[4, 1], :-1])
    assert torch.equal(labels.ids, made.labels.ids[[4, 1]].long())


def test_soft_labels_that_are_certain_are_hard_labels() -> None:
    logits, targets = torch.randn(2, 5, 257), torch.randint(0, 256, (2, 5))
    certain = SoftLabels(targets[..., None], torch.ones(2, 5, 1))
    torch.testing.assert_close(soft_cross_entropy(logits, certain), cross_entropy(logits, targets))


def test_soft_labels_are_met_by_the_teacher_itself() -> None:
    logits = torch.randn(1, 4, 257)
    of_teacher = SoftLabels(torch.arange(257).expand(1, 4, 257), logits.softmax(dim=-1))
    best = soft_cross_entropy(logits, of_teacher)
    assert soft_cross_entropy(logits + torch.randn_like(logits), of_teacher) > best


def test_smaller_amounts_of_real_text_are_part_of_larger_ones(text: str) -> None:
    corpus = load_corpus(text, seq_len=64)
    small, large = (real_text(corpus, size, seq_len=64, seed=1) for size in (1024, 4096))
    assert len(small.train) == 1024
    assert small.train.dtype == corpus.train.dtype
    assert np.array_equal(small.train, large.train[:1024])
    assert not np.array_equal(small.train, corpus.train[:1024])  # from all over it


def test_the_oracle_reads_the_windows_that_smaller_amounts_begin_with(text: str) -> None:
    corpus = load_corpus(text, seq_len=64)
    pool = real_text(corpus, 256, seq_len=64, seed=1)
    _, targets = corpus.train_batch(0, batch_size=4, seq_len=64, seed=1)
    assert targets.flatten().tolist() == pool.train.tolist()


def test_losses_are_of_sequences() -> None:
    model = small_model()
    batch = torch.randint(0, 256, (3, 12)), torch.randint(0, 256, (3, 12))
    each = sequence_losses(model, [batch])
    assert each.shape == (3,)
    assert float(each.mean()) == pytest.approx(
        float(cross_entropy(model(batch[0]), batch[1]).detach()), rel=1e-5
    )


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_flops_are_those_that_torch_counts(who: str) -> None:
    config = dataclasses.replace(PRESETS["cpu"].config(who, 257), n_layer=1)
    model, tokens = Transformer(config), torch.randint(0, 257, (2, config.seq_len))
    labels = SoftLabels(torch.randint(0, 257, (2, config.seq_len, 32)), torch.rand(2, config.seq_len, 32))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        soft_cross_entropy(model(tokens), labels).backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == pytest.approx(
        2 * model_flops_per_sequence(config, config.seq_len), rel=0.01
    )


def test_the_student_is_counted_with_its_embedding() -> None:
    config = PRESETS["cpu"].config("student", 257)
    assert num_all_params(config) == sum(p.numel() for p in Transformer(config).parameters())


# -- the criterion


def curve_of(*gains: float, half_width: float = 0.01) -> list[Comparison]:
    return [
        Comparison(4096 * 4**i, 2.4 + gain, 2.45, 2.4, 2.35, gain, half_width, 0.02)
        for i, gain in enumerate(gains)
    ]


def trained(*losses: Sequence[float]) -> Trained:
    return Trained("it", small_model(), torch.tensor(losses, dtype=torch.float64), [(0.0, 1.0)])


KNOWN: dict[str, Any] = {
    "teacher_loss": 1.8,
    "teacher_params": 700_000,
    "student_params": 5000,
    "sequences": 512,
    "students": 3,
}


def test_an_interval_is_over_sequences_and_first_weights() -> None:
    soft = trained((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0))
    scratch = trained((1.1, 1.3, 1.1, 1.3), (1.2, 1.4, 1.2, 1.4), (1.3, 1.5, 1.3, 1.5))
    found = compare(4096, scratch, soft, soft, soft)
    assert found.gain == pytest.approx(0.3)
    assert found.apart == pytest.approx(0.1)
    over_sequences, over_weights = (
        1.96 * 0.2 / 3**0.5 / 2,
        4.303 * 0.1 / 3**0.5,
    )  # t of two degrees of freedom
    assert found.gain_half_width == pytest.approx(math.hypot(over_sequences, over_weights), rel=1e-3)


def test_one_training_of_each_has_no_interval() -> None:
    soft, scratch = trained((1.0, 1.0)), trained((1.1, 1.3))
    assert math.isnan(compare(4096, scratch, soft, soft, soft).gain_half_width)


def test_a_gain_that_turns_into_a_loss_is_shown() -> None:
    verdict = judge(curve_of(0.3, 0.1, -0.05), **KNOWN)
    assert verdict.outcome == "shown"
    assert verdict.figures["gain with the least real text (nats/token)"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("gains", "part"),
    [
        ((0.3, 0.1, 0.05), "65,536 bytes of real text, none read twice, were better"),
        ((0.3, 0.1, -0.009), "65,536 bytes of real text, none read twice"),  # within its interval
        ((0.005, 0.0, -0.1), "better than 4,096 bytes of real text"),
        ((-0.1, 0.0, 0.1), "better than 4,096 bytes of real text"),
    ],
)
def test_what_does_not_turn_is_not_shown(gains: tuple[float, ...], part: str) -> None:
    verdict = judge(curve_of(*gains), **KNOWN)
    assert verdict.outcome == "not shown"
    assert part in verdict.reason


@pytest.mark.parametrize("changed", [{"sequences": 255}, {"students": 2}, {"teacher_loss": 2.36}])
def test_what_is_no_test_cannot_be_told(changed: dict[str, Any]) -> None:
    assert judge(curve_of(0.3, 0.1, -0.05), **{**KNOWN, **changed}).outcome == "can't tell"


def test_the_crossover_lies_between_two_sizes() -> None:
    assert crossover(curve_of(0.3, 0.1, -0.1)) == pytest.approx(16384 * 2)
    assert crossover(curve_of(0.3, 0.1, 0.05)) is None
    assert crossover(curve_of(-0.1, -0.2)) is None


# -- break-even


def price(energy_j: float | None, bar_j: float = 0.0, source: str = "measured") -> dict[str, Any]:
    return {"energy_j": energy_j, "plus_minus_j": bar_j, "source": source}


def test_break_even_is_what_was_paid_over_what_a_use_saves() -> None:
    found = break_even(price(100, 10), price(50, 5), price(10, 1), uses_before=10, uses_after=20)
    assert found["uses"] == pytest.approx(100 / 4.5)
    assert found["least"] == pytest.approx(90 / 5.05)
    assert found["most"] == pytest.approx(110 / 3.95)
    assert found["source"] == "measured"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((price(None), price(2), price(1)), NO_ENERGY),
        ((price(100), price(1), price(1)), NO_SAVING),
        ((price(100), price(1), price(2)), NO_SAVING),
        ((price(100), price(2, source="estimated"), price(1)), MIXED),
    ],
)
def test_where_nothing_is_saved_it_says_so(parts: tuple[dict[str, Any], ...], reason: str) -> None:
    found = break_even(*parts, uses_before=1, uses_after=1)
    assert found["uses"] is None
    assert break_even_texts({"break_even": [{"of": "it", **found}]}) == {"it": f"unknown: {reason}"}


def test_a_saving_within_its_bars_has_no_upper_end() -> None:
    found = break_even(
        price(100, 60, "estimated"),
        price(5, 3, "estimated"),
        price(2, 1.2, "estimated"),
        uses_before=1,
        uses_after=1,
    )
    texts = break_even_texts({"break_even": [{"of": "it", **found}]})
    assert texts == {"it": "~ 33 (6 to no end) (estimated)"}


# -- bad settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_d_model": 16}, "less than 1/100 .* smaller student_d_model"),
        ({"real_bytes": ()}, "shows no crossover: it takes one size"),
        ({"real_bytes": (4096, 1638400)}, "less than a student reads \\(1,638,400"),
        ({"real_bytes": (65536, 4096)}, "each larger than the one before"),
        ({"students": 0}, "students = 0 is not a positive number"),
        ({"real_bytes": (16, 4096)}, "of a sequence \\(64\\) at least"),
        ({"soft_top": 0}, "soft_top = 0 is not a positive number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        DistillationSettings(**settings)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="precision"):
        DistillationSettings(precision="16")  # type: ignore[arg-type]


def test_tokens_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(70_000, dtype=np.uint16) % 1000)
    with pytest.raises(
        InvalidValueError, match="holds tokens of 1000 kinds, and this workload reads text as bytes"
    ):
        load_bytes(str(tmp_path / "tokens.npy"), seq_len=64)


def test_a_training_that_diverged_is_said(tmp_path: Path, text: str) -> None:
    settings = dataclasses.replace(PRESETS["smoke"], data=text, teacher_lr=1e30)
    request = RunRequest(
        runs_dir=tmp_path, workload="distillation", preset="smoke", seed=0, settings=settings
    )
    with pytest.raises(InvalidValueError, match=r"The loss of 'teacher' is nan: .* smaller teacher_lr"):
        WORKLOAD.train(request)


def test_a_text_that_the_oracle_would_read_twice_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "text.txt").write_text("some text " * 2000)
    settings = DistillationSettings(data=str(tmp_path / "text.txt"))
    runs = tmp_path / "runs"
    with pytest.raises(InvalidValueError, match="none of unlimited data to compare with"):
        WORKLOAD.train(
            RunRequest(runs_dir=runs, workload="distillation", preset="cpu", seed=0, settings=settings)
        )
    assert not runs.exists()


# -- the whole path


def test_a_smoke_run_has_its_curve_its_arms_and_its_break_even(tmp_path: Path, text: str) -> None:
    settings = dataclasses.replace(PRESETS["smoke"], data=text)
    request = RunRequest(
        runs_dir=tmp_path, workload="distillation", preset="smoke", seed=0, settings=settings
    )
    run = open_run(tmp_path, WORKLOAD.train(request).name)
    found = summarize(run)["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert (found["seeds"], found["shown_in"]) == (3, 3)
    assert [arm["arm"] for arm in found["arms"]] == [
        "teacher",
        "student, hard labels",
        "student, soft labels",
        "student, oracle",
        "student, 512 bytes",
        "student, 1024 bytes",
    ]
    students = found["arms"][1:]
    assert len({arm["facts"]["model_flops"] for arm in students}) == 1
    assert len({arm["facts"]["tokens"] for arm in students}) == 1
    assert all(cost["duration_s"] > 0 for cost in found["costs"])
    assert len(found["break_even"]) == 2
    curve = phenomenon_curves(run)["crossover"]
    assert curve["real_bytes"].to_list() == [512, 1024, 2048]
    assert curve["arm"].to_list() == ["student, 512 bytes", "student, 1024 bytes", "student, oracle"]
    assert students[0]["facts"]["steps"] == 2 * settings.student_steps
    one = next(cost for cost in found["costs"] if "one student" in cost["cost"])
    soft = next(arm for arm in students if "soft" in arm["arm"])
    assert one["duration_s"] < soft["duration_s"]
    assert (curve["duration_s"] > 0).all()
