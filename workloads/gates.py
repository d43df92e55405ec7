"""Workload `gates`: abilities come one after the other, and some between two looks. Are fourfold gates close enough?

A transformer learns five skills over six digits at once: copy, reverse, sort, add two numbers, sum modulo 10. At every
fourfold of effective compute each is examined on questions that are never trained. A skill is clear, warns, or trips a
red line; from the gates so far the cross-entropy at the next is forecast, and compared with what comes.

Anthropic's Responsible Scaling Policy, version 1.0 (2023), evaluates at every 4x of effective compute with a safety
buffer. Ours is that rule on a toy, where the order of skills can be seen in a minute; `capability_gates.py` has the
same gates as a callback for trainings of your own. Effective compute is model FLOPs times `efficiency`.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.experiment import CommonSettings, Experiment
from workloads.gatekeeper import Gatekeeper, GateResult, GateRules, Reading
from workloads.settings_checks import check_not_negative, check_positive
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, model_flops_per_sequence, num_params
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Figure, Verdict, Windows, judged, wilson

SKILLS = ("copy", "reverse", "sort", "add", "sum modulo 10")
DIGITS = 6
FIRST_TAG = 10
"""The token that names the first skill; digits are themselves."""
ASK = FIRST_TAG + len(SKILLS)
"""The token after which the answer stands."""
NO_TOKEN = -100
"""In answers that are shorter than the longest."""
LENGTH = 1 + DIGITS + 1 + DIGITS - 1
"""Tokens that are read: a tag, the digits, `ASK`, and all of the answer but its last."""
HELD_OUT = 37
"""Questions whose number it divides are for examinations only: 1 in 37."""
RED_LINE, BUFFER = 0.9, 0.5
LEAST_FORECASTS = 2

CRITERION = (
    "the skills are staggered: at least two of the five cross the red line (lower end of the 95 % Wilson interval of"
    f" exact answers at least {RED_LINE}), not all of those at the same gate, and when the first does, another skill is"
    f" still clear (upper end below {BUFFER}); each skill's cross-entropy was forecast at {LEAST_FORECASTS} gates or"
    " more, so that the error of forecasts is known"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatesSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        d_model: Width.
        n_layer: Blocks.
        head_dim: Width of a head.
        batch_size: Questions a step, of all skills.
        lr: Of AdamW, with betas 0.9 and 0.98.
        weight_decay: Decoupled.
        steps: Updates.
        first_gate: Updates before the first gate; each next one is at `factor` times as much compute.
        factor: See there.
        efficiency: Effective over model FLOPs: how much more compute a baseline would need for the same.
        items: Questions a skill is examined by at each gate, always the same.
    """

    d_model: int = 64
    n_layer: int = 3
    head_dim: int = 16
    batch_size: int = 100
    lr: float = 2e-3
    weight_decay: float = 0.01
    steps: int = 2048
    first_gate: int = 2
    factor: float = 4.0
    efficiency: float = 1.0
    items: int = 400

    def __post_init__(self) -> None:
        check_positive(self, "batch_size", "lr", "steps", "first_gate", "efficiency", "items")
        check_not_negative(self, "weight_decay")
        rules = self.rules()
        if wilson(self.items, self.items)[0] < RED_LINE:
            raise InvalidValueError(
                f"items = {self.items} cannot show that the red line of {RED_LINE} is crossed: even if all are"
                f" right, the share may be {wilson(self.items, self.items)[0]:.3f}. Give more items, such as 400."
            )
        if self.steps < self.first_gate * rules.factor**LEAST_FORECASTS:
            raise InvalidValueError(
                f"steps = {self.steps} end before the third gate, so nothing could be forecast. Give"
                f" {int(self.first_gate * rules.factor**LEAST_FORECASTS)} or more, or an earlier first_gate."
            )

    def config(self) -> TransformerConfig:
        """The model's shape."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=LENGTH,
            vocab_size=ASK + 1,
            positions="learned",
        )

    @property
    def flops_per_step(self) -> float:
        """Model FLOPs of an update; short answers are padded to the longest, and counted so."""
        return self.batch_size * model_flops_per_sequence(self.config(), LENGTH, DIGITS)

    def rules(self) -> GateRules:
        """Where the gates are, by effective compute."""
        return GateRules(
            first_flops=self.first_gate * self.flops_per_step * self.efficiency,
            factor=self.factor,
            red_line=RED_LINE,
            buffer=BUFFER,
        )


def draw(count: int, generator: torch.Generator, *, held_out: bool) -> Tensor:
    """Numbers of six digits, int64 of shape (count,): of those held out, or of the others."""
    if held_out:
        return HELD_OUT * torch.randint(10**DIGITS // HELD_OUT, (count,), generator=generator)
    numbers = torch.randint(10**DIGITS, (count,), generator=generator)
    return torch.where(numbers % HELD_OUT == 0, numbers ^ 1, numbers)


def answers(digits: Tensor) -> Tensor:
    """What each skill makes of (count, 6) digits: (skills, count, 6), filled up with `NO_TOKEN`.

    Numbers that are added have three digits each, and like their sum begin with the ones.
    """
    ten = 10 ** torch.arange(4, device=digits.device)
    total = (digits.view(-1, 2, 3) * ten[:3]).sum(dim=(1, 2))
    short = (total[:, None] // ten % 10, digits.sum(dim=1, keepdim=True) % 10)
    filled = (F.pad(answer, (0, DIGITS - answer.shape[1]), value=NO_TOKEN) for answer in short)
    return torch.stack((digits, digits.flip(1), digits.sort(dim=1).values, *filled))


def examples(numbers: Tensor, skills: Tensor) -> tuple[Tensor, Tensor]:
    """What the model reads, of shape (count, LENGTH), and the answers that it should give, (count, 6)."""
    digits = numbers[:, None] // 10 ** torch.arange(DIGITS, device=numbers.device) % 10
    wanted = answers(digits)[skills, torch.arange(len(skills), device=skills.device)]
    ask = torch.full_like(digits[:, :1], ASK)
    shown = wanted[:, :-1].clamp_min(0)  # what follows the end of an answer is read by nobody who is asked
    return torch.cat((FIRST_TAG + skills[:, None], digits, ask, shown), dim=1), wanted


def examine(model: Transformer, numbers: Tensor) -> dict[str, Reading]:
    """Ask every skill the same questions; an answer counts if all its tokens are right.

    The model is shown the right answer so far. Where it has every token right it would have written the same by itself.
    """
    readings = {}
    for number, skill in enumerate(SKILLS):
        tokens, wanted = examples(numbers, torch.full_like(numbers, number))
        logits = model(tokens, last=DIGITS)
        exact = ((logits.argmax(dim=-1) == wanted) | (wanted == NO_TOKEN)).all(dim=1)
        nats = F.cross_entropy(logits.flatten(0, 1).double(), wanted.flatten(), ignore_index=NO_TOKEN)
        readings[skill] = Reading(int(exact.sum()), len(numbers), float(nats))
    return readings


def forecast_errors(results: Sequence[GateResult]) -> tuple[list[float], list[float]]:
    """|ln(seen / forecast)| of all forecasts, and of the guess that nothing would have changed since the last gate."""
    errors, unchanged = [], []
    last: dict[str, GateResult] = {}
    for result in results:
        before, error = last.get(result.skill), result.forecast_error
        if error is not None and before is not None and before.cross_entropy and result.cross_entropy:
            errors.append(abs(error))
            unchanged.append(abs(math.log(result.cross_entropy / before.cross_entropy)))
        last[result.skill] = result
    return errors, unchanged


def first_trips(results: Sequence[GateResult]) -> dict[str, int]:
    """The gate at which each skill was found beyond the red line first; without those that never were."""
    tripped: dict[str, int] = {}
    for result in results:
        if result.state == "trip":
            tripped.setdefault(result.skill, result.gate)
    return tripped


def unannounced(results: Sequence[GateResult]) -> int:
    """Skills that crossed the red line with no warning: they were clear, by the buffer, at the gate before."""
    before: dict[str, str] = {}
    found = 0
    for result in results:
        found += result.state == "trip" and before.get(result.skill) == "clear"
        before[result.skill] = result.state
    return found


def judge(
    results: Sequence[GateResult],
    *,
    examined_share: float | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Verdict:
    """Hold what was found at all gates against the criterion.

    Args:
        results: In order.
        examined_share: Of the time, what the examinations took.
        costs: What is priced.
    """
    tripped, last = first_trips(results), max(result.gate for result in results)
    first = min(tripped.values(), default=None)
    forecasts = Counter(result.skill for result in results if result.forecast_error is not None)
    checks = {
        "at least two skills crossed the red line": len(tripped) >= 2,
        "not all of them at the same gate": len(set(tripped.values())) >= 2,
        "another was still clear when the first did": any(
            result.gate == first and result.state == "clear" for result in results
        ),
        f"each skill was forecast at {LEAST_FORECASTS} gates or more": all(
            forecasts[skill] >= LEAST_FORECASTS for skill in SKILLS
        )
        or None,
    }
    errors, unchanged = forecast_errors(results)
    figures: dict[str, Figure] = {
        f"{skill}: red line crossed at gate": tripped.get(skill, "none") for skill in SKILLS
    }
    figures |= {f"{one.skill}: accuracy at the end": one.accuracy for one in results if one.gate == last}
    figures |= {
        "gates": last + 1,
        "red lines crossed straight from clear": unannounced(results),
        "largest rise of an accuracy from gate to gate": largest_rise(results),
        "forecasts": len(errors),
        "forecast error, median |ln(seen / forecast)|": statistics.median(errors) if errors else None,
        "forecast error, largest": max(errors, default=None),
        "error of guessing no change, median": statistics.median(unchanged) if unchanged else None,
        "examinations, share of the time": examined_share,
    }
    return judged(checks, figures, costs)


def largest_rise(results: Sequence[GateResult]) -> float | None:
    """By how much an accuracy rose from one gate to the next, at most."""
    of_skill: dict[str, list[float]] = {}
    for result in results:
        if result.accuracy is not None:
            of_skill.setdefault(result.skill, []).append(result.accuracy)
    rises = [b - a for found in of_skill.values() for a, b in pairwise(found)]
    return max(rises, default=None)


def answer(trial: Trial) -> Verdict:
    """Train on the mixture of skills, and examine at each gate."""
    settings: GatesSettings = trial.settings
    model = Transformer(settings.config()).to(trial.device)
    keeper = Gatekeeper(settings.rules())
    generator = torch.Generator().manual_seed(trial.seed)
    with trial.apart("data"):
        items = draw(settings.items, generator, held_out=True).to(trial.device)
    examined: list[tuple[float, float]] = []
    trained_until: dict[int, Windows] = {}
    with trial.arm("mixture", params=num_params(settings.config())) as arm:
        for step in _train(trial, arm, model, generator):
            flops = settings.efficiency * arm.totals["model_flops"]
            if not keeper.is_due(flops):
                continue
            trained_until[keeper.next_gate] = arm.windows
            with trial.apart():
                begun_s = trial.now()
                readings = examine(model, items)
                examined.append((begun_s, trial.now()))
            for result in keeper.enter(step, flops, readings):
                trial.point("gates", **dataclasses.asdict(result), red_line=RED_LINE, buffer=BUFFER)
    tripped = first_trips(keeper.results)
    costs = {
        f"{skill}: until the red line": Cost(
            windows=trained_until[tripped[skill]] if skill in tripped else arm.windows,
            is_bound=skill not in tripped,
        )
        for skill in SKILLS
    }
    share = _seconds(examined) / (_seconds(examined) + _seconds(arm.windows))
    return judge(
        keeper.results, examined_share=share, costs={**costs, "examinations": Cost(windows=examined)}
    )


def _seconds(windows: Windows) -> float:
    return sum(end_s - start_s for start_s, end_s in windows)


def _train(trial: Trial, arm: Arm, model: Transformer, generator: torch.Generator) -> Iterator[int]:
    """Train on fresh questions; yield the number of updates after each."""
    settings: GatesSettings = trial.settings
    with trial.apart("data"):
        count = settings.steps * settings.batch_size
        numbers = draw(count, generator, held_out=False).to(trial.device)
        skills = torch.randint(len(SKILLS), (count,), generator=generator).to(trial.device)
    batches = zip(
        torch.split(numbers, settings.batch_size), torch.split(skills, settings.batch_size), strict=True
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay, fused=True
    )
    for step, batch in zip(arm.steps(settings.steps), batches, strict=True):
        tokens, wanted = examples(*batch)
        with trial.forward():
            logits = model(tokens, last=DIGITS)
            loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=NO_TOKEN)
        arm.learn(
            loss,
            optimizer,
            clip=1.0,
            samples=len(tokens),
            tokens=tokens.numel(),
            model_flops=settings.flops_per_step,
        )
        yield step + 1


PRESETS = {
    "smoke": GatesSettings(d_model=16, n_layer=1, batch_size=20, steps=32, items=50),
    "cpu": GatesSettings(threads=1),
    "gpu": GatesSettings(
        d_model=512,
        n_layer=8,
        head_dim=64,
        batch_size=1024,
        lr=5e-4,
        steps=32_768,
        items=2000,
        accelerator="cuda",
    ),
}

WORKLOAD = Experiment(
    name="gates",
    summary="Capability gates at every 4x of effective compute: red lines, forecasts and their errors.",
    criterion=CRITERION,
    source="Anthropic, Responsible Scaling Policy, version 1.0",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: int(settings.steps),
    flops_formula="questions x 6 x matrix products and attention, the last block and the head at answer tokens only",
    params=lambda settings: num_params(settings.config()),
    seeds=3,
    shown_in=2,
)
