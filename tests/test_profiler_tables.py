"""Tables that are read piece by piece, and charts of more rows than fit: the numbers are as if all was read at once."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fixtures_scripted import Script, gpu, scripted_run, waiting_run
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from rich.console import Console

from profiler.metrics import curve_shelf, timeline
from profiler.metrics.points import scale_points
from profiler.metrics.slices import in_slices, slice_width_s
from profiler.metrics.summary import summarize
from profiler.report.long_table import LongTable
from profiler.store import tables
from profiler.store.runs import open_run
from profiler.store.tables import Shelf


def test_a_shelf_keeps_what_fits():
    made: list[str] = []

    def make(name: str) -> pl.DataFrame:
        made.append(name)
        return pl.DataFrame({"a": np.zeros(1000)})  # 8000 bytes

    shelf = Shelf(most_bytes=20_000)
    for name in ("a", "b", "a", "c", "a", "b"):
        shelf.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]  # `b` made room for `c`


def test_a_frame_larger_than_the_shelf_is_not_kept():
    shelf, made = Shelf(most_bytes=100), 0

    def make() -> pl.DataFrame:
        nonlocal made
        made += 1
        return pl.DataFrame({"a": np.zeros(1000)})

    shelf.get("a", make)
    shelf.get("a", make)
    assert made == 2


def test_a_run_without_room_for_its_tables_has_the_same_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = Script(steps=30, validation_after=(10,), budget_after=(20,), memory=Script().memory)
    run = scripted_run(tmp_path, script, counters=lambda c: [*gpu()(c), *gpu(device="GPU-b")(c)])
    with_room = summarize(run), scale_points([run])
    monkeypatch.setattr(tables, "SMALL_BYTES", 0)
    monkeypatch.setattr(tables, "KEPT_BYTES", 0)
    monkeypatch.setattr(curve_shelf, "MOST_ROWS", 0)
    run = open_run(tmp_path, "scripted")
    assert summarize(run) == with_room[0]
    assert_frame_equal(scale_points([run]), with_room[1], check_exact=True)


def test_damage_is_found_without_reading_a_large_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = scripted_run(tmp_path)
    part = next(run.path.glob("attempt-1/*/readings-*.parquet"))
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    monkeypatch.setattr(tables, "SMALL_BYTES", 0)
    run = open_run(tmp_path, "scripted")
    assert run.incomplete == {"readings"}
    assert [str(part) in sentence for sentence in run.damaged] == [True]


# -- slices ------------------------------------------------------------------------------------------------------


@given(
    values=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    keys=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=3),
    width_s=st.floats(0.5, 20.0),
)
def test_slices_do_not_depend_on_the_pieces(
    values: list[float | None], cuts: list[int], keys: list[str | None], width_s: float
):
    rows = pl.DataFrame(
        {
            "time_s": [0.7 * i for i in range(len(values))],
            "key": pl.Series([keys[i % len(keys)] for i in range(len(values))], dtype=pl.String),
            "v": pl.Series(values, dtype=pl.Float64),
        }
    )
    edges = [0, *sorted(cuts), len(rows)]
    pieces = [rows[a:b] for a, b in pairwise(edges)]
    found = in_slices(pieces, width_s, ["v"], ["key"])
    expected = (
        rows.with_columns(slice=(pl.col("time_s") / width_s).floor().cast(pl.Int64))
        .group_by("key", "slice")
        .agg(
            pl.col("time_s").mean(),
            v_low=pl.col("v").min(),
            v_high=pl.col("v").max(),
            v=pl.col("v").mean(),
        )
        .sort("key", "time_s")
    )
    assert_frame_equal(found.select(expected.columns), expected, rel_tol=1e-9, abs_tol=1e-6)


def test_a_long_timeline_keeps_the_mean_the_least_and_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = scripted_run(tmp_path, Script(steps=40), counters=gpu())
    steps = timeline.step_timeline(run)
    monkeypatch.setattr(timeline, "MOST_ROWS", 10)
    monkeypatch.setattr("profiler.metrics.slices.SLICES", 8)
    power, sliced = timeline.power_timeline(run), timeline.step_timeline(run)
    assert 0 < len(power) <= 10
    assert power["power_w"].mean() == pytest.approx(200.0, rel=1e-6)
    assert power["power_w_low"].min() == pytest.approx(200.0, rel=1e-6)
    assert 0 < len(sliced) <= 10
    assert sliced["tokens_per_s_low"].min() == steps["tokens_per_s"].min()
    assert sliced["tokens_per_s_high"].max() == steps["tokens_per_s"].max()
    assert slice_width_s(0.0, 80.0) == 10.0


def test_a_slice_of_a_step_without_a_finite_loss_has_no_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    losses = [1.0] * 39 + [math.nan]
    run = waiting_run(tmp_path, steps=40, data_s=0.1, losses=losses)
    monkeypatch.setattr(timeline, "MOST_ROWS", 10)
    monkeypatch.setattr("profiler.metrics.slices.SLICES", 8)
    found = timeline.step_timeline(run)["loss"].to_list()
    assert found[0] == 1.0
    assert found[-1] == math.inf, "left out of a mean it would be said of no step"


# -- a table of many rows ----------------------------------------------------------------------------------------


def _lines(rows: list[list[str]], width: int) -> list[str]:
    output = io.StringIO()
    Console(file=output, width=width).print(LongTable(["run", "steps"], rows))
    return output.getvalue().splitlines()


def test_a_long_table_is_laid_out_like_others():
    assert _lines([["a", "5"], ["longer", "1234"]], 80)[:3] == [
        " run     steps ",
        " a           5 ",
        " longer   1234 ",
    ]


def test_a_long_table_is_cut_to_the_terminal():
    lines = _lines([["x" * 60, "5"]], 30)
    assert max(map(len, lines)) <= 30
    assert "…" in lines[1]
    assert lines[1].rstrip().endswith("5")


def test_a_name_does_not_steer_the_terminal():
    assert "\x1b" not in "".join(_lines([["a\x1b[2Jb\nc", "5"]], 80))
    assert len(_lines([["a\nb", "5"]], 80)) == 2
