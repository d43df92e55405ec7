"""Options that several commands share, with their help and their checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from profiler.errors import InvalidValueError

RunsDir = Annotated[Path, typer.Option("--runs-dir", help="The folder that holds the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
IdleS = Annotated[
    float | None,
    typer.Option(
        "--idle-s",
        help="Seconds to measure the devices' idle power before training; shown, never subtracted. None: not measured.",
    ),
]
CheckpointS = Annotated[float, typer.Option(help="Seconds from one checkpoint to the next.", min=0.0)]
Preset = Annotated[
    str, typer.Option(help="smoke (seconds), cpu (minutes on two cores) or gpu (paper scale).")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the workload; may be repeated."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Your own text: a folder, glob, .txt, .jsonl, .parquet, .bin or .npy."),
]
SecondOpinion = Annotated[
    str | None,
    typer.Option(
        "--second-opinion",
        metavar="codecarbon",
        help="Have codecarbon's own tracker estimate the same run, in a process of its own; shown beside ours.",
    ),
]


def settings_texts(pairs: Sequence[str] | None, data: str | None = None) -> dict[str, str]:
    """`["d_model=64"]` as `{"d_model": "64"}`.

    Raises:
        InvalidValueError: A pair has no `=`, or a key is given twice.
    """
    texts: dict[str, str] = {} if data is None else {"data": data}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidValueError(f"{pair!r} is no KEY=VALUE. Write it as in '--set d_model=64'.")
        if key.strip() in texts:
            raise InvalidValueError(
                f"The setting {key.strip()!r} is given twice, so it is not clear which counts."
            )
        texts[key.strip()] = text.strip()
    return texts


def print_json(value: Any) -> None:
    """Print JSON on standard output; NaN is refused."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def refuse_taken(runs_dir: Path, name: str) -> None:
    """Check that no run has that name yet.

    Raises:
        InvalidValueError: One has.
    """
    if (runs_dir / name).exists():
        raise InvalidValueError(
            f"There is a run named {name!r} in {runs_dir} already, and two trainings in one would be neither."
            " Choose another --name, or leave it out to have one made."
        )
