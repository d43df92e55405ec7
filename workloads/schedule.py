r"""One training run that yields a loss at several token budgets: a trunk with cool-down branches.

A loss is only fair to its budget if the learning rate has come down by then; checkpoints in the middle of
one long decay are not (Hoffmann et al. 2022, section 3.1, corrected Kaplan et al. for this). Training anew
for each budget is fair but costs the sum of the budgets. Instead, the trunk trains at a constant rate and,
where 80 % of a budget is spent, a branch copies its state and cools down to zero over the other 20 %:

    trunk     ========+=========+===================+
    cool-down          \_ D_1    \___ D_2            \_______ D_3        each end is a point

For doubling budgets this costs 1.375 x the longest instead of 1.875 x, and loses nothing.

Source: Haegele et al. 2024 (arXiv 2405.18392), "Scaling Laws and Compute-Optimal Training Beyond Fixed
Training Durations"; the schedule itself: Hu et al. 2024 (MiniCPM, arXiv 2404.06395), section 4.

Everything here is plain data and arithmetic. What a step does is in `workloads.lm`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from profiler.errors import InvalidValueError

Kind = Literal["trunk", "cooldown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of steps, all on the trunk or all on one branch.

    Attributes:
        kind: On the trunk, or on a cool-down branch.
        budget_tokens: The token budget that this segment leads to, as it was asked for.
        first_position: The place in the data of its first step. Positions count batches along one path: a
            branch reads on where the trunk left off, and the trunk later reads the same batches again.
        num_steps: Optimizer updates.
    """

    kind: Kind
    budget_tokens: int
    first_position: int
    num_steps: int

    @property
    def end_position(self) -> int:
        """One past the position of the last step: the steps spent on this path so far."""
        return self.first_position + self.num_steps

    @property
    def positions(self) -> range:
        """The place in the data of each step."""
        return range(self.first_position, self.end_position)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The whole program of a run: its segments in the order in which they are executed.

    Attributes:
        segments: A cool-down starts where the trunk segment before it ended, and so does the trunk segment
            after it, with the state from before the cool-down.
        warmup_steps: Steps over which the learning rate rises linearly from zero.
    """

    segments: tuple[Segment, ...]
    warmup_steps: int

    @property
    def num_steps(self) -> int:
        """Optimizer updates of the whole run, all branches included."""
        return sum(segment.num_steps for segment in self.segments)

    def steps(self) -> Iterator[tuple[Segment, int]]:
        """Each step as (its segment, its position in the data), in the order of execution."""
        return ((segment, position) for segment in self.segments for position in segment.positions)

    def lr_factor(self, segment: Segment, position: int) -> float:
        """The learning rate of a step as a fraction of its peak: within (0, 1].

        A cool-down multiplies the factor of the trunk, so that a budget too small to leave the warm-up still
        has a schedule. The first cool-down step is already below the trunk and the last is above zero: with
        c steps they are c, ..., 1 parts in c + 1, and no step is spent at a rate of zero.
        """
        warmup = min(1.0, (position + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if segment.kind == "trunk":
            return warmup
        return warmup * (segment.end_position - position) / (segment.num_steps + 1)


def make_schedule(
    *,
    token_budgets: Sequence[int],
    tokens_per_step: int,
    warmup_steps: int = 0,
    cooldown_fraction: float = 0.2,
) -> Schedule:
    """Lay out one trunk with a cool-down branch for each budget.

    A budget takes `steps_of(budget)` steps, of which `cooldown_fraction` (at least one) are its cool-down.
    Cool-downs of other budgets are never counted in: they are no part of the path that leads to its loss.

    Args:
        token_budgets: Tokens of each point, strictly rising.
        tokens_per_step: Tokens of one optimizer update.
        warmup_steps: Steps of the linear warm-up.
        cooldown_fraction: Share of each budget's steps that cool down, within (0, 1).

    Raises:
        InvalidValueError: The budgets don't rise, or one of them is less than a step away from the last.
    """
    if not token_budgets:
        raise InvalidValueError(
            "token_budgets is empty, so nothing would be trained. Give at least one budget."
        )
    segments: list[Segment] = []
    branch, ends = 0, 0
    for budget in token_budgets:
        end = steps_of(budget, tokens_per_step)
        if end <= ends:
            raise InvalidValueError(
                f"token_budgets = {'+'.join(map(str, token_budgets))} do not rise by at least one step of "
                f"{tokens_per_step} tokens each. Give them in rising order, further apart."
            )
        start, ends = branch, end
        branch = end - max(1, round(cooldown_fraction * end))
        if branch > start:
            segments.append(_segment("trunk", budget, start, branch))
        segments.append(_segment("cooldown", budget, branch, end))
    return Schedule(segments=tuple(segments), warmup_steps=warmup_steps)


def steps_of(budget_tokens: int, tokens_per_step: int) -> int:
    """Optimizer updates that a token budget pays for, to the nearest whole step.

    >>> steps_of(131_072, 1024)
    128

    Raises:
        InvalidValueError: The budget does not pay for a single step.
    """
    if budget_tokens < tokens_per_step:
        raise InvalidValueError(
            f"The token budget {budget_tokens} is smaller than one step of {tokens_per_step} tokens "
            "(batch_size x seq_len). Give larger token_budgets, or a smaller batch_size."
        )
    return round(budget_tokens / tokens_per_step)


def _segment(kind: Kind, budget: int, start: int, end: int) -> Segment:
    return Segment(kind=kind, budget_tokens=budget, first_position=start, num_steps=end - start)
