"""Workload `dictionary`: what does a language model write into its residual stream, and can it be steered from there?

A sparse autoencoder learns the residual stream of a byte-level transformer as sums of a few features out of many. The
features are held against principal components (at as many numbers a token), against single dimensions of the stream
(which of them tell what kind of character is read?), and against the same autoencoder on a transformer of random
weights. Then one feature is clamped: does the model write what the feature stands for, and what does that cost it?

Bricken et al. 2023 (Towards Monosemanticity); TopK autoencoders of Gao et al. 2024 (arXiv 2406.04093); clamping as in
Templeton et al. 2024 (Scaling Monosemanticity); random transformers as the null: Heap et al. 2025 (arXiv 2501.17727).
What we change: bytes, a model of 0.6 million parameters, classes of characters where the papers have a judge's words.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from profiler.errors import InvalidValueError
from workloads.byte_lm import (
    Batches,
    Precision,
    Recipe,
    check_finite,
    cross_entropy,
    load_bytes,
    make_model,
    set_aside,
    train,
)
from workloads.character_classes import CLASSES, CharClass, best_f1, class_ids, mean_f1, of_classes
from workloads.corpus import Corpus
from workloads.experiment import CommonSettings, Experiment
from workloads.learning_rate import set_rate, trapezoid
from workloads.residual_stream import (
    JUDGED_DOSE,
    Dose,
    Site,
    choose_feature,
    open_site,
    randomised,
    steer,
)
from workloads.settings_checks import check_choice, check_positive
from workloads.sparse_autoencoder import (
    SparseAutoencoder,
    Survey,
    flops_per_vector,
    reconstruction_loss,
    survey,
    unexplained_by_pca,
)
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, num_params
from workloads.trial import Arm, Trial
from workloads.verdict import Cost, Verdict, judged

MOST_UNEXPLAINED, MOST_DEAD, LEAST_RECOVERED, LEAST_STEERING = 0.10, 0.20, 0.95, 5.0
LEAST_TOKENS = 10_000
LEAST_AT_STAKE = 0.5
"""Nats that the stream must be worth for "recovered" to mean anything."""
NAMING_TOKENS = 16_384

CRITERION = (
    f"on at least {LEAST_TOKENS:,} held-out tokens: the share of variance left unexplained (FVU) is at most"
    f" {MOST_UNEXPLAINED:.2f} and below that of as many principal components as features may fire, at most 1/32 of"
    f" them; at most {MOST_DEAD:.0%} of features never fire; at least {LEAST_RECOVERED:.0%} of the loss that goes with"
    " the stream's mean in its place is recovered. One feature for the class, clamped at twice its largest value: the"
    f" next character is of the class with at least {LEAST_STEERING:g} times the probability of the untouched model"
    " and of random features clamped at the same value; the probability falls at no dose from 0 to 4. The feature is"
    " chosen on other text than it is judged on"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionarySettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        data: Text; None is the standard library's source.
        seq_len: Tokens of a sequence.
        d_model: Width of the language model and of its residual stream.
        n_layer: Its blocks.
        head_dim: Width of its heads.
        lm_steps: Its updates.
        lm_lr: Its peak rate.
        batch_size: Sequences in each.
        site: After how many blocks the stream is read.
        fit_sequences: Whose stream the autoencoder learns from.
        held_out_sequences: Whose stream it is judged on.
        features: Entries of the dictionary.
        k: How many may fire for a token.
        fit_steps: Updates of the autoencoder.
        fit_batch: Tokens in each.
        fit_lr: Its peak rate.
        silent_steps: Updates without firing after which a feature is given the auxiliary loss.
        eval_every: Updates of the autoencoder from one evaluation to the next.
        steer: The class of characters to steer to.
        candidates: Features to choose from, by what they add to the class's logits.
        controls: Random features to compare with.
        steer_sequences: On which steering is judged; a fourth as many others are for choosing.
        precision: "bf16" trains the language model under autocast.
    """

    data: str | None = None
    seq_len: int = 128
    d_model: int = 128
    n_layer: int = 3
    head_dim: int = 32
    lm_steps: int = 350
    lm_lr: float = 2e-3
    batch_size: int = 16
    site: int = 2
    fit_sequences: int = 1536
    held_out_sequences: int = 400
    features: int = 1024
    k: int = 16
    fit_steps: int = 600
    fit_batch: int = 1024
    fit_lr: float = 1e-3
    silent_steps: int = 100
    eval_every: int = 50
    steer: CharClass = "digit"
    candidates: int = 8
    controls: int = 5
    steer_sequences: int = 48
    precision: Precision = "32"

    def __post_init__(self) -> None:
        check_positive(self, *(f.name for f in dataclasses.fields(self) if f.type in ("int", "float")))
        check_choice(self, precision=Precision, steer=CharClass)
        if self.site > self.n_layer:
            raise InvalidValueError(
                f"site = {self.site} is behind the last of n_layer = {self.n_layer} blocks. Give 1 to {self.n_layer}."
            )
        if self.k * 32 > self.features or self.k >= self.d_model:
            raise InvalidValueError(
                f"k = {self.k} of {self.features} features for a stream of {self.d_model} dimensions is not sparse, and"
                " what is not sparse reconstructs anything. Give k below d_model and at most 1/32 of features."
            )
        if self.candidates + self.controls > self.features:
            raise InvalidValueError(
                f"{self.candidates} candidates and {self.controls} controls are more than {self.features} features."
                " Give fewer."
            )
        self.config(257)

    def config(self, vocab_size: int) -> TransformerConfig:
        """The language model's shape."""
        return TransformerConfig(
            d_model=self.d_model,
            n_layer=self.n_layer,
            head_dim=self.head_dim,
            seq_len=self.seq_len,
            vocab_size=vocab_size,
        )


