"""What was seen, as JSON and as a page: verdicts by seed and together, what each run cost, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from phenomenon_runs import scaling
from phenomenon_runs.jobs import Done
from profiler.carbon.factors import CarbonFactors
from profiler.metrics.overview import overview
from profiler.metrics.phenomena import over_seeds, spent
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.report.phenomenon_rows import break_even_texts, cost_texts, figure_texts, price_text
from profiler.report.quantity import UNKNOWN, format_quantity
from profiler.store.run import StoredRun

PRICE = ("energy_j", "plus_minus_j", "source", "duration_s", "emissions_g")


def entry(
    name: str, done: Sequence[Done], runs: Mapping[str, StoredRun], factors: CarbonFactors
) -> dict[str, Any]:
    """Everything about one workload."""
    rows = [_run_row(one, runs, factors) for one in done]
    finished = [runs[one.run_id] for one in done if one.run_id]
    costs = overview(finished, factors).to_dicts()
    together = _of_sweep(finished) if name == "lm" else _of_seeds(finished, rows)
    return {
        "workload": name,
        "preset": done[0].job.point.preset,
        **together,
        **spent(costs),
        "failed": sum(row["status"] == "failed" for row in rows),
        "runs": rows,
    }


def _run_row(one: Done, runs: Mapping[str, StoredRun], factors: CarbonFactors) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": one.job.point.label,
        "seed": one.job.point.seed,
        "run_id": one.run_id,
        "status": one.status,
        "message": one.message,
    }
    if one.run_id is None:
        return {
            **row,
            "outcome": None,
            "reason": one.message,
            **dict.fromkeys(PRICE),
            "figures": {},
            "costs": [],
        }
    run = runs[one.run_id]
    found = summarize(run, factors, by_phase=False)["phenomenon"] or {}
    return {
        **row,
        "outcome": found.get("outcome"),
        "reason": found.get("reason"),
        **spent(overview([run], factors).to_dicts()),
        "figures": found.get("figures", {}),
        "costs": found.get("costs", []),
        "break_even": found.get("break_even", []),
        "arms": found.get("arms", []),
    }


def _of_seeds(runs: Sequence[StoredRun], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict over seeds; without one where no run came to its end."""
    found = [(run.run_id, run.manifest, summarize(run, by_phase=False)["phenomenon"]) for run in runs]
    groups = over_seeds([(name, manifest, one) for name, manifest, one in found if one is not None])
    if len(groups) != 1:
        return {
            "criterion": None,
            "outcome": "can't tell",
            "shown": 0,
            "asked_seeds": len(rows),
            "shown_in": None,
        }
    kept = ("criterion", "outcome", "shown", "asked_seeds", "shown_in")
    return {key: groups[0][key] for key in kept}


def _of_sweep(runs: Sequence[StoredRun]) -> dict[str, Any]:
    verdict = scaling.judge(scale_points(runs))
    shown = int(verdict["outcome"] == "shown")
    return {"criterion": scaling.CRITERION, "shown": shown, "asked_seeds": 1, "shown_in": 1, **verdict}


def page(result: Mapping[str, Any]) -> str:
    """The results in Markdown."""
    return "\n".join([*_head(result), *_summary(result["phenomena"]), *_sections(result["phenomena"])]) + "\n"


def _head(result: Mapping[str, Any]) -> list[str]:
    missing, grid = result["not_installed"], result["grid"]
    grams = (
        f"Grams are as if on this grid, whatever the machine's own: {grid}."
        if grid
        else "Grams need a grid: `--country` names one."
    )
    return [
        "# The phenomena, run and priced",
        "",
        f"{result['date']}, {result['machine']}, preset {result['preset']}. {result['how']}",
        "",
        "| command | began | runs made | on the clock | why again |",
        "|---|---|---|---|---|",
        *(
            f"| `{go['command']}` | {go['began_at']} | {go['runs']} | {format_quantity(go['wall_s'], 's')} |"
            f" {go['note'] or ''} |"
            for go in result["goes"]
        ),
        "",
        *([f"Not installed, so not run: {', '.join(missing)}."] if missing else []),
        "",
        "Criteria were stored before the runs began. Joules are of whole runs, evaluations included, unless a training"
        f" is named; `~` is an estimate from CPU time, not a measurement. {grams}",
        "",
    ]


def _summary(phenomena: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| phenomenon | verdict | shown in | energy | time | CO2e |"
    yield "|---|---|---|---|---|---|"
    for one in phenomena:
        finished = sum(row["run_id"] is not None for row in one["runs"])
        seeds = "the sweep" if one["workload"] == "lm" else f"{one['shown']} of {finished} seeds"
        cells = (one["workload"], f"**{one['outcome']}**", seeds, *_price_cells(one))
        yield f"| {' | '.join(cells)} |"


def _sections(phenomena: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in phenomena:
        yield from ("", f"## {one['workload']}: {one['outcome']}", "")
        yield f"Criterion: {one['criterion'] or UNKNOWN}."
        if one["shown_in"] and one["asked_seeds"] > 1:
            yield f"It counts as shown if it does in {one['shown_in']} of {one['asked_seeds']} seeds."
        if one.get("reason"):
            yield f"Seen: {one['reason']}."
        yield from ("", "| run | verdict | energy | time | CO2e | why |", "|---|---|---|---|---|---|")
        for row in one["runs"]:
            outcome = "**failed**" if row["status"] == "failed" else row["outcome"] or "part of the sweep"
            cells = (row["run"], outcome, *_price_cells(row), row["reason"] or "")
            yield f"| {' | '.join(_cell(text) for text in cells)} |"
        yield from _numbers(one)


def _numbers(one: Mapping[str, Any]) -> Iterator[str]:
    """Figures and costs, a column a run; of a sweep its own."""
    columns = {
        row["run"]: {**figure_texts(row["figures"]), **cost_texts(row), **break_even_texts(row)}
        for row in one["runs"]
    }
    if "figures" in one:
        columns = {"the sweep": figure_texts(one["figures"])}
    columns = {name: texts for name, texts in columns.items() if texts}
    names = dict.fromkeys(name for texts in columns.values() for name in texts)
    if not names:
        return
    yield from ("", f"| figure | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|")
    for name in names:
        yield f"| {' | '.join(_cell(text) for text in (name, *(texts.get(name, '') for texts in columns.values())))} |"


def _price_cells(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return price_text(one), format_quantity(one["duration_s"], "s"), format_quantity(one["emissions_g"], "g")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def duration_by_run(result: Mapping[str, Any]) -> dict[str, float]:
    """How long each run of an earlier result took."""
    return {
        row["run"]: row["duration_s"]
        for one in result["phenomena"]
        for row in one["runs"]
        if row["duration_s"] is not None
    }
