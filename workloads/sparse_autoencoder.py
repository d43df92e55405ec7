"""A sparse autoencoder: vectors as sums of a few entries, k at most, of a dictionary that is larger than their width.

TopK with the auxiliary loss that keeps entries alive: Gao et al. 2024 (arXiv 2406.04093). Rows of the
decoder have unit length, the encoder begins as its transpose. There is no bias before the encoder: vectors are centred
by whoever gives them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AUX_WEIGHT = 1 / 32


class SparseAutoencoder(nn.Module):
    """Vectors in, their reconstructions out.

    Args:
        width: Of the vectors.
        features: Entries of the dictionary.
        k: How many of them a vector may use.
    """

    def __init__(self, width: int, features: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.decoder = nn.Parameter(F.normalize(torch.randn(features, width), dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of vectors, of shape (..., width)."""
        return self.codes(x) @ self.decoder

    def codes(self, x: Tensor) -> Tensor:
        """How much each feature is in each vector: 0 or more, of shape (..., features)."""
        return largest(self.before_topk(x), self.k)

    def before_topk(self, x: Tensor) -> Tensor:
        """What features would be, were they not to compete, of shape (..., features)."""
        return F.linear(x, self.encoder, self.bias)

    @torch.no_grad()
    def normalise(self) -> None:
        """Give the decoder's rows unit length again, after an update."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp_min(1e-8))


def largest(x: Tensor, k: int) -> Tensor:
    """The k largest of each row, where they are positive; all else is 0."""
    top = x.topk(k, dim=-1)
    return torch.zeros_like(x).scatter(-1, top.indices, top.values.relu())


def reconstruction_loss(model: SparseAutoencoder, x: Tensor, silent: Tensor) -> tuple[Tensor, Tensor]:
    """What to descend, and which features fired.

    The features that are silent are trained on what is left unexplained: that is how they come back.

    Args:
        model: Of `width`.
        x: Vectors, of shape (batch, width).
        silent: Which features have not fired for long, bool of shape (features,).

    Returns:
        The mean squared error with the auxiliary loss; bool of shape (features,).
    """
    before = model.before_topk(x)
    codes = largest(before, model.k)
    rest = x - codes @ model.decoder
    loss = rest.square().mean()
    if silent.any():
        k = min(x.shape[-1] // 2, int(silent.sum()))
        revived = largest(before.masked_fill(~silent, 0.0), k) @ model.decoder
        loss = loss + AUX_WEIGHT * (rest.detach() - revived).square().mean()
    return loss, (codes > 0).any(dim=0)


def flops_per_vector(width: int, features: int, *, has_silent: bool) -> float:
    """FLOPs of the forward and backward pass for each vector; a multiply-add is 2.

    The encoder takes 2 width x features forward and as much for its weights' gradient (vectors need none); the decoder
    2 forward and 4 backward; the auxiliary loss decodes once more. Dense, as it is computed here: a kernel that skips
    zeros would need k / features of the decoder's part.
    """
    return float((10 + (6 if has_silent else 0)) * width * features)


@dataclass(frozen=True, slots=True)
class Survey:
    """An autoencoder on vectors that it has not seen: FVU, and the largest value of each feature (0 is dead)."""

    fvu: float
    largest: Tensor

    @property
    def dead(self) -> float:
        """Share of features that never fired."""
        return float((self.largest == 0).double().mean())


@torch.no_grad()
def survey(model: SparseAutoencoder, vectors: Tensor) -> Survey:
    """Look at each vector once."""
    rest, highest = 0.0, torch.zeros(len(model.decoder), device=vectors.device)
    for part in torch.split(vectors, 4096):
        codes = model.codes(part)
        rest += float((part - codes @ model.decoder).square().sum())
        highest = torch.maximum(highest, codes.amax(dim=0))
    return Survey(rest / float(vectors.square().sum()), highest)


@torch.no_grad()
def unexplained_by_pca(fitted: Tensor, judged: Tensor, components: int) -> float:
    """Share of the variance of `judged` that the main components of `fitted` leave, both centred, (tokens, width)."""
    _, vectors = torch.linalg.eigh(fitted.T @ fitted / len(fitted))
    main = vectors[:, -components:]
    rest = judged - judged @ main @ main.T
    return float(rest.square().sum() / judged.square().sum())
