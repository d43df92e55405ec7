"""One run in a terminal: what it was, what it cost, where that went. Estimated joules have a tilde and the word.

profiler.report.facts     single facts in words
profiler.report.notes     why something is unknown
profiler.report.tables    tables of many runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiler.metrics.summary import summarize
from profiler.report.attempt_rows import attempt_rows
from profiler.report.carbon_rows import carbon_rows, marked, second_opinion_rows
from profiler.report.console import is_wide, show
from profiler.report.facts import (
    INSIDE_STEPS,
    METHODS,
    at_least,
    energy_per_text,
    hfu_text,
    mfu_text,
    of_record,
    ranks_text,
    roofline_text,
    status_text,
    throughput_text,
    work_text,
)
from profiler.report.notes import Notes, grouped_notes
from profiler.report.phenomenon_rows import phenomenon_rows
from profiler.report.quantity import UNKNOWN, format_quantity
from profiler.report.ranks import WAITED, rank_rows, slowest_text
from profiler.report.tables import new_table, overview_table, points_table
from profiler.store.manifest import read_manifest
from profiler.store.run import StoredRun

__all__ = ["energy_text", "is_wide", "overview_table", "points_table", "print_run", "run_table", "show"]


def print_run(run_dir: Path) -> None:
    """Print the summary of the run in a folder."""
    show(run_table(summarize(StoredRun(run_dir, read_manifest(run_dir)))))


def energy_text(energy: Mapping[str, Any], kind: str) -> str:
    """The measured or the estimated energy with its half-width: `~ 1.2 ± 0.5 kJ estimated`."""
    amount = energy[f"{kind}_j"]
    if amount is None:
        return UNKNOWN
    return marked(format_quantity(amount, "J", energy[f"{kind}_plus_minus_j"]), kind)


def run_table(summary: Mapping[str, Any]) -> RenderableType:
    """One run: what it was, what it cost, where that went, what to try, and why something is unknown."""
    return Group(
        _facts(summary),
        *attempt_rows(summary),
        _phases(summary),
        *_ranks(summary),
        *phenomenon_rows(summary),
        _verdict(summary["verdict"]),
        *_notes(grouped_notes(summary)),
    )


def _facts(summary: Mapping[str, Any]) -> RenderableType:
    energy, efficiency, memory = summary["energy"], summary["efficiency"], summary["memory"]
    per_title, per_text = energy_per_text(summary)
    throughput, flops_per_s = throughput_text(summary), format_quantity(efficiency["flops_per_s"], "FLOP/s")
    measured, estimated = (at_least(summary, energy_text(energy, kind)) for kind in ("measured", "estimated"))
    rows = {
        "run": f"{summary['run_id']} ({status_text(summary)})",
        "steps": f"{summary['steps'] or 'none seen'} in {format_quantity(summary['duration_s'], 's')}",
        "ranks": ranks_text(summary) or UNKNOWN,
        "work": work_text(summary),
        "throughput": throughput if throughput == UNKNOWN else f"{throughput} ({INSIDE_STEPS})",
        "energy": measured if energy["headline"] == "measured" else "not measured",
        "energy, CPU time": estimated,
        per_title.lower(): UNKNOWN
        if per_text == UNKNOWN
        else of_record(summary, marked(per_text, energy["headline"])),
        "FLOP/s": at_least(summary, flops_per_s),
        "MFU": at_least(summary, mfu_text(efficiency)),
        "HFU": hfu_text(efficiency),
        "roofline": roofline_text(efficiency),
        "FLOPs count": efficiency.get("flops_convention") or UNKNOWN,
        "peak memory, host": format_quantity(memory["peak_host_rss_bytes"], "B"),
        "peak memory, GPU": format_quantity(memory["peak_reserved_bytes"], "B"),
        "clocks held back": _throttling(summary["throttling"]),
        **carbon_rows(summary["carbon"], energy["headline"]),
        **second_opinion_rows(summary["second_opinions"]),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value not in (UNKNOWN, "not measured") or name in ("energy", per_title.lower(), "MFU"):
            table.add_row(Text(name, style="dim"), Text(value))
    return table


def _throttling(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why and how often a GPU was slowed down; "unknown" when none was, which is not shown."""
    words = [f"{row['reason']} in {format_quantity(row['share'], 'fraction')} of readings" for row in rows]
    return "; ".join(dict.fromkeys(words)) or UNKNOWN


def _phases(summary: Mapping[str, Any]) -> RenderableType:
    """Time and joules by phase; how the joules were got, unless all are from CPU time."""
    if not summary["phases"]:
        return Text("")
    told = any(phase.get("method") not in (None, "cpu time") for phase in summary["phases"])
    of_rank = ", rank 0's devices only" if summary["world_size"] > 1 else ""
    table = new_table("phase", "time", "share", f"energy{of_rank}", *(("how",) if told else ()))
    whole_s = summary["duration_s"] or 0.0
    for row in summary["phases"]:
        share = row["duration_s"] / whole_s if whole_s else None
        cells = [
            row["phase"],
            format_quantity(row["duration_s"], "s"),
            format_quantity(share, "fraction"),
            _marked(row["energy_j"], "J", row["source"], row["plus_minus_j"]),
            METHODS.get(row.get("method") or "", ""),
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def _ranks(summary: Mapping[str, Any]) -> list[RenderableType]:
    """The ranks, or the hosts where there are many, and how long they waited for each other; nothing for one."""
    found = rank_rows(summary)
    if not found:
        return []
    table = new_table("rank", "host", "status", "steps", "step p50", "step p95", "waited", "slowest in")
    for row in found:
        cells = (format_quantity(seconds, "s") for seconds in (row.step_s_p50, row.step_s_p95))
        shares = (format_quantity(share, "fraction") for share in (row.wait_share, row.slowest_in))
        table.add_row(row.who, Text(row.host), row.status, str(row.steps), *cells, *shares)
    waited = WAITED if any(row.wait_share is not None for row in found) else None
    lines = [line for line in (waited, slowest_text(summary)) if line]
    return [Text(""), table, *(Text(line, style="dim") for line in lines)]


def _verdict(findings: Sequence[Mapping[str, Any]] | None) -> RenderableType:
    """What the numbers say, and under each finding what to try first; nothing for a run too short to be judged."""
    text = Text()
    for finding in findings or ():
        text.append(f"\n{finding['says']}")
        if finding["first_try"]:
            text.append(f"\n    try: {finding['first_try']}", style="dim")
    return Text.assemble(("verdict", "bold"), text, "\n") if text else text


def _notes(found: Notes) -> list[RenderableType]:
    """What is not known and what must be known, one line each; `--json` has every note."""
    parts: list[RenderableType] = []
    for title, lines in (("not known", found.unknown), ("to know", found.remarks)):
        if lines:
            table = Table.grid(padding=(0, 2))
            for name, why in lines.items():
                table.add_row(Text(f"  {name}", style="dim"), Text(why, style="dim"))
            parts += [Text(title, style="dim bold"), table]
    return parts


def _marked(value: float | None, unit: str, source: str | None, plus_minus: float | None = None) -> str:
    text = format_quantity(value, unit, plus_minus)
    return text if value is None else marked(text, source or "")
