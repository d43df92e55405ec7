"""What each tool says when something is wrong: four GPUs of 100, 200, 300 and 400 W, and one window of 6 s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accuracy.realtime import Job, Outcome
from accuracy.traces import NAME, UUID

WATTS = (100.0, 200.0, 300.0, 400.0)
WINDOW_S = 6.0
TOOLS = ("joulescale", "zeus", "codecarbon", "carbontracker")
GPU_IS_LOST = 15
HANG_S = 10
_CALLS = (
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetFieldValues",
)
_LOST = tuple(
    f"error {call} {GPU_IS_LOST} 1"
    for call in (*_CALLS, "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUUID")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that goes wrong.

    Attributes:
        name: In words.
        own: Which GPUs are the process's.
        visible: `CUDA_VISIBLE_DEVICES`; None leaves it unset.
        trouble: What the fake library is told half way.
    """

    name: str
    own: Sequence[int]
    visible: str | None = None
    trouble: Sequence[str] = ()


CASES = (
    Case(name="nothing wrong, four GPUs", own=(0, 1, 2, 3)),
    Case(name="CUDA_VISIBLE_DEVICES=1", own=(1,), visible="1"),
    Case(name="CUDA_VISIBLE_DEVICES=GPU-<uuid of the second>", own=(1,), visible=UUID.format(1)),
    Case(name="CUDA_VISIBLE_DEVICES= (empty)", own=(), visible=""),
    Case(name="second GPU lost half way", own=(0, 1, 2, 3), trouble=_LOST),
    Case(
        name=f"energy call hangs {HANG_S} s half way",
        own=(0, 1, 2, 3),
        trouble=(f"hang {_CALLS[0]} {HANG_S}",),
    ),
)


def failure_jobs() -> list[Job]:
    """Every case with every tool."""
    script = "\n".join(
        f"gpu {UUID.format(gpu)} {NAME}\npower {gpu} 0 {watts}" for gpu, watts in enumerate(WATTS)
    )
    return [
        Job(
            tool=tool,
            script=script,
            gpus=len(WATTS),
            windows_s=[WINDOW_S],
            trouble=case.trouble,
            variables={} if case.visible is None else {"CUDA_VISIBLE_DEVICES": case.visible},
            timeout_s=400.0,
        )
        for case in CASES
        for tool in TOOLS
    ]


def failure_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One row a case: the truth, and each tool's answer."""
    rows = []
    for number, case in enumerate(CASES):
        of_case = outcomes[number * len(TOOLS) : (number + 1) * len(TOOLS)]
        rows.append(
            {
                "case": case.name,
                "true_j": sum(WATTS[gpu] for gpu in case.own) * WINDOW_S,
                **{o.job.tool: _answer(o) for o in of_case},
            }
        )
    return rows


def _answer(outcome: Outcome) -> str:
    """What a tool said, in a few words."""
    if not outcome.rows:
        return outcome.ended.replace("|", "/")
    row = outcome.rows[0]
    blocked_s = row["end_s"] + row["close_s"]
    late = f"; blocked for {blocked_s:.0f} s" if blocked_s > 2.0 else ""
    if outcome.job.tool == "joulescale":
        return _ours(row["said"], outcome.notes) + late
    said = [value for value in row["said"] if value is not None]
    return f"{sum(said):.0f} J{late}"


def _ours(said: Sequence[Mapping[str, float] | None], notes: Mapping[str, str]) -> str:
    if not said:
        return f"null: {notes.get('gpu', 'no GPU is measured')}"
    known = [device for device in said if device]
    at_least = sum(device["at_least_j"] for device in known)
    if len(known) < len(said) or any(device["energy_j"] is None for device in known):
        return f"null, with the reason; at least {at_least:.0f} J"
    energy_j, bar_j = (sum(device[key] for device in known) for key in ("energy_j", "plus_minus_j"))
    coverage = min(device["coverage"] for device in known)
    return f"{energy_j:.0f} ± {bar_j:.0f} J" + (f", {100 * coverage:.0f} % covered" if coverage < 1.0 else "")
