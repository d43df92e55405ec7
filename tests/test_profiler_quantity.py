"""Quantities as text: digits, prefixes, uncertainty, and "unknown" for what is not known."""

from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler import words
from profiler.report import quantity
from profiler.report.quantity import format_quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1234.5, "J", "1.23 kJ"),
        (999.9, "J", "1.00 kJ"),
        (0.0, "J", "0 J"),
        (5e-5, "J/token", "50.0 µJ/token"),
        (-0.0123, "J", "-12.3 mJ"),
        (2.5e12, "FLOP/s", "2.50 TFLOP/s"),
        (262144, "tokens", "262 k tokens"),
        (12, "tokens", "12 tokens"),
        (0.5, "tokens/s", "0.500 tokens/s"),
        (1536, "B", "1.50 KiB"),
        (1024**3, "B", "1.00 GiB"),
        (1023, "B", "0.999 KiB"),
        (512, "B", "512 B"),
        (0.4123, "fraction", "41.2 %"),
        (1.0, "fraction", "100 %"),
        (123, "s", "2 min 3 s"),
        (3723, "s", "1 h 2 min"),
        (7200, "s", "2 h"),
        (90000, "s", "1 d 1 h"),
        (59.96, "s", "60.0 s"),
        (12.34, "s", "12.3 s"),
        (0.045, "s", "45.0 ms"),
        (475.0, "g/kWh", "475 g/kWh"),
        (1234.0, "g", "1.23 kg"),
        (3.14159, "", "3.14"),
    ],
)
def test_three_digits_and_the_right_prefix(value, unit, text):
    assert format_quantity(value, unit) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1234.5, 60, "1.23 ± 0.06 kJ"),
        (1234.5, 123, "1.23 ± 0.12 kJ"),
        (1234.5, 1.5, "1.2345 ± 0.0015 kJ"),
        (1.2, 45, "1 ± 45 J"),
        (1234.5, 0, "1.23 ± 0 kJ"),
        (1234.5, None, "1.23 kJ"),
        (1234.5, float("nan"), "1.23 kJ"),
    ],
)
def test_the_uncertainty_decides_the_digits(value, error, text):
    assert format_quantity(value, "J", error) == text


def test_seconds_keep_their_uncertainty():
    assert format_quantity(123, "s", 2) == "2 min 3 s ± 2 s"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_known_is_called_unknown(value):
    assert format_quantity(value, "J") == "unknown"
    assert format_quantity(value, "J", 3.0) == "unknown"


@given(st.floats(min_value=1e-11, max_value=1e20))
def test_the_text_is_the_number_to_three_digits(value):
    number, unit = format_quantity(value, "J").split()
    powers = {"p": -12, "n": -9, "µ": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
    assert float(number) * 10.0 ** powers[unit.removesuffix("J")] == pytest.approx(value, rel=0.006)


@given(st.floats(min_value=0, max_value=1e9))
def test_a_clock_time_is_short(value):
    assert re.fullmatch(
        r"[\d.]+ (ns|ps|µs|ms|s|min|h|d)( \d+ (s|min|h))?|\S+ ps", format_quantity(value, "s")
    )


def test_examples_in_the_docstrings():
    assert doctest.testmod(quantity).failed == 0
    assert doctest.testmod(words).failed == 0
