"""`joulescale run`: train one reference workload under the monitor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from profiler.cli.carbon_live import CarbonLive, ask_live, chosen_source
from profiler.cli.carbon_options import CarbonOptions, with_carbon
from profiler.cli.options import (
    AsJson,
    CheckpointS,
    Data,
    IdleS,
    Preset,
    RunsDir,
    SecondOpinion,
    Settings,
    print_json,
    refuse_taken,
    settings_texts,
)
from profiler.errors import InvalidValueError
from profiler.integrations.codecarbon import check_second_opinion
from profiler.store.factors import read_factors, replace_factors
from profiler.store.folder import check_run_name, writable_runs_dir
from profiler.store.manifest import Manifest, as_stored
from profiler.store.runs import open_run
from profiler.store.turn import check_nobody_writes, take_turn
from profiler.workload import (
    CHECKPOINT_EVERY_S,
    MAX_SEED,
    RunRequest,
    apply_settings,
    check_preset,
    load_workload,
    stored_settings,
)


@with_carbon
def run(
    workload: Annotated[str, typer.Argument(help="Name of the workload, such as lm.")],
    carbon: CarbonOptions,
    preset: Preset = "cpu",
    seed: Annotated[int, typer.Option(help="Seeds every random choice.", min=0, max=MAX_SEED)] = 0,
    settings: Settings = None,
    data: Data = None,
    runs_dir: RunsDir = Path("runs"),
    name: Annotated[
        str | None, typer.Option(help="Name of the run; made from the time if none is given.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run that did not finish, from its last checkpoint, with its own settings and seed.",
        ),
    ] = None,
    checkpoint_s: CheckpointS = CHECKPOINT_EVERY_S,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep them when the training is finished.")
    ] = False,
    idle_s: IdleS = None,
    carbon_live: CarbonLive = None,
    second_opinion: SecondOpinion = None,
    as_json: AsJson = False,
) -> None:
    """Train one reference workload under the monitor; print the run's folder and summary."""
    wait_passively()
    found = load_workload(workload)
    factors = carbon.factors()
    source = chosen_source(carbon_live, factors)
    check_second_opinion(second_opinion)
    before = None if resume is None else resumable(runs_dir, resume, workload)
    turn = None if before is None else take_turn(runs_dir / before.run_id)
    if before is None:
        chosen = apply_settings(found.preset(check_preset(preset)), settings_texts(settings, data))
    else:
        if name is not None or settings or data is not None:
            raise InvalidValueError(
                f"--resume goes on with {before.run_id!r} as it was begun. Leave out --name, --set and --data."
            )
        preset, seed = check_preset(before.preset or preset), before.seed or 0
        chosen = stored_settings(found.preset(preset), before.settings)
        factors = factors if carbon.words() else read_factors(runs_dir / before.run_id, before.carbon)
    found.check(chosen)
    identity = found.identity(chosen)  # refuses data that cannot be used, before anything is written
    if before is not None:
        check_identity(before, identity)
    if name is not None:
        refuse_taken(runs_dir, check_run_name(name))
    request = RunRequest(
        runs_dir=writable_runs_dir(runs_dir),
        workload=workload,
        preset=preset,
        seed=seed,
        settings=chosen,
        name=name,
        idle_s=idle_s,
        carbon=factors,
        second_opinion=second_opinion,
        resume=before.run_id if before else None,
        checkpoint_every_s=checkpoint_s,
        keep_checkpoints=keep_checkpoints,
    )
    try:
        run_dir = found.train(request)
    except KeyboardInterrupt:
        called = before.run_id if before else name or "latest"
        kept = f"\ninterrupted; what was recorded is kept: joulescale show {called} --runs-dir {runs_dir}"
        go_on = f"\ngo on with it: joulescale run {workload} --resume {called} --runs-dir {runs_dir}"
        typer.echo(kept + (go_on if found.resumes else ""), err=True)
        raise typer.Exit(130) from None
    if source is not None:
        replace_factors(run_dir, ask_live(source, factors, open_run(runs_dir, run_dir.name)))
    from profiler.metrics.entries import remember  # with Polars, which must not run while a training does

    remember(run_dir)
    if turn is not None:
        turn.release()
    if as_json:
        from profiler.metrics.summary import summarize

        print_json({"run_dir": str(run_dir), **summarize(open_run(runs_dir, run_dir.name))})
    else:
        from profiler.report.terminal import print_run

        print_run(run_dir)
        typer.echo(f"stored in {run_dir}")


def resumable(runs_dir: Path, name: str, workload: str) -> Manifest:
    """The manifest of the run to go on with.

    Raises:
        InvalidValueError: It is another workload's, is finished, or is being written to.
    """
    run = open_run(runs_dir, name)
    why = None
    if run.manifest.run_id != run.run_id:
        why = f"was recorded as {run.manifest.run_id!r} and its folder copied or renamed since"
    elif run.manifest.workload != workload:
        why = f"is a run of {run.manifest.workload or 'no workload'}, not of {workload}"
    elif run.status == "finished":
        why = "is finished"
    if why:
        raise InvalidValueError(
            f"{run.run_id!r} {why}, so it cannot be gone on with. 'joulescale list' shows which did not finish."
        )
    check_nobody_writes(run)
    return run.manifest


def check_identity(before: Manifest, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with other data, or another torch: the second half would be another training's.

    Raises:
        InvalidValueError: They differ.
    """
    now = as_stored(identity)
    other = sorted(key for key in {*now, *before.identity} if now.get(key) != before.identity.get(key))
    if other:
        key = other[0]
        raise InvalidValueError(
            f"{before.run_id!r} was begun with {key} = {before.identity.get(key)}, and here it is {now.get(key)}, so"
            " going on with it would mix two trainings. Start a new run, or bring the old one back."
        )


def wait_passively() -> None:
    """Have OpenMP's threads sleep at barriers, unless the user chose otherwise. To be called before torch is loaded.

    Threads that spin burn CPU seconds, and so joules, without work: under contention one training step took
    950 CPU-ms instead of 190.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
