"""Tables of many runs in a terminal: all runs, and efficiency against scale. Estimates have a tilde."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from profiler.report.facts import (
    FAILED,
    INTERRUPTED,
    LOST,
    PARTIAL,
    PLUS_MINUS,
    energy_per,
    exception_of,
    status_word,
    work_unit,
)
from profiler.report.long_table import LONG, LongTable
from profiler.report.quantity import format_quantity
from profiler.words import counted

ESTIMATED = "~ estimated from CPU time, not measured"

_UNKNOWN = "-"
"""What a cell without a value shows."""

_LOSSES = {"training": "train loss", "validation": "val. loss"}


def overview_table(frame: pl.DataFrame) -> RenderableType:
    """All runs, one row each; emissions where they are known, verdicts where there are experiments.

    Args:
        frame: From `metrics.overview.overview`.
    """
    more = {"emissions_g": "CO2e", "outcome": "verdict"}
    known = [name for name in more if frame[name].count()]
    columns = ("run", "status", "steps", "tokens", "train loss", "time", "energy", "energy per", "MFU")
    rows = []
    for row in frame.iter_rows(named=True):
        source = row["energy_source"]
        cells = [
            row["run_id"],
            status_cell(row),
            _cell(row["steps"], ""),
            bounded_cell(row, _cell(row["tokens"], "")),
            _number(row["loss"]),
            _cell(row["duration_s"], "s"),
            bounded_cell(row, _energy_cell(row[f"{source or 'measured'}_j"], "J", source)),
            _energy_cell(*energy_per(row, work_unit(row)), source),
            bounded_cell(row, _cell(row["mfu"], "fraction")),
        ]
        last = {
            "emissions_g": bounded_cell(row, _energy_cell(row["emissions_g"], "g", source)),
            "outcome": row["outcome"] or _UNKNOWN,
        }
        rows.append([*cells, *(last[name] for name in known)])
    return _with_legend(_table_of([*columns, *(more[name] for name in known)], rows), frame, _of_runs(frame))


def points_table(frame: pl.DataFrame, *, wide: bool = True) -> RenderableType:
    """Efficiency against scale, one row a point.

    Args:
        frame: From `metrics.points.scale_points`.
        wide: False leaves out what follows from the other columns, to fit 80 characters.
    """
    kinds = frame["loss_kind"].unique().to_list()
    loss = _LOSSES.get(kinds[0], "loss") if len(kinds) == 1 else "loss"
    narrow = ("params", "tokens", loss, "time", "energy", "J/token", "MFU", "memory")
    emits = ("CO2e",) if wide and frame["emissions_g"].count() else ()
    table = new_table(*narrow, *(("tokens/J", "FLOP/s", *emits) if wide else ()))
    for row in frame.iter_rows(named=True):
        source = row["energy_source"]
        cells = [
            _cell(row["params"], ""),
            _cell(row["tokens"], ""),
            _loss_cell(row, wide=wide, mixed=len(kinds) > 1),
            _cell(row["duration_s"], "s"),
            _energy_cell(row["energy_j"], "J", source, row["energy_plus_minus_j"]),
            _energy_cell(row["energy_per_token_j"], "J", source),
            _cell(row["mfu"], "fraction"),
            _cell(row["memory_bytes"], "B"),
            _energy_cell(row["tokens_per_j"], "tokens/J", source).removesuffix("tokens/J").rstrip(),
            _cell(row["flops_per_s"], "FLOP/s"),
            _energy_cell(row["emissions_g"], "g", source),
        ]
        table.add_row(*cells[: len(table.columns)])
    return _with_legend(table, frame, _of_points(frame, wide=wide))


def damaged_sentence(frame: pl.DataFrame) -> str | None:
    """How many of these runs or points come from damaged files; None if none does.

    Args:
        frame: One row a run, or, with a column `budget_tokens`, one row a point.
    """
    count, whole = int(frame["damaged"].sum()), len(frame)
    if not count:
        return None
    if "budget_tokens" in frame.columns:
        come = "comes" if count == 1 else "come"
        return f"{count} of these {counted(whole, 'point')} {come} from runs with damaged files."
    return f"{counted(count, 'run has', 'runs have')} damaged files: see 'joulescale show NAME'"


def status_cell(row: Mapping[str, Any]) -> str:
    """A run's status, whether ranks of it are missing, and whether files are damaged: `failed: KeyError, damaged`."""
    status = status_word(row["status"], row["ended"])
    if status == "failed":
        status += f": {exception_of(row['ended'])}"
    missing = ", partial" if row["partial"] else ""
    return f"{status}{missing}" + (", damaged" if row["damaged"] and status != "damaged" else "")


def bounded_cell(row: Mapping[str, Any], text: str) -> str:
    """A sum over ranks: of a run that lacks some, it is what it was at least."""
    return f"≥ {text}" if row["partial"] and text != _UNKNOWN else text


def new_table(*columns: str) -> Table:
    """An empty table: the first column to the left, numbers to the right."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of cells, never markup: names are other people's text."""
    if len(rows) > LONG:
        return LongTable(columns, rows)
    table = new_table(*columns)
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def _of_runs(frame: pl.DataFrame) -> list[str | None]:
    statuses = {
        status_word(status, ended) for status, ended in frame.select("status", "ended").unique().iter_rows()
    }
    told = {
        "lost": f"lost: {LOST}",
        "interrupted": f"interrupted: {INTERRUPTED}",
        "failed": f"failed: {FAILED}",
    }
    partial = f"partial: {PARTIAL}, see 'joulescale show NAME'" if frame["partial"].any() else None
    said = (sentence for status, sentence in told.items() if status in statuses)
    return [*said, partial, damaged_sentence(frame)]


def _of_points(frame: pl.DataFrame, *, wide: bool) -> list[str | None]:
    has_loss_bars = wide and frame["loss_plus_minus"].count()
    bars = [
        PLUS_MINUS["energy"] if frame["energy_plus_minus_j"].count() else None,
        PLUS_MINUS["loss"] if has_loss_bars else None,
    ]
    return [*bars, damaged_sentence(frame)]


def _with_legend(table: RenderableType, frame: pl.DataFrame, lines: Sequence[str | None]) -> RenderableType:
    estimated = "estimated" in frame["energy_source"].drop_nulls().to_list()
    said = [line for line in (ESTIMATED if estimated else None, *lines) if line]
    return Group(table, Text("\n".join(said), style="dim")) if said else table


def _loss_cell(row: Mapping[str, Any], *, wide: bool, mixed: bool) -> str:
    text = _number(row["loss"], row["loss_plus_minus"] if wide else None)
    kind = {"training": " train", "validation": " val."}.get(row["loss_kind"], "")
    return text + kind if mixed and row["loss"] is not None else text


def _cell(value: float | None, unit: str) -> str:
    return _UNKNOWN if value is None else format_quantity(value, unit)


def _number(value: float | None, plus_minus: float | None = None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.3f}" if plus_minus is None else f"{value:.3f} ± {plus_minus:.3f}"


def _energy_cell(value: float | None, unit: str, source: str | None, plus_minus: float | None = None) -> str:
    if value is None:
        return _UNKNOWN
    return ("~ " if source == "estimated" else "") + format_quantity(value, unit, plus_minus)
