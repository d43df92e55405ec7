"""The tables that codecarbon packages: processors' TDP, and the carbon intensity of national grids.

They are read as files, without importing codecarbon, which takes seconds and starts its own machinery.
Nothing here touches a network.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"\d+(\.\d+)?")


def source_name() -> str:
    """Name and version of the data's source, to be stored with every number made from it."""
    return f"codecarbon {version('codecarbon')} packaged data"


@cache
def cpu_tdp_w() -> Mapping[str, float]:
    """Thermal design power in watts of whole processors, by the product name that the table uses.

    Rows without one plain number above 0 (a few are garbled, such as `27.29.5`) are left out: unknown.
    """
    with (_data_dir() / "hardware" / "cpu_power.csv").open(encoding="utf-8", newline="") as file:
        return read_tdp_w(file)


def read_tdp_w(lines: Iterable[str]) -> dict[str, float]:
    """The table of `cpu_tdp_w` from its CSV text, with columns `Name` and `TDP`."""
    rows = ((row["Name"], row["TDP"] or "") for row in csv.DictReader(lines))
    return {name: float(tdp) for name, tdp in rows if _NUMBER.fullmatch(tdp) and float(tdp) > 0.0}


@cache
def national_grids() -> Mapping[str, Mapping[str, Any]]:
    """Energy mix by ISO 3166 alpha-3 code: `country_name`, `carbon_intensity` (gCO2e/kWh), `year`, TWh by fuel."""
    text = (_data_dir() / "private_infra" / "global_energy_mix.json").read_text(encoding="utf-8")
    grids: dict[str, Mapping[str, Any]] = json.loads(text)
    return grids


def _data_dir() -> Path:
    spec = find_spec("codecarbon")
    assert spec is not None, "codecarbon is a dependency of joulescale"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"
