"""What an experiment showed, and what each part of it cost: read from the marks of its run.

A workload marks each of its trainings as an `arm` with the windows in which it trained, each point of a curve as a
`curve`, and its verdict as the `phenomenon`. Joules are those of windows, as everywhere: an arm is charged with its
training and not with evaluations; a point with the arm's windows up to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from profiler.metrics.break_even import break_even
from profiler.metrics.carbon import use_of
from profiler.metrics.devices import DeviceCurve, Windows, device_curves, windows_on
from profiler.store.manifest import Manifest
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun

Found = tuple[str, Manifest, Mapping[str, Any]]
"""The name of a run, its manifest, and its verdict as `phenomenon` gives it."""

NOT_CONCLUDED = "the training did not come to its end"


def phenomenon(run: StoredRun, curves: Sequence[DeviceCurve]) -> dict[str, Any] | None:
    """The verdict of a run with its figures, what was asked, and the joules of its parts; None if nothing was asked.

    Args:
        run: A stored run.
        curves: Of its devices.
    """
    criterion = run.manifest.identity.get("criterion")
    leader = _leader(run)
    if criterion is None or leader is None:
        return None
    last: dict[str, Any] = {"outcome": "can't tell", "reason": NOT_CONCLUDED, "figures": {}, "costs": {}}
    for _, note in _notes(leader, "phenomenon"):
        last = note
    return {
        "criterion": criterion,
        "outcome": last["outcome"],
        "reason": last["reason"],
        "figures": last["figures"],
        "costs": [
            {"cost": name, **_price(cost["windows"], leader, curves), "is_bound": cost["is_bound"]}
            for name, cost in last["costs"].items()
        ],
        "break_even": [
            {"of": name, **_break_even(each, leader, curves)}
            for name, each in last.get("break_even", {}).items()
        ],
        "arms": [_arm(note, leader, curves) for _, note in _notes(leader, "arm")],
        "seeds": last.get("seeds"),
        "shown_in": last.get("shown_in"),
    }


def phenomenon_curves(run: StoredRun) -> dict[str, pl.DataFrame]:
    """The curves of a run by name: a row a point, in the order in which they came.

    Returns:
        Frames with `arm`, `time_s`, the values that the experiment gave its points, and what the arm had cost until
        then: `energy_j`, `plus_minus_j`, `source` (measured or estimated) and `duration_s`; null where the point is of
        no arm, or of one that did not end.
    """
    leader = _leader(run)
    if leader is None:
        return {}
    curves = device_curves(run.processes)
    trained: dict[Any, list[tuple[float, float]]] = {}
    for _, note in _notes(leader, "arm"):
        trained.setdefault(note["arm"], []).extend(note["windows"])
    rows: dict[str, list[dict[str, Any]]] = {}
    for time_s, note in _notes(leader, "curve"):
        windows = trained.get(note.get("arm"))
        price = _UNPRICED if windows is None else _price(_until(time_s, windows), leader, curves)
        values = {key: value for key, value in note.items() if key not in ("curve", "arm")}
        rows.setdefault(note["curve"], []).append(
            {"arm": note.get("arm"), "time_s": time_s, **values, **price}
        )
    return {name: pl.DataFrame(points, infer_schema_length=None) for name, points in rows.items()}


def over_seeds(found: Sequence[Found]) -> list[dict[str, Any]]:
    """The verdict over the seeds of each experiment, settings and criterion alike.

    Args:
        found: Name, manifest and `phenomenon` of each run.

    Returns:
        One entry an experiment: `workload`, `preset`, `settings`, `criterion`, `seeds` (those that were run, each
        once), `runs` (their names), `shown`, `asked_seeds`, `shown_in` and `outcome`: "can't tell" where seeds are
        missing. Of several runs of a seed the last in the order given counts, unless only an earlier one concluded.
        Of more seeds than are asked for the same share must show, so that nobody can try until enough have.
    """
    groups: dict[str, dict[int | None, Found]] = {}
    for name, manifest, one in found:
        key = json.dumps(
            [manifest.workload, manifest.preset, manifest.settings, one["criterion"]], default=str
        )
        group = groups.setdefault(key, {})
        if one["shown_in"] is not None or manifest.seed not in group:
            group[manifest.seed] = (name, manifest, one)
    return [_over_seeds(list(group.values())) for group in groups.values()]


def spent(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What runs took together, trainings, evaluations and all.

    Args:
        rows: Of `profiler.metrics.overview`.

    Returns:
        `energy_j`, `plus_minus_j`, `source`, `duration_s`, `emissions_g`; what is unknown of one is unknown of all, and
        measured joules are not added to estimated ones.
    """
    sources = {row["energy_source"] for row in rows}
    source = sources.pop() if len(sources) == 1 else None
    return {
        "energy_j": _sum(rows, f"{source}_j") if source else None,
        "plus_minus_j": _sum(rows, f"{source}_plus_minus_j") if source else None,
        "source": source,
        "duration_s": _sum(rows, "duration_s"),
        "emissions_g": _sum(rows, "emissions_g") if source else None,
    }


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if not values or None in values else float(sum(values))


