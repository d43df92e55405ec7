"""The manifest of a run (`run.json`) and of each process that recorded it (`process.json`).

Both are replaced by rename only, so a reader never sees half of one. The manifest holds what is true of the
run as a whole and is written by global rank 0; a process file holds what one process found on its host.
"""

from __future__ import annotations

import json
import math
import types
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from profiler.errors import StoredDataError
from profiler.records import SCHEMA_VERSION
from profiler.store.files import read_bounded, write_whole

MANIFEST_NAME = "run.json"
PROCESS_NAME = "process.json"
MAX_JSON_BYTES = 16 * 2**20
_CHECKSUM = "checksum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is true of the whole run. Wall times are ISO 8601 labels in UTC; nothing is computed from them.

    Attributes:
        status: As the writer last knew it: running, finished or interrupted. The reader decides `lost`.
        heartbeat: When the writer last wrote, wall clock.
        attempt: The last one that was begun.
        last_step: The last step of that attempt, once it has ended.
        parent: The checkpoint of another run that this one went on from (`run_id`, `attempt`, `step`).
        settings: The workload's settings, as JSON.
        identity: What makes two runs the same beside workload, settings and seed: the data's hash.
        data: The corpus: where from, bytes, sha256.
        params: Parameters by the workload's convention.
        flops_source: How `model_flops` was got: a formula, counted on the first step, given, or None.
        flops_convention: What `model_flops` counts and leaves out (causal attention in full or half, recomputation).
        flops_counted_over_given: Counted model FLOPs over those of the formula; None where only one is known.
        peak_flops_per_s: Of all devices of the run together, dense, for `peak_dtype`; None if unknown.
        peak_source: datasheet, measured or given.
        peak_bytes_per_s: Memory bandwidth of all devices of the run together; None if unknown.
        peak_bytes_source: Likewise datasheet, measured or given.
        carbon: The `CarbonFactors` given for this run; used unless a reader says otherwise. `series` names a file.
        notes: Why something is unknown, or what must be known to read a number: key to sentence.
    """

    run_id: str
    schema_version: int = SCHEMA_VERSION
    workload: str | None = None
    preset: str | None = None
    seed: int | None = None
    status: str = "running"
    created_at: str = ""
    heartbeat: str = ""
    ended_at: str | None = None
    attempt: int = 1
    last_step: int | None = None
    parent: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    params: int | None = None
    world_size: int = 1
    flops_source: str | None = None
    flops_convention: str | None = None
    flops_counted_over_given: float | None = None
    peak_flops_per_s: float | None = None
    peak_source: str | None = None
    peak_dtype: str | None = None
    peak_bytes_per_s: float | None = None
    peak_bytes_source: str | None = None
    carbon: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFile:
    """What one process found: its place, how it stands, its clock, its meters (each as a `Meter`'s fields).

    Attributes:
        boot_id: Of the kernel that it ran on; None if that is not known.
        replica: Which copy of the model it worked on, if several ranks share one; None: its own.
        strategy: What divided the work among ranks; None if nothing did, or nobody said.
        status: As it last knew: running, finished or interrupted; None in files of before 2026-11-22.
        heartbeat: When it last wrote, wall clock.
        ended_at: When it closed its record, wall clock.
        resumed: The checkpoint of this run that the attempt went on from (`run_id`, `attempt`, `step`).
        clock: Anchors the monotonic seconds of its tables: `wall_unix_s` is the wall clock at second 0, `monotonic_s`
            the kernel's own clock then.
    """

    host: str
    rank: int
    local_rank: int
    world_size: int
    pid: int
    attempt: int
    clock: Mapping[str, float]
    boot_id: str | None = None
    replica: int | None = None
    strategy: str | None = None
    status: str | None = None
    heartbeat: str = ""
    ended_at: str | None = None
    resumed: Mapping[str, Any] | None = None
    meters: tuple[Mapping[str, Any], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


_Record = TypeVar("_Record", Manifest, ProcessFile)


def write_json(path: Path, record: Manifest | ProcessFile) -> None:
    """Replace `path` by the record, whole.

    Raises:
        OSError: The file system refused; an older file stays as it was.
    """
    values = as_stored(asdict(record))
    text = json.dumps({**values, _CHECKSUM: _checksum(values)}, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda temporary: _write_text(temporary, text))


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Replace a run's manifest, unless a later attempt has written its own: a process that hung may wake up.

    Raises:
        OSError: As in `write_json`.
    """
    try:
        is_later = read_manifest(run_dir).attempt > manifest.attempt
    except StoredDataError:  # there is none yet, or it is damaged
        is_later = False
    if not is_later:
        write_json(run_dir / MANIFEST_NAME, manifest)


def _checksum(values: Mapping[str, Any]) -> int:
    """Of what a file says, not of how it is laid out."""
    return zlib.crc32(json.dumps(values, sort_keys=True, allow_nan=False).encode())


def as_stored(value: Any) -> Any:
    """A user's settings as JSON holds them: what is not finite is null, what is no JSON is its text."""
    if isinstance(value, Mapping):
        return {str(key): as_stored(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_stored(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a run's folder.

    Raises:
        StoredDataError: It is missing, damaged, or of a newer schema.
    """
    return _read(folder / MANIFEST_NAME, Manifest)


def read_process(folder: Path) -> ProcessFile:
    """The process file in a process's folder.

    Raises:
        StoredDataError: It is missing or damaged.
    """
    return _read(folder / PROCESS_NAME, ProcessFile)


def _read(path: Path, record: type[_Record]) -> _Record:
    try:
        data = json.loads(read_bounded(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise StoredDataError(f"{path} cannot be read ({error}).") from None
    if not isinstance(data, dict):
        raise StoredDataError(f"{path} does not hold a JSON object.")
    hints = _hints(record)  # type: ignore[arg-type]  # a class is hashable
    for key, value in data.items():
        if key in hints and not _fits(value, hints[key]):
            raise StoredDataError(
                f"{path} holds something else than expected as {key!r}: {str(value)[:50]!r}."
            )
    if data.get("schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise StoredDataError(f"{path} has schema {data['schema_version']}. Upgrade joulescale to read it.")
    _check(path, data)
    data = _whole_characters(data)
    known = {f.name for f in fields(record)}
    try:
        return record(**{key: value for key, value in data.items() if key in known})
    except TypeError as error:
        raise StoredDataError(f"{path} lacks what a {record.__name__} needs ({error}).") from None


def _whole_characters(data: dict[str, Any]) -> dict[str, Any]:
    """The same with a question mark for each half of a character, which JSON can escape and no table can hold."""
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return dict(json.loads(text.encode("utf-8", "replace")))
    return data


def _check(path: Path, data: dict[str, Any]) -> None:
    """Refuse what was changed after it was written; files of before schema 3 have no checksum."""
    expected = data.pop(_CHECKSUM, None)
    try:
        same = expected is None or expected == _checksum(data)
    except ValueError:  # NaN, which none of ours holds
        same = False
    if not same:
        raise StoredDataError(f"{path} is not what was stored: its checksum differs.")


@cache
def _hints(record: type) -> dict[str, Any]:
    """Of a record's fields; to find them takes as long as to read it."""
    return get_type_hints(record)


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a field's type; of mappings and sequences only the outside is looked at."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if get_origin(hint) is not None:
        return isinstance(value, dict)
    wanted = int | float if hint is float else hint
    return isinstance(value, wanted) and not isinstance(value, bool)
