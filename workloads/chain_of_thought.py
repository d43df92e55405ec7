"""Workload `chain-of-thought`: can a model learn to think without words, and what does an answer cost then?

The question is the parity of 5 secret bits among 20. A model that writes the running parity first, a token for each
secret bit, learns it in a hundred steps. The chain is then taken away token by token from the left, and the model goes
on to answer: what it wrote, it now computes inside. A model that never saw the chain stays at chance.

Deng, Choi and Shieber 2024 (arXiv 2405.14838, stepwise internalisation) do this with multiplication, GSM8K and a
pretrained GPT-2. Ours is a small transformer from scratch on sparse parity, whose chain is short and whose questions
do not run out; a stage ends when it is mastered, not after an epoch. As theirs: tokens go from the left, the optimizer
starts anew, "=" moves to the place of the last one that is gone (an option of their code, keep_position), and some lose
more than the stage asks: with them examples, with us batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.experiment import CommonSettings, Experiment
from workloads.kv_cache import KeyValueCache
from workloads.settings_checks import check_not_negative, check_positive, check_share
from workloads.sparse_parity import Task, examples, make_task
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, model_flops_per_sequence, num_params
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Figure, Verdict, judged, wilson

LEARNT, INTERNALISED, NEAR_CHANCE = 0.95, 0.90, 0.60

CRITERION = (
    f"held-out questions, answered by generation: with the chain written out, accuracy is at least {LEARNT}; without"
    " it, after it was taken away, the lower end of the 95 % Wilson interval is at least"
    f" {INTERNALISED:.2f}; trained directly, on at least as many steps and tokens as both together, the upper end is"
    f" below {NEAR_CHANCE:.2f}"
)

TURNS = 8
"""Parts in which answers with and without the chain are priced by turns."""
SEEN_AT_MOST = 0.5
"""Share of all questions that the trainings may see: a model that has seen most of them need not understand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        bits: Length of a question: there are 2^bits.
        parity_bits: How many of them count; the chain has two tokens less.
        d_model: Width.
        n_layer: Blocks.
        head_dim: Width of a head.
        batch_size: Questions a step.
        lr: Of AdamW, with betas 0.9 and 0.99.
        weight_decay: Decoupled.
        smoothing: Rate of the exponential law of how many more tokens a batch loses than its stage asks.
        stage_steps: Steps of a stage at most.
        check_every: Steps from one check of a stage to the next.
        check_questions: Held-out questions of a check.
        advance_at: Accuracy at which a stage is mastered and the next token goes.
        test_questions: Held-out questions by which the three models are judged in the end.
        priced_answers: Answers of each kind whose joules are taken, `answers_at_once` together.
        answers_at_once: Questions answered in one batch.
        single_answers: Answers of each kind whose joules are taken, one at a time.
    """

    bits: int = 20
    parity_bits: int = 5
    d_model: int = 64
    n_layer: int = 3
    head_dim: int = 16
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    smoothing: float = 4.0
    stage_steps: int = 400
    check_every: int = 20
    check_questions: int = 300
    advance_at: float = 0.97
    test_questions: int = 2000
    priced_answers: int = 8192
    answers_at_once: int = 512
    single_answers: int = 256

    def __post_init__(self) -> None:
        check_positive(self, "lr", "batch_size", "smoothing", "stage_steps", "check_every", "check_questions")
        check_positive(self, "test_questions", "priced_answers", "answers_at_once", "single_answers")
        check_not_negative(self, "weight_decay")
        check_share(self, "advance_at")
        if not 3 <= self.parity_bits <= self.bits <= 40:
            raise InvalidValueError(
                f"parity_bits = {self.parity_bits} of bits = {self.bits}: a chain takes 3 secret bits at least, and a"
                " question has 40 bits at most. Give 3 <= parity_bits <= bits <= 40, such as 5 of 20."
            )
        if self.most_seen > SEEN_AT_MOST * 2**self.bits:
            raise InvalidValueError(
                f"bits = {self.bits} gives {2**self.bits} questions, and a training could see {self.most_seen}: it"
                " would know most by heart, and its accuracy would be no understanding. Give more bits, or fewer"
                " stage_steps or a smaller batch_size."
            )
        asked = self.test_questions
        if wilson(asked, asked)[0] < INTERNALISED or wilson(asked // 2, asked)[1] >= NEAR_CHANCE:
            raise InvalidValueError(
                f"test_questions = {asked} cannot tell chance from {NEAR_CHANCE:.2f}, or {INTERNALISED} from less: the"
                " intervals of so few answers are too wide. Give 100 or more."
            )
        self.config()

    @property
    def chain(self) -> int:
        """Tokens before the answer: the running parity of 2, 3, .. secret bits."""
        return self.parity_bits - 2

    @property
    def most_seen(self) -> int:
        """Questions of the longest training: the direct one, which makes up for shorter sequences with more steps."""
        longer = (self.bits + 1 + self.chain) / (self.bits + 1)
        return math.ceil((self.chain + 1) * self.stage_steps * longer) * self.batch_size

    def config(self) -> TransformerConfig:
        """The model's shape: the question, "=", and the chain."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=self.bits + 1 + self.chain,
            vocab_size=3,
            positions="learned",
        )


