"""Nodes whose sensors are made: constant watts behind powercap files that count on, and behind the fake NVML library.

A node of another name is a UTS and mount namespace with a host name and a boot id of its own: what is asked of the
kernel is really asked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from fake_nvml.build import build_library, subprocess_env  # noqa: E402

RANGE_UJ = 262_143_328_850
PERIOD_S = 0.005


class MadeNode:
    """One node: a processor that draws `watts`, counted on while this is entered.

    Args:
        folder: For its files; made.
        watts: Of its only package.
        gpus: Watts by UUID.
        name: A host name of its own; None for this machine's.
    """

    def __init__(
        self, folder: Path, *, watts: float, gpus: dict[str, float], name: str | None = None
    ) -> None:
        self.watts, self.gpus = watts, gpus
        self.rapl = folder / "powercap"
        self._folder, self._name = folder, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        zone = self.rapl / "intel-rapl:0"
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        self._write(0.0)
        lines = [
            line
            for number, (uuid, watts) in enumerate(self.gpus.items())
            for line in (f"gpu {uuid} NVIDIA H100 80GB HBM3", f"power {number} 0 {watts}")
        ]
        self.env = subprocess_env(
            build_library(self._folder),
            self._folder / "gpus",
            "\n".join(["clock real", *lines]),
            PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def command(self, *words: str) -> list[str]:
        """The words of a command that runs them on this node."""
        if self._name is None:
            return list(words)
        boot_id = self._folder / "boot_id"
        boot_id.write_text(f"{self._name:0<8}-0000-4000-8000-000000000000\n")
        enter = (
            f'hostname {self._name} && mount --bind {boot_id} /proc/sys/kernel/random/boot_id && exec "$@"'
        )
        return ["unshare", "--uts", "--mount", "sh", "-c", enter, "sh", *words]

    def _count(self) -> None:
        start_s = time.monotonic()
        while not self._stop.wait(PERIOD_S):
            self._write(self.watts * (time.monotonic() - start_s))

    def _write(self, joules: float) -> None:
        new = self.rapl / "new"
        new.write_text(f"{round(1e6 * joules)}\n")
        new.replace(self.rapl / "intel-rapl:0" / "energy_uj")
