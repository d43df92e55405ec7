"""The axes that a chart can have: title, unit, scale, and where its ticks go.

Vega's own ticks on a log axis leave less than a decade without a single label, and crowd more than three;
so ticks are chosen here, from pure functions of the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

ScaleKind = Literal["log", "linear"]

_MOST_TICKS = 8
_FEWEST_TICKS = 4
_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14_400, 28_800, 86_400, 172_800)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One quantity that can be drawn against another.

    Attributes:
        name: The column of the table of points.
        title: What the axis says, without the unit.
        unit: The unit, as `profiler.report.quantity` knows it.
        scale: `log`, or `linear` for what lies between 0 and 1.
        plus_minus: The column with half the width of its interval, if there is one.
        low, high: The columns with the ends of its interval, if there are any.
        from_energy: Whether it is made from joules, so that measured and estimated must be told apart.
        why_unknown: Why it can be null in every run, and what to do about it.
    """

    name: str
    title: str
    unit: str
    scale: ScaleKind = "log"
    plus_minus: str | None = None
    low: str | None = None
    high: str | None = None
    from_energy: bool = False
    why_unknown: str = "The runs did not record it."

    @property
    def short(self) -> str:
        """The title for a sentence, without what stands in brackets."""
        return self.title.split(" (")[0]

    @property
    def full_title(self) -> str:
        """Title and unit, as the axis shows it."""
        shown = {"": "", "fraction": "", "B": "", "s": "", "params": "", "tokens": ""}.get(
            self.unit, self.unit
        )
        return f"{self.title} ({shown})" if shown else self.title


_NO_ENERGY = (
    "No sensor gave joules for these runs, and no estimate was made."
    " 'joulescale doctor' lists the sensors found and why the others are missing."
)

_AXES = (
    Axis(
        name="params",
        title="Model size (parameters)",
        unit="params",
        why_unknown="The runs do not say how many parameters they train. The workloads of joulescale do.",
    ),
    Axis(
        name="tokens",
        title="Training tokens",
        unit="tokens",
        why_unknown="The runs did not count tokens. Give tokens= to the monitor.",
    ),
    Axis(
        name="model_flops",
        title="Training compute",
        unit="FLOP",
        why_unknown="No FLOPs are known for these runs. Give flops_per_step= to the monitor.",
    ),
    Axis(
        name="energy_j",
        title="Training energy",
        unit="J",
        plus_minus="energy_plus_minus_j",
        from_energy=True,
        why_unknown=_NO_ENERGY,
    ),
    Axis(
        name="loss",
        title="Loss",
        unit="",
        plus_minus="loss_plus_minus",
        why_unknown="The runs did not log a loss.",
    ),
    Axis(
        name="energy_per_token_j",
        title="Energy per token",
        unit="J/token",
        plus_minus="energy_per_token_plus_minus_j",
        from_energy=True,
        why_unknown=_NO_ENERGY,
    ),
    Axis(
        name="tokens_per_j",
        title="Tokens per joule",
        unit="tokens/J",
        plus_minus="tokens_per_j_plus_minus",
        from_energy=True,
        why_unknown=_NO_ENERGY,
    ),
    Axis(
        name="mfu",
        title="Model FLOPs utilization (MFU)",
        unit="fraction",
        scale="linear",
        why_unknown="No dense peak is known for these devices. Give peak_flops_per_s=, or measure it with"
        " 'joulescale doctor --measure-peak'.",
    ),
    Axis(
        name="flops_per_s",
        title="Training speed",
        unit="FLOP/s",
        why_unknown="No FLOPs are known for these runs. Give flops_per_step= to the monitor.",
    ),
    Axis(name="duration_s", title="Training time", unit="s"),
    Axis(name="memory_bytes", title="Peak memory", unit="B"),
    Axis(
        name="emissions_g",
        title="Emissions (gCO2e)",
        unit="",
        low="emissions_low_g",
        high="emissions_high_g",
        from_energy=True,
        why_unknown="Emissions need joules and a grid. Choose a country, or give a carbon intensity.",
    ),
)

AXES: dict[str, Axis] = {axis.name: axis for axis in _AXES}
"""Every axis by its name, which is a column of the table of points."""

X_AXES = ("params", "tokens", "model_flops", "energy_j")
"""What a scale chart can have along x."""

Y_AXES = tuple(name for name in AXES if name not in ("params", "tokens"))
"""What a scale chart can have along y."""


LOSS_UNITS = {"lm": "nats/token"}
"""What the loss of a workload is in. Of other trainings nobody knows."""

_LOSSES = {"training": "Training loss", "validation": "Validation loss"}


