"""`joulescale run`: train one reference workload under the monitor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

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
from profiler.cli.resume import begun_run, check_identity
from profiler.errors import InvalidValueError
from profiler.integrations.codecarbon import check_second_opinion
from profiler.store.factors import read_factors, replace_factors
from profiler.store.folder import check_run_name, writable_runs_dir
from profiler.store.runs import open_run
from profiler.workload import (
    CHECKPOINT_EVERY_S,
    MAX_SEED,
    RunRequest,
    Workload,
    apply_settings,
    check_preset,
    load_workload,
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
            help="Go on with a run that did not finish, from its last checkpoint, with its own settings and seed;"
            " options of the command, such as --checkpoint-s, are to be given again.",
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
    begun = None if resume is None else begun_run(found, runs_dir, resume, preset)
    if begun is None:
        chosen = apply_settings(found.preset(check_preset(preset)), settings_texts(settings, data))
    else:
        if name is not None or settings or data is not None:
            raise InvalidValueError(
                f"--resume goes on with {begun.run_id!r} as it was begun. Leave out --name, --set and --data."
            )
        preset, seed, chosen = begun.preset, begun.seed, begun.settings
        if not carbon.words():
            factors = read_factors(runs_dir / begun.run_id, begun.before.carbon)
    found.check(chosen)
    identity = found.identity(chosen)  # refuses data that cannot be used, before anything is written
    if begun is not None:
        check_identity(begun.before, identity)
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
        resume=begun.run_id if begun else None,
        checkpoint_every_s=checkpoint_s,
        keep_checkpoints=keep_checkpoints,
    )
    run_dir = _trained(found, request)
    if source is not None:
        replace_factors(run_dir, ask_live(source, factors, open_run(runs_dir, run_dir.name)))
    from profiler.metrics.entries import remember  # with Polars, which must not run while a training does

    remember(run_dir)
    if begun is not None and begun.turn is not None:
        begun.turn.release()
    _print(run_dir, as_json=as_json)


def _trained(workload: Workload, request: RunRequest) -> Path:
    """Train; a Ctrl-C ends the command with the words that go on."""
    try:
        return workload.train(request)
    except KeyboardInterrupt:
        called = request.resume or request.name or "latest"
        kept = f"\ninterrupted; what was recorded is kept: joulescale show {called} --runs-dir {request.runs_dir}"
        go_on = (
            f"\ngo on with it: joulescale run {workload.name} --resume {called} --runs-dir {request.runs_dir}"
        )
        typer.echo(kept + (go_on if workload.resumes else ""), err=True)
        raise typer.Exit(130) from None


def _print(run_dir: Path, *, as_json: bool) -> None:
    if as_json:
        from profiler.metrics.summary import summarize

        print_json({"run_dir": str(run_dir), **summarize(open_run(run_dir.parent, run_dir.name))})
    else:
        from profiler.report.terminal import print_run

        print_run(run_dir)
        typer.echo(f"stored in {run_dir}")


def wait_passively() -> None:
    """Have OpenMP's threads sleep at barriers, unless the user chose otherwise. To be called before torch is loaded.

    Threads that spin burn CPU seconds, and so joules, without work: under contention one training step took
    950 CPU-ms instead of 190.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
