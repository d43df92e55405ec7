"""Metrics as tables in a terminal. Estimated joules are marked with a tilde and the word."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiler.metrics.summary import summarize
from profiler.report.carbon_rows import carbon_rows, second_opinion_rows
from profiler.report.quantity import format_quantity
from profiler.store.manifest import read_manifest
from profiler.store.runs import StoredRun

WIDE = 120
_SHOWN_NOTES = 40


def print_run(run_dir: Path) -> None:
    """Print the summary of the run in a folder."""
    show(run_table(summarize(StoredRun(run_dir, read_manifest(run_dir)))))


def show(table: RenderableType) -> None:
    """Print on standard output, at its width; a pipe has none and gets wide lines."""
    _console().print(table)


def is_wide() -> bool:
    """Whether standard output has room for wide tables."""
    return _console().width >= WIDE


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=160)


def energy_text(energy: Mapping[str, Any], kind: str) -> str:
    """The measured or the estimated energy with its half-width: `~ 1.2 ± 0.5 kJ estimated`."""
    amount = energy[f"{kind}_j"]
    if amount is None:
        return "unknown"
    text = format_quantity(amount, "J", energy[f"{kind}_plus_minus_j"])
    return f"~ {text} (estimated)" if kind == "estimated" else text


def run_table(summary: Mapping[str, Any]) -> RenderableType:
    """One run: what it was, what it cost, where that went, what to try, and why something is unknown."""
    return Group(_facts(summary), _phases(summary), _verdict(summary["verdict"]), _notes(summary["notes"]))


def overview_table(frame: pl.DataFrame) -> RenderableType:
    """All runs, one row each."""
    table = _table("run", "status", "steps", "tokens", "loss", "time", "energy", "J/token", "MFU")
    for row in frame.iter_rows(named=True):
        source = row["energy_source"]
        table.add_row(
            Text(row["run_id"]),  # never markup: names are other people's text
            row["status"],
            _cell(row["steps"], ""),
            _cell(row["tokens"], ""),
            _number(row["loss"]),
            _cell(row["duration_s"], "s"),
            _energy_cell(row[f"{source or 'measured'}_j"], "J", source),
            _energy_cell(row["energy_per_token_j"], "J", source),
            _cell(row["mfu"], "fraction"),
        )
    return _with_legend(table, frame)


def points_table(frame: pl.DataFrame, *, wide: bool = True) -> RenderableType:
    """Efficiency against scale, one row a point.

    Args:
        frame: From `metrics.points.scale_points`.
        wide: False leaves out what follows from the other columns, to fit 80 characters.
    """
    narrow = ("params", "tokens", "loss", "time", "energy", "J/token", "MFU", "memory")
    emits = ("CO2e",) if wide and frame["emissions_g"].count() else ()
    table = _table(*narrow, *(("tokens/J", "FLOP/s", *emits) if wide else ()))
    for row in frame.iter_rows(named=True):
        source = row["energy_source"]
        cells = [
            _cell(row["params"], ""),
            _cell(row["tokens"], ""),
            _number(row["loss"], row["loss_plus_minus"] if wide else None),
            _cell(row["duration_s"], "s"),
            _energy_cell(row["energy_j"], "J", source, row["energy_plus_minus_j"]),
            _energy_cell(row["energy_per_token_j"], "J", source),
            _cell(row["mfu"], "fraction"),
            _cell(row["memory_bytes"], "B"),
            _energy_cell(row["tokens_per_j"], "", source),
            _cell(row["flops_per_s"], "FLOP/s"),
            _energy_cell(row["emissions_g"], "g", source),
        ]
        table.add_row(*cells[: len(table.columns)])
    return _with_legend(table, frame)


def _facts(summary: Mapping[str, Any]) -> RenderableType:
    energy, efficiency, carbon = summary["energy"], summary["efficiency"], summary["carbon"]
    tokens = summary["tokens"]
    rate = ("tokens_per_s", "tokens/s") if tokens is not None else ("samples_per_s", "samples/s")
    rows = {
        "run": f"{summary['run_id']} ({summary['status']})",
        "steps": f"{summary['steps'] or 'none seen'} in {format_quantity(summary['duration_s'], 's')}",
        "work": format_quantity(tokens, "tokens")
        if tokens is not None
        else format_quantity(summary["samples"], "samples"),
        "throughput": format_quantity(summary["throughput"][rate[0]], rate[1]),
        "energy": energy_text(energy, "measured") if energy["headline"] == "measured" else "not measured",
        "energy, CPU time": energy_text(energy, "estimated"),
        "energy per token": _marked(efficiency["energy_per_token_j"], "J/token", energy["headline"]),
        "FLOP/s": format_quantity(efficiency["flops_per_s"], "FLOP/s"),
        "MFU": _utilization(efficiency),
        "roofline": _roofline(efficiency["roofline"]),
        "FLOPs count": efficiency["flops_convention"] or "unknown",
        "peak memory, host": format_quantity(summary["memory"]["peak_host_rss_bytes"], "B"),
        "peak memory, GPU": format_quantity(summary["memory"]["peak_reserved_bytes"], "B"),
        "clocks held back": _throttling(summary["throttling"]),
        **carbon_rows(carbon, energy["headline"]),
        **second_opinion_rows(summary["second_opinions"]),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value not in ("unknown", "not measured") or name in ("energy", "energy per token", "MFU"):
            table.add_row(Text(name, style="dim"), Text(value))
    return table


def _utilization(efficiency: Mapping[str, Any]) -> str:
    """MFU, and HFU where something was computed twice."""
    mfu, hfu = efficiency["mfu"], efficiency["hfu"]
    text = format_quantity(mfu, "fraction")
    if mfu is None or hfu is None or hfu < 1.005 * mfu:
        return text
    return f"{text} (with recomputation, HFU: {format_quantity(hfu, 'fraction')})"


def _roofline(place: Mapping[str, Any]) -> str:
    """What the run is bound by, how far it is from that roof, and from which numbers."""
    if place["bound"] is None:
        return "unknown"
    share = format_quantity(place["share_of_attainable"], "fraction")
    intensity, ridge = (f"{place[f'{key}_flops_per_byte']:.3g}" for key in ("intensity", "ridge"))
    return f"{place['bound']}-bound, at {share} of its limit ({intensity} FLOP/B; the ridge is at {ridge})"


def _throttling(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why and how often a GPU was slowed down; "unknown" when none was, which is not shown."""
    words = [f"{row['reason']} in {format_quantity(row['share'], 'fraction')} of readings" for row in rows]
    return "; ".join(dict.fromkeys(words)) or "unknown"


