"""Single facts of a run in words: its state, work, speed, utilization. For the terminal and the dashboard alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from profiler.metrics.attempts import ended_of
from profiler.report.quantity import UNKNOWN, format_quantity

LOST = "its process ended without saying so"
INTERRUPTED = "it was stopped before its end"
FAILED = "an exception ended it"
PARTIAL = "ranks of it are missing, so that sums over ranks are what they were at least (≥)"
NO_MANIFEST = "its run.json cannot be read"
INSIDE_STEPS = "time inside steps only"

_ASKED_FOR = ("KeyboardInterrupt", "SystemExit", "SIGTERMException", "end of the interpreter")
"""What ends a training because somebody wanted it to end."""

METHODS: Mapping[str, str] = {
    "cpu time": "from CPU time",
    "windows": "between changes of the counter",
    "regression": "by regression over changes of the counter",
    "bound": "by time, bar for the worst case",
}
"""How the joules of a phase were got, by `PhaseShare.method`."""

SOURCES: Mapping[str, str] = {
    "counter": "counter",
    "integrated": "power, added up",
    "module_scope": "counter of the whole module",
    "shared_gpu": "counter, shared with other processes",
    "parent_of_mig": "counter of the whole GPU, of which MIG gave a part",
    "estimated": "estimated",
}
"""How the joules of a device were got, by its source word."""

PLUS_MINUS = {
    "energy": "± of energy: half its error bar, of the sensor or the estimate",
    "loss": "± of val. loss: half its 95 % interval over the held-out data, not over seeds",
}


def status_text(summary: Mapping[str, Any]) -> str:
    """How a run stands, and what is known of how it got there: `lost: its process ended without saying so, ...`."""
    text, notes = status_word(summary["status"], ended_of(summary)), summary["notes"]
    if text == "lost":
        text += f": {_how_lost(summary)}"
    elif text in ("interrupted", "failed"):
        text += f": {notes.get('ended', INTERRUPTED)}"
    elif text == "damaged":
        text += f": {NO_MANIFEST}"
    if summary["partial"]:
        text += f", partial: {summary['partial']['why']}"
    return f"{text}, damaged" if "damaged file 1" in notes and summary["status"] != "damaged" else text


def status_word(status: str, ended: str | None) -> str:
    """The status in a word for people: of what was interrupted, an exception that nobody asked for is a failure.

    Args:
        status: Of a summary or a row of `metrics.overview.overview`.
        ended: What stopped it, such as `RuntimeError after step 30`; None if nobody said.
    """
    failed = status == "interrupted" and ended is not None and not ended.startswith(_ASKED_FOR)
    return "failed" if failed else status


def exception_of(ended: str) -> str:
    """`RuntimeError` of `RuntimeError after step 30`."""
    return ended.partition(" after ")[0]


def work_text(summary: Mapping[str, Any]) -> str:
    """Tokens, or else samples."""
    unit = work_unit(summary)
    return at_least(summary, format_quantity(summary[unit], unit))


def ranks_text(summary: Mapping[str, Any]) -> str:
    """How many ranks, and on how many hosts; nothing for a single one."""
    if summary["world_size"] < 2:
        return ""
    hosts = f" on {summary['hosts']} hosts" if summary["hosts"] > 1 else ""
    return f"{summary['world_size']} ranks{hosts}"


def throughput_text(summary: Mapping[str, Any]) -> str:
    """Tokens a second, or samples where tokens were not counted."""
    unit = work_unit(summary)
    return at_least(summary, format_quantity(summary["throughput"][f"{unit}_per_s"], f"{unit}/s"))


def energy_per(row: Mapping[str, Any], unit: str) -> tuple[float | None, str]:
    """What a unit of work costs, and in what: joules a token, or a sample where only these were counted.

    Args:
        row: The `efficiency` of a summary, or a row of `metrics.overview.overview`.
        unit: Of `work_unit`.
    """
    one = unit.removesuffix("s")
    return row[f"energy_per_{one}_j"], f"J/{one}"


def energy_per_text(summary: Mapping[str, Any]) -> tuple[str, str]:
    """The same of a whole run: its title, and the amount with half its error bar."""
    unit = work_unit(summary)
    one, efficiency = unit.removesuffix("s"), summary["efficiency"]
    text = format_quantity(*energy_per(efficiency, unit), efficiency[f"energy_per_{one}_plus_minus_j"])
    return f"Energy per {one}", text


def of_record(summary: Mapping[str, Any], text: str) -> str:
    """A ratio of sums over ranks, both of which lack those that are missing.

    Args:
        summary: Of a run.
        text: The ratio, or how it was got.
    """
    return f"{text}, of what was recorded" if summary["partial"] and text != UNKNOWN else text


def work_unit(row: Mapping[str, Any]) -> str:
    """What work is counted in: tokens, or samples where only these were.

    Args:
        row: A summary, or a row of `metrics.overview.overview`.
    """
    samples = row["samples"] if "samples" in row else row["samples_per_s"]
    return "samples" if row["tokens"] is None and samples is not None else "tokens"


def at_least(row: Mapping[str, Any], text: str) -> str:
    """A sum over ranks: of a run that lacks some, it is what it was at least.

    Args:
        row: A summary.
        text: The sum.
    """
    return f"at least {text}" if row["partial"] and text != UNKNOWN else text


def mfu_text(efficiency: Mapping[str, Any]) -> str:
    """MFU with its peak and where that is from: `13.0 % of 88.0 GFLOP/s fp32, measured`."""
    text = format_quantity(efficiency["mfu"], "fraction")
    return text if text == UNKNOWN else f"{text} of {peak_text(efficiency)}"


def peak_text(efficiency: Mapping[str, Any]) -> str:
    """The dense peak, its dtype and its source."""
    peak = format_quantity(efficiency["peak_flops_per_s"], "FLOP/s")
    source = (efficiency["peak_source"] or "").partition(":")[0]
    return ", ".join(part for part in (f"{peak} {efficiency['peak_dtype'] or ''}".strip(), source) if part)


def hfu_text(efficiency: Mapping[str, Any]) -> str:
    """HFU, where more was executed than the model asks for; else unknown, for it is the MFU then."""
    mfu, hfu = efficiency["mfu"], efficiency["hfu"]
    if hfu is None or (mfu is not None and hfu < 1.005 * mfu):
        return UNKNOWN
    return f"{format_quantity(hfu, 'fraction')}, all executed FLOPs counted"


def roofline_text(efficiency: Mapping[str, Any]) -> str:
    """What the run is bound by, how far it is from that limit, and from which numbers."""
    place = efficiency.get("roofline") or {}
    if place.get("bound") is None:
        return UNKNOWN
    share = format_quantity(place["share_of_attainable"], "fraction")
    intensity, ridge = (f"{place[f'{key}_flops_per_byte']:.3g}" for key in ("intensity", "ridge"))
    return f"{place['bound']}-bound, at {share} of its limit ({intensity} FLOP/B; the ridge is at {ridge})"


def methods_text(phases: Sequence[Mapping[str, Any]]) -> str:
    """How the joules by phase were got: `Measured. forward, backward: by regression ...`."""
    names: dict[str, list[str]] = {}
    for phase in phases:
        method = METHODS.get(phase.get("method") or "")
        if method:
            names.setdefault(method, []).append(phase["phase"])
    if any(phase.get("source") == "estimated" for phase in phases):
        return "estimated from CPU time, not measured"
    return "; ".join(f"{', '.join(of)}: {method}" for method, of in names.items())


def _how_lost(summary: Mapping[str, Any]) -> str:
    """Lost, with the later of its last heartbeat and its last row."""
    heartbeat = _instant(summary["heartbeat"] or "")
    if heartbeat is None:
        return LOST
    moment = max(heartbeat, _last_row(summary) or heartbeat)
    return f"{LOST}, last sign of life {_clock_time(moment.isoformat())}"


def _last_row(summary: Mapping[str, Any]) -> datetime | None:
    began, lasted_s = _instant(summary["created_at"] or ""), summary["duration_s"]
    return began and began + timedelta(seconds=lasted_s or 0.0)


def _instant(moment: str) -> datetime | None:
    try:
        return datetime.fromisoformat(moment).astimezone(UTC)
    except ValueError:
        return None


def _clock_time(moment: str) -> str:
    """`09:00:41 UTC`, with the day in front unless it is today's."""
    when = _instant(moment)
    if when is None:
        return ""
    today = when.date() == datetime.now(UTC).date()
    return when.strftime("%H:%M:%S UTC" if today else "%Y-%m-%d %H:%M:%S UTC")
