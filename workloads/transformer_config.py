"""The shape of a transformer, and its parameters and FLOPs in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        positions: How a token knows its place: by rotation of queries and keys, by a learned vector, or not at all.
        activation: Of the MLP.
        has_mlp: False leaves attention alone in each block.
        is_normed: False leaves out every norm.
        is_causal: Whether a position sees only those before it.
    """

    d_model: int
    n_layer: int
    head_dim: int
    seq_len: int
    vocab_size: int
    positions: Literal["rotary", "learned", "none"] = "rotary"
    activation: Literal["gelu", "relu"] = "gelu"
    has_mlp: bool = True
    is_normed: bool = True
    is_causal: bool = True

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

    A block holds 4 d^2 in attention (query, key, value, output) and 8 d^2 in its MLP, if it has one; the head holds
    d x V. Embeddings of tokens and positions are not counted: they are looked up, not multiplied. The head is, because
    it is multiplied; at byte vocabulary it is as large as the blocks of a narrow model, and leaving it out would bend
    every fit.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, N = 12 n_layer d^2, with the head added.

    >>> num_params(TransformerConfig(d_model=16, n_layer=2, head_dim=16, seq_len=128, vocab_size=257))
    10256
    """
    of_block = 12 if config.has_mlp else 4
    return of_block * config.n_layer * config.d_model**2 + config.vocab_size * config.d_model


def num_all_params(config: TransformerConfig) -> int:
    """Parameters with the embedding, which is a large part of a small student."""
    return num_params(config) + config.vocab_size * config.d_model


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


def model_flops_per_sequence(config: TransformerConfig, time: int, last: int | None = None) -> float:
    """FLOPs of the forward and backward pass of one sequence of `time` tokens, with logits at its `last` positions.

    As `model_flops_per_token`, for sequences shorter than seq_len and for answers that are only a few tokens: the last
    block then computes keys and values everywhere (2 d^2), and all else (2 d^2, the MLP, attention) at those positions.
    """
    asked = time if last is None else min(last, time)
    d2, of_mlp = config.d_model**2, (8 if config.has_mlp else 0) * config.d_model**2
    whole, keys, rest = time * (4 * d2 + of_mlp), time * 2 * d2, asked * (2 * d2 + of_mlp)
    matrices = (config.n_layer - 1) * whole + keys + rest + asked * config.vocab_size * config.d_model
    attention = 2 * config.d_model * time * ((config.n_layer - 1) * time + asked)
    return float(6 * (matrices + attention))
