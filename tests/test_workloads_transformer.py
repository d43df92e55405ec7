"""The reference model: its closed-form counts against torch's own, and that it cannot see the future."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from profiler.errors import InvalidValueError
from workloads.kv_cache import KeyValueCache
from workloads.transformer import Transformer, rotary_table, rotate
from workloads.transformer_config import (
    TransformerConfig,
    model_flops_per_sequence,
    model_flops_per_token,
    num_params,
)

SHAPES = [
    {"d_model": 16, "n_layer": 2, "head_dim": 16, "seq_len": 64},
    {"d_model": 64, "n_layer": 3, "head_dim": 16, "seq_len": 128},
    {"d_model": 128, "n_layer": 1, "head_dim": 64, "seq_len": 32},
]


def make(shape: dict[str, int]) -> tuple[TransformerConfig, Transformer]:
    torch.manual_seed(0)
    config = TransformerConfig(**shape, vocab_size=257)
    return config, Transformer(config)


def batch_of(config: TransformerConfig, batch_size: int = 2) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch_size, config.seq_len))


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_formula_agrees_with_the_flop_counter(shape: dict[str, int]) -> None:
    config, model = make(shape)
    tokens = batch_of(config)
    # The MATH backend: torch's counter knows no formula for the CPU's flash kernel, and a GPU's flash kernel
    # computes its scores again in the backward pass, which is executed work but not model FLOPs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()  # type: ignore[no-untyped-call]
    assert counter.get_total_flops() == pytest.approx(
        model_flops_per_token(config) * tokens.numel(), rel=0.01
    )


KINDS: list[dict[str, Any]] = [
    {},
    {"positions": "learned", "activation": "relu", "is_normed": False},
    {"positions": "none", "is_causal": False},
    {"has_mlp": False},
]


def stirred(config: TransformerConfig) -> Transformer:
    """A model without the zeros of a fresh one, which would hide what is wrong."""
    torch.manual_seed(0)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last", [None, 1, 3])
def test_flops_of_a_sequence_agree_with_the_flop_counter(kind: dict[str, Any], last: int | None) -> None:
    config = TransformerConfig(**{**SHAPES[1], **kind}, vocab_size=60)
    model, tokens = stirred(config), torch.randint(60, (4, 20))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, last=last).square().sum().backward()
    assert counter.get_total_flops() == pytest.approx(
        4 * model_flops_per_sequence(config, 20, last), rel=0.01
    )


def test_flops_of_a_full_sequence_are_those_of_its_tokens() -> None:
    config, _ = make(SHAPES[1])
    assert model_flops_per_sequence(config, 128) == 128 * model_flops_per_token(config)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("last", [1, 3])
def test_the_last_logits_are_those_of_the_whole(kind: dict[str, Any], last: int) -> None:
    config = TransformerConfig(**{**SHAPES[1], **kind}, vocab_size=60)
    model, tokens = stirred(config), torch.randint(60, (4, 20))
    assert torch.allclose(model(tokens, last=last), model(tokens)[:, -last:], atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.get("is_causal", True)])
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_cache_gives_the_logits_of_one_pass(kind: dict[str, Any], chunk: int) -> None:
    config = TransformerConfig(**{**SHAPES[1], **kind}, vocab_size=60)
    model, tokens = stirred(config), torch.randint(60, (4, 20))
    cache = KeyValueCache(config.n_layer)
    pieces = [model(piece, cache=cache) for piece in tokens.split(chunk, dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), model(tokens), atol=1e-5)
    assert cache.time == 20
    assert cache.nbytes == 2 * config.n_layer * 4 * 20 * config.d_model * 4
    cache.keep(torch.tensor([0, 18, 19]))
    assert cache.time == 3


def test_weights_of_attention_are_those_that_mix() -> None:
    config = TransformerConfig(**SHAPES[1], vocab_size=60)
    model, tokens = stirred(config), torch.randint(60, (4, 20))
    x, attention = model.stream(tokens, blocks=0), model.blocks[0].attention
    rotation = model._rotation(20)
    mixed = attention.weights(x, rotation) @ attention.heads(x)[2]
    assert torch.allclose(attention.out(mixed.transpose(1, 2).flatten(-2)), attention(x, rotation), atol=1e-5)


def test_a_stream_can_be_cut_after_any_block() -> None:
    config = TransformerConfig(**SHAPES[1], vocab_size=60)
    model, tokens = stirred(config), torch.randint(60, (4, 20))
    x = model.stream(tokens, blocks=2)
    assert torch.allclose(model.logits(model.through(x, blocks=slice(2, None))), model(tokens), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_num_params_is_every_parameter_but_the_embedding(shape: dict[str, int]) -> None:
    config, model = make(shape)
    stored = sum(p.numel() for p in model.parameters())
    assert num_params(config) == stored - model.embedding.weight.numel()


def test_a_later_byte_changes_no_earlier_logit() -> None:
    config, model = make(SHAPES[1])
    for parameter in model.parameters():  # the zeros of a fresh model would hide a leak
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = batch_of(config)
    changed = tokens.clone()
    changed[:, 40] = (changed[:, 40] + 1) % config.vocab_size
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.allclose(before[:, 40:], after[:, 40:])


def test_a_shorter_sequence_gives_the_same_logits() -> None:
    config, model = make(SHAPES[1])
    tokens = batch_of(config)
    assert torch.allclose(model(tokens)[:, :50], model(tokens[:, :50]), atol=1e-5)


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    cos, sin = rotary_table(32, 16)
    q, k = torch.randn(1, 1, 1, 16).expand(1, 1, 32, 16), torch.randn(1, 1, 1, 16).expand(1, 1, 32, 16)
    turned_q, turned_k = rotate(q, cos, sin), rotate(k, cos, sin)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    scores = turned_q[0, 0] @ turned_k[0, 0].T
    assert torch.allclose(scores[5, 2], scores[20, 17], atol=1e-4)


def test_the_first_loss_is_that_of_guessing() -> None:
    config, model = make(SHAPES[0])
    tokens = batch_of(config, 8)
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(config.vocab_size), abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 24}, r"d_model = 24 cannot be cut into heads of head_dim = 16. Give a multiple of 16."),
        ({"head_dim": 5}, r"head_dim = 5 is odd, .* Give an even head_dim."),
        ({"n_layer": 0}, r"n_layer = 0 is not positive. Give it 1 or more."),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        TransformerConfig(**{**SHAPES[0], "vocab_size": 257, **change})
