"""Keys and values of the tokens so far, so that each new token costs one pass and not all of them again."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys, not yet turned, and values of one layer, each of shape (batch, head, time, head_dim).

    Keys are turned when they are looked at, by their place in the cache: what is evicted from its
    middle leaves no hole.
    """

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of new tokens; return all."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2)
        self.keys, self.values = keys, values
        return keys, values


class KeyValueCache:
    """Keys and values of all layers, for generating token by token."""

    def __init__(self, n_layer: int) -> None:
        self.layers = [LayerCache() for _ in range(n_layer)]

    def of_layer(self, number: int) -> LayerCache:
        """Those of one layer."""
        return self.layers[number]

    @property
    def time(self) -> int:
        """Tokens in it, by its last layer: within a pass the first are ahead."""
        keys = self.layers[-1].keys
        return 0 if keys is None else keys.shape[2]

    def keep(self, places: Tensor) -> None:
        """Keep only the tokens at these places, int64 of shape (kept,)."""
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = layer.keys.index_select(2, places)
                layer.values = layer.values.index_select(2, places)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        tensors = [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)
