"""Small pictures of ten shapes, drawn from a seed, and one transformer block that reads them.

A class is a smooth random shape; a picture shows it moved by up to one pixel, under noise. They stand in for written
digits: as many as are wanted, with no file and no licence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workloads.transformer import Block, norm
from workloads.transformer_config import TransformerConfig

CLASSES, SIDE = 10, 8
"""A picture is SIDE x SIDE pixels."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Rows of pixels, float32 of shape (pictures, SIDE, SIDE), and their classes, of shape (pictures,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Pictures:
        """The same on a device."""
        return Pictures(self.pixels.to(device), self.labels.to(device))


def draw_shapes(generator: torch.Generator) -> Tensor:
    """The classes' shapes: random and smooth, of mean 0 and standard deviation 1; (CLASSES, SIDE, SIDE)."""
    frequency = torch.fft.fftfreq(SIDE) * SIDE
    kept = torch.exp(-(frequency[:, None] ** 2 + frequency**2) / 4)
    noise = torch.randn(CLASSES, SIDE, SIDE, generator=generator)
    shapes = torch.fft.ifft2(torch.fft.fft2(noise) * kept).real
    shapes = shapes - shapes.mean(dim=(1, 2), keepdim=True)
    scaled: Tensor = shapes / shapes.std(dim=(1, 2), keepdim=True)
    return scaled


def draw_pictures(shapes: Tensor, count: int, pixel_noise: float, generator: torch.Generator) -> Pictures:
    """Pictures of shapes, each moved by up to one pixel around the edge, under noise."""
    labels = torch.randint(CLASSES, (count,), generator=generator)
    moves = torch.randint(-1, 2, (2, count, 1, 1), generator=generator)
    along = torch.arange(SIDE)
    pixels = shapes[labels[:, None, None], (along[:, None] - moves[0]) % SIDE, (along - moves[1]) % SIDE]
    return Pictures(pixels + pixel_noise * torch.randn(pixels.shape, generator=generator), labels)


def mislabelled(pictures: Pictures, share: float, generator: torch.Generator) -> Pictures:
    """The same pictures, each with this chance under the label of another class."""
    is_wrong = torch.rand(len(pictures), generator=generator) < share
    others = (pictures.labels + torch.randint(1, CLASSES, (len(pictures),), generator=generator)) % CLASSES
    return Pictures(pictures.pixels, torch.where(is_wrong, others, pictures.labels))


def config_of(width: int) -> TransformerConfig:
    """The shape of a model; pictures have no order to hide, so attention looks both ways."""
    return TransformerConfig(
        d_model=width,
        n_layer=1,
        head_dim=8 if width % 8 == 0 else width,
        seq_len=SIDE,
        vocab_size=CLASSES,
        positions="learned",
        is_causal=False,
    )


class Reader(nn.Module):
    """A block that reads the rows of a picture, and a readout of its mean over them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.rows = nn.Linear(SIDE, config.d_model, bias=False)
        self.places = nn.Parameter(torch.empty(SIDE, config.d_model))
        self.block = Block(config)
        self.head = nn.Linear(config.d_model, CLASSES, bias=False)
        for weight in self.parameters():
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)

    def features(self, pixels: Tensor) -> Tensor:
        """What the readout reads, of shape (pictures, d_model)."""
        stream: Tensor = self.block(self.rows(pixels) + self.places)
        return norm(self.config, stream.mean(dim=1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of the classes, of shape (pictures, CLASSES)."""
        logits: Tensor = self.head(self.features(pixels))
        return logits


def flops_per_picture(width: int) -> float:
    """FLOPs of the forward and backward pass of one picture; the pixels ask for no gradient.

    Not counted: norms, softmax, GELU, the mean over rows, loss and optimizer.
    """
    block = SIDE * 12 * width**2 + width * CLASSES
    return float(6 * block + 4 * SIDE * SIDE * width + 12 * width * SIDE**2)


def num_parameters(width: int) -> int:
    """Parameters of a model: rows, places, block and readout."""
    return 2 * SIDE * width + 12 * width**2 + CLASSES * width