def fit(trial: Trial, arm: Arm, model: SparseAutoencoder, vectors: Tensor) -> Iterator[int]:
    """Train an autoencoder, and yield the number of updates after each."""
    settings: DictionarySettings = trial.settings
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.fit_lr, fused=True)
    generator = torch.Generator(vectors.device).manual_seed(trial.seed)
    silent_for = torch.zeros(settings.features, dtype=torch.int64, device=vectors.device)
    for step in arm.steps(settings.fit_steps):
        set_rate(optimizer, settings.fit_lr * trapezoid(step, settings.fit_steps, warmup=50, cooldown=0.2))
        rows = torch.randint(len(vectors), (settings.fit_batch,), generator=generator, device=vectors.device)
        silent = silent_for > settings.silent_steps
        flops = flops_per_vector(vectors.shape[1], settings.features, has_silent=bool(silent.any()))
        with trial.forward():
            loss, fired = reconstruction_loss(model, vectors[rows], silent)
        silent_for = torch.where(fired, 0, silent_for + 1)
        arm.learn(loss, optimizer, tokens=len(rows), model_flops=len(rows) * flops)
        model.normalise()
        yield step + 1


def learn_dictionary(
    trial: Trial, name: str, vectors: Tensor, held_out: Tensor, curve: str | None
) -> tuple[SparseAutoencoder, Arm]:
    """Train an autoencoder as an arm, with its points on a curve."""
    settings: DictionarySettings = trial.settings
    torch.manual_seed(trial.seed)
    model = SparseAutoencoder(settings.d_model, settings.features, settings.k).to(trial.device)
    with trial.arm(name, params=sum(p.numel() for p in model.parameters())) as arm:
        for step in fit(trial, arm, model, vectors):
            if curve and step % settings.eval_every == 0:
                with trial.apart():
                    fvu = survey(model, held_out[:4096]).fvu
                trial.point(curve, step=step, fvu=fvu)
    return model, arm


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is held against the criterion; losses in nats a token, probabilities of the class that is steered to."""

    tokens: int
    fvu: float
    fvu_pca: float
    fvu_random: float
    dead: float
    loss: float
    spliced_loss: float
    mean_loss: float
    base: float
    doses: Sequence[Dose]

    @property
    def recovered(self) -> float | None:
        """Share of the loss that is recovered; None if too little is at stake."""
        at_stake = self.mean_loss - self.loss
        return None if at_stake < LEAST_AT_STAKE else (self.mean_loss - self.spliced_loss) / at_stake


def judge(found: Findings) -> Verdict:
    """Hold findings against the criterion."""
    recovered = found.recovered
    is_test = found.tokens >= LEAST_TOKENS and recovered is not None
    steered = next(dose for dose in found.doses if dose.dose == JUDGED_DOSE)
    checks = {
        f"FVU is at most {MOST_UNEXPLAINED:.2f}": found.fvu <= MOST_UNEXPLAINED,
        "FVU is below that of principal components": found.fvu < found.fvu_pca,
        f"at most {MOST_DEAD:.0%} of features are dead": found.dead <= MOST_DEAD,
        f"at least {LEAST_RECOVERED:.0%} of the loss is recovered": (recovered or 0.0) >= LEAST_RECOVERED,
        f"steering multiplies the class's probability by {LEAST_STEERING:g}": (
            steered.probability >= LEAST_STEERING * found.base
        ),
        f"it does {LEAST_STEERING:g} times what random features do": (
            steered.probability >= LEAST_STEERING * steered.control
        ),
        "the probability falls at no dose": all(
            b.probability >= a.probability for a, b in pairwise(found.doses)
        ),
    }
    figures = {
        "FVU": found.fvu,
        "FVU of principal components": found.fvu_pca,
        "FVU on a random transformer": found.fvu_random,
        "dead features (share)": found.dead,
        "loss recovered (share)": recovered,
        "loss (nats/token)": found.loss,
        "loss, stream reconstructed": found.spliced_loss,
        "loss, stream at its mean": found.mean_loss,
        "probability of the class": found.base,
        "probability, feature at 2x": steered.probability,
        "probability, random features at 2x": steered.control,
        "loss, feature at 2x (nats/token)": steered.loss,
        "loss, random features at 2x": steered.control_loss,
        "held-out tokens": found.tokens,
    }
    return judged({words: holds if is_test else None for words, holds in checks.items()}, figures)


def learn_language(trial: Trial, text: Text) -> tuple[Transformer, Arm]:
    """Train the language model as an arm."""
    settings: DictionarySettings = trial.settings
    model = make_model(settings.config(text.corpus.vocab_size), trial)
    recipe = Recipe(
        steps=settings.lm_steps,
        batch_size=settings.batch_size,
        lr=settings.lm_lr,
        precision=settings.precision,
    )
    with trial.arm("language model", params=num_params(model.config)) as arm:
        for _ in train(trial, arm, model, text.training_batch, cross_entropy, recipe):
            pass
    return model.requires_grad_(False), arm


def answer(trial: Trial) -> Verdict:
    """Train the language model, learn what is in its stream, name it, and steer by it."""
    settings: DictionarySettings = trial.settings
    text = read_text(trial)
    model, writer = learn_language(trial, text)
    with trial.apart("data") as reading:
        site, vectors = open_site(model, settings.site, text.harvest())
        check_finite("The language model's residual stream", float(site.scale), "lm_lr")
    with trial.apart("data"):
        held_out = site.vectors(text.held_out)
        null_site, null_vectors = open_site(randomised(model, trial.seed), settings.site, text.harvest())
        null_held_out = null_site.vectors(text.held_out)
    dictionary, learner = learn_dictionary(trial, "dictionary", vectors, held_out, "fit")
    null, _ = learn_dictionary(trial, "dictionary of a random transformer", null_vectors, null_held_out, None)
    with trial.apart():
        found, fvu_random = survey(dictionary, held_out), survey(null, null_held_out).fvu
        check_finite("The variance that the dictionary leaves unexplained", found.fvu, "fit_lr")
        fvu_pca = unexplained_by_pca(vectors, held_out, settings.k)
        mean_f1s = name_features(
            trial,
            text.characters,
            feature=dictionary.codes(held_out[:NAMING_TOKENS]),
            raw=held_out[:NAMING_TOKENS],
            random=null.codes(null_held_out[:NAMING_TOKENS]),
        )
        ids = class_ids(settings.steer).to(trial.device)
        clean, base = site.effect(text.steered, _same, ids)
        spliced, _ = site.effect(text.steered, dictionary, ids)
        ablated, _ = site.effect(text.steered, torch.zeros_like, ids)
        doses = list(steer_all(trial, site, dictionary, found, text, ids))
    verdict = judge(
        Findings(
            tokens=len(held_out),
            fvu=found.fvu,
            fvu_pca=fvu_pca,
            fvu_random=fvu_random,
            dead=found.dead,
            loss=clean,
            spliced_loss=spliced,
            mean_loss=ablated,
            base=base,
            doses=doses,
        )
    )
    costs = {
        "joules of the language model": Cost(windows=writer.windows),
        "joules of reading its stream": Cost(windows=reading),
        "joules of the dictionary": Cost(windows=learner.windows),
    }
    return dataclasses.replace(verdict, figures={**verdict.figures, **mean_f1s}, costs=costs)


@dataclass(frozen=True, slots=True)
class Text:
    """What the models read, on the trial's device: three parts of the validation text have no sequence in common."""

    trial: Trial
    corpus: Corpus
    steered: Batches
    choosing: Batches
    held_out: Batches

    def training_batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Of the language model, by step."""
        settings: DictionarySettings = self.trial.settings
        inputs, targets = self.corpus.train_batch(
            step, batch_size=settings.batch_size, seq_len=settings.seq_len, seed=self.trial.seed
        )
        return inputs.to(self.trial.device), targets.to(self.trial.device)

    def harvest(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What the autoencoder learns from, at least `fit_sequences`."""
        settings: DictionarySettings = self.trial.settings
        return map(self.training_batch, range(math.ceil(settings.fit_sequences / settings.batch_size)))

    @property
    def characters(self) -> Tensor:
        """The held-out characters whose vectors are named, int64 of shape (tokens,)."""
        return torch.cat([inputs[:, 1:].flatten() for inputs, _ in self.held_out])[:NAMING_TOKENS]


