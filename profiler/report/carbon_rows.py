"""Emissions, water, cost and other tools' opinions as lines of a run's table. What is unknown has no line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from profiler.report.quantity import format_quantity

_SCI_UNITS = {"g_per_token": "g/token", "g_per_sample": "g/sample", "g_per_run": "g/run"}


def carbon_rows(carbon: Mapping[str, Any], headline: str) -> dict[str, str]:
    """Name to text; amounts that follow from an estimate are marked so.

    Args:
        carbon: The `carbon` part of a summary.
        headline: What the energy behind it is: measured or estimated.
    """
    rows = {
        "emissions": _emissions(carbon, headline),
        "carbon intensity": _with_source(carbon, "carbon_intensity", "carbon_intensity_g_per_kwh", "g/kWh"),
        "embodied carbon": _with_source(carbon, "embodied", "embodied_g", "g"),
        "SCI": _sci(carbon["sci"], headline),
        "water at the site": _amount(carbon, "water", "water_l", "L", headline),
        "cost": _amount(carbon, "cost", "cost", str(carbon["cost_currency"]), headline),
    }
    return {name: text for name, text in rows.items() if text is not None}


def second_opinion_rows(opinions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """One line an opinion: its own numbers, and how far they are from ours over the same seconds."""
    rows = {}
    for number, opinion in enumerate(opinions):
        name = f"{opinion['tool']} {opinion['version']} says"
        rows[name if number == 0 else f"{name} ({opinion['host']}, {number + 1})"] = _opinion(opinion)
    return rows


def marked(text: str, headline: str) -> str:
    """A text that follows from an estimate, marked so."""
    return f"~ {text} (estimated)" if headline == "estimated" else text


def _emissions(carbon: Mapping[str, Any], headline: str) -> str | None:
    grams = carbon["emissions_g"]
    if grams is None:
        return None
    text = marked(format_quantity(grams, "g"), headline)
    if carbon["emissions_low_g"] is None:
        return text
    low, high = (format_quantity(carbon[f"emissions_{end}_g"], "g") for end in ("low", "high"))
    return f"{text}, {low} to {high} by the error bar {carbon['emissions_interval']}"


def _with_source(carbon: Mapping[str, Any], name: str, key: str, unit: str) -> str | None:
    if carbon[key] is None:
        return None
    kind = (
        f"{carbon[f'{name}_kind'] or 'average or marginal: not said'}; " if f"{name}_kind" in carbon else ""
    )
    return f"{format_quantity(carbon[key], unit)} ({kind}{carbon[f'{name}_source']})"


def _amount(carbon: Mapping[str, Any], name: str, key: str, unit: str, headline: str) -> str | None:
    if carbon[key] is None:
        return None
    return f"{marked(format_quantity(carbon[key], unit), headline)}; {carbon[f'{name}_source']}"


def _sci(sci: Mapping[str, float | None], headline: str) -> str | None:
    parts = [format_quantity(sci[key], unit) for key, unit in _SCI_UNITS.items() if sci[key] is not None]
    return f"{marked(', '.join(parts), headline)}; emissions and embodied carbon" if parts else None


def _opinion(opinion: Mapping[str, Any]) -> str:
    shared = [c["component"] for c in opinion["components"] if c["difference"] is not None]
    parts = ", ".join(
        f"{c['component']} {format_quantity(c['energy_j'], 'J')}"
        for c in opinion["components"]
        if c["energy_j"]
    )
    text = f"{format_quantity(opinion['energy_j'], 'J')} ({parts})"
    if opinion["energy_difference"] is not None:
        ours = marked(format_quantity(opinion["our_energy_j"], "J"), opinion["our_energy_source"])
        text += f"; {_percent(opinion['energy_difference'])} on {' and '.join(shared)}, ours {ours}"
    if opinion["emissions_g"] is not None:
        text += f"; {format_quantity(opinion['emissions_g'], 'g')} CO2e"
    if opinion["emissions_difference"] is not None:
        text += f", {_percent(opinion['emissions_difference'])} on ours"
    return text


def _percent(share: float) -> str:
    """Past tenfold, percent say less than a factor."""
    return f"{100.0 * share:+.0f} %" if share < 9.0 else f"x {1.0 + share:.0f}"
