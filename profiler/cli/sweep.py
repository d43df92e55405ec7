"""`joulescale sweep`: one run per point of a grid, each in a process of its own.

Finished points are not run again; one that was interrupted or killed goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from profiler.carbon.factors import CarbonFactors
from profiler.cli.carbon_live import CarbonLive, chosen_source
from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.options import (
    AsJson,
    CheckpointS,
    Data,
    Preset,
    RunsDir,
    SecondOpinion,
    Settings,
    print_json,
    settings_texts,
)
from profiler.cli.point_process import Point, PointFailed, SweepProgress, run_point
from profiler.cli.run import wait_passively
from profiler.errors import InvalidValueError
from profiler.integrations.codecarbon import check_second_opinion
from profiler.metrics.devices import device_curves
from profiler.metrics.phenomena import over_seeds, phenomenon
from profiler.metrics.points import scale_points
from profiler.report.phenomenon_rows import over_seeds_row
from profiler.report.terminal import is_wide, points_table, show
from profiler.store.folder import writable_runs_dir
from profiler.store.run import StoredRun
from profiler.store.runs import open_run, scan_runs
from profiler.workload import (
    CHECKPOINT_EVERY_S,
    MAX_SEED,
    Workload,
    apply_settings,
    check_preset,
    load_workload,
)


@with_carbon
def sweep(
    workload: Annotated[str, typer.Argument(help="Name of the workload, such as lm.")],
    carbon: CarbonOptions,
    preset: Preset = "cpu",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2",
            help="Values to vary; may be repeated. The preset's own grid if none is given.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, as in 0,1,2.")] = "0",
    settings: Settings = None,
    data: Data = None,
    runs_dir: RunsDir = Path("runs"),
    checkpoint_s: CheckpointS = CHECKPOINT_EVERY_S,
    carbon_live: CarbonLive = None,
    second_opinion: SecondOpinion = None,
    as_json: AsJson = False,
) -> None:
    """Train one run per point of a grid; run it again to go on where it stopped."""
    wait_passively()
    found = load_workload(workload)
    factors = carbon.factors()
    chosen_source(carbon_live, factors)
    check_second_opinion(second_opinion)
    base = apply_settings(found.preset(check_preset(preset)), settings_texts(settings, data))
    axes = _axes(grid) if grid else {k: [_text(v) for v in vs] for k, vs in found.grid(preset).items()}
    varied = _combinations(axes, set(settings_texts(settings)))
    points = [
        Point(
            workload=workload,
            preset=preset,
            seed=seed,
            settings=apply_settings(base, texts),
            texts={**settings_texts(settings, data), **texts},
            label=" ".join(f"{k}={v}" for k, v in {**texts, "seed": str(seed)}.items()),
            options=[*carbon.words(), *_words(checkpoint_s, carbon_live, second_opinion)],
        )
        for seed in _seeds(seeds)
        for texts in varied
    ]
    for point in points:
        found.check(point.settings)
    identities = {
        id(p): found.identity(p.settings) for p in points
    }  # refuses unusable data before the first run
    try:
        results = _run_all(points, found, identities, writable_runs_dir(runs_dir))
    except KeyboardInterrupt:
        typer.echo(
            "\nInterrupted. Finished points are kept: the same command goes on with the rest.", err=True
        )
        raise typer.Exit(130) from None
    asked = (
        dataclasses.replace(factors, country=None) if carbon_live else factors
    )  # each run stores what was live
    _report(results, runs_dir, asked, as_json=as_json)
    if any(r["status"] == "failed" for r in results):
        raise typer.Exit(1)


def _words(checkpoint_s: float, carbon_live: str | None, second_opinion: str | None) -> list[str]:
    """The options of a run that are no carbon factors, for its own command line."""
    words = ["--checkpoint-s", str(checkpoint_s)]
    given = {"--carbon-live": carbon_live, "--second-opinion": second_opinion}
    return words + [word for name, value in given.items() if value is not None for word in (name, value)]


def _run_all(
    points: Sequence[Point], workload: Workload, identities: Mapping[int, Mapping[str, Any]], runs_dir: Path
) -> list[dict[str, Any]]:
    runs = scan_runs(runs_dir)
    done = {id(p): newest_run(p, identities[id(p)], runs, ("finished",)) for p in points}
    waiting = [p for p in points if done[id(p)] is None]
    results = []
    with SweepProgress({p.label: workload.cost(p.settings) for p in waiting}) as progress:
        for point in points:
            stored = done[id(point)]
            result = {
                "point": point.label,
                "status": "reused",
                "run_id": stored.run_id if stored else None,
                "message": None,
            }
            if stored is None:
                begun = (
                    newest_run(point, identities[id(point)], runs, ("interrupted", "lost"))
                    if workload.resumes
                    else None
                )
                resume = begun.run_id if begun else None
                result |= _outcome(dataclasses.replace(point, resume=resume), runs_dir, progress)
            progress.say(point.label, result)
            results.append(result)
    return results


def _outcome(point: Point, runs_dir: Path, progress: SweepProgress) -> dict[str, Any]:
    try:
        return {"status": "finished", "run_id": run_point(point, runs_dir, progress)}
    except PointFailed as failure:
        return {"status": "failed", "message": str(failure)}


def newest_run(
    point: Point, identity: Mapping[str, Any], runs: Sequence[StoredRun], statuses: Sequence[str]
) -> StoredRun | None:
    """The newest run of the same workload, settings, seed and data whose status is one of these, if there is one."""
    wanted = (point.workload, point.seed, _plain(dataclasses.asdict(point.settings)), _plain(identity))
    for run in reversed(runs):
        m = run.manifest
        same = (m.workload, m.seed, _plain(m.settings), _plain(m.identity)) == wanted
        if same and run.status in statuses:
            return run
    return None


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples as lists."""
    return json.loads(json.dumps(value))


