"""F27: secrets planted in argv, environment, hyper-parameters, notes and exceptions; none may reach the run's folder.

Every secret is random and of one channel, so that a hit names the channel. A word that is no secret goes the same
ways: the search must find it, or it would find nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from fault_rows.row import Fault, Outcome
from profiler import scan_runs

CHANNELS = (
    "argv",
    "environment",
    "allowed variable",
    "settings",
    "address",
    "note",
    "mark",
    "hook",
    "exception",
)

_FIT = Path(__file__).parent / "children" / "planted_fit.py"
_SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}


def _plant(trials: int, folder: Path) -> Outcome:
    failures: list[str] = []
    passed = searched = 0
    for number in range(trials):
        trial = folder / str(number)
        planted = {channel: secrets.token_hex(12) for channel in CHANNELS}
        marker = f"visible{secrets.token_hex(6)}"
        _fit(trial, planted, marker)
        _exec(trial, planted, marker)
        texts = list(_texts(trial))
        searched += len(texts)
        wrong = [
            f"{channel}: found in {name}"
            for channel, secret in planted.items()
            for name, text in texts
            if secret.encode() in text
        ]
        wrong += [f"the search cannot find {marker} in {part}" for part in _unseen(trial, texts, marker)]
        failures += wrong
        passed += not wrong
    worst = f"{sum(' found in ' in failure for failure in failures)} hits in {searched} files and columns"
    return Outcome(trials=trials, passed=passed, worst=worst, failures=tuple(failures))


def _fit(trial: Path, planted: Mapping[str, str], marker: str) -> None:
    """A Lightning training that fails; its folder is copied while it runs, with whatever is not compacted yet."""
    trial.mkdir(parents=True)
    plan = {"folder": str(trial), "planted": planted, "marker": marker}
    ended = subprocess.run(
        [sys.executable, str(_FIT), "--api-key", planted["argv"]],
        input=json.dumps(plan),
        env=_environment(planted),
        check=False,
        **_SILENT,
    )
    if f"token={planted['exception']}" not in ended.stderr or ended.returncode != 1:
        raise RuntimeError(f"the fit did not fail as planned: {ended.stderr[-2000:]}")


def _exec(trial: Path, planted: Mapping[str, str], marker: str) -> None:
    """A command with secrets in its arguments, which are stored redacted in one run and not at all in another."""
    secret = planted["argv"]
    named = ["--token", secret, f"--db-password={secret}", f"https://me:{secret}@host/x", f"API_KEY={secret}"]
    for options, arguments in (
        (["--store-arguments"], [marker, *named, f"hf_{secret}"]),
        ([], [secret, *named]),
    ):
        command = [sys.executable, "-m", "profiler.cli.main", "exec", "--quiet", *options]
        where = ["--runs-dir", str(trial / "exec")]
        subprocess.run(
            [*command, *where, "--", sys.executable, "-c", "pass", *arguments],
            env=_environment(planted),
            check=True,
            **_SILENT,
        )


def _environment(planted: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "WANDB_API_KEY": planted["environment"],
        "SLURM_NNODES": f"hf_{planted['allowed variable']}",
    }


def _texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file as it lies there, its name, every column of a part as text, and what our reader makes of it all."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        yield name, name.encode() + path.read_bytes()
        if path.suffix == ".parquet":
            for column, values in pq.read_table(path).to_pydict().items():
                yield f"{name}:{column}", repr(values).encode()
    for runs_dir in sorted(path for path in folder.iterdir() if path.is_dir()):
        for run in scan_runs(runs_dir):
            yield f"{runs_dir.name}:manifest", repr(run.manifest).encode()
            for process in run.processes:  # the journal too, in which rows may be compressed
                tables = [process.facts, process.marks.to_dicts(), process.steps.to_dicts()]
                yield f"{runs_dir.name}:tables", repr(tables).encode()


def _unseen(trial: Path, texts: list[tuple[str, bytes]], marker: str) -> list[str]:
    """Places in which the word that is no secret must be found, and was not."""
    places = {
        "the run's manifest": [
            text for name, text in texts if name.startswith("runs/") and name.endswith("run.json")
        ],
        "the marks": [text for name, text in texts if name.startswith("runs/") and name.endswith(":note")],
        "the copy of the running run": [text for name, text in texts if name.startswith("copy/")],
        "exec's manifest": [
            text for name, text in texts if name.startswith("exec/") and name.endswith("run.json")
        ],
    }
    return [place for place, found in places.items() if not any(marker.encode() in text for text in found)]


ROWS = (
    Fault(
        id="F27",
        fault="secrets in argv, environment, settings, notes, marks and exceptions of a fit and of exec",
        pass_line="0 hits in the run folder, in raw bytes and in decoded columns",
        run=_plant,
        trials=10,
        quick=1,
    ),
)
