"""Stored runs and their tables, kept while the runs folder stays as it is.

Nothing is computed here: every number comes from `profiler`.
"""

from __future__ import annotations

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
from profiler.metrics.overview import overview
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.metrics.timeline import power_timeline, step_timeline
from profiler.store.run import StoredRun
from profiler.store.runs import scan_runs

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
    times = [_changed_ns(path) for path in folder.glob("*/run.json")]
    newest, now_s = max(times, default=0), time.time()
    minute = int(now_s // 60) if now_s - newest / 1e9 < _RECENT_S else 0
    return str(folder), len(times), newest, minute


def stored_runs() -> list[StoredRun]:
    """All runs of the folder, oldest first. Where there is none, says how to make some and ends the page."""
    folder = runs_dir()
    try:
        runs = _scanned(folder_state(folder))
    except RunsFolderError as error:
        st.info(plain(str(error)), icon=":material/folder_off:")
        _how_to_fill(folder)
        st.stop()
    if not runs:
        st.info(f"There are no runs in {plain(str(folder))} yet.", icon=":material/folder_open:")
        _how_to_fill(folder)
        st.stop()
    return runs


def overview_table(factors: CarbonFactors | None) -> pl.DataFrame:
    """One row a run."""
    return _overview(folder_state(runs_dir()), factors)


def points_table(factors: CarbonFactors | None) -> pl.DataFrame:
    """One row a run and token budget."""
    return _points(folder_state(runs_dir()), factors)


def run_summary(run_id: str, factors: CarbonFactors | None) -> dict[str, Any]:
    """What `joulescale show RUN --json` prints."""
    return _summary(folder_state(runs_dir()), run_id, factors)


def run_timelines(run_id: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Power over time and steps over time."""
    return _timelines(folder_state(runs_dir()), run_id)


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _how_to_fill(folder: Path) -> None:
    st.write("Fill it with a sweep that a CPU finishes in minutes:")
    st.code(f"joulescale sweep lm --preset cpu --runs-dir {shlex.quote(str(folder))}", language="bash")


@st.cache_resource(max_entries=1, show_spinner="Reading the runs folder")
def _scanned(state: State) -> list[StoredRun]:
    return scan_runs(Path(state[0]))


@st.cache_data(max_entries=8, show_spinner="Computing metrics")
def _overview(state: State, factors: CarbonFactors | None) -> pl.DataFrame:
    return overview(_scanned(state), factors)


@st.cache_data(max_entries=8, show_spinner="Computing points")
def _points(state: State, factors: CarbonFactors | None) -> pl.DataFrame:
    return scale_points(_scanned(state), factors)


@st.cache_data(max_entries=32, show_spinner="Computing metrics")
def _summary(state: State, run_id: str, factors: CarbonFactors | None) -> dict[str, Any]:
    return summarize(_one(state, run_id), factors)


@st.cache_data(max_entries=8, show_spinner="Reading the run")
def _timelines(state: State, run_id: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    run = _one(state, run_id)
    return power_timeline(run), step_timeline(run)


def _one(state: State, run_id: str) -> StoredRun:
    """The run of that name among those that were scanned; a name never becomes a path."""
    return next(run for run in _scanned(state) if run.run_id == run_id)
