"""What a reference workload is, and how its settings are read from text.

Workloads are found through the entry-point group `joulescale.workloads`, so that the command needs to know
none of them and anybody can add one from a package of their own.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from profiler.carbon.factors import CarbonFactors
from profiler.errors import InvalidValueError, UnknownNameError

ENTRY_POINT_GROUP = "joulescale.workloads"
PRESETS = ("smoke", "cpu", "gpu")

MAX_SEED = 2**32 - 1
"""The largest that every generator in use takes: NumPy's is the narrowest."""


CHECKPOINT_EVERY_S = 60.0
"""What a killed run loses at most, beside what it takes to start again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What `joulescale run` hands to a workload beside its settings.

    Attributes:
        runs_dir: The runs folder, checked and writable.
        workload: Name of the workload.
        preset: smoke, cpu or gpu.
        seed: Seeds every random choice of the workload.
        settings: An instance of the workload's own settings class.
        name: Name of the run folder, or None to have one made.
        idle_s: Seconds to measure the idle baseline before the fit; None: it is not measured.
        carbon: As given; stored as this run's defaults.
        second_opinion: Whose tracker is to run beside ours: codecarbon, or None.
        resume: Name of a run that did not finish, to go on with from its last checkpoint.
        checkpoint_every_s: Seconds from one checkpoint to the next, in the run's folder.
        keep_checkpoints: Whether they stay there when the training is finished.
    """

    runs_dir: Path
    workload: str
    preset: str
    seed: int
    settings: Any
    name: str | None = None
    idle_s: float | None = None
    carbon: CarbonFactors = dataclasses.field(default_factory=CarbonFactors)
    second_opinion: str | None = None
    resume: str | None = None
    checkpoint_every_s: float = CHECKPOINT_EVERY_S
    keep_checkpoints: bool = False


class Workload(Protocol):
    """A seeded reference training with known FLOPs."""

    name: str
    summary: str
    resumes: bool
    """Whether it writes checkpoints that a killed run can be gone on with from."""

    def preset(self, preset: str) -> Any:
        """The frozen settings dataclass of a preset."""
        ...

    def grid(self, preset: str) -> Mapping[str, Sequence[Any]]:
        """The settings that a sweep varies when no grid is given."""
        ...

    def identity(self, settings: Any) -> Mapping[str, Any]:
        """What, with workload, settings and seed, makes two runs the same: the data's hash, say.

        Raises:
            UsageError: The settings name data that cannot be used.
        """
        ...

    def check(self, settings: Any) -> None:
        """Refuse settings that this machine cannot train, before anything is written.

        Raises:
            UsageError: A GPU is asked for where there is none, say.
        """
        ...

    def cost(self, settings: Any) -> float:
        """How long a setting takes, relative to others: only ratios mean anything."""
        ...

    def train(self, request: RunRequest) -> Path:
        """Train under the monitor and return the run's folder.

        Raises:
            UsageError: The settings cannot work together.
        """
        ...


def workload_names() -> list[str]:
    """Names of all installed workloads, sorted."""
    return sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))


def load_workload(name: str) -> Workload:
    """Import the workload called `name`.

    Raises:
        UnknownNameError: None is called so; the message names the nearest.
    """
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name == name:
            return typing.cast(Workload, point.load())
    raise UnknownNameError("workload", name, workload_names())


def check_preset(preset: str) -> str:
    """Return `preset`.

    Raises:
        UnknownNameError: It is none of smoke, cpu and gpu.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    return preset


def apply_settings(settings: Any, texts: Mapping[str, str]) -> Any:
    """A copy of a settings dataclass with some fields replaced by values read from text.

    Args:
        settings: A frozen dataclass; each field's annotation says how its text is read.
        texts: Field name to text, as after `--set`.

    Raises:
        UnknownNameError: A name is no field of the settings.
        InvalidValueError: A text is not of the field's type, or the settings refuse the value.
    """
    hints = typing.get_type_hints(type(settings))
    for key in texts:
        if key not in hints:
            raise UnknownNameError("setting", key, hints)
    return dataclasses.replace(settings, **{k: parse_value(k, t, hints[k]) for k, t in texts.items()})


def stored_settings(settings: Any, stored: Mapping[str, Any]) -> Any:
    """Settings of the same class with the values of a run's manifest, where lists stand for tuples.

    Raises:
        InvalidValueError: The manifest holds a setting that this version does not have, or no longer takes.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    try:
        return dataclasses.replace(settings, **values)
    except TypeError as error:
        raise InvalidValueError(
            f"The run was trained with settings that this version of the workload does not know ({error}), so it cannot"
            " be gone on with. Start a new run."
        ) from None


def parse_value(key: str, text: str, hint: Any) -> Any:
    """Read `text` as a value of type `hint`: int, float, bool, str, a tuple of these, or optional.

    Whole numbers may be written as `131_072`, `131072` or `1e6`; items of a tuple as `64+128` or
    `64,128` (in a grid, where commas tell values apart, as the first).

    Raises:
        InvalidValueError: The text is not of that type.
    """
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        if text.lower() in ("none", "null", ""):
            return None
        hint = next(h for h in typing.get_args(hint) if h is not type(None))
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        parts = text.replace(",", "+").split("+")
        return tuple(parse_value(key, part.strip(), item) for part in parts if part.strip())
    if typing.get_origin(hint) is typing.Literal:
        known = {str(value): value for value in typing.get_args(hint)}
        if text not in known:
            raise UnknownNameError(f"value of {key}", text, known)
        return known[text]
    try:
        return _SCALAR[hint](text)
    except (ValueError, OverflowError):
        raise InvalidValueError(
            f"The setting {key} = {text!r} is not {_WORDS[hint]}. Give it as in '--set {key}={_EXAMPLES[hint]}'."
        ) from None


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _bool(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


_SCALAR: dict[Any, Any] = {int: _int, float: _float, bool: _bool, str: str}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_EXAMPLES = {int: "64", float: "0.003", bool: "true", str: "text"}
