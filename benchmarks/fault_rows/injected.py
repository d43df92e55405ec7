"""F5: an exception injected in every function of ours that runs in a training, one function at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from fault_rows.row import Fault, Outcome
from fault_rows.zygote import ROOT, zygote

TASKS = "fault_rows.injected_trials"
ALL_VARIANTS = ("automatic", "manual", "exception", "long", "compiled")
AT_ONCE = 2
CHUNK = 20
MOST = 0.97
"""Of the trials that must have raised: a few functions run only now and then, by the clock."""
HANGS_S = 120.0
KINDS = ("RuntimeError", "ForeignPanic", "MemoryError", "OSError", "RecursionError", "KeyError")
DOORS = frozenset(
    {
        "profiler.measure.guard:Guard.call",
        "profiler.measure.guard:guarded.decorate.wrapper",
        "profiler.measure.guard:fault_of",
        "profiler.measure.compiled:CompiledCount._watch.noting",
        "profiler.measure.flops:FlopCount.__torch_dispatch__",
        "profiler.integrations.open_record:OpenRecord.phase",
        "profiler.integrations.lightning_checkpoint:_TimedSave.__call__",
        "profiler.integrations.lightning_fetch:_Announced.__call__",
    }
)
"""They hold the guard itself, or call the user's own functions under it: nothing lies around them that could catch."""
REMOVERS = (
    "lightning:EfficiencyMonitor._close",
    "lightning:EfficiencyMonitor._end",
    "lightning:EfficiencyMonitor._interrupted",
    "lightning:EfficiencyMonitor.on_exception",
    "lightning_checkpoint:time_checkpoints.unwrap",
    "lightning_fetch:silence_fetches",
    "opening:close_all",
    "compiled:CompiledCount.stop",
    "compiled:CompiledCount._watch.restore",
    "flops:FlopCount.stop",
    "shape_counts:ShapeCounts.end",
    "work:WorkCounter.end_count",
)
"""Who takes away what was put around the user's objects: where they fail for good it may stay, and must do no harm."""
MENDED = (
    "profiler.measure.replay:",
    "profiler.measure.guard:",
    "profiler.integrations.sent_function:",
    "profiler.store.files:read_bounded",
    "profiler.store.claim:attempt_dir",
    "profiler.store.node:boot_id",
    "profiler.measure.sensors.nvml_tenants:is_in_host_namespace",
)
"""A replay that fails is tried in another way; of a fault in the guard only the part that is off is told; a function
that does not travel is told by the copy that lacks it; parts that cannot be merged stay as they are;
an attempt's folder is made in another way, a boot without a name goes by its host's, and
process numbers are taken for the host's where nobody can tell."""


class Trial(NamedTuple):
    """Which function raises what, in which kind of fit: once at that call of it, or at all from there on."""

    function: str
    kind: str
    call: int
    for_good: bool
    variant: str


