"""What importing joulescale costs, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "streamlit", "codecarbon", "altair")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in ran.stdout.split()}


def test_importing_the_profiler_loads_no_heavy_library():
    loaded = _loaded_after("import profiler")
    assert "profiler" in loaded
    assert not loaded & {*HEAVY, "polars", "numpy"}


def test_importing_the_command_loads_no_heavy_library():
    loaded = _loaded_after("import profiler.cli.main")
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


def test_reading_runs_loads_no_heavy_library():
    assert not _loaded_after("from profiler import summarize, scale_points, open_run") & set(HEAVY)


def test_every_public_name_resolves():
    import profiler

    assert len(profiler.__all__) <= 10
    for name in profiler.__all__:
        assert getattr(profiler, name).__name__ == name


def test_a_name_that_does_not_exist_is_an_attribute_error():
    import profiler

    with pytest.raises(AttributeError, match=r"^module 'profiler' has no attribute 'Profiler'$"):
        _ = profiler.Profiler
