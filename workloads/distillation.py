"""Workload `distillation`: can a model teach another, of less than 1/100 of its size, by what it writes? At what cost?

A teacher is trained on text; it writes text of its own. A student learns from that text (hard labels), or also from the
teacher's probabilities for each token of it (soft labels), and is held against the same student trained on real text:
on little of it, on more, and on as much as it can read. Where real text is scarce the teacher's is better; where there
is enough it is not. The size at which they meet is the answer. Two trainings of so small a student differ by more than
sequences do, so each is trained from several first weights, and they are part of every interval.

Soft labels: Hinton et al. 2015 (arXiv 1503.02531); small models on text that large ones wrote: Eldan & Li 2023
(TinyStories, arXiv 2305.07759), Gunasekar et al. 2023 (phi-1, arXiv 2306.11644). What we change: bytes instead of
words, a student so small that its capacity and not the text limits it in the end, soft labels of the teacher's 32 most
probable tokens at temperature 1, and the curve over sizes of real text where the papers have one size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy.stats import t as student_t

from profiler.errors import InvalidValueError
from workloads.byte_lm import (
    Precision,
    Recipe,
    load_bytes,
)
from workloads.corpus import Corpus
from workloads.experiment import CommonSettings, Experiment
from workloads.lesson import make_lesson, real_text, soft_cross_entropy, with_text
from workloads.school import Trained, open_school
from workloads.settings_checks import check_choice, check_positive
from workloads.transformer_config import TransformerConfig, num_all_params
from workloads.trial import Trial
from workloads.verdict import BreakEven, Cost, Verdict, Windows, judged, mean_and_half_width

LARGEST_SHARE = 1 / 100
LEAST_SEQUENCES = 256
LEAST_STUDENTS = 3

CRITERION = (
    "a student of less than 1/100 of the teacher's parameters, all told, learns from the teacher's soft labels on the"
    " teacher's own text; the gain is the loss on real validation text of the same student trained from scratch on"
    " real text, less its own; every student takes the same number of tokens and is judged at its best evaluation; the"
    " gain is above 0 with the smallest amount of real text and below 0 for the oracle, which reads no real text twice,"
    f" each by the 95 % interval of paired differences over {LEAST_SEQUENCES} sequences or more and over"
    f" {LEAST_STUDENTS} first weights or more, their two half-widths added as squares; the teacher's loss is below the"
    " oracle's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationSettings(CommonSettings):
    """What `--set` can change.

    Attributes:
        data: Text; None is the standard library's source.
        seq_len: Tokens of a sequence, of all models.
        teacher_d_model: Width of the teacher.
        teacher_n_layer: Its blocks.
        teacher_head_dim: Width of its heads.
        teacher_steps: Its updates.
        teacher_lr: Its peak rate.
        student_d_model: Width of the student, which has one head.
        student_n_layer: Its blocks.
        student_steps: Its updates, whatever it learns from.
        students: First weights from which each student is trained.
        student_lr: Its peak rate.
        batch_size: Sequences in each update, of all models.
        real_bytes: Amounts of real text, rising, for students from scratch: that many bytes in windows drawn from
            all over the training text, the smaller amounts being part of the larger. The oracle, which reads nothing
            twice, is trained besides.
        synthetic_sequences: What the teacher writes.
        soft_top: How many of the most probable ids a soft label keeps.
        eval_every: Updates of a student from one evaluation to the next.
        validation_sequences: On which everything is judged.
        queries: Sequences that the teacher writes to meter what one costs; the student writes eight times as many.
        query_batch: Sequences that are written side by side.
        precision: "bf16" trains under autocast.
    """

    data: str | None = None
    seq_len: int = 64
    teacher_d_model: int = 128
    teacher_n_layer: int = 3
    teacher_head_dim: int = 32
    teacher_steps: int = 200
    teacher_lr: float = 2e-3
    student_d_model: int = 8
    student_n_layer: int = 1
    student_steps: int = 800
    students: int = 4
    student_lr: float = 3e-2
    batch_size: int = 32
    real_bytes: tuple[int, ...] = (4096, 32768)
    synthetic_sequences: int = 1024
    soft_top: int = 32
    eval_every: int = 100
    validation_sequences: int = 256
    queries: int = 512
    query_batch: int = 256
    precision: Precision = "32"

    def __post_init__(self) -> None:
        positive = (f.name for f in dataclasses.fields(self) if f.type in ("int", "float"))
        check_positive(self, *positive)
        check_choice(self, precision=Precision)
        teacher, student = (num_all_params(self.config(name, 257)) for name in ("teacher", "student"))
        if student >= LARGEST_SHARE * teacher:
            raise InvalidValueError(
                f"The student has {student:,} parameters, 1/{teacher / student:.0f} of the teacher's {teacher:,}, and"
                " the question is what a student of less than 1/100 can learn. Give a smaller student_d_model or a"
                " larger teacher_d_model."
            )
        sizes = (*self.real_bytes, self.bytes_read)
        if len(sizes) < 2 or list(sizes) != sorted(set(sizes)) or sizes[0] < self.seq_len:
            raise InvalidValueError(
                f"real_bytes = {self.real_bytes} shows no crossover: it takes one size or more, each larger than the"
                f" one before, of a sequence ({self.seq_len}) at least and less than a student reads"
                f" ({self.bytes_read:,}: student_steps x batch_size x seq_len). Give, say, 4096,32768."
            )

    @property
    def bytes_read(self) -> int:
        """By a student, in all its updates; the oracle reads no byte twice."""
        return self.student_steps * self.batch_size * self.seq_len

    def config(self, who: str, vocab_size: int) -> TransformerConfig:
        """The shape of "teacher" or "student"."""
        is_teacher = who == "teacher"
        return TransformerConfig(
            d_model=self.teacher_d_model if is_teacher else self.student_d_model,
            n_layer=self.teacher_n_layer if is_teacher else self.student_n_layer,
            head_dim=self.teacher_head_dim if is_teacher else self.student_d_model,
            seq_len=self.seq_len,
            vocab_size=vocab_size,
        )

    def recipe(self, who: str) -> Recipe:
        """How "teacher" or "student" is trained."""
        is_teacher = who == "teacher"
        return Recipe(
            steps=self.teacher_steps if is_teacher else self.student_steps,
            lr=self.teacher_lr if is_teacher else self.student_lr,
            batch_size=self.batch_size,
            weight_decay=0.1 if is_teacher else 0.0,  # the student is too small to fit too well for long
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Students of one amount of real text: mean losses in nats a token, the gain of soft labels, its interval.

    `apart` is the standard deviation of the gain over first weights: how much two trainings differ.
    """

    real_bytes: int
    scratch: float
    hard: float
    soft: float
    oracle: float
    gain: float
    gain_half_width: float
    apart: float