def loss_title(kind: str | None, workloads: Sequence[str | None]) -> str:
    """What a loss is called: by its kind if that is one, with a unit if all its workloads have the same.

    >>> loss_title("validation", ["lm"]), loss_title(None, ["lm", None])
    ('Validation loss (nats/token)', 'Loss')
    """
    units = {LOSS_UNITS.get(workload or "") for workload in workloads}
    unit = units.pop() if len(units) == 1 else None
    title = _LOSSES.get(kind or "", "Loss")
    return f"{title} ({unit})" if unit else title


def titled(axis: Axis, points: pl.DataFrame) -> Axis:
    """The axis with the title that these points call for.

    Args:
        axis: Of `AXES`.
        points: The table of `profiler.metrics.points.scale_points`.
    """
    if axis.name != "loss":
        return axis
    kinds = points["loss_kind"].unique().to_list()
    kind = kinds[0] if len(kinds) == 1 else None
    return replace(axis, title=loss_title(kind, points["workload"].unique().to_list()))


def log_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between `low` and `high` on a log axis; fewer decades get finer steps.

    >>> log_ticks(900, 1.2e6)
    [1000.0, 10000.0, 100000.0, 1000000.0]
    >>> log_ticks(2.4, 3.9)
    [2.5, 2.75, 3.0, 3.25, 3.5, 3.75]
    """
    steps: Sequence[Callable[[], list[float]]] = (
        lambda: _decades(low, high, (1,)),
        lambda: _decades(low, high, (1, 3)),
        lambda: _decades(low, high, (1, 2, 5)),
        lambda: linear_ticks(low, high),
    )
    return _first_that_fits([step() for step in steps])


def clock_ticks(low: float, high: float) -> list[float]:
    """Round durations between `low` and `high` seconds: 1 s, 10 s, 1 min, 10 min, 1 h."""
    inside = [float(s) for s in _SECONDS if low <= s <= high]
    if low < 1 or high > _SECONDS[-1] or len(inside) < 3:
        return log_ticks(low, high)
    return _thinned(inside)


def byte_ticks(low: float, high: float) -> list[float]:
    """Powers of two between `low` and `high` bytes; finer where that is fewer than three."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    if len(powers) >= 3:
        return _thinned([2.0**p for p in powers])
    unit = 1024.0 ** math.floor(math.log(low, 1024))
    return [tick * unit for tick in linear_ticks(low / unit, high / unit)]


def linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten between `low` and `high`, at most eight."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span))
    for step in (power * f for f in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < 7:
            return [float(f"{n * step:.12g}") for n in range(first, last + 1)]
    return [low, high]


def ticks_for(axis: Axis, low: float, high: float) -> list[float]:
    """Where the ticks of `axis` go between `low` and `high`."""
    if axis.scale == "linear":
        return linear_ticks(low, high)
    return {"s": clock_ticks, "B": byte_ticks}.get(axis.unit, log_ticks)(low, high)


def clock_unit(seconds: float) -> tuple[float, str]:
    """The unit in which a time axis up to `seconds` is best read, and its size in seconds.

    >>> clock_unit(500)
    (60.0, 'min')
    """
    sizes = ((86_400.0, "d", 3.0), (3_600.0, "h", 3.0), (60.0, "min", 3.0))
    return next(((size, name) for size, name, least in sizes if seconds >= least * size), (1.0, "s"))


def label_expression(unit: str) -> str:
    """The Vega expression that writes a tick: SI prefixes, KiB to TiB, s to d, or percent."""
    if unit == "fraction":
        return "format(datum.value, '.3~p')"
    if unit == "B":
        return _by_size([(1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB")], "B")
    if unit == "s":
        return _by_size([(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")], "s")
    if unit == "":
        return "format(datum.value, datum.value >= 10000 ? '~s' : '.4~g')"
    return "format(datum.value, '~s')"


def _by_size(steps: Sequence[tuple[float, str]], smallest: str) -> str:
    ifs = "".join(
        f"datum.value >= {size:.0f} ? format(datum.value / {size:.0f}, '.3~r') + ' {name}' : "
        for size, name in steps
    )
    return f"{ifs}format(datum.value, '.3~r') + ' {smallest}'"


def _decades(low: float, high: float, leads: Sequence[int]) -> list[float]:
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{lead}e{power}") for power in powers for lead in leads]
    return [tick for tick in ticks if low <= tick <= high]


def _first_that_fits(choices: Sequence[list[float]]) -> list[float]:
    for ticks in choices:
        if len(ticks) >= _FEWEST_TICKS:
            return _thinned(ticks)
    return max(choices, key=len)


def _thinned(ticks: list[float]) -> list[float]:
    every = math.ceil(len(ticks) / _MOST_TICKS)
    return ticks[::every]
