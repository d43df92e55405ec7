"""Devices whose library need not be installed: it is imported only if it is, and missed only where the device is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from profiler.errors import InvalidValueError, SensorError
from profiler.measure.aside import OPENING_S, within
from profiler.measure.sensors.amd import open_amd
from profiler.measure.sensors.amd_device import load_amdsmi
from profiler.measure.sensors.apple import load_apple, open_apple
from profiler.measure.sensors.base import Probe

Opened = tuple[Sequence[Probe], Sequence[str], Callable[[], None]]
"""The probes of a library, a sentence for each thing that it does not give, and how to let go of them."""


def open_optional(
    opened: ExitStack,
    notes: dict[str, str],
    *,
    choose_amd: Callable[[Sequence[str]], Sequence[str]] | None,
    apple: bool,
) -> tuple[Probe, ...]:
    """The probes of AMD GPUs and of Apple's chips, as far as there are any.

    Args:
        opened: Takes what lets go of them.
        notes: Takes the reasons for what is missing.
        choose_amd: Of all AMD GPUs those to be measured; None: none.
        apple: Whether to measure this Mac.
    """
    found: list[Probe] = []
    if choose_amd is not None:
        found += _open("amd", lambda: _amd(choose_amd), opened, notes)
    if apple:
        found += _open("apple", _apple, opened, notes)
    return tuple(found)


def _open(
    name: str, opens: Callable[[], Opened | None], opened: ExitStack, notes: dict[str, str]
) -> Sequence[Probe]:
    try:
        found = within(OPENING_S, f"the library for {name}", opens)
    except (SensorError, InvalidValueError) as refusal:
        notes[name] = str(refusal)
        return ()
    except Exception as error:  # noqa: BLE001 - a version that we do not know must not cost the other sensors
        notes[name] = f"its library failed ({type(error).__name__}: {error}), so it is not measured"
        return ()
    if found is None:
        return ()
    probes, reasons, close = found
    opened.callback(close)
    notes.update({f"{name} {number}": reason for number, reason in enumerate(reasons, start=1)})
    return probes


def _amd(choose: Callable[[Sequence[str]], Sequence[str]]) -> Opened | None:
    binding = load_amdsmi()
    return None if binding is None else open_amd(binding, choose)


def _apple() -> Opened | None:
    binding = load_apple()
    return None if binding is None else (*open_apple(binding), lambda: None)
