"""What a run's manifest keeps of the machine, the software and the environment around it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from profiler.measure.redaction import redact_text
from profiler.measure.sensors.base import Probe

KEPT_ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_ID",
    "SLURM_NNODES",
    "SLURM_NTASKS",
    "WORLD_SIZE",
)
"""The only environment variables that are stored: others may hold secrets."""

_PACKAGES = ("joulescale", "torch", "lightning", "polars", "nvidia-ml-py", "codecarbon")


def hardware(probes: Sequence[Probe]) -> dict[str, Any]:
    """What the manifest says of the machine: host, processor, memory, and the GPUs that are measured."""
    meters = [probe.counter.meter for probe in probes]
    return {
        "host": socket.gethostname(),
        "cpu": next(
            (m.name for m in meters if m.component == "cpu"), platform.processor() or platform.machine()
        ),
        "hardware_threads": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [{"uuid": m.device, "name": m.name} for m in meters if m.component in ("gpu", "module")],
    }


def software() -> dict[str, str]:
    """Versions of Python, the platform, and the packages that numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """The variables of `KEPT_ENVIRONMENT` that are set, without what looks like a secret in them."""
    return {key: redact_text(os.environ[key]) for key in KEPT_ENVIRONMENT if key in os.environ}
