"""The rows of the fault scorecard: one file a family of faults, each with a tuple `ROWS`."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from fault_rows.row import Fault

_NOT_FAULTS = ("row", "large_runs", "victims", "disk_process", "disk_victim", "made_run")


def all_faults() -> list[Fault]:
    """Every row of every module here that has some, in the order of their ids."""
    names = [found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)])]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names if name not in _NOT_FAULTS]
    faults = [fault for module in modules for fault in getattr(module, "ROWS", ())]
    return sorted(faults, key=lambda fault: (fault.id[0], int(fault.id[1:])))
