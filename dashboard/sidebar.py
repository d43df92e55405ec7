"""The sidebar: the grid and the building, which turn joules into emissions."""

from __future__ import annotations

import streamlit as st

from profiler.metrics.carbon import CarbonFactors, countries

_COUNTRY, _PUE = "factors_country", "factors_pue"


def choose_factors() -> None:
    """Draw the choice of country and PUE. Nothing is chosen at first, and then emissions are unknown."""
    names = countries()
    st.subheader("Emissions")
    country = st.selectbox(
        "Country of the grid",
        list(names),
        index=None,
        key=_COUNTRY,
        format_func=lambda code: f"{names[code]} ({code})",
        placeholder="None: emissions unknown",
        help="The yearly average of the country's grid is used, location-based.",
    )
    st.number_input(
        "PUE",
        min_value=1.0,
        max_value=9.9,
        value=None,
        step=0.05,
        key=_PUE,
        placeholder="As recorded, or 1.0",
        help="Energy of the facility divided by the energy of its computers. It applies to emissions only:"
        " joules shown here are always those of the devices.",
    )
    if country is None:
        st.caption("No country is assumed, so emissions are unknown unless a run was recorded with one.")


def factors() -> CarbonFactors | None:
    """What the reader chose; None takes what was recorded with each run."""
    country, pue = st.session_state.get(_COUNTRY), st.session_state.get(_PUE)
    if country is None and pue is None:
        return None
    return CarbonFactors(country=country, pue=pue)