def run(trials: int, folder: Path) -> Outcome:
    """As many trials as asked for, over as many functions as can be."""
    few = trials < 100
    environment = {"FAKE_NVML": str(_fake_nvml(folder))}
    listed = zygote().start(
        f"{TASKS}:count_calls",
        folder / "list",
        {"folder": str(folder), "variants": ALL_VARIANTS[:1] if few else ALL_VARIANTS},
        environment,
    )
    ended = listed.wait(300.0)
    assert ended.status == 0, ended.stderr[-2000:]
    planned = plan(json.loads(ended.stdout.splitlines()[-1]))
    chosen = planned[:: max(len(planned) // trials, 1)][:trials]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        shares = [chosen[number::AT_ONCE] for number in range(AT_ONCE)]
        folders = [(folder, number, environment) for number in range(AT_ONCE)]
        told = [pair for share in pool.map(_tried, shares, folders) for pair in share]
    failures = [
        f"{' '.join(map(str, trial))}: {'; '.join(wrong)}"
        for trial, found in told
        if (wrong := wrongs(trial, found))
    ]
    fired = sum(bool(found["fired"]) for _, found in told)
    if fired < MOST * len(told):
        failures += [f"{trial.function} was not called" for trial, found in told if not found["fired"]]
    lines, took_s = max(len(found["lines"]) for _, found in told), max(found["took_s"] for _, found in told)
    worst = f"{lines} log lines; {took_s:.1f} s for a fit; {fired} of {len(told)} raised"
    return Outcome(trials=len(told), passed=len(told) - len(failures), worst=worst, failures=tuple(failures))


def plan(calls: dict[str, dict[str, int]]) -> list[Trial]:
    """Each function of ours once at its first call, and for good from the middle of its calls on."""
    variants: dict[str, str] = {}
    for variant, functions in calls.items():
        for function in functions:
            variants.setdefault(function, variant)
    planned = []
    for number, (function, variant) in enumerate(sorted(variants.items())):
        if function not in DOORS:
            middle = (calls[variant][function] + 1) // 2
            planned.append(Trial(function, KINDS[number % len(KINDS)], 1, False, variant))
            planned.append(Trial(function, KINDS[(number + 3) % len(KINDS)], middle, True, variant))
    return planned


def wrongs(trial: Trial, found: dict[str, Any]) -> list[str]:
    """What does not hold in a trial."""
    wrong = list(found["wrong"])
    wrapped = [name for name in found["left"] if name.startswith("wrapped ")]
    if wrapped and not trial.function.endswith(REMOVERS):
        wrong.append(f"still there: {', '.join(wrapped)}")
    said = " ".join([*found["lines"], *map(str, found["notes"].values())])
    known = not found["fired"] or any(word in said for word in ("inject", "MemoryError", "no room left"))
    if not known and not trial.function.startswith(MENDED):
        wrong.append("neither the log nor the run's notes know of it")
    return wrong + ([found["unreadable"]] if "unreadable" in found else [])


def _tried(
    chosen: Sequence[Trial], where: tuple[Path, int, dict[str, str]]
) -> list[tuple[Trial, dict[str, Any]]]:
    """What came of each trial; one that ends its process, or hangs, fails, and the next have another."""
    told: list[dict[str, Any]] = []
    while len(told) < len(chosen):
        told += _chunk(chosen[len(told) :][:CHUNK], len(told), *where)
        if not told[-1][
            "fired"
        ]:  # what it returned the last time was kept in this process: again in a new one
            told[-1:] = _chunk(chosen[len(told) - 1 :][:1], len(told) - 1, *where)
    return list(zip(chosen, told, strict=True))


def _chunk(
    trials: Sequence[Trial], first: int, folder: Path, share: int, environment: dict[str, str]
) -> Iterator[dict[str, Any]]:
    child = zygote().start(
        f"{TASKS}:inject",
        folder / f"share-{share}-{first}",
        {"folder": str(folder), "trials": trials, "first": share * 100_000 + first},
        environment,
    )
    ended = child.wait(HANGS_S)
    found = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.status != 0:
        why = "hung" if ended.status is None else f"ended with {ended.status}"
        if found:
            found[-1]["wrong"].append(f"the process {why}: {ended.stderr[-300:]}")
        else:
            found = [_nothing(f"the process {why}: {ended.stderr[-300:]}")]
    yield from found


def _nothing(why: str) -> dict[str, Any]:
    return {"fired": 1, "wrong": [why], "left": [], "lines": [], "took_s": 0.0, "notes": {"": "injected"}}


def _fake_nvml(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT / "tests"))
    from fake_nvml.build import build_library

    return build_library(folder, soname="libfake-nvml.so")


ROWS = (
    Fault(
        id="F5",
        fault="an exception in every function of ours that runs in a training",
        pass_line="weights and random numbers bit-equal, the user's own exception, <= 3 log lines, nothing left",
        run=run,
        trials=10_000,
        quick=6,
        programs=("gcc",),
    ),
)
