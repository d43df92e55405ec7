"""The sidebar: the grid, the building, the devices and the price, which turn joules into grams, litres and money."""

from __future__ import annotations

from typing import Any

import streamlit as st

from profiler.carbon.factors import CarbonFactors, countries

_KEY = "factors_{}"


def choose_factors() -> None:
    """Draw the choice of factors. Nothing is chosen at first, and then what follows from them is unknown."""
    names = countries()
    st.subheader("Emissions")
    country = st.selectbox(
        "Country of the grid",
        list(names),
        index=None,
        key=_KEY.format("country"),
        format_func=lambda code: f"{names[code]} ({code})",
        placeholder="None chosen",
        help="The yearly average of the country's grid is used, location-based.",
    )
    intensity = _number(
        "intensity_g_per_kwh",
        "Carbon intensity (g/kWh)",
        most=9_999.0,
        step=10.0,
        help="Of the grid, instead of a country's average.",
    )
    _number(
        "pue",
        "PUE",
        least=1.0,
        most=9.9,
        step=0.05,
        help="Energy of the facility divided by the energy of its computers; 1 if nobody says. Joules shown here"
        " are always those of the devices.",
    )
    if country is None and intensity is None:
        st.caption("No country is assumed, so emissions are unknown unless a run was recorded with one.")
    with st.expander("Water, cost, devices"):
        _more_factors()


def factors() -> CarbonFactors | None:
    """What the reader chose; None takes what was recorded with each run."""
    chosen = {name: _chosen(name) for name in _NAMES}
    if chosen["price_per_kwh"] is None or chosen["currency"] is None:
        chosen |= {"price_per_kwh": None, "currency": None}
    known = {name: value for name, value in chosen.items() if value is not None}
    return CarbonFactors(**known) if known else None


_NAMES = (
    "country",
    "intensity_g_per_kwh",
    "pue",
    "wue_l_per_kwh",
    "embodied_g",
    "lifetime_years",
    "price_per_kwh",
    "currency",
)


def _more_factors() -> None:
    _number("wue_l_per_kwh", "WUE (litres/kWh)", most=999.0, step=0.1, help="Water used at the site.")
    price = _number("price_per_kwh", "Price of a kWh", step=0.01)
    currency = st.text_input("Currency", key=_KEY.format("currency"), max_chars=8, placeholder="EUR")
    if (price is None) != (not currency):
        st.caption("Cost needs a price and its currency.")
    embodied = _number(
        "embodied_g",
        "Embodied carbon (g a device)",
        step=1_000.0,
        help="To make one GPU, or the host where there is none. A few devices have a published footprint.",
    )
    lifetime = _number("lifetime_years", "Lifetime (years)", least=0.1, most=99.0, step=0.5)
    if embodied is not None and lifetime is None:
        st.caption("Embodied carbon needs the lifetime that it is spread over.")


def _number(
    name: str,
    label: str,
    *,
    least: float = 0.0,
    most: float = 1e9,
    step: float,
    help: str | None = None,
) -> float | None:
    value: float | None = st.number_input(
        label,
        min_value=least,
        max_value=most,
        value=None,
        step=step,
        key=_KEY.format(name),
        placeholder="As recorded",
        help=help,
    )
    return value


def _chosen(name: str) -> Any:
    """A text that holds nothing but blanks is none."""
    value = st.session_state.get(_KEY.format(name))
    return value.strip() or None if isinstance(value, str) else value
