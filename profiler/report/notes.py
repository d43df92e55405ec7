"""Why something is not known, and what must be known to read a run: its notes in the words of its table.

First what a reader can do something about. What nobody asked for (water, cost, embodied carbon, SCI, a second
opinion) and explanations of what is known are left out; `show --json` has every note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_ROWS: Mapping[str, str] = {
    "emissions": "carbon.emissions_g",
    "tokens": "tokens",
    "samples": "samples",
    "loss": "loss",
    "FLOP/s": "efficiency.flops_per_s",
    "MFU": "efficiency.mfu",
    "energy by phase": "phases.energy_j",
    "verdict": "verdict",
}
"""Rows of the table that can be unknown, and which key of the summary is null then."""

_SENSORS = {"gpu": "energy of GPUs", "cpu": "energy of CPUs"}

_EXPLAIN = (
    "tokens",
    "samples",
    "loss",
    "steps",
    "model_flops",
    "executed_flops",
    "operator_bytes",
    "peak_bytes_per_s",
    "mfu",
    "ended",
    "verdict",
    "partial",
    "straggler",
    "phenomenon",
    "workload",
    "preset",
    "seed",
    "params",
    "duration_s",
    "parent",
    "heartbeat",
)
"""Notes that say how a number was got or why it is null: the rows above speak for them, or the status does."""

_DEVICE, _DAMAGED = "energy.components ", "damaged file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What a reader of a run must know: pairs of a subject and a sentence.

    Attributes:
        unknown: What is not known, and why.
        remarks: What must be known to read what is known.
    """

    unknown: Mapping[str, str]
    remarks: Mapping[str, str]


def grouped_notes(summary: Mapping[str, Any], *, of_devices: bool = True) -> Notes:
    """The notes of a summary that a person needs, each sentence once, with the names that it stands for.

    Args:
        summary: Of a run.
        of_devices: Whether remarks on single devices are among them; where devices have a table, they stand there.
    """
    notes = summary["notes"]
    rows = [(row, notes[key]) for row, key in _ROWS.items() if key in notes and _is_unknown(key, summary)]
    told = [key for key in notes if _is_remark(key) and (of_devices or not key.startswith(_DEVICE))]
    return Notes(
        unknown=_once([*_sensors(summary), *rows]), remarks=_once((_subject(key), notes[key]) for key in told)
    )


def _subject(key: str) -> str:
    return key.removeprefix(_DEVICE).removesuffix(" scope").replace("_", " ")


def _sensors(summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Why devices are not measured; of GPUs only if the run may have used one."""
    notes, energy = summary["notes"], summary["energy"]
    measured = {part["component"] for part in energy["components"] if part["source"] != "estimated"}
    on_cpu = summary["steps"] and summary["memory"]["peak_reserved_bytes"] is None and "gpu" not in measured
    for key, title in _SENSORS.items():
        if key in notes and key not in measured and not (key == "gpu" and on_cpu):
            yield title, notes[key]
    if energy[f"{energy['headline']}_j"] is None:
        yield "energy", notes[f"energy.{energy['headline']}_j"]


def _is_unknown(key: str, summary: Mapping[str, Any]) -> bool:
    part, _, name = key.rpartition(".")
    if part == "phases":
        return any(phase[name] is None for phase in summary[part])
    return (summary[part] if part else summary)[name] is None


def _is_remark(key: str) -> bool:
    """Notes that the training or a sensor wrote, of the run as a whole or of one device; no null key of a summary."""
    if key.startswith((_DEVICE, _DAMAGED)):
        return True
    return "." not in key and key not in _EXPLAIN and key not in _SENSORS


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    names: dict[str, list[str]] = {}
    for name, why in pairs:
        names.setdefault(why, []).append(name)
    return {", ".join(dict.fromkeys(of)): why for why, of in names.items()}
