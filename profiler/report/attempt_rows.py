"""The attempts of a run as a table, where there is more than one, and what they threw away as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from profiler.report.carbon_rows import marked
from profiler.report.quantity import format_quantity
from profiler.report.tables import new_table
from profiler.words import counted

COLUMNS = ("attempt", "ended", "steps", "went on from", "time", "energy", "steps lost", "energy lost")


def attempt_rows(summary: Mapping[str, Any]) -> list[RenderableType]:
    """The table of attempts and the sentence under it; nothing for a run of one."""
    if len(summary["attempts"]) < 2:
        return []
    table = new_table(*COLUMNS)
    for cells in attempt_cells(summary):
        table.add_row(*cells.values())
    return [table, *(Text(line, style="dim") for line in (*sum_texts(summary), lost_text(summary)))]


def attempt_cells(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the table says of each attempt, by column."""
    return [
        dict(zip(COLUMNS, _cells(row, summary["energy"]["headline"]), strict=True))
        for row in summary["attempts"]
    ]


def lost_text(summary: Mapping[str, Any]) -> str:
    """What all attempts threw away, in a sentence."""
    lost = summary["lost_work"]
    if not lost["duration_s"]:
        return "No work was lost between the attempts."
    took = f"{counted(lost['steps'], 'step')} and {format_quantity(lost['duration_s'], 's')}"
    killed = any(row["lost"]["duration_s"] and row["status"] == "lost" for row in summary["attempts"])
    took = f"at least {took} (a kill takes the last second of the record with it)" if killed else took
    what = f"Lost, since the next attempt went on from before: {took}"
    if lost["energy_j"] is None:
        return f"{what}; their energy is not known."
    joules = marked(format_quantity(lost["energy_j"], "J", lost["plus_minus_j"]), lost["source"])
    share = format_quantity(lost["energy_share"], "fraction")
    return f"{what}, {joules}, {share} of the run's energy. It is part of the run's energy and emissions."


def sum_texts(summary: Mapping[str, Any]) -> list[str]:
    """Why energies of attempts are no knowledge of their own, or do not add up to that of the run; else nothing."""
    energy, kind, rows = summary["energy"], summary["energy"]["headline"], summary["attempts"]
    if energy[f"{kind}_j"] is None:
        if all(row["energy"][f"{kind}_j"] is None for row in rows):
            return []
        why = summary["notes"][f"energy.{kind}_j"]
        return [f"These energies make no sum: the run's energy is not known, for {why.rstrip('.')}."]
    vague = [row for row in rows if row["energy"][f"{kind}_j"] is None]
    bounded = [row["attempt"] for row in vague if row["energy"][f"{kind}_in_sum_j"]]
    silent = [note for row in vague if (note := summary["notes"].get(f"attempt {row['attempt']}"))]
    told = [f"{note[0].upper()}{note[1:]}." for note in silent]
    if bounded:
        of = f"attempt{'s' if len(bounded) > 1 else ''} {', '.join(map(str, bounded))}"
        told.append(
            f"The energy of {of} is not known alone, since its bar is as wide as its value; the run's energy counts"
            " it so."
        )
    return told


def _cells(row: Mapping[str, Any], headline: str) -> tuple[str, ...]:
    energy, lost = row["energy"], row["lost"]
    known = f"{headline}_in_sum" if energy[f"{headline}_in_sum_j"] else headline
    spans = f"{row['first_step']} to {row['last_step']}" if row["steps"] else "none stored"
    point = row["resumed_from_step"]
    return (
        str(row["attempt"]),
        row["ended"] or row["status"] or "",
        spans,
        "" if point is None else f"step {point}",
        format_quantity(row["duration_s"], "s"),
        _joules(energy[f"{known}_j"], energy[f"{known}_plus_minus_j"], headline),
        str(lost["steps"]) if lost["duration_s"] else "",
        _joules(lost["energy_j"], lost["plus_minus_j"], lost["source"]) if lost["duration_s"] else "",
    )


def _joules(joules: float | None, plus_minus_j: float | None, source: str | None) -> str:
    text = format_quantity(joules, "J", plus_minus_j)
    return text if joules is None else marked(text, source or "")
