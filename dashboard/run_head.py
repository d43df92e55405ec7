"""The top of a run's page: which run, how it stands, six numbers, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.plain import plain
from profiler.report.facts import (
    INSIDE_STEPS,
    at_least,
    energy_per_text,
    of_record,
    peak_text,
    ranks_text,
    status_text,
    throughput_text,
    work_text,
)
from profiler.report.quantity import UNKNOWN, format_quantity
from profiler.store.run import StoredRun
from profiler.words import counted

_CHOICE = "run_choice"


def chosen_run(names: Sequence[str]) -> str:
    """The run that the address names, or the newest. The name is looked up in the list, never made a path."""
    wanted = st.query_params.get("run")
    if wanted is not None and wanted not in names:
        st.warning(f"There is no run named {plain(wanted)} in this runs folder, so the newest is shown.")
    if st.session_state.get(_CHOICE) not in names or st.session_state.get("run_shown") != wanted:
        st.session_state[_CHOICE] = wanted if wanted in names else names[0]
    choice: str = st.selectbox("Run", names, key=_CHOICE)
    st.query_params["run"] = st.session_state["run_shown"] = choice
    return choice


def about(summary: Mapping[str, Any]) -> None:
    """Name, state and size of the run."""
    work = work_text(summary)
    parts = [
        "/".join(plain(str(part)) for part in (summary["workload"], summary["preset"]) if part),
        plain(status_text(summary)),
        f"seed {summary['seed']}" if summary["seed"] is not None else "",
        format_quantity(summary["params"], "params") if summary["params"] is not None else "",
        work if work != UNKNOWN else "",
        counted(summary["steps"], "step") if summary["steps"] is not None else "",
        format_quantity(summary["duration_s"], "s") if summary["duration_s"] is not None else "",
        ranks_text(summary),
    ]
    st.title(plain(summary["run_id"]))
    st.caption(" · ".join(part for part in parts if part))


def damage(run: StoredRun) -> None:
    """Which files could not be read."""
    sentences = [*run.damaged, *(run.manifest.notes.get(key) for key in ("manifest",))]
    lines = "\n".join(f"- {plain(sentence)}" for sentence in sentences if sentence)
    if lines:
        st.warning(f"Files of this run are damaged; what cannot be read is left out.\n\n{lines}")


def cards(summary: Mapping[str, Any]) -> None:
    """Six numbers, each with how it was got."""
    energy, efficiency, carbon = summary["energy"], summary["efficiency"], summary["carbon"]
    kind = energy["headline"]
    peak, whose = _peak_memory(summary["memory"])

    def bounded(value: float | None, unit: str, plus_minus: float | None = None) -> str:
        return at_least(summary, format_quantity(value, unit, plus_minus))

    shown = [
        ("Energy", bounded(energy[f"{kind}_j"], "J", energy[f"{kind}_plus_minus_j"]), kind),
        (*energy_per_text(summary), of_record(summary, kind)),
        ("Throughput", throughput_text(summary), f"all ranks together, {INSIDE_STEPS}"),
        ("MFU", bounded(efficiency["mfu"], "fraction"), f"of {peak_text(efficiency)}"),
        ("Peak memory", format_quantity(peak, "B"), whose),
        ("Emissions (CO2e)", bounded(carbon["emissions_g"], "g"), _grid(carbon)),
    ]
    for start in (0, 3):  # two rows, so that on a narrow screen they come in this order
        for column, (title, text, how) in zip(st.columns(3), shown[start : start + 3], strict=True):
            with column.container(border=True, height="stretch", gap="xxsmall"):
                st.metric(title, text)
                st.caption(plain(how) if text != UNKNOWN else "see below why")


def verdict(findings: Sequence[Mapping[str, Any]] | None) -> None:
    """What the numbers say, and what to try first; nothing for a run too short to be judged."""
    if not findings:
        return
    with st.container(border=True, gap="xsmall"):
        st.markdown("**What the numbers say**")
        for finding in findings:
            st.markdown(plain(finding["says"]))
            if finding["first_try"]:
                st.caption(f"Try first: {plain(finding['first_try'])}")


def _peak_memory(memory: Mapping[str, int | None]) -> tuple[int | None, str]:
    if memory["peak_reserved_bytes"] is not None:
        return memory["peak_reserved_bytes"], "on the device"
    return memory["peak_host_rss_bytes"], "of the process"


def _grid(carbon: Mapping[str, Any]) -> str:
    intensity = format_quantity(carbon["carbon_intensity_g_per_kwh"], "g/kWh")
    return f"{intensity}, PUE {carbon['pue']:.2f}"
