"""Numbers as people read them: three significant digits, SI prefixes, bytes by 1024, seconds as clock time.

Everything inside joulescale is SI (see `profiler.units`); this is the one place where numbers become text.
"""

from __future__ import annotations

import math

SI_UNITS = frozenset(
    {
        "J",
        "W",
        "FLOP",
        "FLOP/s",
        "B/s",
        "J/token",
        "J/sample",
        "J/FLOP",
        "FLOP/J",
        "g",
        "g/token",
        "g/sample",
        "g/run",
        "Hz",
        "Wh",
        "L",
    }
)
"""Units that take a prefix: 1234 J is 1.23 kJ."""

COUNT_UNITS = frozenset(
    {"tokens", "tokens/s", "tokens/J", "samples", "samples/s", "samples/J", "steps", "params"}
)
"""Units that are counted: 1234 tokens are 1.23 k tokens, and half a token a second is 0.5 tokens/s."""

UNKNOWN = "unknown"

_PREFIXES = dict(
    zip(range(-12, 24, 3), ("p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E", "Z"), strict=True)
)
_BINARY_PREFIXES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_CLOCK = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_MAX_DECIMALS = 6


def format_quantity(value: float | None, unit: str, plus_minus: float | None = None) -> str:
    """A quantity for people, with its uncertainty when that is known.

    Args:
        value: The quantity in SI, or None when it is not known.
        unit: Its unit: one of `SI_UNITS` or `COUNT_UNITS`, `"B"` for bytes, `"s"` for seconds, `"fraction"`
            for a fraction (written as percent), or any other, which is written as it is.
        plus_minus: Half the width of the interval, in the same unit as `value`.

    Returns:
        Three significant digits with the unit; "unknown" for None. Never NaN, never a bare 0 for unknown.

    >>> format_quantity(1234.5, "J")
    '1.23 kJ'
    >>> format_quantity(1234.5, "J", 60)
    '1.23 ± 0.06 kJ'
    >>> format_quantity(None, "J")
    'unknown'
    >>> format_quantity(123, "s")
    '2 min 3 s'
    >>> format_quantity(0.4123, "fraction")
    '41.2 %'
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    error = plus_minus if plus_minus is not None and math.isfinite(plus_minus) else None
    if unit == "s" and abs(value) >= 60:
        return _clock(value) + (f" ± {_clock(abs(error))}" if error is not None else "")
    factor, shown_unit = _scale(value, unit)
    if isinstance(value, int) and factor == 1.0 and error is None:
        return f"{value} {shown_unit}".rstrip()
    number = _digits(value / factor) if error is None else _with_error(value / factor, abs(error) / factor)
    return f"{number} {shown_unit}".rstrip()


def _scale(value: float, unit: str) -> tuple[float, str]:
    """What to divide by, and the unit with its prefix."""
    if unit == "fraction":
        return 0.01, "%"
    if unit == "B":
        power = sum(abs(value) >= 999.5 * 1024.0**p for p in range(len(_BINARY_PREFIXES) - 1))
        return 1024.0**power, _BINARY_PREFIXES[power]
    if unit in SI_UNITS or unit == "s":
        exponent = _exponent(value)
        return 10.0**exponent, _PREFIXES[exponent] + unit
    if unit in COUNT_UNITS:
        exponent = max(0, _exponent(value))
        return 10.0**exponent, f"{_PREFIXES[exponent]} {unit}".strip()
    return 1.0, unit


def _exponent(value: float) -> int:
    """The power of 1000 whose prefix leaves one to three digits before the point."""
    if value == 0:
        return 0
    digits = math.floor(math.log10(float(f"{abs(value):.2e}")))
    return max(min(_PREFIXES), min(max(_PREFIXES), 3 * (digits // 3)))


def _digits(number: float) -> str:
    """Three significant digits; zero is plain, and so are the digits before the point."""
    if number == 0:
        return "0"
    if not 1e-4 <= abs(number) < 1e6:
        return f"{number:.2e}"
    return f"{number:.{_decimals(number, 3)}f}"


def _with_error(number: float, error: float) -> str:
    """Both numbers to the digit at which the uncertainty begins: 1.2345 and 0.06 give 1.23 ± 0.06.

    An uncertainty that begins with less than 3.55 has two digits: with one, sums of rounded numbers go astray.
    Source: Particle Data Group, Review of Particle Physics, introduction, section 5.3.
    """
    if error == 0:
        return f"{_digits(number)} ± 0"
    begins_small = float(f"{error:.2e}".partition("e")[0]) < 3.55
    decimals = min(_decimals(error, 2 if begins_small else 1), _MAX_DECIMALS)
    shown_error = f"{error:.{decimals}f}"
    return f"{number:.{decimals}f} ± {shown_error if float(shown_error) else f'{error:.0e}'}"


def _decimals(number: float, significant: int) -> int:
    rounded = float(f"{abs(number):.{significant - 1}e}")
    return max(0, significant - 1 - math.floor(math.log10(rounded)))


def _clock(seconds: float) -> str:
    """The two largest parts of a duration: 3723 s is 1 h 2 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    left = round(seconds)
    parts: list[str] = []
    for size, name in _CLOCK:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
    return " ".join(part for part in parts[:2] if part)
