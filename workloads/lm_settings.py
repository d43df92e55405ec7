"""Settings of the workload `lm`, and its three presets.

The recipe is that of the scaling-law literature (AdamW with betas 0.9 and 0.95, a constant learning rate with
a cool-down over the last 20 % of each budget), scaled down for `cpu` until a whole sweep takes minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from profiler.errors import InvalidValueError
from workloads.device import Accelerator
from workloads.schedule import Schedule, make_schedule
from workloads.transformer_config import TransformerConfig

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LMSettings:
    """What `--set` can change.

    Attributes:
        d_model: Width of the model: the axis of the sweep. A multiple of head_dim.
        n_layer: Number of blocks.
        head_dim: Width of one attention head.
        seq_len: Tokens of a sequence.
        batch_size: Sequences of one optimizer update.
        token_budgets: Training tokens of each point, rising; on the command line joined by `+`.
        lr: Peak learning rate of the matrices at width `lr_width`, and of the embedding at every width.
        lr_width: The width at which `lr` was found.
        lr_exponent: The matrices' rate falls as (lr_width / d_model) to this power; 1 is muP, 0 never scales.
        warmup_steps: Steps in which the rate rises from zero.
        weight_decay: Decoupled weight decay of the matrices.
        precision: Lightning's name: "32-true", or "bf16-mixed" (CPUs gain from it only above d_model 256).
        compile: Compile the model; never pays within a `cpu` preset's minutes.
        data: None for the standard library's source, or a path as in `workloads.corpus`.
        vocab_size: Ids of a token file (.bin, .npy); None takes one more than its largest.
        val_sequences: Validation sequences of each evaluation: the same ones in every run of a sweep.
        accelerator: "cpu", "cuda", or "auto" for a GPU if there is one.
        threads: Threads of torch's CPU operators; None leaves torch's own choice.
    """

    d_model: int
    n_layer: int = 2
    head_dim: int = 16
    seq_len: int = 128
    batch_size: int = 8
    token_budgets: tuple[int, ...]
    lr: float = 6e-3
    lr_width: int = 32
    lr_exponent: float = 0.5
    warmup_steps: int = 30
    weight_decay: float = 0.0
    precision: Precision = "32-true"
    compile: bool = False
    data: str | None = None
    vocab_size: int | None = None
    val_sequences: int = 512
    accelerator: Accelerator = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "lr_width", "val_sequences", "threads", "vocab_size", "lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidValueError(f"{name} = {value} is not a positive number. Give a positive one.")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidValueError(f"{name} = {getattr(self, name)} is negative. Give 0 or more.")
        for name, known in (("precision", get_args(Precision)), ("accelerator", get_args(Accelerator))):
            if getattr(self, name) not in known:
                raise InvalidValueError(
                    f"{name} = {getattr(self, name)!r} is unknown. Give {' or '.join(known)}."
                )
        self.config(vocab_size=1)  # each refuses what it cannot lay out
        self.schedule()

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer update."""
        return self.batch_size * self.seq_len

    @property
    def matrix_lr(self) -> float:
        """Peak learning rate of the matrices at this width.

        Source: Yang et al. 2022 (muP, arXiv 2203.03466), table 3: under Adam the rate of matrices falls with
        the width, that of the embedding does not. The gentler power of the small presets is our own tuning.
        """
        return self.lr * float((self.lr_width / self.d_model) ** self.lr_exponent)

    def config(self, vocab_size: int) -> TransformerConfig:
        """The model's shape."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=self.seq_len,
            vocab_size=vocab_size,
        )

    def schedule(self) -> Schedule:
        """The program of a run."""
        return make_schedule(
            token_budgets=self.token_budgets,
            tokens_per_step=self.tokens_per_step,
            warmup_steps=self.warmup_steps,
        )


_SMOKE: Mapping[str, Any] = {
    "d_model": 16,
    "seq_len": 64,
    "batch_size": 4,
    "token_budgets": (8_192, 16_384),
    "warmup_steps": 8,
    "val_sequences": 64,
}
_CPU: Mapping[str, Any] = {
    "d_model": 64,
    "token_budgets": (131_072, 262_144, 524_288, 1_048_576),
}
# N = 1.2, 2.7, 7.5, 19 and 58 million at bytes; 2^16 tokens a step. By arithmetic, not by trial: at 40 % of
# an H200's dense bf16 peak the widest takes 13 minutes, the whole sweep under an hour. It wants data of its
# own (the default text would repeat 59 times).
_GPU: Mapping[str, Any] = {
    "d_model": 512,
    "n_layer": 6,
    "head_dim": 64,
    "seq_len": 1024,
    "batch_size": 64,
    "token_budgets": tuple(2**exponent for exponent in (25, 26, 27, 28, 29)),
    "lr_width": 256,
    "lr_exponent": 1.0,
    "warmup_steps": 100,
    "precision": "bf16-mixed",
    "compile": True,
    "accelerator": "cuda",
}
PRESETS: Mapping[str, LMSettings] = {
    "smoke": LMSettings(**_SMOKE),
    "cpu": LMSettings(**_CPU),
    "gpu": LMSettings(**_GPU),
}
WIDTHS: Mapping[str, tuple[int, ...]] = {
    "smoke": (16, 32),
    "cpu": (16, 32, 64, 128),
    "gpu": (128, 192, 320, 512, 896),
}
