"""One run: its metrics, what happened over time, where time and joules went, and what is not known."""

from __future__ import annotations

import streamlit as st

from dashboard.data import run_summary, stored_run, stored_runs
from dashboard.run_attempts import by_attempt
from dashboard.run_carbon import footprint
from dashboard.run_charts import by_phase, over_time
from dashboard.run_devices import by_device
from dashboard.run_efficiency import utilization
from dashboard.run_head import about, cards, chosen_run, damage, verdict
from dashboard.run_notes import details, unknown
from dashboard.run_ranks import by_rank, missing_ranks
from dashboard.sidebar import factors


def main() -> None:
    """Draw the page. Charts are drawn first: the metrics of a run of 10^8 rows take minutes, its charts seconds."""
    run = stored_run(chosen_run(stored_runs()))
    head, charts = st.container(), st.container()
    with charts:
        not_drawn = over_time(run)
    summary = run_summary(run.run_id, factors())
    with head:
        about(summary)
        damage(run)
        missing_ranks(summary)
        cards(summary)
        verdict(summary["verdict"])
    by_attempt(summary)
    by_phase(summary)
    by_rank(summary)
    by_device(summary)
    utilization(summary)
    footprint(summary)
    unknown(summary, not_drawn)
    details(run)


main()