def generate(model: Transformer, task: Task, told: Tensor, removed: int) -> Tensor:
    """Write the chain from its token `removed` on, greedily, each token seen by the next; the last is the answer."""
    tokens, places = task.prompt(told, removed)
    cache, written = KeyValueCache(model.config.n_layer), []
    for _ in range(len(task.secret) - 1 - removed):
        tokens = model(tokens, places, cache, last=1).argmax(dim=-1)
        places = places[-1:] + 1
        written.append(tokens)
    return torch.cat(written, dim=1)


@dataclass(frozen=True, slots=True)
class Score:
    """How many questions were answered rightly, writing so many tokens each."""

    right: int
    asked: int
    tokens_per_answer: int

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson interval of the accuracy, 95 %."""
        return wilson(self.right, self.asked)


def score(model: Transformer, task: Task, numbers: Tensor, removed: int) -> Score:
    """Have questions answered."""
    right, count = 0, 0
    for some in torch.split(numbers, 1024):
        told = task.told(some)
        written = generate(model, task, told, removed)
        right, count = right + int((written[:, -1] == task.chain(told)[:, -1]).sum()), written.shape[1]
    return Score(right, len(numbers), count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A way to come to an answer: its score, and the steps and tokens that its model took."""

    score: Score
    steps: int
    tokens: int


