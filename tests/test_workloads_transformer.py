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
from workloads.transformer import (
    Transformer,
    TransformerConfig,
    model_flops_per_token,
    num_params,
    rotary_table,
    rotate,
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
