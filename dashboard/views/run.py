"""One run: its metrics, what happened over time, where time and joules went, and what is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
import streamlit as st

from dashboard.charts import show
from dashboard.data import run_summary, run_timelines, stored_runs
from dashboard.plain import plain
from dashboard.sidebar import factors
from profiler.errors import UsageError
from profiler.report.charts import (
    loss_chart,
    memory_chart,
    phase_panel,
    power_chart,
    throughput_chart,
    utilization_chart,
)
from profiler.report.quantity import format_quantity
from profiler.store.runs import StoredRun

_CHOICE = "run_choice"
_CHART_HEIGHT = 240


def main() -> None:
    """Draw the page."""
    run = _chosen_run(stored_runs())
    summary = run_summary(run.run_id, factors())
    _about(summary)
    _damaged(run)
    _metrics(summary)
    _verdict(summary["verdict"])
    not_drawn = _over_time(run)
    not_drawn += _phases(summary["phases"])
    _components(summary["energy"]["components"])
    _unknown(summary["notes"], not_drawn)
    _details(run)


def _chosen_run(runs: Sequence[StoredRun]) -> StoredRun:
    """The run that the address names, or the newest. The name is looked up in the list, never made a path."""
    by_id = {run.run_id: run for run in reversed(runs)}
    wanted = st.query_params.get("run")
    if wanted is not None and wanted not in by_id:
        st.warning(f"There is no run named {plain(wanted)} in this runs folder, so the newest is shown.")
    if st.session_state.get(_CHOICE) not in by_id or st.session_state.get("run_shown") != wanted:
        st.session_state[_CHOICE] = wanted if wanted in by_id else next(iter(by_id))
    choice: str = st.selectbox("Run", list(by_id), key=_CHOICE)
    st.query_params["run"] = st.session_state["run_shown"] = choice
    return by_id[choice]


def _about(summary: Mapping[str, Any]) -> None:
    kind = "/".join(plain(str(part)) for part in (summary["workload"], summary["preset"]) if part)
    parts = [
        kind,
        plain(summary["status"]),
        f"seed {summary['seed']}" if summary["seed"] is not None else "",
        format_quantity(summary["params"], "params") if summary["params"] is not None else "",
        format_quantity(summary["tokens"], "tokens") if summary["tokens"] is not None else "",
        f"{summary['steps']} steps",
        format_quantity(summary["duration_s"], "s") if summary["duration_s"] is not None else "",
    ]
    st.title(plain(summary["run_id"]))
    st.caption(" · ".join(part for part in parts if part))


def _damaged(run: StoredRun) -> None:
    if run.damaged:
        lines = "\n".join(f"- {plain(sentence)}" for sentence in run.damaged)
        st.warning(f"Parts of this run are damaged and left out; everything else is shown.\n\n{lines}")


def _metrics(summary: Mapping[str, Any]) -> None:
    energy, efficiency, carbon = summary["energy"], summary["efficiency"], summary["carbon"]
    kind = energy["headline"]
    memory = summary["memory"]
    peak, whose = next(
        (
            (memory[key], title)
            for key, title in (
                ("peak_reserved_bytes", "on the device"),
                ("peak_host_rss_bytes", "of the process"),
            )
            if memory[key] is not None
        ),
        (None, ""),
    )
    shown = [
        ("Energy", energy[f"{kind}_j"], "J", energy[f"{kind}_plus_minus_j"], kind),
        ("Energy per token", efficiency["energy_per_token_j"], "J/token", None, kind),
        ("Throughput", summary["throughput"]["tokens_per_s"], "tokens/s", None, "all ranks together"),
        ("MFU", efficiency["mfu"], "fraction", None, "of the dense peak"),
        ("Peak memory", peak, "B", None, whose),
        ("Emissions (CO2e)", carbon["emissions_g"], "g", None, _grid(carbon)),
    ]
    columns = [*st.columns(3), *st.columns(3)]
    for column, (title, value, unit, plus_minus, how) in zip(columns, shown, strict=True):
        with column.container(border=True, gap="xxsmall"):
            st.metric(title, format_quantity(value, unit, plus_minus))
            st.caption(plain(how) if value is not None else "see below why")


def _verdict(findings: Sequence[Mapping[str, Any]] | None) -> None:
    """What the numbers say, and what to try first; nothing for a run too short to be judged."""
    if not findings:
        return
    with st.container(border=True, gap="xsmall"):
        st.markdown("**What the numbers say**")
        for finding in findings:
            st.markdown(plain(finding["says"]))
            if finding["first_try"]:
                st.caption(f"Try first: {plain(finding['first_try'])}")


def _grid(carbon: Mapping[str, Any]) -> str:
    intensity = format_quantity(carbon["carbon_intensity_g_per_kwh"], "g/kWh")
    return f"{intensity}, PUE {carbon['pue']:.2f}"


def _over_time(run: StoredRun) -> list[str]:
    """Charts over time, two a row; gives the reasons of those that cannot be drawn."""
    power, steps = run_timelines(run.run_id)
    charts: list[tuple[str, Callable[[], Any]]] = [
        ("power", lambda: power_chart(power)),
        ("loss", lambda: loss_chart(steps)),
        ("throughput", lambda: throughput_chart(steps)),
        ("memory", lambda: memory_chart(steps, power)),
        ("utilization", lambda: utilization_chart(power)),
    ]
    drawn: list[tuple[str, Any]] = []
    reasons: list[str] = []
    for name, draw in charts:
        try:
            drawn.append((name, draw()))
        except UsageError as error:
            reasons.append(str(error))
    st.subheader("Over time")
    for start in range(0, len(drawn), 2):
        for column, (name, chart) in zip(st.columns(2), drawn[start : start + 2], strict=False):
            with column.container(border=True, height="stretch", gap="xsmall"):
                show(chart, key=f"run_{name}", height=_CHART_HEIGHT)
    return reasons


def _phases(phases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Time and energy by phase, side by side."""
    st.subheader("By phase")
    try:
        panels = [phase_panel(phases, column) for column in ("duration_s", "energy_j")]
    except UsageError as error:
        st.info(plain(str(error)))
        return [str(error)]
    for column, panel, name in zip(st.columns(2), panels, ("time", "energy"), strict=True):
        with column.container(border=True, height="stretch", gap="xsmall"):
            show(panel, key=f"phases_{name}")
    return []


