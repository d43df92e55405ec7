"""Fields as small pictures, by the standard library alone."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

BLUE, WHITE, RED = (33, 102, 172), (250, 250, 250), (178, 24, 43)


def strip_of(fields: npt.NDArray[np.float32], *, limit: float, enlarge: int = 3, gap: int = 4) -> str:
    """Fields side by side as a PNG in base64: blue below zero, red above, white at zero.

    Args:
        fields: Of shape (count, height, width).
        limit: Magnitude of the darkest colours.
        enlarge: Pixels a side of each point.
        gap: White pixels between fields.
    """
    shades = np.clip(np.rint((fields / limit + 1) * 127.5), 0, 255).astype(np.uint8)
    large = shades.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    padded = np.pad(large, ((0, 0), (0, 0), (0, gap)), constant_values=128)
    return base64.b64encode(png(np.hstack(list(padded))[:, :-gap], _colours())).decode()


def png(pixels: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of indices, (height, width), into a palette, (256, 3).

    Source: W3C, Portable Network Graphics (PNG) Specification, sections 5 and 11.
    """
    height, width = pixels.shape
    rows = np.pad(pixels, ((0, 0), (1, 0)))  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _colours() -> npt.NDArray[np.uint8]:
    """256 colours from blue through white to red."""
    stops = np.array((BLUE, WHITE, RED), dtype=np.float64)
    places = np.linspace(0, 2, 256)
    return (
        np.stack([np.interp(places, range(3), stops[:, part]) for part in range(3)], axis=1)
        .round()
        .astype(np.uint8)
    )