def compare(real_bytes: int, scratch: Trained, hard: Trained, soft: Trained, oracle: Trained) -> Comparison:
    """The gain with its 95 % interval: over sequences, and by Student's t over first weights."""
    differences = scratch.losses - soft.losses
    gain, over_sequences = mean_and_half_width(differences.mean(dim=0).numpy())
    count, apart = len(differences), math.nan
    over_weights = math.nan
    if count > 1:
        apart = float(differences.mean(dim=1).std())
        over_weights = float(student_t.ppf(0.975, count - 1)) * apart / math.sqrt(count)
    half_width = math.hypot(over_sequences, over_weights)
    return Comparison(real_bytes, scratch.loss, hard.loss, soft.loss, oracle.loss, gain, half_width, apart)


def crossover(curve: Sequence[Comparison]) -> float | None:
    """The amount of real text at which the gain is 0, in bytes: between two sizes on a logarithmic scale."""
    for a, b in pairwise(curve):
        if a.gain > 0 >= b.gain:
            share = a.gain / (a.gain - b.gain)
            return float(a.real_bytes * (b.real_bytes / a.real_bytes) ** share)
    return None


def judge(
    curve: Sequence[Comparison],
    *,
    teacher_loss: float,
    teacher_params: int,
    student_params: int,
    sequences: int,
    students: int,
) -> Verdict:
    """Hold the curve, of which the oracle is the last point, against the criterion."""
    least, most = curve[0], curve[-1]
    is_enough = sequences >= LEAST_SEQUENCES and students >= LEAST_STUDENTS
    is_test = is_enough and teacher_loss < most.oracle
    checks = {
        f"the teacher's labels were better than {least.real_bytes:,} bytes of real text": (
            least.gain > least.gain_half_width
        ),
        f"{most.real_bytes:,} bytes of real text, none read twice, were better than the teacher's labels": (
            most.gain < -most.gain_half_width
        ),
        "the student has less than 1/100 of the teacher's parameters": (
            student_params < LARGEST_SHARE * teacher_params
        ),
    }
    figures = {
        "gain with the least real text (nats/token)": least.gain,
        "half-width of it": least.gain_half_width,
        "gain over the oracle (nats/token)": most.gain,
        "half-width of that": most.gain_half_width,
        "standard deviation of that over first weights": most.apart,
        "crossover (bytes of real text)": crossover(curve),
        "loss of the teacher (nats/token)": teacher_loss,
        "loss of the student by soft labels": most.soft,
        "loss of the student by hard labels": most.hard,
        "loss of the oracle student": most.oracle,
        "teacher's parameters / student's": teacher_params / student_params,
        "sequences judged": sequences,
        "first weights of each student": students,
    }
    return judged({words: holds if is_test else None for words, holds in checks.items()}, figures)