def _components(components: Sequence[Mapping[str, Any]]) -> None:
    if not components:
        return
    st.subheader("By device")
    table = pl.DataFrame(
        [
            {
                "Device": part["name"] or part["device"],
                "Kind": part["component"],
                "Energy": format_quantity(part["energy_j"], "J", part["plus_minus_j"]),
                "Got how": part["source"],
                "Covered": part["coverage"],
                "Uncertainty from": part["uncertainty_source"],
            }
            for part in components
        ],
        schema_overrides={"Covered": pl.Float64},
    )
    covered = st.column_config.NumberColumn(format="percent", help="Share of the fit that readings cover.")
    st.dataframe(table, hide_index=True, column_config={"Covered": covered})


def _unknown(notes: Mapping[str, str], not_drawn: Sequence[str]) -> None:
    st.subheader("What is not known, and why")
    reasons: dict[str, list[str]] = {}
    for key, why in notes.items():
        reasons.setdefault(why, []).append(key)
    table = pl.DataFrame(
        {
            "What": [plain(", ".join(keys)) for keys in reasons.values()],
            "Why": [plain(why) for why in reasons],
        },
        schema={"What": pl.String, "Why": pl.String},
    )
    if len(table):
        st.table(table)
    for sentence in not_drawn:
        st.caption(plain(sentence))


def _details(run: StoredRun) -> None:
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


main()
