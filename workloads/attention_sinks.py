"""Workload `attention-sinks`: a model dumps its attention on the first token. What does a stream pay that forgets it?

Softmax must spend all of its attention, so a head that has nothing to look for learns a place to put it: the
beginning of the sequence, whose value it drains. A cache of keys and values that keeps only the newest tokens evicts
that place, and the attention falls on tokens that mean something. Keeping the first token beside the newest mends it.

Formation: Gu et al. 2024 (arXiv 2410.10781), with the task Bigram-Backcopy of Guo et al. 2024 (arXiv 2410.13835): text
by a bigram law, in which a trigger copies the token before it. Streaming: Xiao et al. 2023 (arXiv 2309.17453), on the
same toy, whose law is known, so that losses are exact. What we change: attention alone, in one layer and one head, and
ten tokens a sequence: the sink forms in seconds on a processor, and its effect is of milli-nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.bigram_backcopy import Task, excess, make_task
from workloads.experiment import CommonSettings, Experiment
from workloads.kv_cache import KeyValueCache
from workloads.learning_rate import set_rate, trapezoid
from workloads.settings_checks import check_not_negative, check_positive, check_share
from workloads.transformer import Block, Transformer, norm, rotary_table
from workloads.transformer_config import TransformerConfig, model_flops_per_sequence, num_params
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Verdict, judged, mean_and_half_width

SINKS = (0, 1, 2, 4)
"""First tokens that a cache of a fixed size never evicts."""
LEAST_MASS, LEAST_OVER_EVEN, LEAST_RATIO, MOST_EXCESS = 0.3, 3.0, 1.3, 0.05
LEAST_STREAMS = 32

CRITERION = (
    f"a model that knows its task (at most {MOST_EXCESS} nats above the entropy of the text, at the training length)"
    f" gives the first token at least {LEAST_MASS:.2f} of the attention, and {LEAST_OVER_EVEN:.0f} times an even share,"
    " from the non-triggers in the second half of a sequence; and beyond the training length, in caches of one size,"
    " the loss without a sink token minus that with one, by stream, has a 95 % interval above 0, and is"
    f" {LEAST_RATIO} times as far above the entropy"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        vocabulary: Tokens of the text, triggers among them; one more begins each sequence.
        triggers: How many of them copy the token before.
        trigger_share: Probability of a trigger after a token that is none.
        train_length: Tokens of a training sequence, the beginning among them.
        d_model: Width.
        n_layer: Blocks; they have no MLP.
        head_dim: Width of a head.
        lr: Peak rate of AdamW, with betas 0.9 and 0.99 and no weight decay.
        warmup_steps: Steps in which the rate rises from zero.
        cooldown: Share of the steps over which it falls to zero.
        steps: Updates.
        batch_size: Sequences of each, all new.
        eval_every: Steps from one look at the attention to the next.
        eval_sequences: Sequences that are looked at.
        window: Tokens in a cache of fixed size, sink tokens among them.
        streams: Texts that are streamed side by side.
        stream_length: Tokens of each.
    """

    vocabulary: int = 64
    triggers: int = 3
    trigger_share: float = 0.07
    train_length: int = 10
    d_model: int = 64
    n_layer: int = 1
    head_dim: int = 64
    lr: float = 3e-3
    warmup_steps: int = 50
    cooldown: float = 0.3
    steps: int = 900
    batch_size: int = 192
    eval_every: int = 50
    eval_sequences: int = 1024
    window: int = 8
    streams: int = 128
    stream_length: int = 256

    def __post_init__(self) -> None:
        check_positive(
            self, "triggers", "trigger_share", "lr", "steps", "batch_size", "eval_every", "eval_sequences"
        )
        check_not_negative(self, "warmup_steps")
        check_share(self, "cooldown")
        if self.vocabulary < self.triggers + 2 or self.trigger_share >= 1:
            raise InvalidValueError(
                f"vocabulary = {self.vocabulary} with triggers = {self.triggers} and trigger_share ="
                f" {self.trigger_share} leaves no text to copy from. Give two tokens more than triggers at least, and"
                " a trigger_share below 1."
            )
        if self.window > self.train_length:
            raise InvalidValueError(
                f"window = {self.window} is longer than the training length of {self.train_length}: the model never"
                " saw tokens so far apart, and its loss on them says nothing of sinks. Give --set"
                f" window={self.train_length} or less."
            )
        if self.window <= max(SINKS):
            raise InvalidValueError(
                f"window = {self.window} holds nothing beside {max(SINKS)} sink tokens. Give {max(SINKS) + 1} or more."
            )
        if self.stream_length <= self.train_length:
            raise InvalidValueError(
                f"stream_length = {self.stream_length} is not beyond the training length of {self.train_length}, so"
                f" there would be nothing to judge. Give {4 * self.train_length} or more."
            )
        if self.streams < LEAST_STREAMS:
            raise InvalidValueError(
                f"streams = {self.streams} is too few for an interval over streams. Give {LEAST_STREAMS} or more."
            )
        self.config()

    def task(self, seed: int) -> Task:
        """The text of this seed."""
        return make_task(
            vocabulary=self.vocabulary, triggers=self.triggers, trigger_share=self.trigger_share, seed=seed
        )

    def config(self) -> TransformerConfig:
        """The model's shape. Its length is that of a stream: angles are known so far, though not trained."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=self.stream_length,
            vocab_size=self.vocabulary + 1,
            has_mlp=False,
        )

    @property
    def contexts(self) -> list[int]:
        """Where a stream is looked at: each twice as far as the last."""
        ends = [self.window]
        while ends[-1] < self.stream_length:
            ends.append(min(2 * ends[-1], self.stream_length))
        return ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """What the attention does at the training length.

    Attributes:
        mass: Share that non-triggers of the second half give to the first token, in the head that gives most.
        even: What it would be if they looked at all alike.
        value_norm: Length of the first token's value over that of the others, in that head.
        excess: Loss above the entropy, nats a token.
    """

    mass: float
    even: float
    value_norm: float
    excess: float

    @property
    def is_there(self) -> bool:
        """Whether the attention collects on the first token."""
        return self.mass >= max(LEAST_MASS, LEAST_OVER_EVEN * self.even)


def look(model: Transformer, task: Task, tokens: Tensor) -> Sink:
    """Look at the attention in sequences of the training length."""
    time, half = tokens.shape[1], tokens.shape[1] // 2
    asks = (tokens >= task.triggers)[:, half:].float()
    cos, sin = (table.to(tokens.device) for table in rotary_table(time, model.config.head_dim))
    masses, norms = [], []
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        x = norm(model.config, model.stream(tokens, blocks=number))
        given = block.attention.weights(x, (cos, sin))[:, :, half:, 0]
        masses.append((given * asks.unsqueeze(1)).sum(dim=(0, 2)) / asks.sum())
        lengths = block.attention.heads(x)[2].norm(dim=-1).mean(dim=0)
        norms.append(lengths[:, 0] / lengths[:, 1:].mean(dim=1))
    best = int(torch.cat(masses).argmax())
    even = asks.sum(dim=0) / torch.arange(half + 1, time + 1, device=asks.device)
    return Sink(
        mass=float(torch.cat(masses)[best]),
        even=float(even.sum() / asks.sum()),
        value_norm=float(torch.cat(norms)[best]),
        excess=float(excess(task.law(tokens), model(tokens)).mean()),
    )


Reading = Iterator[tuple[Tensor, int]]
"""After each token of a stream: logits of shape (streams, 1, ids), and the bytes of keys and values that are kept."""


def read_cached(model: Transformer, tokens: Tensor, *, sinks: int, size: int) -> Reading:
    """Read with a cache that keeps the first `sinks` tokens and the newest, `size` in all.

    Keys are turned by their place in the cache, not in the stream: no distance exceeds what was trained. A ring buffer
    would save copies, a seventh of a token's time at 8 tokens and a third at 64, but not the turning of all keys.
    """
    cache = KeyValueCache(model.config.n_layer)
    places = torch.arange(size, device=tokens.device)
    stay = places[places != sinks]
    for token in torch.split(tokens, 1, dim=1):
        if cache.time == size:
            cache.keep(stay)
        yield model(token, cache=cache), cache.nbytes


def read_again(model: Transformer, tokens: Tensor, *, size: int) -> Reading:
    """Read without a cache: the newest `size` tokens anew for each."""
    for end in range(1, tokens.shape[1] + 1):
        yield model(tokens[:, max(0, end - size) : end], last=1), 0


def stream(
    trial: Trial, task: Task, tokens: Tensor, name: str, reading: Reading, sinks: int | None
) -> tuple[Tensor, Cost]:
    """Time a reading; its loss above the entropy at each token, (streams, time), and what it took."""
    settings: SinkSettings = trial.settings
    law, contexts = task.law(tokens), settings.contexts
    found: list[Tensor] = []
    with (
        trial.arm(f"stream, {name}", tokens=tokens.numel()) as arm,
        trial.run.phase("validation"),
        torch.no_grad(),
    ):
        pieces: list[Tensor] = []
        since_s = trial.now()
        for context, (logits, kept) in enumerate(reading, start=1):
            pieces.append(logits)
            if context not in contexts:
                continue
            took_s = trial.now() - since_s
            with trial.apart():
                found.append(excess(law[:, context - len(pieces) : context], torch.cat(pieces, dim=1)))
                loss, half_width = mean_and_half_width(found[-1].mean(dim=1).cpu())
                trial.point(
                    "streaming",
                    cache=name,
                    sinks=sinks,
                    context=context,
                    loss=loss,
                    half_width=half_width,
                    tokens=context * len(tokens),
                    tokens_per_s=len(pieces) * len(tokens) / took_s,
                    kv_bytes=kept // len(tokens),
                )
            pieces, since_s = [], trial.now()
    return torch.cat(found, dim=1), Cost(windows=arm.windows)


def judge(sink: Sink, beyond: Mapping[str, Sequence[float]], costs: Mapping[str, Cost]) -> Verdict:
    """Hold what was seen against the criterion.

    Args:
        sink: At the end of the training.
        beyond: Loss above the entropy beyond the training length, of each stream, by the name of the cache.
        costs: Of the training and the streams.
    """
    means = {name: sum(losses) / len(losses) for name, losses in beyond.items()}
    differences = [
        without - with_one for without, with_one in zip(beyond["sink 0"], beyond["sink 1"], strict=True)
    ]
    gain, half_width = mean_and_half_width(differences)
    ratio = means["sink 0"] / means["sink 1"]
    knows = sink.excess <= MOST_EXCESS
    checks = {
        f"the model knows its task (within {MOST_EXCESS} nats of the entropy)": True if knows else None,
        f"the first token gets {LEAST_MASS:.2f} of the attention": sink.mass >= LEAST_MASS,
        f"which is {LEAST_OVER_EVEN:.0f} times an even share": sink.mass >= LEAST_OVER_EVEN * sink.even,
        "a stream without a sink token loses more than one with it": gain - half_width > 0,
        f"by {LEAST_RATIO} times": ratio >= LEAST_RATIO,
    }
    figures = {
        "attention on the first token": sink.mass,
        "even share": sink.even,
        "length of its value over that of others": sink.value_norm,
        "loss above the entropy at the training length (nats)": sink.excess,
        **{f"loss above the entropy beyond it, {name} (nats)": mean for name, mean in means.items()},
        "paired difference, sink 0 - sink 1 (nats)": gain,
        "half-width of its 95 % interval (nats)": half_width,
        "ratio, sink 0 / sink 1": ratio,
    }
    return judged(checks if knows else dict.fromkeys(checks), figures, costs)


def answer(trial: Trial) -> Verdict:
    """Train until the sink is there, then stream past it."""
    settings: SinkSettings = trial.settings
    task = settings.task(trial.seed)
    model = Transformer(settings.config()).to(trial.device)
    generator = torch.Generator().manual_seed(trial.seed)
    with trial.arm("model", params=num_params(settings.config())) as arm:
        sink, formed = train(trial, arm, model, task, generator)
    with trial.apart("data"):
        tokens = task.sample(settings.streams, settings.stream_length, generator).to(trial.device)
    costs, beyond = {"joules to the sink": formed}, {}
    for name, sinks, reading in readings(settings, model, tokens):
        losses, cost = stream(trial, task, tokens, name, reading, sinks)
        beyond[name] = losses[:, settings.train_length :].double().mean(dim=1).tolist()
        costs[f"joules to read {tokens.numel():,} tokens, {name}"] = cost
    return judge(sink, beyond, costs)


def readings(
    settings: SinkSettings, model: Transformer, tokens: Tensor
) -> Iterator[tuple[str, int | None, Reading]]:
    """Name, sink tokens and reading of each way to read a stream."""
    for sinks in SINKS:
        yield f"sink {sinks}", sinks, read_cached(model, tokens, sinks=sinks, size=settings.window)
    yield "dense", None, read_cached(model, tokens, sinks=0, size=settings.stream_length)
    yield "recompute", None, read_again(model, tokens, size=settings.window)


def train(
    trial: Trial, arm: Arm, model: Transformer, task: Task, generator: torch.Generator
) -> tuple[Sink, Cost]:
    """Train, look at the attention on the way; how it ends, and what it took until the sink was there."""
    settings: SinkSettings = trial.settings
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    length, batch_size = settings.train_length, settings.batch_size
    held_out = task.sample(settings.eval_sequences, length, generator).to(trial.device)
    flops = batch_size * model_flops_per_sequence(settings.config(), length)
    texts: Iterator[Tensor] = iter(())
    sink, formed = None, None
    for step in arm.steps(settings.steps):
        if step % settings.eval_every == 0:
            with trial.apart("data"):
                drawn = task.sample(settings.eval_every * batch_size, length + 1, generator)
                texts = iter(torch.split(drawn.to(trial.device), batch_size))
        text = next(texts)
        set_rate(
            optimizer,
            settings.lr
            * trapezoid(step, settings.steps, warmup=settings.warmup_steps, cooldown=settings.cooldown),
        )
        with trial.forward():
            loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        arm.learn(loss, optimizer, samples=batch_size, tokens=batch_size * length, model_flops=flops)
        if (step + 1) % settings.eval_every == 0 or step + 1 == settings.steps:
            with trial.apart():
                sink = look(model, task, held_out)
            trial.point("sink", step=step + 1, mass=sink.mass, value_norm=sink.value_norm, excess=sink.excess)
            formed = (formed or Cost(windows=arm.windows)) if sink.is_there else None
    assert sink is not None
    return sink, formed or Cost(windows=arm.windows, is_bound=True)


PRESETS = {
    "smoke": SinkSettings(
        steps=20, eval_every=10, batch_size=32, eval_sequences=64, streams=32, stream_length=24
    ),
    "cpu": SinkSettings(threads=1),
    # Guo et al.: three layers of width 256 and batches of 512; their sequences are longer than ours.
    "gpu": SinkSettings(
        d_model=256,
        n_layer=3,
        head_dim=256,
        lr=3e-4,
        batch_size=512,
        train_length=64,
        window=56,
        steps=10_000,
        streams=1024,
        stream_length=4096,
        accelerator="cuda",
    ),
}

WORKLOAD = Experiment(
    name="attention-sinks",
    summary="Attention collects on the first token; what a stream loses without it, and each cache's joules a token.",
    criterion=CRITERION,
    source="arXiv 2410.10781, 2410.13835, 2309.17453",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: int(settings.steps),
    flops_formula="sequences x 6 x matrix products at the training length, attention in full",
    params=lambda settings: num_params(settings.config()),
    seeds=3,
    shown_in=3,
)
