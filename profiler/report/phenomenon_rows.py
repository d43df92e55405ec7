"""What an experiment showed, in words and tables: for the terminal, and for whoever else shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from profiler.report.carbon_rows import marked
from profiler.report.quantity import UNKNOWN, format_quantity
from profiler.report.tables import new_table

STYLES = {"shown": "green", "not shown": "red", "can't tell": "yellow"}


def phenomenon_rows(summary: Mapping[str, Any]) -> list[RenderableType]:
    """The verdict, the figures behind it, and the joules of each training; nothing where nothing was asked."""
    found = summary["phenomenon"]
    if found is None:
        return []
    head = Text.assemble(
        ("\nphenomenon ", "bold"),
        (found["outcome"], f"bold {STYLES[found['outcome']]}"),
        f": {found['reason']}",
    )
    lines = [head, Text(f"criterion: {found['criterion']}", style="dim")]
    seeds = seeds_sentence(found)
    figures = Table.grid(padding=(0, 2))
    texts = {**figure_texts(found["figures"]), **cost_texts(found), **break_even_texts(found)}
    for name, value in texts.items():
        figures.add_row(Text(f"  {name}", style="dim"), Text(value))
    arms = new_table("training", "steps", "time", "energy")
    for arm in found["arms"]:
        arms.add_row(Text(arm["arm"]), *arm_cells(arm))
    return [
        *lines,
        *([Text(seeds, style="dim")] if seeds else []),
        figures,
        *([arms] if found["arms"] else []),
    ]


def over_seeds_row(together: Mapping[str, Any]) -> Text:
    """The verdict over the seeds of an experiment, in a line."""
    seeds = len(together["runs"])
    asked = (
        f", and {together['shown_in']} of {together['asked_seeds']} are asked for"
        if together["shown_in"] and together["preset"] != "smoke"
        else ""
    )
    smoke = (
        "; the smoke preset shows nothing, however many there are" if together["preset"] == "smoke" else ""
    )
    return Text.assemble(
        ("phenomenon ", "bold"),
        (together["outcome"], f"bold {STYLES[together['outcome']]}"),
        f": in {together['shown']} of {seeds} {'seed' if seeds == 1 else 'seeds'}{asked}{smoke}",
    )


def seeds_sentence(found: Mapping[str, Any]) -> str | None:
    """That one run is not the whole answer, where several seeds are asked for."""
    if (found["seeds"] or 1) < 2:
        return None
    return f"one seed of {found['seeds']}: the phenomenon counts as shown if it does in {found['shown_in']} of them"


def figure_texts(figures: Mapping[str, Any]) -> dict[str, str]:
    """Figures as people read them."""
    return {name: _figure(value) for name, value in figures.items()}


def cost_texts(found: Mapping[str, Any]) -> dict[str, str]:
    """What parts of the experiment cost; of what had not come by the end it is a lower bound."""
    return {cost["cost"]: f"{'> ' if cost['is_bound'] else ''}{price_text(cost)}" for cost in found["costs"]}


def break_even_texts(found: Mapping[str, Any]) -> dict[str, str]:
    """After how many uses parts of the experiment have paid for themselves, or why that is unknown."""
    return {each["of"]: _uses(each) for each in found.get("break_even", ())}


def _uses(each: Mapping[str, Any]) -> str:
    if each["uses"] is None:
        return f"{UNKNOWN}: {each['reason']}"
    most = "no end" if each["most"] is None else f"{each['most']:,.0f}"
    return marked(f"{each['uses']:,.0f} ({each['least']:,.0f} to {most})", each["source"])


def price_text(price: Mapping[str, Any]) -> str:
    """Joules with their bar and how they were got."""
    if price["energy_j"] is None:
        return UNKNOWN
    return marked(format_quantity(price["energy_j"], "J", price["plus_minus_j"]), price["source"])


def arm_cells(arm: Mapping[str, Any]) -> tuple[str, str, str]:
    """Steps, time and energy of a training."""
    steps = arm["facts"].get("steps")
    return (
        UNKNOWN if steps is None else str(steps),
        format_quantity(arm["duration_s"], "s"),
        price_text(arm),
    )


def _figure(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
