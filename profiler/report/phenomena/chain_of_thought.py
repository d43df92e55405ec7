"""A chain of thought that is taken away token by token: accuracy on the way, and what an answer costs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from profiler.errors import UsageError
from profiler.report.axes import Axis
from profiler.report.phenomena.bars import dots
from profiler.report.phenomena.plot import Look, Rule, plot, series_of
from profiler.report.phenomena.seen import ESTIMATED, Across, Picture, Seen, joined, note, progress, sentence

if TYPE_CHECKING:
    import altair as alt

_SHARE = Axis(name="accuracy", title="Accuracy", unit="fraction", scale="linear")
_ANSWERS = re.compile(r"(?P<kind>.+): (?P<count>[\d,_]+) answers(?:, (?P<how>.+))?")


def pictures(seen: Sequence[Seen], across: Across) -> list[Picture]:
    """Stages, accuracies at the end, joules of an answer."""
    return [
        Picture(key="stages", make=partial(stages, seen, across), is_wide=True),
        Picture(key="answers", make=partial(answers, seen), is_sized=True),
        Picture(key="joules", make=partial(joules_per_answer, seen), is_sized=True),
    ]


def stages(seen: Sequence[Seen], across: Across) -> alt.LayerChart:
    """Accuracy with what is left of the chain and without any, beside a training that never had one."""
    frame = joined(seen, "stages", "step", "removed", "accuracy", "accuracy_without_chain")
    x, axis = progress(frame, across)
    trained = [
        series_of(frame, x, "accuracy", "with what is left of the chain"),
        series_of(frame, x, "accuracy_without_chain", "with no chain"),
    ]
    if any(len(one.curves.get("direct", ())) for one in seen):
        direct = joined(seen, "direct", "step", "accuracy")
        trained.append(series_of(direct, x, "accuracy", "trained directly, never a chain"))
    return plot(
        trained,
        Look(
            title="Accuracy while the chain is taken away",
            note=note(frame, across),
            across=Axis(name=axis.name, title=axis.title, unit=axis.unit, scale="linear"),
            up=_SHARE,
            rules=_removals(frame, x) if len(seen) == 1 else [],
        ),
    )


def answers(seen: Sequence[Seen]) -> alt.LayerChart:
    """Accuracy at the end by kind of answer, with the tokens that one takes."""
    frame = joined(seen, "answers", "kind", "accuracy", "low", "high", "tokens_per_answer")
    tokens = pl.col("tokens_per_answer")
    plural = pl.when(tokens == 1).then(pl.lit("token")).otherwise(pl.lit("tokens"))
    named = frame.select(
        "seed",
        "low",
        "high",
        name=pl.format("{}, {} {}", "kind", tokens.round(1).cast(pl.String).str.strip_suffix(".0"), plural),
        series=pl.lit("accuracy"),
        value="accuracy",
    )
    return dots(named, _SHARE, text="Accuracy at the end", note=note(frame, "steps", "bars: 95 % (Wilson)"))


def joules_per_answer(seen: Sequence[Seen]) -> alt.LayerChart:
    """Joules of an answer, from the costs named "kind: 8192 answers, how"."""
    points = [point for one in seen for point in _priced(one)]
    if not points:
        raise UsageError(
            "The joules of an answer are unknown: no sensor gave any, answering took too little time to tell, or the"
            " experiment has not ended."
        )
    estimated = {point["source"] for point in points} == {"estimated"}
    frame = pl.DataFrame(points)
    axis = Axis(name="j", title=f"Energy per answer{', estimated' if estimated else ''}", unit="J")
    lines = [sentence(ESTIMATED)] if estimated else []
    return dots(frame, axis, text="What an answer costs", note=lines)


def _priced(one: Seen) -> Iterator[dict[str, Any]]:
    for cost in one.costs:
        match = _ANSWERS.fullmatch(cost["cost"])
        if match and cost["energy_j"] is not None:
            count = int(match["count"].replace(",", "").replace("_", ""))
            each, bar = cost["energy_j"] / count, (cost["plus_minus_j"] or 0.0) / count
            yield {
                "seed": one.label,
                "name": match["kind"],
                "series": match["how"] or "answers",
                "value": each,
                "low": max(each - bar, each / 10),
                "high": each + bar,
                "source": cost["source"],
            }


def _removals(frame: pl.DataFrame, x: str) -> list[Rule]:
    """Where a token is taken away: the last point of each stage but the last."""
    ends = frame.group_by("removed", maintain_order=True).agg(pl.col(x).max()).sort(x)
    rows = ends.drop_nulls().rows()
    return [
        Rule(axis="x", at=float(at), word=f"{following[0]} removed")
        for (_, at), following in itertools.pairwise(rows)
    ]
