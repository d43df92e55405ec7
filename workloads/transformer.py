"""A transformer in one file; its parameters and FLOPs are known in closed form (`transformer_config.py`).

The shape is the one that scaling-law studies share: RMSNorm before each block, rotary positions, causal
attention, a GELU MLP of four times the width, no biases, and a head that is not tied to the embedding. What papers
of single phenomena have otherwise (learned positions, ReLU, no norm, no MLP) is a setting of the configuration. Two
things are left out on purpose. The norms have no gains and there is no dropout, so that every parameter
outside the embedding enters exactly one matrix product per token, and C = 6 N D counts them exactly.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.kv_cache import KeyValueCache, LayerCache
from workloads.transformer_config import TransformerConfig

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine by position, each of shape (time, head_dim / 2)."""


class Transformer(nn.Module):
    """Token ids in, logits over the next token out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.places = nn.Embedding(config.seq_len, config.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.positions == "rotary":
            cos, sin = rotary_table(config.seq_len, config.head_dim)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        self.apply(_init_weights)
        for module in self.modules():
            if isinstance(module, Attention | MLP):
                # Each block starts as the identity, so that depth does not change the scale of the stream.
                nn.init.zeros_(module.out.weight)

    def forward(
        self,
        tokens: Tensor,
        places: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        last: int | None = None,
    ) -> Tensor:
        """Logits of the next token at each position.

        Args:
            tokens: Ids, int64 of shape (batch, time), time at most seq_len.
            places: The place of each token where it is not its index, int64 of shape (time,) or (batch, time); for
                learned positions.
            cache: Keys and values of the tokens before these, to which those of these are added; None: there are none.
            last: At how many of the last positions logits are wanted; the last block does no more. None: at all.

        Returns:
            Logits of shape (batch, time or last, vocab_size).
        """
        return self.logits(self.stream(tokens, places, cache, last=last))

    def stream(
        self,
        tokens: Tensor,
        places: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        blocks: int | None = None,
        last: int | None = None,
    ) -> Tensor:
        """The residual stream after the first `blocks` blocks, or after all, of shape (batch, time, d_model)."""
        before = cache.time if cache else 0
        x = self.embedding(tokens)
        if self.places is not None:
            indices = torch.arange(before, before + tokens.shape[1], device=tokens.device)
            x = x + self.places(indices if places is None else places)
        return self.through(norm(self.config, x), cache, blocks=slice(0, blocks), last=last)

    def through(
        self,
        x: Tensor,
        cache: KeyValueCache | None = None,
        *,
        blocks: slice = slice(None),
        last: int | None = None,
    ) -> Tensor:
        """What some of the blocks make of a stream; of its last positions only, if that is all that is wanted."""
        rotation = self._rotation(x.shape[1] + (cache.time if cache else 0))
        numbers = range(self.config.n_layer)[blocks]
        for number in numbers:
            wanted = last if number == numbers[-1] else None
            x = self.blocks[number](x, rotation, cache.of_layer(number) if cache else None, wanted)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """What the head reads from a stream, of shape (batch, time, vocab_size)."""
        logits: Tensor = self.head(norm(self.config, x))
        return logits

    def _rotation(self, time: int) -> Rotation | None:
        if self.config.positions != "rotary":
            return None
        return self.get_buffer("cos")[:time], self.get_buffer("sin")[:time]


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = Attention(config)
        self.mlp = MLP(config) if config.has_mlp else None

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Map the stream, (batch, time, d_model), to itself, or to its `last` positions."""
        mixed = self.attention(norm(self.config, x), rotation, cache, last)
        x = x[:, -mixed.shape[1] :] + mixed
        return x if self.mlp is None else x + self.mlp(norm(self.config, x))


class Attention(nn.Module):
    """Self-attention over what a position may see."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim, self.is_causal = config.head_dim, config.is_causal
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Mix positions of (batch, time, d_model); causally, position t sees the cache and 0..t.

        With `last`, only that many of the last positions ask, and the result is of these.
        """
        q, k, v = self.heads(x, last)
        new = q.shape[2]
        if cache is not None:
            k, v = cache.extend(k, v)
        if rotation is not None:
            cos, sin = rotation
            q, k = rotate(q, cos[-new:], sin[-new:]), rotate(k, cos, sin)
        mixed = self._mix(q, k, v)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out

    def heads(self, x: Tensor, last: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (of the last positions), keys and values, each (batch, head, time, head_dim), not yet turned."""
        if last is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
            return q, k, v
        of_q, of_kv = torch.split(self.qkv.weight, [x.shape[-1], 2 * x.shape[-1]])
        q = torch.unflatten(F.linear(x[:, -last:], of_q), -1, (-1, self.head_dim)).transpose(1, 2)
        k, v = torch.unflatten(F.linear(x, of_kv), -1, (2, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def weights(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """What each position attends to, of shape (batch, head, time, time): rows sum to 1."""
        q, k, _ = self.heads(x)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        if self.is_causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(hidden, -math.inf)
        return scores.softmax(dim=-1)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        new, seen = q.shape[2], k.shape[2]
        if not self.is_causal or new == 1 < seen:
            return F.scaled_dot_product_attention(q, k, v)
        if new == seen:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        visible = torch.ones(new, seen, dtype=torch.bool, device=q.device).tril(seen - new)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)


class MLP(nn.Module):
    """Two matrices with a non-linearity between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = F.gelu if config.activation == "gelu" else F.relu
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=False)
        self.out = nn.Linear(4 * config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position of (batch, time, d_model) on its own."""
        out: Tensor = self.out(self.activation(self.up(x)))
        return out


def norm(config: TransformerConfig, x: Tensor) -> Tensor:
    """`rms_norm`, for models that have norms."""
    return rms_norm(x) if config.is_normed else x


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to a root mean square of 1, without a learned gain."""
    return F.rms_norm(x, (x.shape[-1],))


def rotary_table(seq_len: int, head_dim: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, each float32 of shape (seq_len, head_dim / 2).

    Source: Su et al. 2021 (RoFormer, arXiv 2104.09864), section 3.2.2.
    """
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of (batch, head, time, head_dim) by its position's angle."""
    a, b = x.chunk(2, dim=-1)
    # The tables are float32; under autocast the result would be too, and flash attention wants bfloat16.
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


def _init_weights(module: nn.Module) -> None:
    """Matrices keep the scale of their input; the head starts small, so that the first loss is ln V."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
    if isinstance(module, nn.Embedding):
        # The first norm divides the scale out again. A small one lets Adam, whose steps are as long as its
        # rate whatever the gradient, turn a byte's vector sooner: 0.04 to 0.2 nats at 131,072 tokens.
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, Transformer):  # apply() visits the whole model last
        nn.init.normal_(module.head.weight, std=0.02)
