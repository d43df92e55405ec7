"""F14 to F16: a disk that is full, read-only, over its quota or hanging: the training goes on, with one warning.

The disks are real ones of a megabyte (tmpfs, mounted by root); a quota and a hang are made by a library that stands
before the C library's calls, since neither can be had on demand. Beside each, a twin records on a disk that is well.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fault_rows.disk_process import HERE, Hooks, Victim, victim
from fault_rows.row import Fault, Outcome
from profiler.store.run import StoredRun
from profiler.store.runs import open_run

WATTS = 100.0
HANG_S = 30.0
MOST_END_S = 12.0
NOBODY = "65534"


@contextlib.contextmanager
def _small_disk(folder: Path, options: str) -> Iterator[Path]:
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def _fill(disk: Path) -> Path:
    """Write until nothing more fits."""
    junk = disk / "junk"
    with open(junk, "ab", buffering=0) as file, contextlib.suppress(OSError):  # noqa: PTH123
        while file.write(b"\1" * 4096):
            pass
    assert os.statvfs(disk).f_bavail == 0
    return junk


def full_disks(trials: int, folder: Path) -> Outcome:
    """Full at the start, midway, and without a single inode left; freed again; and never freed."""
    return _tried((_full_midway, _full_at_start, _no_inodes_at_start, _never_freed), trials, folder)


def read_only(trials: int, folder: Path) -> Outcome:
    """A file system that is read-only at the start, and a folder that becomes so midway, for another user than root."""
    return _tried((_read_only_at_start, _read_only_midway), trials, folder)


def slow_and_quota(trials: int, folder: Path) -> Outcome:
    """Every call hangs for half a minute, midway or while the training ends; a quota."""
    return _tried((_quota_midway, _hangs_midway, _hangs_at_end), trials, folder)


Way = Callable[[Path], tuple[dict[str, Any], str | None]]


def _tried(ways: Sequence[Way], trials: int, folder: Path) -> Outcome:
    """Every way in turn, as often as it takes."""
    failures, hooks, ends_s = list[str](), Hooks(), [0.0]
    for trial in range(trials):
        way = ways[trial % len(ways)]
        name = way.__name__.strip("_")
        own = folder / f"{trial}-{name}"
        own.mkdir()
        with hooks.beside_a_twin(own):
            told, failure = way(own)
        hooks.faulty.extend([told["hook_us"]] if told.get("hook_us") else [])
        ends_s.append(told.get("close_s", 0.0))
        if failure:
            failures.append(f"{name}: {failure}")
    passed = trials - len(failures)
    if too_slow := hooks.too_slow():
        failures.append(too_slow)
        passed = 0
    worst = f"{hooks}; the end took {max(ends_s):.1f} s"
    return Outcome(trials=trials, passed=passed, worst=worst, failures=tuple(failures))


def _full_midway(folder: Path) -> tuple[dict[str, Any], str | None]:
    with _small_disk(folder, "size=1m") as disk:
        one = victim(disk / "runs", folder / "stop")
        one.opened()
        time.sleep(1.5)
        junk = _fill(disk)
        time.sleep(6.0)
        junk.unlink()
        time.sleep(2.0)
        told, log = one.end()
        return told, _wrong(told, log, thinned=True)


def _full_at_start(folder: Path, options: str = "size=1m") -> tuple[dict[str, Any], str | None]:
    with _small_disk(folder, options) as disk:
        junk = _fill(disk)
        one = victim(disk / "runs", folder / "stop")
        one.opened()
        time.sleep(1.5)
        if any((disk / "runs").glob("*/run.json")):
            return {}, "the disk was not full"
        junk.unlink()
        time.sleep(2.0)
        told, log = one.end()
        return told, _wrong(told, log)


def _no_inodes_at_start(folder: Path) -> tuple[dict[str, Any], str | None]:
    with _small_disk(folder, "size=4m,nr_inodes=40") as disk:
        files = [disk / f"junk-{number}" for number in range(40)]
        with contextlib.suppress(OSError):
            for file in files:
                file.touch()
        one = victim(disk / "runs", folder / "stop")
        one.opened()
        time.sleep(1.5)
        if (disk / "runs").exists():
            return {}, "the disk was not full"
        for file in files:
            file.unlink(missing_ok=True)
        time.sleep(2.0)
        told, log = one.end()
        return told, _wrong(told, log)


def _never_freed(folder: Path) -> tuple[dict[str, Any], str | None]:
    with _small_disk(folder, "size=1m") as disk:
        one = victim(disk / "runs", folder / "stop")
        one.opened()
        while _stored(disk / "runs") <= 50:
            time.sleep(0.1)
        _fill(disk)
        time.sleep(2.0)
        told, log = one.end()
        stored = _stored(disk / "runs")
        if not 50 < stored < told["steps"]:
            return told, f"{stored} of {told['steps']} steps are stored"
        *first, last = log.splitlines()
        if "are lost" not in last:
            return told, f"the end did not say what is lost: {last}"
        return told, _warnings("".join(f"{line}\n" for line in first), 1)


def _read_only_at_start(folder: Path) -> tuple[dict[str, Any], str | None]:
    with _small_disk(folder, "size=1m,ro") as disk:
        told, log = victim(disk / "runs", folder / "stop").end()
        refusal = told.get("refusal", "")
        if "cannot be written to (Read-only file system), so nothing could be recorded" not in refusal:
            return told, f"it was not refused as it should be: {refusal or log}"
        return told, None


def _read_only_midway(folder: Path) -> tuple[dict[str, Any], str | None]:
    runs_dir = folder / "runs"
    runs_dir.mkdir(mode=0o777)
    for one in (folder, *list(folder.parents)[:-1]):
        if one.owner() == "root" and not one.stat().st_mode & 0o001:
            one.chmod(one.stat().st_mode | 0o011)
    os.chown(runs_dir, int(NOBODY), int(NOBODY))
    one = victim(runs_dir, folder / "stop", NOBODY)
    one.opened()
    time.sleep(0.8)
    (own,) = runs_dir.glob("victim/attempt-1/*/")
    own.chmod(0o555)
    before = sorted(path.name for path in own.glob("*.parquet"))
    time.sleep(3.0)
    if sorted(path.name for path in own.glob("*.parquet")) != before:
        return {}, "the folder was not read-only"
    own.chmod(0o755)
    time.sleep(1.5)
    told, log = one.end()
    return told, _wrong(told, log)


def _shimmed(folder: Path) -> Victim:
    library = folder / "slow_disk.so"
    subprocess.run(
        ["gcc", "-O1", "-fPIC", "-shared", "-o", library, HERE / "slow_disk.c", "-ldl"], check=True
    )
    one = victim(folder / "runs", folder / "stop", LD_PRELOAD=str(library), SLOW_DISK=str(folder / "runs"))
    one.opened()
    time.sleep(1.5)
    return one


def _quota_midway(folder: Path) -> tuple[dict[str, Any], str | None]:
    one = _shimmed(folder)
    (folder / "runs.quota").touch()
    time.sleep(2.5)
    (folder / "runs.quota").unlink()
    time.sleep(2.0)
    told, log = one.end()
    return told, _wrong(told, log) or (None if "quota" in log else "no quota was met")


def _hangs_midway(folder: Path) -> tuple[dict[str, Any], str | None]:
    one = _shimmed(folder)
    (folder / "runs.hang").touch()
    time.sleep(1.0)
    stored = _stored(folder / "runs")
    time.sleep(HANG_S - 1.0)
    if _stored(folder / "runs") != stored:
        return {}, "the disk did not hang"
    (folder / "runs.hang").unlink()
    time.sleep(1.0)
    told, log = one.end()
    return told, _wrong(told, log, warnings=0)


def _hangs_at_end(folder: Path) -> tuple[dict[str, Any], str | None]:
    one = _shimmed(folder)
    (folder / "runs.hang").touch()
    time.sleep(1.0)
    told, log = one.end()
    if not 5.0 < told["close_s"] < MOST_END_S:
        return told, f"the end took {told['close_s']:.1f} s"
    return told, _warnings(log, 1)


def _stored(runs: Path) -> int:
    """Steps that can be read of the victim's run by now."""
    return len(open_run(runs, "victim").processes[0].steps)