def answer(trial: Trial) -> Verdict:
    """Train the teacher, have it write, and train the students."""
    settings: DistillationSettings = trial.settings
    with trial.apart("data"):
        school = open_school(trial, read_text(settings))
    corpus, seed = school.corpus, trial.seed
    teacher = school.teacher(school.batches(corpus, seed=seed + 1))
    with trial.apart("data") as writing:
        lesson = make_lesson(
            teacher.model,
            sequences=settings.synthetic_sequences,
            at_once=settings.query_batch,
            length=settings.seq_len,
            top=settings.soft_top,
            bos=corpus.bos,
            seed=seed,
        )
    written = with_text(corpus, list(lesson.tokens.numpy()))
    hard = school.students("student, hard labels", school.batches(written, seed=seed))
    soft = school.students("student, soft labels", school.soft_batches(lesson), soft_cross_entropy)
    oracle = school.students("student, oracle", school.batches(corpus, seed=seed))
    scratch = {settings.bytes_read: oracle}
    for size in settings.real_bytes:
        real = real_text(corpus, size, seq_len=settings.seq_len, seed=seed)
        scratch[size] = school.students(f"student, {size} bytes", school.batches(real, seed=seed))
    curve = [compare(size, scratch[size], hard, soft, oracle) for size in sorted(scratch)]
    for point in curve:
        trial.point("crossover", arm=scratch[point.real_bytes].name, **dataclasses.asdict(point))
    verdict = judge(
        curve,
        teacher_loss=teacher.loss,
        teacher_params=num_all_params(teacher.model.config),
        student_params=num_all_params(soft.model.config),
        sequences=soft.losses.shape[1],
        students=settings.students,
    )
    queries = {
        "teacher": (school.meter_queries(teacher.model, settings.queries), settings.queries),
        "student": (school.meter_queries(soft.model, 8 * settings.queries), 8 * settings.queries),
    }
    return priced(verdict, teacher.windows, writing, soft.windows, queries)


def read_text(settings: DistillationSettings) -> Corpus:
    """The text.

    Raises:
        InvalidValueError: The oracle would read something twice: its data were not unlimited.
    """
    corpus = load_bytes(settings.data, seq_len=settings.seq_len)
    if settings.bytes_read > len(corpus.train):
        raise InvalidValueError(
            f"{corpus.description} has {len(corpus.train):,} bytes to train on, and a student reads"
            f" {settings.bytes_read:,}, so there is none of unlimited data to compare with. Give a longer text with"
            " '--set data=PATH', or fewer student_steps."
        )
    return corpus


def priced(
    verdict: Verdict,
    teacher: Windows,
    writing: Windows,
    student: Windows,
    queries: Mapping[str, tuple[Windows, int]],
) -> Verdict:
    """The verdict with what it took, and after how many queries the student has paid for itself."""
    (before, uses_before), (after, uses_after) = queries["teacher"], queries["student"]

    def pays(paid: Windows) -> BreakEven:
        return BreakEven(
            paid=paid, before=before, uses_before=uses_before, after=after, uses_after=uses_after
        )

    return dataclasses.replace(
        verdict,
        costs={
            "joules of the teacher's training": Cost(windows=teacher),
            "joules of the teacher's writing": Cost(windows=writing),
            "joules of one student's training": Cost(windows=student),
            f"joules of {uses_before} sequences by the teacher": Cost(windows=before),
            f"joules of {uses_after} sequences by the student": Cost(windows=after),
        },
        break_even={
            "the student pays for itself, teacher included (sequences)": pays([*teacher, *writing, *student]),
            "the student pays for itself, the teacher being there (sequences)": pays([*writing, *student]),
        },
    )


PRESETS = {
    "smoke": DistillationSettings(
        teacher_n_layer=1,
        teacher_steps=3,
        student_d_model=4,
        student_steps=16,
        students=2,
        batch_size=4,
        seq_len=32,
        real_bytes=(512, 1024),
        synthetic_sequences=8,
        eval_every=2,
        validation_sequences=8,
        queries=4,
        query_batch=8,
        threads=1,
    ),
    "cpu": DistillationSettings(threads=1),
    "gpu": DistillationSettings(
        accelerator="cuda",
        precision="bf16",
        seq_len=1024,
        teacher_d_model=1024,
        teacher_n_layer=24,
        teacher_head_dim=64,
        teacher_steps=10_000,
        teacher_lr=3e-4,
        student_d_model=192,
        student_n_layer=6,
        student_steps=2000,
        students=3,
        student_lr=4e-3,
        batch_size=512,
        real_bytes=(1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28),
        synthetic_sequences=65_536,
        eval_every=100,
        queries=1024,
        query_batch=512,
    ),
}

WORKLOAD = Experiment(
    name="distillation",
    summary="A teacher's text and probabilities against real text, for a student of 1/100 of its size.",
    criterion=CRITERION,
    source="arXiv 1503.02531, 2305.07759",
    presets=PRESETS,
    answer=answer,
    num_steps=lambda settings: int(
        settings.teacher_steps + (3 + len(settings.real_bytes)) * settings.students * settings.student_steps
    ),
    flops_formula="sequences x model_flops_per_sequence of the model that is trained, teacher or student",
    params=lambda settings: num_all_params(settings.config("student", 257)),
    seeds=3,
    shown_in=3,
    precision=lambda settings: str(settings.precision),
    data=lambda settings: {"data_sha256": read_text(settings).sha256},
)
