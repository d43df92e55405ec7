"""Arguments of a monitor, checked where they are given: before any training, with what was wrong and what is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from profiler.errors import InvalidValueError
from profiler.integrations.sent_function import SentFunction
from profiler.measure.ranks import GpuChoice
from profiler.store.folder import check_run_name


def checked_runs_dir(runs_dir: str | Path) -> Path:
    """The runs folder as a path.

    Raises:
        InvalidValueError: It is no path, or a file. A folder that cannot be written to is found out at the fit, and
            costs the record, not the training.
    """
    if not isinstance(runs_dir, str | Path) or not str(runs_dir):
        raise InvalidValueError(f"runs_dir={runs_dir!r} is no folder's path. Give one, such as 'runs'.")
    if Path(runs_dir).is_file():
        raise InvalidValueError(
            f"runs_dir={str(runs_dir)!r} is a file, so no run can be kept in it. Give a folder."
        )
    return Path(runs_dir)


def checked_name(name: str | None) -> str | None:
    """The run's name, or None.

    Raises:
        InvalidValueError: It could not be a folder's name.
    """
    return None if name is None else check_run_name(name)


def checked_function(argument: str, function: Callable[[Any], Any] | None) -> SentFunction | None:
    """A function of a batch that may be pickled, or None.

    Raises:
        InvalidValueError: It cannot be called.
    """
    if function is not None and not callable(function):
        raise InvalidValueError(
            f"{argument}={function!r} is no function of a batch. Give one, such as"
            f" {argument}=lambda batch: {function!r}."
        )
    return None if function is None else SentFunction(argument, function)


def checked_gpus(gpus: GpuChoice) -> GpuChoice:
    """Which GPUs to measure.

    Raises:
        InvalidValueError: It is none of the three forms.
    """
    listed = not isinstance(gpus, str) and all(_names_a_gpu(gpu) for gpu in gpus)
    if not listed and gpus not in ("auto", "visible"):
        raise InvalidValueError(
            f"gpus={gpus!r} is none of 'auto', 'visible', or a list of positions or UUIDs, as [0, 1]."
        )
    return gpus


def _names_a_gpu(gpu: object) -> bool:
    return isinstance(gpu, str) or (isinstance(gpu, int) and not isinstance(gpu, bool) and gpu >= 0)


def checked_peak(peak: float | Literal["measure"] | None) -> float | Literal["measure"] | None:
    """What one device can do at most.

    Raises:
        InvalidValueError: It is no number above 0.
    """
    if peak is None or peak == "measure":
        return peak
    if isinstance(peak, str) or not peak > 0.0:
        raise InvalidValueError(f"peak_flops_per_s={peak!r} is no number of FLOP/s above 0, nor 'measure'.")
    return peak