def read_text(trial: Trial) -> Text:
    """Read the text and set its parts aside."""
    settings: DictionarySettings = trial.settings
    steered, choosing = settings.steer_sequences, math.ceil(settings.steer_sequences / 4)
    sizes = (steered, choosing, settings.held_out_sequences)
    with trial.apart("data"):
        corpus = load_bytes(settings.data, seq_len=settings.seq_len)
        parts = set_aside(corpus, sizes, seq_len=settings.seq_len, device=trial.device)
    return Text(trial, corpus, *parts)


def _same(x: Tensor) -> Tensor:
    return x


def name_features(
    trial: Trial, characters: Tensor, *, feature: Tensor, raw: Tensor, random: Tensor
) -> dict[str, float]:
    """Which features, dimensions of the stream (up or down) and features of a random transformer tell the classes.

    Returns:
        Mean F1 over classes of each, as figures.
    """
    is_of = of_classes(characters)
    named, dimensions, nulls = (
        best_f1(values, is_of) for values in (feature, torch.cat((raw, -raw), dim=1), random)
    )
    for kind, (number, f1), (_, f1_raw), (_, f1_random) in zip(
        CLASSES, named, dimensions, nulls, strict=True
    ):
        trial.point("features", kind=kind, feature=number, f1_feature=f1, f1_raw=f1_raw, f1_random=f1_random)
    return {
        "mean F1 of features": mean_f1(named),
        "mean F1 of single dimensions": mean_f1(dimensions),
        "mean F1 of features of a random transformer": mean_f1(nulls),
    }


