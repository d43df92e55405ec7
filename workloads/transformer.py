"""A decoder-only transformer in one file, with its parameters and FLOPs known in closed form.

The shape is the one that scaling-law studies share: RMSNorm before each block, rotary positions, causal
attention, a GELU MLP of four times the width, no biases, and a head that is not tied to the embedding. Two
things are left out on purpose. The norms have no gains and there is no dropout, so that every parameter
outside the embedding enters exactly one matrix product per token, and C = 6 N D counts them exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from profiler.errors import InvalidValueError

FLOPS_FORMULA = "tokens x (6 N + 12 n_layer d_model seq_len); N without embedding; attention in full"
FLOPS_CONVENTION = (
    "multiply-add = 2; matrix products and attention of forward and backward; causal attention in full; no"
    " recomputation, embedding look-up, element-wise work or optimizer"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The shape of a model.

    Attributes:
        d_model: Width of the residual stream.
        n_layer: Number of blocks.
        head_dim: Width of one attention head; d_model / head_dim heads. Even, for the rotation.
        seq_len: Longest sequence, in tokens; attention looks back over all of it.
        vocab_size: Number of token ids, the beginning-of-sequence id included.
    """

    d_model: int
    n_layer: int
    head_dim: int
    seq_len: int
    vocab_size: int

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "head_dim", "seq_len", "vocab_size"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} = {getattr(self, name)} is not positive. Give it 1 or more.")
        if self.head_dim % 2:
            raise InvalidValueError(
                f"head_dim = {self.head_dim} is odd, and rotary positions turn pairs. Give an even head_dim."
            )
        if self.d_model % self.head_dim:
            raise InvalidValueError(
                f"d_model = {self.d_model} cannot be cut into heads of head_dim = {self.head_dim}. "
                f"Give a multiple of {self.head_dim}."
            )

    @property
    def n_head(self) -> int:
        """Number of attention heads."""
        return self.d_model // self.head_dim


def num_params(config: TransformerConfig) -> int:
    """N: the parameters that enter a matrix product for each token.

    A block holds 4 d^2 in attention (query, key, value, output) and 8 d^2 in its MLP; the head holds d x V.
    The embedding is not counted: it is looked up, not multiplied. The head is, because it is multiplied; at
    byte vocabulary it is as large as the blocks of a narrow model, and leaving it out would bend every fit.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, N = 12 n_layer d^2, with the head added.

    >>> num_params(TransformerConfig(d_model=16, n_layer=2, head_dim=16, seq_len=128, vocab_size=257))
    10256
    """
    return 12 * config.n_layer * config.d_model**2 + config.vocab_size * config.d_model


def model_flops_per_token(config: TransformerConfig) -> float:
    """FLOPs of the forward and backward pass for each token of a full sequence; a multiply-add is 2.

    6 N for the matrices (2 forward, 4 backward) and 12 n_layer d_model seq_len for the two products of
    attention, scores and values. Causal attention is counted IN FULL, as if no score were masked: that is the
    convention of the PaLM appendix and of `torch.utils.flop_counter`, so MFU compares with both; a kernel
    that skips the masked half can therefore seem up to twice as fast at attention as it is.

    Not counted: embedding look-up, norms, rotations, softmax, GELU, loss, optimizer (each O(d) or O(V) a
    token, together about 1 %), and the scores that flash attention computes again in its backward pass.

    Source: Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B; Kaplan et al. 2020, table 1.
    """
    attention = 12 * config.n_layer * config.d_model * config.seq_len
    return float(6 * num_params(config) + attention)


class Transformer(nn.Module):
    """Token ids in, logits over the next token out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = rotary_table(config.seq_len, config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(_init_weights)
        for module in self.modules():
            if isinstance(module, Attention | MLP):
                # Each block starts as the identity, so that depth does not change the scale of the stream.
                nn.init.zeros_(module.out.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at each position.

        Args:
            tokens: Ids, int64 of shape (batch, time), time at most seq_len.

        Returns:
            Logits of shape (batch, time, vocab_size).
        """
        time = tokens.shape[1]
        cos, sin = self.get_buffer("cos")[:time], self.get_buffer("sin")[:time]
        x = rms_norm(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(rms_norm(x))
        return logits


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map the stream, (batch, time, d_model), to itself."""
        x = x + self.attention(rms_norm(x), cos, sin)
        out: Tensor = x + self.mlp(rms_norm(x))
        return out


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Mix positions of (batch, time, d_model); position t sees 0..t."""
        heads = self.qkv(x).unflatten(-1, (3, -1, self.head_dim))  # (batch, time, 3, head, head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (batch, head, time, head_dim)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class MLP(nn.Module):
    """Two matrices with a GELU between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, 4 * config.d_model, bias=False)
        self.out = nn.Linear(4 * config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position of (batch, time, d_model) on its own."""
        out: Tensor = self.out(F.gelu(self.up(x)))
        return out


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
