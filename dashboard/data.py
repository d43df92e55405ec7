"""Stored runs and their tables, kept while the runs folder stays as it is.

Nothing is computed here: every number comes from `profiler`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from dashboard.plain import plain
from profiler.errors import RunsFolderError
from profiler.metrics.carbon import CarbonFactors
from profiler.metrics.devices import device_curves
from profiler.metrics.listing import Listing, list_folder, runs_by_name
from profiler.metrics.phenomena import Found, phenomenon, phenomenon_curves
from profiler.metrics.summary import summarize
from profiler.metrics.timeline import gauge_timeline, length_s, power_timeline, step_timeline
from profiler.store.folder import fill_command, readable_runs_dir
from profiler.store.run import StoredRun
from profiler.store.runs import open_folder

RUNS_DIR_VARIABLE = "JOULESCALE_RUNS_DIR"

State = tuple[str, int, int, int]
"""What stands for a runs folder: its path, how many manifests, the newest's time in ns, and the minute
if that is recent: a run that falls silent is lost after a while, though no file changes."""

_RECENT_S = 600.0


def runs_dir() -> Path:
    """The runs folder that the dashboard was started for."""
    return Path(os.environ.get(RUNS_DIR_VARIABLE, "runs")).absolute()


def folder_state(folder: Path) -> State:
    """Changes when a run is added, goes on or ends: a running run replaces its manifest every few seconds."""
    times = _manifest_times_ns(folder)
    newest, now_s = max(times, default=0), time.time()
    minute = int(now_s // 60) if now_s - newest / 1e9 < _RECENT_S else 0
    return str(folder), len(times), newest, minute


def stored_runs() -> list[str]:
    """The names of all runs of the folder, newest first. Where there is none, says how to make some; ends the page."""
    folder = runs_dir()
    try:
        readable_runs_dir(folder)
        names = list(_folders(folder_state(folder)))
    except RunsFolderError as error:
        st.info(plain(str(error)), icon=":material/folder_off:")
        _how_to_fill(folder)
        st.stop()
    if not names:
        st.info(f"There are no runs in {plain(str(folder))} yet.", icon=":material/folder_open:")
        _how_to_fill(folder)
        st.stop()
    return names


def stored_run(run_id: str) -> StoredRun:
    """One of the `stored_runs`."""
    return _one(folder_state(runs_dir()), run_id)


def overview_table(factors: CarbonFactors | None) -> pl.DataFrame:
    """One row a run, newest first."""
    return _listing(folder_state(runs_dir()), factors).runs


def points_table(factors: CarbonFactors | None) -> pl.DataFrame:
    """One row a run and token budget."""
    return _listing(folder_state(runs_dir()), factors).points


def run_summary(run_id: str, factors: CarbonFactors | None) -> dict[str, Any]:
    """What `joulescale show RUN --json` prints."""
    return _summary(folder_state(runs_dir()), run_id, factors)


def run_length_s(run_id: str) -> float:
    """Where the time axes of a run end."""
    return _length_s(folder_state(runs_dir()), run_id)


def run_verdict(run_id: str) -> Found | None:
    """Name, manifest and `phenomenon` of an experiment's run; None if it has become unreadable."""
    return _verdict(*_rest(run_id), run_id)


def run_curves(run_id: str) -> dict[str, pl.DataFrame]:
    """The curves of an experiment's run, by name."""
    return _curves(*_rest(run_id), run_id)


def run_power(run_id: str) -> pl.DataFrame:
    """Power over time."""
    return _power(folder_state(runs_dir()), run_id)


def run_gauges(run_id: str) -> pl.DataFrame:
    """Use and memory of the devices over time."""
    return _gauges(folder_state(runs_dir()), run_id)


def run_steps(run_id: str) -> pl.DataFrame:
    """Steps over time."""
    return _steps(folder_state(runs_dir()), run_id)


def _manifest_times_ns(folder: Path) -> list[int]:
    """When each run's manifest was last replaced; strings, as there may be 10,000."""
    times = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                times.append(os.stat(f"{entry.path}/run.json").st_mtime_ns)  # noqa: PTH116
    return times


def command_line(words: str) -> None:
    """Show a command for this runs folder."""
    st.code(f"joulescale {words} --runs-dir {shlex.quote(str(runs_dir()))}", language="bash")


def _how_to_fill(folder: Path) -> None:
    st.write("Fill it with a sweep that a CPU finishes in minutes:")
    st.code(fill_command(folder), language="bash")


def _rest(run_id: str) -> tuple[str, int]:
    """What stands for one run: its folder, and when its manifest was last replaced. Other runs change neither."""
    folder = _folders(folder_state(runs_dir()))[run_id]
    with contextlib.suppress(OSError):
        return str(folder), (folder / "run.json").stat().st_mtime_ns
    return str(folder), 0


@st.cache_data(max_entries=4, show_spinner="Reading the runs folder")
def _folders(state: State) -> dict[str, Path]:
    return runs_by_name(Path(state[0]))


@st.cache_resource(max_entries=4, show_spinner="Reading the runs folder")
def _listing(state: State, factors: CarbonFactors | None) -> Listing:
    return list_folder(Path(state[0]), factors)


@st.cache_data(max_entries=32, show_spinner="Computing metrics")
def _summary(state: State, run_id: str, factors: CarbonFactors | None) -> dict[str, Any]:
    return summarize(_one(state, run_id), factors)


@st.cache_data(max_entries=1024, show_spinner="Reading verdicts")
def _verdict(folder: str, changed_ns: int, run_id: str) -> Found | None:
    run = stored_run(run_id)
    found = phenomenon(run, device_curves(run.processes))
    return None if found is None else (run_id, run.manifest, found)


@st.cache_data(max_entries=64, show_spinner="Reading the run")
def _curves(folder: str, changed_ns: int, run_id: str) -> dict[str, pl.DataFrame]:
    return phenomenon_curves(stored_run(run_id))


@st.cache_data(max_entries=8, show_spinner="Reading the run")
def _length_s(state: State, run_id: str) -> float:
    return length_s(_one(state, run_id))


@st.cache_data(max_entries=8, show_spinner="Reading the run")
def _power(state: State, run_id: str) -> pl.DataFrame:
    return power_timeline(_one(state, run_id))


@st.cache_data(max_entries=8, show_spinner="Reading the run")
def _gauges(state: State, run_id: str) -> pl.DataFrame:
    return gauge_timeline(_one(state, run_id))


@st.cache_data(max_entries=8, show_spinner="Reading the run")
def _steps(state: State, run_id: str) -> pl.DataFrame:
    return step_timeline(_one(state, run_id))


@st.cache_resource(max_entries=8, show_spinner=False)
def _one(state: State, run_id: str) -> StoredRun:
    """The run of that name among those that are listed; a name never becomes a path."""
    return open_folder(_folders(state)[run_id])
