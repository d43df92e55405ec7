"""A model's residual stream: read at one place, centred and scaled, edited there, and steered by one feature of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.byte_lm import Batches
from workloads.sparse_autoencoder import SparseAutoencoder
from workloads.transformer import Transformer

Edit = Callable[[Tensor], Tensor]

DOSES = (0.0, 0.5, 1.0, 2.0, 4.0)
JUDGED_DOSE = 2.0


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a model's residual stream, and what its vectors are centred and scaled by.

    The first position of a sequence, which is its beginning and no text, is left out everywhere.
    """

    model: Transformer
    blocks: int
    mean: Tensor
    scale: Tensor

    def vectors(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Centred and scaled vectors, of shape (tokens, width): their mean square is 1."""
        return self.scaled(read_stream(self.model, self.blocks, batches))

    def scaled(self, x: Tensor) -> Tensor:
        """As the autoencoder has it."""
        return (x - self.mean) / self.scale

    def unscaled(self, x: Tensor) -> Tensor:
        """As the model has it."""
        return x * self.scale + self.mean

    @torch.no_grad()
    def effect(self, batches: Batches, edit: Edit, ids: Tensor) -> tuple[float, float]:
        """Loss in nats a token, and the mean probability of some ids, when the stream is edited."""
        losses, shares = [], []
        for inputs, targets in batches:
            x = self.model.stream(inputs, blocks=self.blocks)
            x = torch.cat((x[:, :1], self.unscaled(edit(self.scaled(x[:, 1:])))), dim=1)
            logits = self.model.logits(self.model.through(x, blocks=slice(self.blocks, None)))[:, 1:].float()
            losses.append(F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), reduction="none"))
            shares.append(logits.softmax(dim=-1)[..., ids].sum(dim=-1).flatten())
        return float(torch.cat(losses).mean()), float(torch.cat(shares).mean())


@torch.no_grad()
def read_stream(model: Transformer, blocks: int, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The residual stream after some blocks, float32 of shape (tokens, width)."""
    return torch.cat([model.stream(x, blocks=blocks)[:, 1:].flatten(0, 1) for x, _ in batches])


def open_site(
    model: Transformer, blocks: int, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Site, Tensor]:
    """A site that is centred and scaled by what is read there, and what was read."""
    x = read_stream(model, blocks, batches)
    mean = x.mean(dim=0)
    site = Site(model, blocks, mean, (x - mean).square().mean().sqrt())
    return site, site.scaled(x)


@torch.no_grad()
def randomised(model: Transformer, seed: int) -> Transformer:
    """The same model with each matrix drawn anew, normal, with the mean and deviation that training gave it."""
    other, generator = copy.deepcopy(model).cpu(), torch.Generator().manual_seed(seed)
    for weight in other.parameters():
        mean, deviation = weight.mean(), weight.std()
        weight.copy_(torch.randn(weight.shape, generator=generator) * deviation + mean)
    return other.to(next(model.parameters()).device)


def clamp(model: SparseAutoencoder, feature: int, value: float) -> Edit:
    """Give a feature this value everywhere, and leave the rest of the stream, errors included, as it is."""

    def edit(x: Tensor) -> Tensor:
        change = value - model.codes(x)[..., feature]
        return x + change[..., None] * model.decoder[feature]

    return edit


@torch.no_grad()
def choose_feature(
    site: Site, model: SparseAutoencoder, highest: Tensor, batches: Batches, ids: Tensor, count: int
) -> int:
    """The feature for a class: of those that add most to its logits, the one that steers best at the judged dose."""
    logits = model.decoder @ site.model.head.weight.T
    promise = logits[:, ids].mean(dim=1) - logits.mean(dim=1)
    promise = promise.masked_fill(highest == 0, -torch.inf)
    candidates: list[int] = promise.topk(count).indices.tolist()
    doses = {feature: JUDGED_DOSE * float(highest[feature]) for feature in candidates}
    return max(doses, key=lambda f: site.effect(batches, clamp(model, f, doses[f]), ids)[1])


@dataclass(frozen=True, slots=True)
class Dose:
    """What clamping did: probability of the class and loss, with the feature and, as means, with random ones."""

    dose: float
    probability: float
    control: float
    loss: float
    control_loss: float


def steer(
    site: Site,
    model: SparseAutoencoder,
    feature: int,
    unit: float,
    controls: Sequence[int],
    batches: Batches,
    ids: Tensor,
) -> Iterator[Dose]:
    """Clamp a feature, and random ones, at rising multiples of `unit`."""
    for dose in DOSES:
        loss, probability = site.effect(batches, clamp(model, feature, dose * unit), ids)
        others = [site.effect(batches, clamp(model, other, dose * unit), ids) for other in controls]
        control_loss, control = (sum(each) / len(others) for each in zip(*others, strict=True))
        yield Dose(dose, probability, control, loss, control_loss)
