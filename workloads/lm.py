"""Workload `lm`: byte-level language models of several widths, each trained to several token budgets.

One run is one width. Inside a single `trainer.fit` it walks the trunk and its cool-down branches
(`workloads.schedule`) and marks the validation loss at the end of each branch, together with the windows of
time that led to it; `joulescale scale` turns a sweep's marks into loss against parameters, tokens and joules.

On CPUs, start the process with OMP_WAIT_POLICY=PASSIVE, as the `joulescale` command does. By default OpenMP's
threads spin at each barrier, and these matrices are small enough for barriers to be most of the work: on two
shared cores a step of d_model 64 took 1.2 s without it and 0.2 s with it, and burnt five times the CPU time.
The variable is read when torch is imported, so nothing in this file could set it in time.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch

from profiler.errors import InvalidValueError, JoulescaleError
from profiler.integrations.lightning import EfficiencyMonitor, RunFacts
from profiler.workload import RunRequest, check_preset
from workloads.checkpoints import Checkpoints, last_checkpoint, remove_checkpoints
from workloads.corpus import Corpus, load_corpus, repetition
from workloads.device import choose_accelerator
from workloads.experiment import spinning_note
from workloads.lm_settings import PRESETS, WIDTHS, LMSettings
from workloads.lm_training import fit
from workloads.transformer_config import FLOPS_CONVENTION, FLOPS_FORMULA, model_flops_per_token, num_params

BYTES_PER_PARAM = 16
"""Weight, gradient and two moments of AdamW, each in fp32."""


class LMWorkload:
    """The workload as `joulescale run lm` and `joulescale sweep lm` see it."""

    name = "lm"
    resumes = True
    summary = "Byte-level language models over widths and token budgets: the scaling sweep."

    def preset(self, preset: str) -> LMSettings:
        """The settings of a preset."""
        return PRESETS[check_preset(preset)]

    def grid(self, preset: str) -> Mapping[str, Sequence[int]]:
        """The widths of a preset's sweep."""
        return {"d_model": WIDTHS[check_preset(preset)]}

    def identity(self, settings: LMSettings) -> Mapping[str, str]:
        """The data's hash, and the versions that can change the numbers."""
        return _identity(settings, self.corpus(settings))

    def corpus(self, settings: LMSettings) -> Corpus:
        """The text to train on."""
        return load_corpus(settings.data, seq_len=settings.seq_len, vocab_size=settings.vocab_size)

    def check(self, settings: LMSettings) -> None:
        """Refuse a GPU that is not here, and a model that its memory cannot hold."""
        _check_memory(settings, choose_accelerator(settings.accelerator))

    def cost(self, settings: LMSettings) -> float:
        """Time relative to other settings, by what was measured on two cores: N^0.435 D^0.934."""
        config = settings.config(settings.vocab_size or 257)
        return float(num_params(config) ** 0.435 * settings.token_budgets[-1] ** 0.934)

    def train(self, request: RunRequest) -> Path:
        """Train one width to all its budgets under the monitor; return the run's folder."""
        settings: LMSettings = request.settings
        accelerator = choose_accelerator(settings.accelerator)
        corpus = self.corpus(settings)
        facts = _facts(request, corpus, _notes(settings, corpus, accelerator))
        if "data" in facts.notes:
            sys.stderr.write(facts.notes["data"] + "\n")
        flops_per_token = model_flops_per_token(settings.config(corpus.vocab_size))
        monitor = EfficiencyMonitor(
            request.runs_dir,
            name=request.resume or request.name,
            model_flops=lambda batch: batch[1].numel() * flops_per_token,
            tokens=lambda batch: batch[1].numel(),
            samples=lambda batch: len(batch[1]),
            peak_flops_per_s="measure" if accelerator == "cpu" else None,
            idle_s=request.idle_s,
            facts=facts,
            second_opinion=request.second_opinion,
        )
        try:
            fit(
                settings,
                corpus,
                settings.schedule(),
                monitor,
                seed=request.seed,
                accelerator=accelerator,
                callbacks=[monitor],
                checkpoints=Checkpoints(lambda: monitor.run_dir, every_s=request.checkpoint_every_s),
                resume=last_checkpoint(request.runs_dir / request.resume) if request.resume else None,
            )
        except SystemExit:  # into which Lightning turns a Ctrl-C, when the record is closed
            raise KeyboardInterrupt from None
        if monitor.run_dir is None:
            raise JoulescaleError("The training ended, but no run was recorded. The warning above says why.")
        if not request.keep_checkpoints:
            remove_checkpoints(monitor.run_dir)
        return monitor.run_dir


def _check_memory(settings: LMSettings, accelerator: str) -> None:
    """Refuse a model whose weights, gradients and AdamW moments alone exceed the memory that is free.

    Raises:
        InvalidValueError: They do; activations come on top and are not counted.
    """
    params = num_params(settings.config(settings.vocab_size or 257)) + settings.d_model * (
        settings.vocab_size or 257
    )
    free = torch.cuda.mem_get_info()[0] if accelerator == "cuda" else psutil.virtual_memory().available
    if BYTES_PER_PARAM * params > free:
        raise InvalidValueError(
            f"d_model = {settings.d_model:g} makes a model of {float(params):.3g} parameters, which needs"
            f" {BYTES_PER_PARAM * params / 2**30:.3g} GiB to train; {free / 2**30:.3g} GiB are free. Give a smaller"
            " d_model or n_layer."
        )


def _identity(settings: LMSettings, corpus: Corpus) -> dict[str, str]:
    identity = {"data_sha256": corpus.sha256, "torch": torch.__version__}
    if settings.data is None:  # said beside the hash because it explains why the hash differs
        identity["python"] = platform.python_version()
    return identity


def _facts(request: RunRequest, corpus: Corpus, notes: Mapping[str, str]) -> RunFacts:
    settings: LMSettings = request.settings
    return RunFacts(
        workload=request.workload,
        preset=request.preset,
        seed=request.seed,
        settings=dataclasses.asdict(settings),
        identity=_identity(settings, corpus),
        params=num_params(settings.config(corpus.vocab_size)),
        data={
            "description": corpus.description,
            "sha256": corpus.sha256,
            "files": corpus.num_files,
            "train_tokens": len(corpus.train),
            "validation_tokens": len(corpus.validation),
            "vocab_size": corpus.vocab_size,
        },
        flops_formula=FLOPS_FORMULA,
        flops_convention=FLOPS_CONVENTION,
        carbon=request.carbon,
        notes=notes,
    )


def _notes(settings: LMSettings, corpus: Corpus, accelerator: str) -> dict[str, str]:
    """What somebody who reads the numbers later should know, by topic."""
    notes = {"data": repetition(corpus, settings.token_budgets[-1]), **spinning_note(accelerator)}
    segments = settings.schedule().segments
    branch = next(segment.first_position for segment in segments if segment.kind == "cooldown")
    if settings.warmup_steps > branch:
        notes["warmup_steps"] = (
            f"The first cool-down began at step {branch}, within {settings.warmup_steps} steps of warm-up, "
            "so the loss at that budget is higher than it could be. Give fewer warmup_steps, or larger "
            "token_budgets."
        )
    return {topic: note for topic, note in notes.items() if note is not None}


WORKLOAD = LMWorkload()