def _report(
    results: Sequence[Mapping[str, Any]], runs_dir: Path, factors: CarbonFactors, *, as_json: bool
) -> None:
    runs = [open_run(runs_dir, r["run_id"]) for r in results if r["run_id"]]
    table = scale_points(runs, factors)
    found = ((run.run_id, run.manifest, phenomenon(run, device_curves(run.processes))) for run in runs)
    together = over_seeds([(name, manifest, one) for name, manifest, one in found if one is not None])
    if as_json:
        print_json({"points": list(results), "scale": table.to_dicts(), "phenomena": together})
        return
    if not table.is_empty():
        show(points_table(table, wide=is_wide()))
    for one in together:
        show(over_seeds_row(one))
    counts = {
        status: sum(r["status"] == status for r in results) for status in ("finished", "reused", "failed")
    }
    typer.echo(", ".join(f"{n} {status}" for status, n in counts.items() if n) + f"; runs in {runs_dir}")
    for result in results:
        if result["message"]:
            typer.echo(f"joulescale: {result['point']} failed: {result['message']}", err=True)


def _axes(grid: Sequence[str]) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    for part in itertools.chain.from_iterable(text.split(";") for text in grid):
        key, equals, values = part.partition("=")
        if not equals or not key.strip():
            raise InvalidValueError(
                f"{part!r} is no part of a grid. Write it as in --grid 'd_model=32,64,128'."
            )
        axes[key.strip()] = list(dict.fromkeys(v.strip() for v in values.split(",") if v.strip()))
    return axes


def _combinations(axes: Mapping[str, Sequence[str]], fixed: set[str]) -> list[dict[str, str]]:
    for key, values in axes.items():
        if not values:
            raise InvalidValueError(
                f"The grid gives {key!r} no value, so it has no points. Write it as in '{key}=32,64'."
            )
    free = {k: v for k, v in axes.items() if k not in fixed}
    return [dict(zip(free, values, strict=True)) for values in itertools.product(*free.values())]


def _seeds(text: str) -> list[int]:
    try:
        seeds = list(dict.fromkeys(int(part) for part in text.split(",") if part.strip()))
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise InvalidValueError(
            f"--seeds {text!r} is no list of whole numbers from 0 to {MAX_SEED}. Write it as in '--seeds 0,1,2'."
        )
    return seeds


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
