"""A diffusion transformer (DiT) for square fields; its parameters and FLOPs are known in closed form.

Peebles & Xie 2023 (arXiv 2212.09748): a field is cut into patches, each a token; time and class enter every block as
shift, scale and gate of what attention and MLP see and add (adaLN-Zero: all gates are zero at first). What we change:
no autoencoder and no learned variance, RMSNorm for LayerNorm, the attention and MLP of our other experiments; and, as
the fields are periodic, places are not learned but turned: queries and keys by whole turns around the square, so that
attention depends on the distance between patches, whichever way round, and a shifted field gives a shifted answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from profiler.errors import InvalidValueError
from workloads.transformer import MLP, Attention, Rotation, rms_norm
from workloads.transformer_config import TransformerConfig

FREQUENCIES = 64
"""Sines and cosines by which a time is told to the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """The shape of a model.

    Attributes:
        grid: Points on a side of a field.
        patch: Points on a side of a token; divides `grid`.
        classes: Kinds of fields.
        d_model: Width.
        n_layer: Blocks.
        head_dim: Width of a head; divides `d_model`, and is a multiple of 4: half of it turns with x, half with y.
    """

    grid: int
    patch: int
    classes: int
    d_model: int
    n_layer: int
    head_dim: int

    def __post_init__(self) -> None:
        if self.patch < 1 or self.grid % self.patch:
            raise InvalidValueError(
                f"patch = {self.patch} does not cut a grid of {self.grid} into whole patches. Give a divisor of"
                f" {self.grid}."
            )
        if self.head_dim % 4:
            raise InvalidValueError(
                f"head_dim = {self.head_dim} cannot turn with x and y alike. Give a multiple of 4, such as 16."
            )
        self.of_blocks()

    @property
    def tokens(self) -> int:
        """Patches of a field."""
        return (self.grid // self.patch) ** 2

    def of_blocks(self) -> TransformerConfig:
        """The shape of attention and MLP."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=self.tokens,
            vocab_size=1,
            positions="none",
            is_causal=False,
        )


def dit_params(config: DiTConfig) -> int:
    """Every parameter: 18 d^2 a block, a third of it in the modulation, and what embeds and reads."""
    d, points = config.d_model, config.patch**2
    embeddings = d * (2 * points + config.classes + FREQUENCIES + d)
    return embeddings + config.n_layer * (18 * d * d + 6 * d) + 2 * d * d + 2 * d


def forward_flops(config: DiTConfig) -> float:
    """FLOPs of the forward pass of one field; a multiply-add is 2 (DiT's own "Gflops" count it as 1).

    Tokens pass through 12 d^2 a block, patches in and out, and attend to all tokens; the modulation is once a field.
    Training takes three times as much. Not counted: look-ups, norms, GELU, softmax, the sines of time.
    """
    d, tokens, points = config.d_model, config.tokens, config.patch**2
    of_field = d * (FREQUENCIES + d) + 6 * d * d * config.n_layer + 2 * d * d
    of_token = 2 * points * d + config.n_layer * (12 * d * d + 2 * tokens * d)
    return 2.0 * (of_field + tokens * of_token)


class DiT(nn.Module):
    """A noised field, its time and its class in; of the same shape out."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        d, points = config.d_model, config.patch**2
        self.embed = nn.Linear(points, d, bias=False)
        cos, sin = torus_table(config.grid // config.patch, config.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.time = nn.Sequential(
            nn.Linear(FREQUENCIES, d, bias=False), nn.SiLU(), nn.Linear(d, d, bias=False)
        )
        self.kind = nn.Embedding(config.classes, d)
        self.blocks = nn.ModuleList(DiTBlock(config.of_blocks()) for _ in range(config.n_layer))
        self.modulate_last = nn.Linear(d, 2 * d)
        self.read = nn.Linear(d, points, bias=False)
        for zero in (self.modulate_last, self.read):
            nn.init.zeros_(zero.weight)
        nn.init.zeros_(self.modulate_last.bias)

    def forward(self, fields: Tensor, times: Tensor, kinds: Tensor) -> Tensor:
        """What the model says of each point of the fields.

        Args:
            fields: Of shape (batch, grid, grid).
            times: From 0 (no noise) to 1 (nothing else), of shape (batch,).
            kinds: Class of each, int64 of shape (batch,).
        """
        condition = F.silu(self.time(waves(times)) + self.kind(kinds))
        rotation = (self.get_buffer("cos"), self.get_buffer("sin"))
        x = self.embed(patches(fields, self.config.patch))
        for block in self.blocks:
            x = block(x, condition, rotation)
        shift, scale = self.modulate_last(condition).unsqueeze(1).chunk(2, dim=-1)
        return whole(self.read(rms_norm(x) * (1 + scale) + shift), self.config.patch)


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted and scaled before and gated after by the condition."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(config), MLP(config)
        self.modulate = nn.Linear(config.d_model, 6 * config.d_model)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, condition: Tensor, rotation: Rotation) -> Tensor:
        """Map the stream, (batch, tokens, d_model), to itself."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (
            self.modulate(condition).unsqueeze(1).chunk(6, dim=-1)
        )
        x = x + gate * self.attention(rms_norm(x) * (1 + scale) + shift, rotation)
        out: Tensor = x + mlp_gate * self.mlp(rms_norm(x) * (1 + mlp_scale) + mlp_shift)
        return out


def torus_table(side: int, head_dim: int) -> Rotation:
    """Cosine and sine of each patch's angles, each of shape (side^2, head_dim / 2): 1, 2, .. side / 2 turns a square.

    Half of the pairs turn with x, half with y; where there are more pairs than waves, these come again.
    """
    turns = torch.arange(head_dim // 4) % max(side // 2, 1) + 1
    along = torch.outer(torch.arange(side) * (2 * math.pi / side), turns.float())
    angles = torch.cat((along.repeat_interleave(side, dim=0), along.repeat(side, 1)), dim=1)
    return angles.cos(), angles.sin()


def waves(times: Tensor) -> Tensor:
    """Cosines and sines of times, of shape (batch, FREQUENCIES): from one wave of 6 to one of 0.006 units of time."""
    rates = 1000.0 * torch.exp(
        -math.log(1000.0) * torch.linspace(0, 1, FREQUENCIES // 2, device=times.device)
    )
    angles = times[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def patches(fields: Tensor, size: int) -> Tensor:
    """Fields, (batch, grid, grid), as tokens, (batch, tokens, size^2)."""
    cut = torch.unflatten(torch.unflatten(fields, 2, (-1, size)), 1, (-1, size))
    return cut.transpose(2, 3).flatten(3).flatten(1, 2)


def whole(tokens: Tensor, size: int) -> Tensor:
    """Tokens, (batch, tokens, size^2), as fields, (batch, grid, grid)."""
    side = math.isqrt(tokens.shape[1])
    cut = torch.unflatten(torch.unflatten(tokens, 2, (size, size)), 1, (side, side))
    return cut.transpose(2, 3).flatten(3).flatten(1, 2)
