"""Small pictures of ten shapes, drawn from a seed: as many as are wanted, with no file and no licence.

A class is a smooth random shape; a picture shows it moved by up to one pixel, under noise. That is easier than written
digits, and like them it is learnt well by small models from some hundred pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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
