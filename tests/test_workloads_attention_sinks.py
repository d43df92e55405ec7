"""Attention sinks: the text obeys its law, caches forget what they should, and the verdict says what was seen."""

from __future__ import annotations

import math
from dataclasses import replace
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
from workloads.attention_sinks import (
    PRESETS,
    WORKLOAD,
    Sink,
    SinkSettings,
    judge,
    look,
    read_again,
    read_cached,
    readings,
)
from workloads.bigram_backcopy import entropy, excess
from workloads.transformer import Block, Transformer
from workloads.transformer_config import model_flops_per_sequence
from workloads.verdict import Cost

SETTINGS = SinkSettings(vocabulary=12, d_model=16, head_dim=16, stream_length=40)


def stirred(settings: SinkSettings = SETTINGS) -> Transformer:
    """A model without the zeros of a fresh one, whose attention would do nothing."""
    torch.manual_seed(0)
    model = Transformer(settings.config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def texts(count: int, length: int, settings: SinkSettings = SETTINGS) -> torch.Tensor:
    return settings.task(0).sample(count, length, torch.Generator().manual_seed(1))


def test_laws_are_probabilities_without_a_beginning_inside() -> None:
    laws = SETTINGS.task(0).laws
    assert torch.allclose(laws.sum(dim=1), torch.ones(13), atol=1e-6)
    assert (laws[:, -1] == 0).all()
    assert laws[:-1, :3].sum(dim=1) == pytest.approx(torch.full((12,), 0.07))
    assert (laws[-1, :3] == 0).all()
    assert not torch.equal(laws, SETTINGS.task(1).laws)


def test_texts_begin_copy_after_triggers_and_follow_the_law_elsewhere() -> None:
    task, tokens = SETTINGS.task(0), texts(4000, 30)
    assert (tokens[:, 0] == 12).all()
    assert (tokens[:, 1:] < 12).all()
    before, now, after = tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]
    assert torch.equal(after[now < 3], before[now < 3])
    for token in (3, 11, 7):
        seen = F.one_hot(after[now == token], 13).float().mean(dim=0)
        assert torch.allclose(seen, task.laws[token], atol=0.02)


def test_the_entropy_is_the_loss_of_who_knows_the_law() -> None:
    task, tokens = SETTINGS.task(0), texts(4000, 30)
    law = task.law(tokens[:, :-1])
    surprise = -law.gather(2, tokens[:, 1:, None]).log().mean()
    assert entropy(law) == pytest.approx(float(surprise), abs=0.02)
    assert excess(law, law.clamp_min(1e-30).log()).abs().max() < 1e-4
    ignorant = excess(law, torch.zeros_like(law)).mean()
    assert float(ignorant) == pytest.approx(math.log(13) - entropy(law), abs=1e-4)


def test_flops_at_the_training_length_agree_with_the_flop_counter() -> None:
    settings = SinkSettings()
    model, tokens = Transformer(settings.config()), texts(4, 10, settings)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens).square().sum().backward()
    counted = 4 * model_flops_per_sequence(settings.config(), 10)
    assert counter.get_total_flops() == pytest.approx(counted, rel=0.01)


def test_a_dense_cache_reads_as_one_pass_does() -> None:
    model, tokens = stirred(), texts(3, 40)
    read = list(read_cached(model, tokens, sinks=0, size=40))
    assert torch.allclose(torch.cat([logits for logits, _ in read], dim=1), model(tokens), atol=1e-4)
    assert [kept for _, kept in read] == [3 * 2 * 16 * 4 * context for context in range(1, 41)]


@pytest.mark.parametrize("sinks", [0, 1, 4])
def test_a_full_cache_holds_the_first_tokens_and_the_newest_at_places_that_were_trained(sinks: int) -> None:
    """In one layer keys and values depend on their token alone, so the kept tokens read anew are the same."""
    model, tokens = stirred(), texts(3, 40)
    read = list(read_cached(model, tokens, sinks=sinks, size=8))
    for end in (9, 20, 40):
        kept = torch.cat((tokens[:, :sinks], tokens[:, end - 8 + sinks : end]), dim=1)
        assert torch.allclose(read[end - 1][0], model(kept, last=1), atol=1e-4)
    assert {kept for _, kept in read[7:]} == {3 * 2 * 16 * 4 * 8}


def test_reading_anew_is_the_cache_without_sinks_in_one_layer() -> None:
    model, tokens = stirred(), texts(3, 40)
    anew = torch.cat([logits for logits, _ in read_again(model, tokens, size=8)], dim=1)
    cached = torch.cat([logits for logits, _ in read_cached(model, tokens, sinks=0, size=8)], dim=1)
    assert torch.allclose(anew, cached, atol=1e-4)


