"""The carbon factors given for a run, as stored: numbers in the manifest, a series in a file of its own beside it.

The series is stored whole, not its path, so that a run that was copied to another machine says the same there. It is
not in the manifest, which is written anew every few seconds, and a year in steps of five minutes has 100,000 rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from profiler.carbon.factors import CarbonFactors
from profiler.carbon.series import IntensitySeries
from profiler.errors import StoredDataError, UsageError
from profiler.store.files import read_bounded, write_whole
from profiler.store.manifest import MANIFEST_NAME, MAX_JSON_BYTES, read_manifest, write_json

_NAME = re.compile(r"carbon-series-([0-9a-f]{12})\.json")


def write_factors(run_dir: Path, factors: CarbonFactors) -> dict[str, Any]:
    """Store a series, if there is one, in the run's folder; return what belongs into the manifest.

    Raises:
        OSError: The file system refused.
    """
    stored = factors.stored()
    if factors.series is None:
        return stored
    text = json.dumps(factors.series.stored(), allow_nan=False).encode()
    name = f"carbon-series-{_digest(text)}.json"
    write_whole(run_dir / name, lambda temporary: _write_bytes(temporary, text))
    return {**stored, "series": name}


def read_factors(run_dir: Path, stored: Mapping[str, Any]) -> CarbonFactors:
    """What `write_factors` stored.

    Raises:
        StoredDataError: The manifest names no factors of ours, or the series is missing or was changed.
    """
    given = {key: value for key, value in stored.items() if value is not None}
    try:
        if "series" in given:
            given["series"] = _read_series(run_dir, str(given["series"]))
        return CarbonFactors.of(given)
    except UsageError as error:
        raise StoredDataError(
            f"The carbon factors stored with {run_dir.name} cannot be used: {error}"
        ) from None


def replace_factors(run_dir: Path, factors: CarbonFactors) -> None:
    """Store other factors with a run that has ended.

    Raises:
        StoredDataError: The run's manifest cannot be read.
        OSError: The file system refused.
    """
    manifest = read_manifest(run_dir)
    write_json(run_dir / MANIFEST_NAME, replace(manifest, carbon=write_factors(run_dir, factors)))


def _read_series(run_dir: Path, name: str) -> IntensitySeries:
    known = _NAME.fullmatch(name)
    path = run_dir / Path(name).name
    try:
        text = read_bounded(path, MAX_JSON_BYTES)
        if known is None or _digest(text) != known[1]:
            raise StoredDataError(
                f"The carbon series {path} is not the one that was stored: its checksum differs."
            )
        return IntensitySeries.from_stored(json.loads(text))
    except (OSError, ValueError, RecursionError) as error:
        raise StoredDataError(f"The carbon series {path} cannot be read ({error}).") from None


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


def _write_bytes(path: Path, text: bytes) -> None:
    path.write_bytes(text)
