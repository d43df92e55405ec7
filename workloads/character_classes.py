"""Kinds of characters, and how well single numbers tell them: which feature is "a digit is read"?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

CharClass = Literal[
    "space", "newline", "digit", "upper", "underscore", "dot", "quote", "open bracket", "close bracket"
]
CLASSES: Mapping[CharClass, bytes] = {
    "space": b" ",
    "newline": b"\n",
    "digit": b"0123456789",
    "upper": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "underscore": b"_",
    "dot": b".",
    "quote": b"'\"",
    "open bracket": b"([{",
    "close bracket": b")]}",
}
SHARES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Thresholds that are tried: the value that this share of tokens is above."""


def class_ids(name: CharClass) -> Tensor:
    """The byte ids of a class, int64."""
    return torch.tensor(list(CLASSES[name]))


def of_classes(tokens: Tensor) -> Tensor:
    """Whether each token is of each class, bool of shape (tokens, classes)."""
    return torch.stack([torch.isin(tokens, class_ids(name).to(tokens.device)) for name in CLASSES], dim=1)


def best_f1(values: Tensor, is_of: Tensor) -> list[tuple[int, float]]:
    """For each class the column that tells it best, and its F1.

    Column and threshold are chosen on the first half of the tokens, and judged on the second. A column says yes where
    it is above its threshold, and above 0.

    Args:
        values: One column a feature, of shape (tokens, columns).
        is_of: As `of_classes` has it.
    """
    half = len(values) // 2
    chosen, judged = values[:half], values[half:]
    ordered = chosen.sort(dim=0, descending=True).values
    thresholds = [ordered[int(share * half)].clamp_min(0.0) for share in SHARES]
    scores = torch.stack([_f1(chosen > each, is_of[:half]) for each in thresholds])
    found = []
    for number in range(is_of.shape[1]):
        share, column = divmod(int(scores[:, :, number].argmax()), values.shape[1])
        says = judged[:, column : column + 1] > thresholds[share][column]
        found.append((column, float(_f1(says, is_of[half:, number : number + 1]))))
    return found


def _f1(says: Tensor, is_of: Tensor) -> Tensor:
    """F1 of each column for each class, of shape (columns, classes): 0 where neither is ever so."""
    hits = says.float().T @ is_of.float()
    either = says.sum(dim=0)[:, None] + is_of.sum(dim=0)[None, :]
    return 2 * hits / either.clamp_min(1)


def mean_f1(found: Sequence[tuple[int, float]]) -> float:
    """Mean over classes."""
    return sum(f1 for _, f1 in found) / len(found)
