"""What an experiment looks like: each workload has its own natural picture, drawn against steps or joules.

seen               runs of one experiment, and their curves joined
plot, bars         how it is drawn: lines with thresholds and what is to be noticed; named values
grokking ...       one file a workload: its pictures
generic            for an experiment that has none of its own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from profiler.report.phenomena import (
    attention_sinks,
    chain_of_thought,
    dictionary,
    diffusion,
    distillation,
    double_descent,
    gates,
    generic,
    grokking,
)
from profiler.report.phenomena.seen import Across, Picture, Seen

__all__ = ["Across", "Picture", "Seen", "pictures"]

_OF: Mapping[str, Callable[[Sequence[Seen], Across], list[Picture]]] = {
    "attention-sinks": attention_sinks.pictures,
    "chain-of-thought": chain_of_thought.pictures,
    "dictionary": dictionary.pictures,
    "diffusion": diffusion.pictures,
    "distillation": distillation.pictures,
    "double-descent": double_descent.pictures,
    "gates": gates.pictures,
    "grokking": grokking.pictures,
}


def pictures(workload: str | None, seen: Sequence[Seen], across: Across = "steps") -> list[Picture]:
    """The pictures of an experiment.

    Args:
        workload: Its name.
        seen: Runs of it with the same settings, one a seed.
        across: What progress is drawn against; pictures without progress are the same for both.
    """
    return _OF.get(workload or "", generic.pictures)(seen, across)