def test_every_way_to_read_has_a_name() -> None:
    names = [name for name, _, _ in readings(SETTINGS, stirred(), texts(3, 40))]
    assert names == ["sink 0", "sink 1", "sink 2", "sink 4", "dense", "recompute"]


def test_who_looks_at_all_alike_has_no_sink() -> None:
    model, task = stirred(), SETTINGS.task(0)
    for block in model.blocks:
        assert isinstance(block, Block)
        block.attention.qkv.weight[:16] = 0.0  # the queries
    seen = look(model, task, texts(200, 10))
    assert seen.mass == pytest.approx(seen.even, abs=1e-5)
    assert 1 / 10 < seen.even < 1 / 6
    assert not seen.is_there


def test_the_head_that_gives_most_is_looked_at() -> None:
    settings = replace(SETTINGS, n_layer=2, head_dim=8)
    model, tokens = stirred(settings), texts(50, 10, settings)
    block = model.blocks[1]
    assert isinstance(block, Block)
    block.attention.qkv.weight[24:32] = 0.0  # the second head's keys, so that it looks at all alike
    seen = look(model, settings.task(0), tokens)
    assert seen.mass > seen.even


THERE = Sink(mass=0.9, even=0.13, value_norm=0.4, excess=0.005)
BEYOND = {
    "sink 0": [0.020, 0.024, 0.022, 0.021],
    "sink 1": [0.010, 0.012, 0.011, 0.011],
    "dense": [0.3] * 4,
    "recompute": [0.02] * 4,
}
COSTS = {"joules to the sink": Cost(windows=[(0.0, 1.0)])}


def test_a_sink_that_is_missed_is_shown() -> None:
    verdict = judge(THERE, BEYOND, COSTS)
    assert verdict.outcome == "shown"
    assert verdict.figures["ratio, sink 0 / sink 1"] == pytest.approx(0.02175 / 0.011)
    assert verdict.figures["paired difference, sink 0 - sink 1 (nats)"] == pytest.approx(0.01075)
    assert verdict.costs == COSTS


@pytest.mark.parametrize(
    ("sink", "beyond", "reason"),
    [
        (replace(THERE, mass=0.29, even=0.09), BEYOND, "not: the first token gets 0.30 of the attention"),
        (replace(THERE, mass=0.31), BEYOND, "not: which is 3 times an even share"),
        (
            THERE,
            {**BEYOND, "sink 0": [0.010, 0.012, 0.011, 0.0111]},
            "not: a stream without a sink token loses more than one with it; not: by 1.3 times",
        ),
        (THERE, {**BEYOND, "sink 0": [0.012, 0.014, 0.013, 0.013]}, "not: by 1.3 times"),
    ],
)
def test_what_is_missing_is_said(sink: Sink, beyond: dict[str, list[float]], reason: str) -> None:
    verdict = judge(sink, beyond, COSTS)
    assert (verdict.outcome, verdict.reason) == ("not shown", reason)


def test_a_model_that_does_not_know_its_task_is_no_test_of_it() -> None:
    verdict = judge(replace(THERE, excess=0.2, mass=0.1), BEYOND, COSTS)
    assert verdict.outcome == "can't tell"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 11}, r"window = 11 is longer than the training length of 10.* --set window=10 or less"),
        ({"window": 4}, r"window = 4 holds nothing beside 4 sink tokens. Give 5 or more."),
        ({"stream_length": 10}, r"stream_length = 10 is not beyond the training length.* Give 40 or more."),
        ({"streams": 31}, r"streams = 31 is too few for an interval over streams. Give 32 or more."),
        ({"vocabulary": 4}, r"vocabulary = 4 with triggers = 3 .* Give two tokens more than triggers"),
        ({"trigger_share": 1.0}, r"trigger_share = 1.0 leaves no text to copy from"),
        ({"batch_size": 0}, r"batch_size = 0 is not a positive number"),
    ],
)
def test_settings_that_test_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        SinkSettings(**change)


def test_the_smoke_preset_goes_the_whole_way(tmp_path: Path) -> None:
    request = RunRequest(
        runs_dir=tmp_path, workload="attention-sinks", preset="smoke", seed=0, settings=PRESETS["smoke"]
    )
    run = open_run(tmp_path, WORKLOAD.train(request).name)
    found = summarize(run)["phenomenon"]
    assert found["outcome"] == "can't tell"
    assert [arm["arm"] for arm in found["arms"]][:2] == ["model", "stream, sink 0"]
    assert found["arms"][1]["facts"] == {"tokens": 32 * 24}
    curves = phenomenon_curves(run)
    assert curves["sink"]["step"].to_list() == [10, 20]
    streaming = curves["streaming"]
    assert streaming["context"].to_list() == [8, 16, 24] * 6
    assert {"cache", "sinks", "loss", "tokens_per_s", "kv_bytes"} <= set(streaming.columns)
    assert (streaming["duration_s"] > 0).all()  # joules of windows this short may be no knowledge
