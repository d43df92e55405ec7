"""Fixtures of the fake NVML library.

`nvml_library` is for subprocesses: the loader finds it by its name. `fake_nvml` is for this process: it has
another name, because a library once loaded as libnvidia-ml.so.1 would be found by every later test, and by
those that need a real GPU.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from fake_nvml.build import FakeNvml, build_library
from nvml_cases import ONE_GPU


def _require_gcc() -> None:
    if shutil.which("gcc") is None:
        reason = "gcc is needed to build the fake NVML library"
        if os.environ.get("JOULESCALE_REQUIRE") == "all":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the fake `libnvidia-ml.so.1`; its folder is good for LD_LIBRARY_PATH."""
    _require_gcc()
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def _loaded_nvml(tmp_path_factory: pytest.TempPathFactory) -> FakeNvml:
    _require_gcc()
    return FakeNvml(build_library(tmp_path_factory.mktemp("nvml"), soname="libfake-nvml.so"))


@pytest.fixture
def fake_nvml(_loaded_nvml: FakeNvml) -> Iterator[FakeNvml]:
    """The fake library behind the real pynvml in this process: no GPUs yet, virtual time 0."""
    _loaded_nvml.reset()
    _give_pynvml(_loaded_nvml)
    yield _loaded_nvml
    _give_pynvml(None)


@pytest.fixture
def one_gpu(fake_nvml: FakeNvml) -> FakeNvml:
    """The fake library with one H100 that draws 250 W."""
    fake_nvml.tell(ONE_GPU)
    return fake_nvml


def _give_pynvml(library: FakeNvml | None) -> None:
    """Let pynvml call into `library`; None lets it look for the machine's own at the next nvmlInit."""
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library.handle if library else None
