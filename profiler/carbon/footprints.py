"""Embodied carbon of devices, where their maker has published a number for that very product.

Exact names as NVML gives them. A device that is not here has no known footprint: none is guessed from its size or
price.
"""

from __future__ import annotations

from typing import NamedTuple


class Footprint(NamedTuple):
    """Grams CO2e to make one device, and who says so. Transport, use and end of life are not in it."""

    grams: float
    source: str


_HGX_H100 = (
    "NVIDIA HGX H100 Product Carbon Footprint Summary (ISO 14067, cradle to gate): 1,312 kg a board of 8 GPUs"
)

_FOOTPRINTS = {
    "NVIDIA H100 80GB HBM3": Footprint(1_312_000.0 / 8, _HGX_H100),
}


def footprint(device_name: str) -> Footprint | None:
    """The footprint of one device by its exact NVML name; None if no number is known.

    >>> footprint("NVIDIA H100 80GB HBM3").grams
    164000.0
    """
    return _FOOTPRINTS.get(device_name)
