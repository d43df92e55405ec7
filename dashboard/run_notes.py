"""The foot of a run's page: what is not known and why, what to know, and the run's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.plain import lines, plain
from profiler.report.notes import grouped_notes
from profiler.store.run import StoredRun


def unknown(summary: Mapping[str, Any], not_drawn: Sequence[str]) -> None:
    """Reasons, in the words of the page."""
    found = grouped_notes(summary, of_devices=False)
    if found.unknown or not_drawn:
        st.subheader("What is not known, and why")
        lines(found.unknown)
        for sentence in not_drawn:
            st.caption(plain(sentence))
    if found.remarks:
        st.subheader("What to know")
        lines(found.remarks)


def details(run: StoredRun) -> None:
    """Settings, data, hardware and software, as they were stored."""
    manifest = run.manifest
    parts = {
        "Settings": manifest.settings,
        "Data": manifest.data,
        "Hardware": manifest.hardware,
        "Software": manifest.software,
    }
    with st.expander("Settings, data, hardware, software"):
        for title, content in parts.items():
            st.caption(title)
            st.json(dict(content))