def judge(
    explicit: Trained,
    internalised: Trained,
    direct: Trained,
    *,
    chain_asked_again: float | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> Verdict:
    """Hold three ways to answer against the criterion.

    Args:
        explicit: With the whole chain.
        internalised: Without it; steps and tokens are those of the taking away.
        direct: Without ever having seen it.
        chain_asked_again: Accuracy of the internalised model when it is to write the chain.
        costs: What is priced.
    """
    steps, tokens = explicit.steps + internalised.steps, explicit.tokens + internalised.tokens
    is_fair = direct.steps >= steps and direct.tokens >= tokens
    checks = {
        f"with the chain it answers (accuracy at least {LEARNT})": explicit.score.accuracy >= LEARNT,
        f"without it, too, when it was taken away (at least {INTERNALISED})": internalised.score.interval[0]
        >= INTERNALISED,
        f"trained directly it does not (below {NEAR_CHANCE:.2f})": direct.score.interval[1] < NEAR_CHANCE
        if is_fair
        else None,
    }
    figures: dict[str, Figure] = {"internalised: accuracy with the chain again": chain_asked_again}
    for kind, one in (("explicit", explicit), ("internalised", internalised), ("direct", direct)):
        low, high = one.score.interval
        figures |= {
            f"{kind}: accuracy": one.score.accuracy,
            f"{kind}: accuracy, low": low,
            f"{kind}: accuracy, high": high,
            f"{kind}: tokens per answer": one.score.tokens_per_answer,
            f"{kind}: steps": one.steps,
            f"{kind}: tokens": one.tokens,
        }
    return judged(checks, figures, costs)


def answer(trial: Trial) -> Verdict:
    """Teach the chain, take it away, train without it, and price the answers."""
    course = Course(trial)
    whole = course.settings.chain
    model = course.new_model()
    with trial.arm("explicit", params=course.params) as arm:
        course.teach(arm, model, removed=0)
        explicit = course.conclude(arm, model, removed=0)
    chained = copy.deepcopy(model)
    with trial.arm("internalised", params=course.params) as arm:
        for removed in range(1, whole + 1):
            course.teach(arm, model, removed)
        internalised = course.conclude(arm, model, removed=whole)
    plain = course.new_model()
    with trial.arm("direct", params=course.params) as arm:
        course.train_directly(arm, plain, explicit, internalised)
        direct = course.conclude(arm, plain, removed=whole)
    with trial.apart():
        again = score(model, course.task, course.test, 0).accuracy
    return judge(explicit, internalised, direct, chain_asked_again=again, costs=course.price(chained, model))


class Course:
    """A trial's task, its held-out questions, and how a stage of it goes."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.settings: ChainSettings = trial.settings
        self.params = num_params(self.settings.config())
        self.task = make_task(
            self.settings.bits, self.settings.parity_bits, seed=trial.seed, device=trial.device
        )
        self._generator = torch.Generator().manual_seed(trial.seed)
        self._step = 0
        self.test = self.draw(self.settings.test_questions, held_out=True)

    def new_model(self) -> Transformer:
        """Another one, with weights of its own."""
        return Transformer(self.settings.config()).to(self.trial.device)

    def draw(self, count: int, *, held_out: bool) -> Tensor:
        """Questions."""
        with self.trial.apart("data"):
            return self.task.draw(count, self._generator, held_out=held_out).to(self.trial.device)

    def teach(self, arm: Arm, model: Transformer, removed: int) -> None:
        """One stage: until it is mastered, or its steps are spent."""
        settings, task = self.settings, self.task
        checked = self.draw(settings.check_questions, held_out=True)
        for step in self._train(arm, model, removed, settings.stage_steps, smoothing=settings.smoothing):
            self._step += 1
            if step % settings.check_every and step < settings.stage_steps:
                continue
            with self.trial.apart():
                here = score(model, task, checked, removed).accuracy
                bare = score(model, task, checked, settings.chain).accuracy
            values = {"removed": removed, "accuracy": here, "accuracy_without_chain": bare}
            self.trial.point("stages", step=self._step, **values)
            if here >= settings.advance_at:
                break

    def train_directly(self, arm: Arm, model: Transformer, *others: Trained) -> None:
        """Without the chain, for as many steps and tokens as the others together."""
        settings = self.settings
        by_tokens = sum(other.tokens for other in others) / (settings.batch_size * (settings.bits + 1))
        steps = max(sum(other.steps for other in others), math.ceil(by_tokens))
        checked = self.draw(settings.check_questions, held_out=True)
        for step in self._train(arm, model, settings.chain, steps, smoothing=math.inf):
            if step % settings.check_every == 0 or step == steps:
                with self.trial.apart():
                    reached = score(model, self.task, checked, settings.chain).accuracy
                self.trial.point("direct", step=step, accuracy=reached)

    def _train(
        self, arm: Arm, model: Transformer, removed: int, steps: int, *, smoothing: float
    ) -> Iterator[int]:
        """Train on fresh questions with a new optimizer; yield the number of updates after each."""
        settings = self.settings
        numbers = torch.split(self.draw(steps * settings.batch_size, held_out=False), settings.batch_size)
        more = torch.empty(steps).exponential_(generator=self._generator).div(smoothing).floor().int()
        optimizer = torch.optim.AdamW(
            model.parameters(), settings.lr, (0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )
        for step in arm.steps(steps):
            gone = min(removed + int(more[step]), settings.chain)
            tokens, places, chain = examples(self.task, numbers[step], gone)
            with self.trial.forward():
                logits = model(tokens, places, last=chain.shape[1])
                loss = F.cross_entropy(logits.flatten(0, 1), chain.flatten())
            flops = len(tokens) * model_flops_per_sequence(model.config, tokens.shape[1], chain.shape[1])
            arm.learn(
                loss,
                optimizer,
                clip=1.0,
                samples=len(tokens),
                tokens=tokens.numel(),
                model_flops=flops,
            )
            yield step + 1

    def conclude(self, arm: Arm, model: Transformer, removed: int) -> Trained:
        """Judge a model by all held-out questions."""
        with self.trial.apart():
            found = score(model, self.task, self.test, removed)
        (low, high), tokens = found.interval, found.tokens_per_answer
        self.trial.point(
            "answers", kind=arm.name, accuracy=found.accuracy, low=low, high=high, tokens_per_answer=tokens
        )
        return Trained(score=found, steps=int(arm.totals["steps"]), tokens=int(arm.totals["tokens"]))

    def price(self, chained: Transformer, bare: Transformer) -> dict[str, Cost]:
        """What answers take with the chain and without, by turns: whatever else the machine does meets both alike."""
        settings = self.settings
        costs = {}
        for answers, at_once in (
            (settings.priced_answers, settings.answers_at_once),
            (settings.single_answers, 1),
        ):
            numbers = self.draw(answers, held_out=True)
            windows: dict[str, list[tuple[float, float]]] = {"explicit": [], "internalised": []}
            for turn in numbers.chunk(TURNS):
                windows["explicit"].append(self._answered(chained, torch.split(turn, at_once), 0))
                windows["internalised"].append(
                    self._answered(bare, torch.split(turn, at_once), settings.chain)
                )
            for kind, found in windows.items():
                costs[f"{kind}: {answers} answers, {at_once} at a time"] = Cost(windows=found)
        return costs

    def _answered(self, model: Transformer, batches: Sequence[Tensor], removed: int) -> tuple[float, float]:
        """The window in which questions are answered."""
        with self.trial.apart():
            start_s = self.trial.now()
            for numbers in batches:
                generate(model, self.task, self.task.told(numbers), removed)
            return start_s, self.trial.now()


PRESETS = {
    "smoke": ChainSettings(
        bits=12,
        parity_bits=3,
        d_model=16,
        n_layer=1,
        batch_size=8,
        stage_steps=20,
        check_every=10,
        check_questions=50,
        test_questions=100,
        priced_answers=64,
        answers_at_once=32,
        single_answers=8,
    ),
    "cpu": ChainSettings(threads=1),
    "gpu": ChainSettings(
        bits=40,
        parity_bits=8,
        d_model=768,
        n_layer=12,
        head_dim=64,
        batch_size=512,
        lr=1e-4,
        stage_steps=5000,
        check_every=100,
        check_questions=2000,
        test_questions=10_000,
        priced_answers=65_536,
        answers_at_once=4096,
        accelerator="cuda",
    ),
}

WORKLOAD = Experiment(
    name="chain-of-thought",
    summary="Sparse parity: a written chain of thought is taken away token by token; joules per answer.",
    criterion=CRITERION,
    source="arXiv 2405.14838",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: 2 * (settings.chain + 1) * int(settings.stage_steps),
    flops_formula="sequences x 6 x matrix products and attention, the last block and the head at answer tokens only",
    params=lambda settings: num_params(settings.config()),
    seeds=3,
    shown_in=2,
)
