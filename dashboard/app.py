"""The router: which pages there are, and the sidebar that they share."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.data import runs_dir
from dashboard.sidebar import choose_factors

# A file of ours: an icon by Streamlit's name or an emoji would be fetched from the network.
_SIDEBAR_PX = 250
_ICON = Path(__file__).with_name("icon.svg")


def main() -> None:
    """Draw the sidebar, then the page."""
    st.set_page_config(
        page_title="joulescale", page_icon=str(_ICON), layout="wide", initial_sidebar_state=_SIDEBAR_PX
    )
    page = st.navigation(
        [
            st.Page("views/runs.py", title="Runs", icon=":material/list:", url_path="runs", default=True),
            st.Page("views/run.py", title="Run", icon=":material/monitoring:", url_path="run"),
            st.Page("views/scale.py", title="Scale", icon=":material/stacked_line_chart:", url_path="scale"),
            st.Page("views/phenomena.py", title="Phenomena", icon=":material/science:", url_path="phenomena"),
        ]
    )
    with st.sidebar:
        choose_factors()
        st.caption("Runs folder")
        st.text(str(runs_dir()))
    page.run()


main()