def _over_seeds(group: Sequence[Found]) -> dict[str, Any]:
    _, manifest, one = group[-1]
    concluded = [verdict for *_, verdict in group if verdict["shown_in"] is not None]
    asked, shown_in = (max((v[key] for v in concluded), default=None) for key in ("seeds", "shown_in"))
    outcomes = [verdict["outcome"] for verdict in concluded]
    return {
        "workload": manifest.workload,
        "preset": manifest.preset,
        "settings": manifest.settings,
        "criterion": one["criterion"],
        "seeds": sorted(manifest.seed for _, manifest, _ in group if manifest.seed is not None),
        "runs": [name for name, *_ in group],
        "shown": outcomes.count("shown"),
        "asked_seeds": asked,
        "shown_in": shown_in,
        "outcome": _outcome(outcomes, asked, shown_in) if asked and shown_in else "can't tell",
    }


def _outcome(outcomes: Sequence[str], asked: int, shown_in: int) -> str:
    seeds = max(asked, len(outcomes))
    needed = math.ceil(shown_in * seeds / asked)
    if outcomes.count("not shown") > seeds - needed:
        return "not shown"
    enough = len(outcomes) >= asked and outcomes.count("shown") >= needed
    return "shown" if enough else "can't tell"


_UNPRICED: Mapping[str, Any] = {
    "energy_j": None,
    "plus_minus_j": None,
    "source": None,
    "duration_s": None,
}


def _arm(note: Mapping[str, Any], leader: StoredProcess, curves: Sequence[DeviceCurve]) -> dict[str, Any]:
    facts = {key: value for key, value in note.items() if key not in ("arm", "windows")}
    return {"arm": note["arm"], **_price(note["windows"], leader, curves), "facts": facts}


def _break_even(
    each: Mapping[str, Any], leader: StoredProcess, curves: Sequence[DeviceCurve]
) -> dict[str, Any]:
    prices = {part: _price(each[part], leader, curves) for part in ("paid", "before", "after")}
    return break_even(**prices, uses_before=each["uses_before"], uses_after=each["uses_after"])


def _price(windows: Windows, leader: StoredProcess, curves: Sequence[DeviceCurve]) -> dict[str, Any]:
    """Joules and seconds of windows on rank 0's clock."""
    spans = [(float(start), float(end)) for start, end in windows]
    use = use_of(curves, windows_on(spans, leader))
    return {
        "energy_j": use.energy_j,
        "plus_minus_j": use.plus_minus_j,
        "source": use.source,
        "duration_s": sum(end - start for start, end in spans),
    }


def _until(time_s: float, windows: Windows) -> Windows:
    return [(start, min(end, time_s)) for start, end in windows if start < time_s]


def _leader(run: StoredRun) -> StoredProcess | None:
    """Rank 0 of the last attempt, which tells an experiment's marks."""
    leaders = [process for process in run.processes if process.facts.rank == 0]
    return max(leaders, key=lambda process: process.facts.attempt, default=None)


_KEYS = {
    "arm": {"arm", "windows"},
    "curve": {"curve"},
    "phenomenon": {"outcome", "reason", "figures", "costs"},
}
"""What a note has to hold to be an experiment's: a mark of the same kind may be anybody's."""


def _notes(process: StoredProcess, kind: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Time and note of each mark of a kind, in order."""
    marks = process.marks.filter(pl.col("kind") == kind)
    for start_s, text in marks.select("start_s", "note").rows():
        note = json.loads(text or "null")
        if isinstance(note, dict) and _KEYS[kind] <= note.keys():
            yield start_s, note