def steer_all(
    trial: Trial, site: Site, model: SparseAutoencoder, found: Survey, text: Text, ids: Tensor
) -> Iterator[Dose]:
    """Choose a feature and random controls that fire as well, and record what each dose does."""
    settings: DictionarySettings = trial.settings
    feature = choose_feature(site, model, found.largest, text.choosing, ids, settings.candidates)
    order = torch.randperm(settings.features, generator=torch.Generator().manual_seed(trial.seed)).tolist()
    others = sorted((f for f in order if f != feature), key=lambda f: bool(found.largest[f] == 0))
    controls = others[: settings.controls]  # those that never fire come last
    for dose in steer(site, model, feature, float(found.largest[feature]), controls, text.steered, ids):
        trial.point("steering", feature=feature, kind=settings.steer, **dataclasses.asdict(dose))
        yield dose


PRESETS = {
    "smoke": DictionarySettings(
        seq_len=32,
        d_model=32,
        n_layer=2,
        head_dim=16,
        lm_steps=4,
        batch_size=8,
        site=1,
        fit_sequences=16,
        held_out_sequences=16,
        features=128,
        k=4,
        fit_steps=6,
        fit_batch=64,
        silent_steps=3,
        eval_every=2,
        candidates=2,
        controls=2,
        steer_sequences=4,
        threads=1,
    ),
    "cpu": DictionarySettings(threads=1),
    "gpu": DictionarySettings(
        accelerator="cuda",
        precision="bf16",
        seq_len=512,
        d_model=768,
        n_layer=12,
        head_dim=64,
        lm_steps=10_000,
        lm_lr=6e-4,
        batch_size=256,
        site=8,
        fit_sequences=16_384,
        held_out_sequences=512,
        features=16_384,
        k=32,
        fit_steps=20_000,
        fit_batch=8192,
        fit_lr=2e-4,
        eval_every=500,
    ),
}

WORKLOAD = Experiment(
    name="dictionary",
    summary="Features of a residual stream that name themselves, and steering by one; what a dictionary costs.",
    criterion=CRITERION,
    source="arXiv 2406.04093",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: int(settings.lm_steps + 2 * settings.fit_steps),
    flops_formula="language model: sequences x model_flops_per_sequence; autoencoder: vectors x 10 (or 16) d features",
    params=lambda settings: 2 * settings.features * settings.d_model + settings.features,
    seeds=3,
    shown_in=3,
    precision=lambda settings: str(settings.precision),
    data=lambda settings: {"data_sha256": load_bytes(settings.data, seq_len=settings.seq_len).sha256},
)
