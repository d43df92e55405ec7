"""How many samples and tokens a batch holds: found where that is certain, null with the reason where not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

TOKEN_KEYS = ("input_ids", "decoder_input_ids", "token_ids", "tokens")
NO_TOKENS = (
    "the batch's first tensor is no matrix of token ids (alone or with targets of its shape) for an embedding."
    " Pass tokens= to count them"
)
MAX_WALK = 32
"""Elements of a list that are looked at: a batch may hold long lists of plain numbers."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def count_samples(batch: Any, batch_size: int | None = None) -> tuple[int | None, str]:
    """Samples in a batch: the first dimension that all its tensors share.

    Args:
        batch: What the loader gave.
        batch_size: What the loader says a full batch is, if this is one: a first dimension of another length counts
            something else (channels, time).

    Returns:
        The count, or None, and how it was got, or why not.
    """
    sizes = {tensor.shape[0] for tensor in _tensors(batch) if tensor.ndim > 0}
    if len(sizes) == 1 and batch_size is not None and sizes != {batch_size}:
        found = sizes.pop()
        return (
            None,
            f"a batch's first dimension is {found}, but the loader's batches are {batch_size}. Pass samples=",
        )
    if len(sizes) == 1:
        return sizes.pop(), "first dimension of the batch's tensors"
    if not sizes:
        return None, "the batch holds no tensor. Pass samples= to count them"
    return (
        None,
        f"the batch's tensors disagree in their first dimension ({sorted(sizes)}). Pass samples= to count them",
    )


def count_tokens(batch: Any, *, embeds: bool) -> tuple[int | None, str]:
    """Tokens in a batch, padding included.

    A mapping's `input_ids` (or like name) are tokens; so is the first tensor of any other batch if it is a
    whole-number matrix, alone or with targets of the same shape, and the model has an embedding to look it up in.
    Anything else may be something else: a user's and an item's number, say.

    Args:
        batch: What the loader gave.
        embeds: Whether the model has an embedding table.

    Returns:
        The count, or None, and how it was got, or why not.
    """
    if isinstance(batch, Mapping):
        for key in TOKEN_KEYS:
            if isinstance(batch.get(key), torch.Tensor):
                return batch[key].numel(), f"elements of batch[{key!r}], padding included"
        return None, f"the batch has none of {', '.join(TOKEN_KEYS)}. Pass tokens= to count them"
    tensors = list(_tensors(batch))
    first, others = next(iter(tensors), None), tensors[1:]
    if first is not None and first.ndim == 2 and first.dtype in _INTEGERS and embeds:
        targets = [t for t in others if t.shape == first.shape and t.dtype in _INTEGERS]
        if targets or not others:
            return first.numel(), "elements of the batch's first tensor, padding included"
    return None, NO_TOKENS


def first_shape(batch: Any) -> torch.Size | None:
    """The shape of a batch's first tensor, where a glance finds it.

    Asked before every forward pass: what a default collation makes (a list, a dict) comes first, and by its exact type.
    """
    if type(batch) is list or isinstance(batch, list | tuple):
        batch = batch[0] if batch else None
    elif isinstance(batch, Mapping):
        batch = next((v for v in batch.values() if isinstance(v, torch.Tensor)), None)
    return batch.shape if isinstance(batch, torch.Tensor) else None


def has_embedding(module: torch.nn.Module) -> bool:
    """Whether any part of a model is an embedding table."""
    return any(isinstance(part, torch.nn.Embedding) for part in module.modules())


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for value in islice(batch, MAX_WALK):
            yield from _tensors(value)
