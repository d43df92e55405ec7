"""One run: its metrics, what happened over time, where time and joules went, and what is not known."""

from __future__ import annotations

from dashboard.data import run_summary, stored_run, stored_runs
from dashboard.run_carbon import footprint
from dashboard.run_charts import by_phase, over_time
from dashboard.run_devices import by_device
from dashboard.run_efficiency import utilization
from dashboard.run_head import about, cards, chosen_run, damage, verdict
from dashboard.run_notes import details, unknown
from dashboard.sidebar import factors


def main() -> None:
    """Draw the page."""
    run = stored_run(chosen_run(stored_runs()))
    summary = run_summary(run.run_id, factors())
    about(summary)
    damage(run)
    cards(summary)
    verdict(summary["verdict"])
    not_drawn = over_time(run)
    by_phase(summary)
    by_device(summary)
    utilization(summary)
    footprint(summary)
    unknown(summary, not_drawn)
    details(run)


main()
