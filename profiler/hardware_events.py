"""What NVML's "clocks event reasons" mean, in words.

The bits are the public values of `nvmlClocksEventReason*` (before CUDA 12.2 `nvmlClocksThrottleReason*`);
they are stored as an integer, so that a bit that is new today can still be read tomorrow.

Source: NVML API reference, "Clocks Event Reasons".
"""

from __future__ import annotations

EVENT_REASONS: tuple[tuple[int, str], ...] = (
    (0x001, "idle"),
    (0x002, "application clocks setting"),
    (0x004, "software power cap"),
    (0x008, "hardware slowdown"),
    (0x010, "sync boost"),
    (0x020, "software thermal slowdown"),
    (0x040, "hardware thermal slowdown"),
    (0x080, "hardware power brake slowdown"),
    (0x100, "display clock setting"),
    (0x200, "board limit"),
    (0x400, "reliability limit"),
)
"""Bit and words, lowest bit first."""

SLOWDOWN_BITS = 0x004 | 0x008 | 0x020 | 0x040 | 0x080 | 0x200
"""The reasons for which a busy GPU runs below the clock that it was asked for: power or heat."""

_KNOWN_BITS = sum(bit for bit, _ in EVENT_REASONS)


def decode_event_reasons(mask: int) -> tuple[str, ...]:
    """The reasons in a bit mask, lowest bit first; empty when nothing holds the clock back.

    A bit that is not in the table is named by its value, never dropped.

    >>> decode_event_reasons(0x24)
    ('software power cap', 'software thermal slowdown')
    >>> decode_event_reasons(0)
    ()
    """
    words = tuple(text for bit, text in EVENT_REASONS if mask & bit)
    unknown = mask & ~_KNOWN_BITS
    return (*words, f"unknown reason {unknown:#x}") if unknown else words