def _wrong(told: dict[str, Any], log: str, *, thinned: bool = False, warnings: int = 1) -> str | None:
    """What is not as it should be of a run whose disk was well again in the end."""
    run = open_run(Path(told["run_dir"]).parent, "victim")
    if run.status != "finished" or run.damaged or run.unfinished:
        return f"its status is {run.status}; {run.damaged}; {run.unfinished}"
    process = run.processes[0]
    if process.steps["step"].to_list() != list(range(1, told["steps"] + 1)):
        return f"{len(process.steps)} steps of {told['steps']} are stored"
    return _wrong_energy(run) or _wrong_gap(run, thinned, warnings) or _warnings(log, warnings)


def _wrong_energy(run: StoredRun) -> str | None:
    """Every device's counter must say what it does without a fault: 100 W all the time."""
    fit = run.processes[0].marks.filter(pl.col("kind") == "fit")
    seconds = float((fit["end_s"] - fit["start_s"])[0])
    spans = (
        run.processes[0]
        .readings.group_by("device")
        .agg(
            joules=pl.col("energy_j").max() - pl.col("energy_j").min(),
            seconds=pl.col("time_s").max() - pl.col("time_s").min(),
        )
    )
    wrong = spans.filter(
        ((pl.col("joules") - WATTS * pl.col("seconds")).abs() > 0.01 * pl.col("joules"))
        | (pl.col("seconds") < seconds - 0.3)
    )
    return f"the energy of a device is wrong: {wrong.rows()[:2]} in {seconds:.1f} s" if len(wrong) else None


def _wrong_gap(run: StoredRun, thinned: bool, warnings: int) -> str | None:
    gaps = run.processes[0].marks.filter(pl.col("kind") == "gap")
    if len(gaps) != warnings:
        return f"there are {len(gaps)} gaps marked"
    left_out = sum(json.loads(note)["readings_left_out"] for note in gaps["note"])
    return "no reading had to be left out" if thinned and not left_out else None


def _warnings(log: str, count: int) -> str | None:
    lines = log.splitlines()
    ours = ("joulescale: storing: ", "joulescale: storing the rest: ")
    if len(lines) != count or not all(line.startswith(ours) for line in lines):
        return f"there are other warnings than one: {lines}"
    return None


ROWS = (
    Fault(
        id="F14",
        fault="disk full at the start, midway, freed again, never freed; no inodes",
        pass_line="training goes on, one warning, no step lost (or said), joules right, hook p99 <= 100 us",
        run=full_disks,
        trials=8,
        quick=1,
        programs=("mount", "umount"),
    ),
    Fault(
        id="F15",
        fault="read-only at the start, or from midway on",
        pass_line="refused with its reason; or training goes on, one warning, no step lost",
        run=read_only,
        trials=4,
        programs=("mount", "umount"),
    ),
    Fault(
        id="F16",
        fault="every call of the disk hangs for 30 s, midway or at the end; a quota",
        pass_line=f"no step lost, hook p99 <= 100 us, the end takes < {MOST_END_S:g} s",
        run=slow_and_quota,
        trials=3,
        programs=("gcc",),
    ),
)
