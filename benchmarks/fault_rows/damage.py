"""F18: random damage to parts, journals and manifests: what is read is what was written, or is said to be damaged."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from fault_rows.made_run import made_run
from fault_rows.row import Fault, Outcome
from profiler.records import SCHEMAS
from profiler.store.run import StoredRun
from profiler.store.runs import open_run


def mutate(trials: int, folder: Path) -> Outcome:
    """Damage one file of a killed run at a time, and read the run."""
    chance, name = random.Random(trials), "made"
    whole = made_run(folder / "whole", name)
    true = _everything(open_run(folder / "whole", name))
    files = sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    failures, told = list[str](), 0
    for trial in range(trials):
        runs_dir = folder / "runs"
        shutil.copytree(folder / "whole", runs_dir)
        path = runs_dir / chance.choice(files).relative_to(folder / "whole")
        how = _damage(path, chance)
        try:
            verdict = _verdict(open_run(runs_dir, name), true, path)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a crash of ours
            verdict = f"{type(error).__name__}: {error}"
        told += verdict == "told"
        if verdict not in ("told", "unchanged"):
            failures.append(f"{trial}: {path.name}, {how}: {verdict}")
        shutil.rmtree(runs_dir)
    if told < trials // 3:
        failures.append(f"only {told} of {trials} changes were damage: the others changed nothing")
    return Outcome(
        trials=trials,
        passed=trials - len(failures),
        worst=f"{len(failures)} silent or crashed; {told} told, the others changed nothing that is read",
        failures=tuple(failures),
    )


def _damage(path: Path, chance: random.Random) -> str:
    """Flip a bit, cut the end off, blank a block, or put a piece in twice."""
    data = bytearray(path.read_bytes())
    at, length = chance.randrange(len(data)), chance.randrange(1, 600)
    how = chance.choice(("bit", "bit", "cut", "zeros", "twice"))
    if how == "bit":
        data[at] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[at:]
    elif how == "zeros":
        data[at : at + length] = bytes(len(data[at : at + length]))
    else:
        data[at:at] = data[at : at + length]
    path.write_bytes(data)
    return f"{how} at {at}"


def _everything(run: StoredRun) -> dict[str, Any]:
    tables = (
        {table: pl.concat([getattr(p, table) for p in run.processes]) for table in SCHEMAS}
        if run.processes
        else {}
    )
    return {"manifest": run.manifest, "facts": [p.facts for p in run.processes], **tables}


def _verdict(run: StoredRun, true: dict[str, Any], path: Path) -> str:
    found = _everything(run)
    same = found.keys() == true.keys() and all(
        found[key].equals(true[key]) if isinstance(true[key], pl.DataFrame) else found[key] == true[key]
        for key in true
    )
    if same:
        return "unchanged"
    if run.is_damaged:
        return "told"
    cut_off = path.suffix == ".open" and all(_begins(found, true, table) for table in SCHEMAS)
    if cut_off and run.unfinished:  # as a kill leaves it: the end is missing, and that is said
        return "told"
    return "something else is read, and nothing is said"


def _begins(found: dict[str, Any], true: dict[str, Any], table: str) -> bool:
    return bool(true[table].head(len(found[table])).equals(found[table]))


ROWS = (
    Fault(
        id="F18",
        fault="flipped bits, truncations, blanked and doubled pieces of parts, journals and manifests",
        pass_line="0 silent, 0 crashes",
        run=mutate,
        trials=1000,
        quick=30,
    ),
)
