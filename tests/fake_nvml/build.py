"""Builds the fake library with gcc, and steers it: inside this process, or by a file for a subprocess."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
SONAME = "libnvidia-ml.so.1"


def build_library(folder: Path, *defines: str, soname: str = SONAME, extra: Sequence[Path] = ()) -> Path:
    """Compile into `folder`, which LD_LIBRARY_PATH may name; `defines` leave functions out, `extra` sources add."""
    library = folder / soname
    options = ["-std=gnu11", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", f"-Wl,-soname,{soname}"]
    macros = [f"-D{name}" for name in defines]
    subprocess.run(["gcc", *options, *macros, "-o", library, SOURCE, *extra, "-lm"], check=True)
    return library


def build_clock_shim(folder: Path) -> Path:
    """What is preloaded so that the line `shift` can set a process's clocks."""
    shim = folder / "clock_shim.so"
    source = SOURCE.with_name("clock_shim.c")
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-fPIC", "-shared", "-o", shim, source], check=True)
    return shim


def subprocess_env(library: Path, config: Path, script: str, **variables: str) -> dict[str, str]:
    """The environment of a process that finds the fake library, set up by the lines of `script`."""
    config.write_text(script)
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(library.parent),
        "FAKE_NVML_CONFIG": str(config),
        **variables,
    }


class FakeNvml:
    """The fake library in this process, on a virtual clock that starts at 0."""

    def __init__(self, library: Path) -> None:
        self._lib = ctypes.CDLL(str(library))
        self._lib.fake_nvml_set_time.argtypes = [ctypes.c_double]
        self._lib.fake_nvml_time.restype = ctypes.c_double
        self._lib.fake_nvml_calls.restype = ctypes.c_long
        self._lib.fake_nvml_joules.argtypes = [ctypes.c_int, ctypes.c_double]
        self._lib.fake_nvml_joules.restype = ctypes.c_double
        self.reset()

    def reset(self) -> None:
        self._lib.fake_nvml_reset()
        self.tell("clock virtual")

    @property
    def handle(self) -> ctypes.CDLL:
        """What pynvml keeps as `nvmlLib`."""
        return self._lib

    def tell(self, script: str) -> None:
        """Obey each line of the script."""
        for line in script.strip().splitlines():
            assert self._lib.fake_nvml_command(line.strip().encode()) == 0, f"fake_nvml cannot read {line!r}"

    def set_time(self, seconds: float) -> None:
        self._lib.fake_nvml_set_time(seconds)

    def time(self) -> float:
        """The fake's clock: pass it wherever a `clock=` is asked for."""
        return float(self._lib.fake_nvml_time())

    def joules(self, gpu: int, until: float) -> float:
        """The exact integral of that GPU's power from 0."""
        return float(self._lib.fake_nvml_joules(gpu, until))

    def calls(self, name: str) -> int:
        """How often that NVML function was called since the reset."""
        return int(self._lib.fake_nvml_calls(name.encode()))

    def refcount(self) -> int:
        """Inits of NVML that were not yet shut down."""
        return int(self._lib.fake_nvml_refcount())

    def samples(self) -> int:
        """GPM sample buffers that were allocated and not freed."""
        return int(self._lib.fake_nvml_samples())

    def misused_samples(self) -> int:
        """How often a freed GPM buffer was used."""
        return int(self._lib.fake_nvml_misused_samples())
