"""The attempts of a run that was begun more than once, and what they threw away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.plain import plain
from dashboard.tables import draw_table
from profiler.report.attempt_rows import COLUMNS, attempt_cells, lost_text, sum_texts


def by_attempt(summary: Mapping[str, Any]) -> None:
    """The table of attempts; nothing for a run of one."""
    if len(summary["attempts"]) < 2:
        return
    st.subheader("Attempts")
    columns = {name: st.column_config.TextColumn(name.capitalize()) for name in COLUMNS}
    draw_table(attempt_cells(summary), columns, key="run_attempts")
    for line in (*sum_texts(summary), lost_text(summary)):
        st.caption(plain(line))
