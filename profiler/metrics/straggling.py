"""The finding that one rank lets the others wait."""

from __future__ import annotations

from collections.abc import Mapping

from profiler.metrics.findings import TITLES, WORTH_SAYING, Case, Finding

_OF_STRAGGLERS: Mapping[str, str] = {
    "data": "look at that rank's share of the data and its host's disk; make shares of equal length",
    "other": "callbacks and logging that only this rank does: do them less often, or in the background",
}
"""What to try first where a rank lets others wait, by the phase in which it is behind."""


def judge_straggler(case: Case) -> Finding | None:
    """That the others wait for one rank through a share of their step time that is worth saying."""
    found = case.summary["straggler"]
    if found is None or found["others_wait_share"] < WORTH_SAYING:
        return None
    share, phase = found["others_wait_share"], found["phase"]
    return Finding(
        finding="straggler",
        share=share,
        says=f"Straggler: the other ranks waited at least {share:.0%} of their step time for rank {found['rank']} on "
        f"{found['host']}, the slowest in {found['slowest_in']:.0%} of the steps: {TITLES.get(phase, phase)} takes it "
        f"{1000 * found['phase_s']:.3g} ms, them {1000 * found['phase_s_others']:.3g} ms.",
        first_try=_OF_STRAGGLERS.get(
            phase, "compare that host and its GPU with the others: clocks, heat, other users"
        ),
        numbers={"others_wait_share": share, "slowest_in": found["slowest_in"]},
    )
