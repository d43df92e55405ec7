"""Experiments: did the phenomenon show by the criterion that was fixed before, how does it look, what did it cost?"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.data import command_line, overview_table, stored_runs
from dashboard.phenomenon_list import Listed, experiments, table
from dashboard.phenomenon_parts import arms, chosen_runs, costs, drawn, figures, verdict
from dashboard.plain import plain
from dashboard.sidebar import factors

_CHOICE, _CLICKED = "phenomena_choice", "phenomena_clicked"


def main() -> None:
    """Draw the page."""
    st.title("Phenomena")
    stored_runs()
    listed = experiments(overview_table(factors()))
    if not listed:
        st.info("No experiment was run in this folder yet.", icon=":material/science:")
        st.write("The first takes a minute on a CPU; `make phenomena` runs them all.")
        command_line("run grokking --preset cpu")
        return
    one = _chosen(listed, table(listed))
    st.subheader(plain(one.label))
    verdict(one)
    runs = chosen_runs(one)
    drawn(one, runs)
    figures(one, runs)
    costs(one, runs)
    arms(one, runs)


def _chosen(listed: Sequence[Listed], clicked: int | None) -> Listed:
    """The experiment that was clicked last or chosen by name; the newest at first."""
    labels = [one.label for one in listed]
    if clicked is not None and clicked != st.session_state.get(_CLICKED):
        st.session_state[_CHOICE] = labels[clicked]
    st.session_state[_CLICKED] = clicked
    if st.session_state.get(_CHOICE) not in labels:
        st.session_state[_CHOICE] = labels[0]
    choice: str = st.selectbox("Experiment", labels, key=_CHOICE)
    return listed[labels.index(choice)]


main()
