"""The readable page of the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NAMES = {
    "joulescale": "joulescale",
    "joulescale, marked": "joulescale, ends read",
    "zeus": "Zeus",
    "zeus, approx": "Zeus, approx",
    "zeus_approx": "Zeus, approx",
    "codecarbon": "CodeCarbon",
    "carbontracker": "carbontracker",
}

INTRODUCTION = """# Accuracy of the energy of a window

Random power traces (constant, square waves, random steps, ramps, bursts, random walks, training steps, long phases
with ripple) are played by a fake NVML library to the real NVML binding; the integral of each trace is known exactly.
Counters move every 10 to 100 ms, are off by a gain of up to 5 % either way, and readings come late by chance. Windows
are about as long as is said (-15 to +10 %). Errors are in percent of the mean true energy of the windows of a row.
**Made by `make bench-accuracy`.**
"""

SETTINGS = """Settings, each as the tool's documentation recommends:
joulescale: `Session` over the visible GPUs, as `EfficiencyMonitor` opens it, 10 Hz; "ends read" also reads at both ends
of a window, as `monitor.mark` does. Zeus: `ZeusMonitor(cpu_indices=[])`, `begin_window`/`end_window` with
`sync_execution=False`; "approx" with `approx_instant_energy=True`. CodeCarbon: `OfflineEmissionsTracker`, one task a
window. carbontracker: one epoch a window, `components="gpu"`, `update_interval` 1 s, without its PUE of 1.58, one GPU a
process."""

WHY_NOT = """Where ours is not the least, the row says by how little. Long windows are as good as the gain, which nobody
knows without calibration, so all counters are alike there; carbontracker sees a quarter of the traces, so its gains are
other ones. It averages power that the driver has averaged over a second, so it lags. CodeCarbon and Zeus take the
difference of two readings, which is 0 J or a whole update where the window is shorter than one. Only ours says how far
off it may be."""


def page(result: Mapping[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    parts = [INTRODUCTION]
    if virtual := result.get("virtual"):
        parts += _virtual(virtual)
    if realtime := result.get("realtime"):
        parts += _realtime(realtime)
    return "\n".join(parts) + "\n"


def _virtual(found: Mapping[str, Any]) -> list[str]:
    return [
        f"## Error bars, {found['traces']} traces, virtual clock\n\n{_stamp(found)}\n",
        "One trace in five has a reset, a loss of the sensor, or stalls of the sampler; they are in these rows.\n",
        _bars(found["bars"]),
        "\nPart-time sensors: the counter sees the first 20 to 25 ms of every 100 ms only. What it does not see is "
        "noise in every tool's number.\n",
        _bars(found["bars_part_time"]),
        "\n## RMS error in percent beside Zeus, undisturbed traces, virtual clock\n",
        _errors(found["tools"]),
        "\nWindows of which a tool says 0 J, in percent\n",
        _errors(found["tools"], "said_0_percent"),
        "\n## RMS error in percent by what went wrong while the trace was read\n",
        _errors(found["troubles"]),
        f"\nWindows without an answer: {_unanswered(found['unanswered'])}. After a reset a difference of two counter "
        "readings is negative.\n",
    ]


def _realtime(found: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    ours = found["tools"].get("joulescale", {})
    inside = ", ".join(f"{100 * row['inside_bar']:.1f} % of {name}" for name, row in ours.items())
    return [
        f"## RMS error in percent in real time, {found['traces']} traces\n",
        f"{_stamp(found)} {versions}.\n\n{SETTINGS}\n",
        _errors(found["tools"]),
        f"\nInside our bar: {inside}. {'; '.join(found['ended'])}\n\n{WHY_NOT}\n",
        "\n## What each says when something is wrong\n",
        "Four GPUs of 100, 200, 300 and 400 W, one window of 6 s, the trouble half way.\n",
        _rows(
            ["case", "true", *(NAMES[t] for t in ("joulescale", "zeus", "codecarbon", "carbontracker"))],
            (
                [row["case"], f"{row['true_j']:.0f} J"]
                + [row.get(t, "-") for t in ("joulescale", "zeus", "codecarbon", "carbontracker")]
                for row in found["failures"]
            ),
        ),
    ]


def _stamp(found: Mapping[str, Any]) -> str:
    return f"`{found['command']}`, {found['date']}, {found['machine']}, {found['took_s']} s."


def _unanswered(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{NAMES[name]} {count}" for name, count in counts.items()) or "none"


def _bars(scores: Mapping[str, Mapping[str, Any]]) -> str:
    heads = ["window", "windows", "inside the bar", "bar / needed for 95 %", "mean bar", "RMS error", "bias"]
    return _rows(
        heads,
        (
            [
                name,
                str(row["windows"]),
                f"{100 * row['inside_bar']:.1f} %",
                f"{row['bar_over_needed']:.2f}",
                f"{row['mean_bar_percent']:.1f} %",
                f"{row['rms_error_percent']:.1f} %",
                f"{row['bias_percent']:+.1f} %",
            ]
            for name, row in scores.items()
        ),
    )


def _errors(tools: Mapping[str, Mapping[str, Any]], key: str = "rms_error_percent") -> str:
    """One row a group, one column a tool; the least in bold."""
    groups = [name for name in next(iter(tools.values())) if name != "all"]
    rows = []
    for group in groups:
        values = [tools[tool].get(group, {}).get(key) for tool in tools]
        least = min(value for value in values if value is not None)
        rows.append(
            [group, *("-" if v is None else f"**{v:g}**" if v == least else f"{v:g}" for v in values)]
        )
    return _rows(["window", *(NAMES[tool] for tool in tools)], rows)


def _rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