def _phases(summary: Mapping[str, Any]) -> RenderableType:
    table = _table("phase", "time", "share", "energy")
    whole_s = summary["duration_s"] or 0.0
    for row in summary["phases"]:
        share = row["duration_s"] / whole_s if whole_s else None
        energy = _marked(row["energy_j"], "J", row["source"], row["plus_minus_j"])
        table.add_row(
            row["phase"], format_quantity(row["duration_s"], "s"), format_quantity(share, "fraction"), energy
        )
    return table if summary["phases"] else Text("")


def _verdict(findings: Sequence[Mapping[str, Any]] | None) -> RenderableType:
    """What the numbers say, and under each finding what to try first; nothing for a run too short to be judged."""
    text = Text()
    for finding in findings or ():
        text.append(f"\n{finding['says']}")
        if finding["first_try"]:
            text.append(f"\n    try: {finding['first_try']}", style="dim")
    return Text.assemble(("verdict", "bold"), text, "\n") if text else text


def _notes(notes: Mapping[str, str]) -> RenderableType:
    """Each reason once, with the names that it stands for."""
    names: dict[str, list[str]] = {}
    for name, reason in notes.items():
        names.setdefault(reason, []).append(name.rpartition(".")[2])
    lines = [f"{', '.join(dict.fromkeys(keys))}: {reason}" for reason, keys in names.items()]
    return (
        Text("\n".join(["notes", *(f"  {line}" for line in lines[:_SHOWN_NOTES])]), style="dim")
        if lines
        else Text("")
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _with_legend(table: Table, frame: pl.DataFrame) -> RenderableType:
    if "estimated" not in frame["energy_source"].drop_nulls().to_list():
        return table
    return Group(table, Text("~ estimated from CPU time, not measured", style="dim"))


def _cell(value: float | None, unit: str) -> str:
    return "-" if value is None else format_quantity(value, unit)


def _number(value: float | None, plus_minus: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if plus_minus is None else f"{value:.3f} ± {plus_minus:.3f}"


def _energy_cell(value: float | None, unit: str, source: str | None, plus_minus: float | None = None) -> str:
    if value is None:
        return "-"
    return ("~ " if source == "estimated" else "") + format_quantity(value, unit, plus_minus)


def _marked(value: float | None, unit: str, source: str | None, plus_minus: float | None = None) -> str:
    text = format_quantity(value, unit, plus_minus)
    return f"~ {text} (estimated)" if source == "estimated" and value is not None else text
