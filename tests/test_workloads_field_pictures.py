"""Pictures of fields: valid PNGs, read back by hand."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest

from workloads.field_pictures import BLUE, RED, png, strip_of


def decoded(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Indices and palette of a PNG that `png` wrote; every checksum is checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    parts, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + length
    assert list(parts) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert (depth, colour, rest) == (8, 3, [0, 0, 0])
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)
    assert (rows[:, 0] == 0).all()
    return rows[:, 1:], np.frombuffer(parts[b"PLTE"], dtype=np.uint8).reshape(256, 3)


def test_what_is_written_is_read() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(256, 3)
    read, colours = decoded(png(pixels, palette))
    assert np.array_equal(read, pixels)
    assert np.array_equal(colours, palette)


def test_fields_stand_side_by_side_blue_below_zero_and_red_above() -> None:
    fields = np.array([[[-2.0, 0.0]], [[9.0, 1.0]]], dtype=np.float32)
    pixels, palette = decoded(base64.b64decode(strip_of(fields, limit=2.0, enlarge=2, gap=1)))
    assert pixels.shape == (2, 9)
    row = palette[pixels[0]]
    assert tuple(row[0]) == BLUE
    assert tuple(row[5]) == RED  # beyond the limit is the darkest
    assert row[2].min() > 245
    assert row[4].min() > 245  # between the two
    assert row[8][0] > row[8][2]
    assert pixels[0].tolist() == pixels[1].tolist()


def test_a_picture_is_small() -> None:
    noise = np.random.default_rng(0).normal(size=(6, 32, 32)).astype(np.float32)
    assert len(strip_of(noise, limit=3.0)) == pytest.approx(20_000, rel=0.5)
