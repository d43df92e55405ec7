"""Who else computes on a GPU that this run uses: the joules of its counter are then theirs as well.

The driver names processes by number. Inside a container these are often the host's numbers, which say nothing here
(NVIDIA/nvidia-docker#1483), and newer drivers translate them: what cannot be told apart is said so.

Not counted: processes that only draw (an X server).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pynvml

from profiler.measure.sensors.base import CoTenants
from profiler.measure.sensors.nvml_device import NvmlDevice

HOST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode of the first PID namespace of a Linux kernel (PROC_PID_INIT_INO)."""

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "csh", "tcsh"})
_STARTS_ANYTHING = _SHELLS | {"tmux", "screen", "login", "sshd", "systemd", "init", "tini", "dumb-init"}
"""Parents that are no launcher of ranks: what else they started is not this run."""


def find_co_tenants(
    device: NvmlDevice,
    *,
    our_pids: Callable[[], Collection[int]] | None = None,
    sees_host_pids: Callable[[], bool] | None = None,
) -> CoTenants:
    """Ask who computes on the GPU. Takes milliseconds: not for the sampling loop.

    Args:
        device: The GPU.
        our_pids: The processes of this run.
        sees_host_pids: Whether this process's numbers are those of the host, as the driver's are.

    Raises:
        SensorError: NVML does not tell.
    """
    found = device.ask("the processes that use it", pynvml.nvmlDeviceGetComputeRunningProcesses_v3)
    ours = (our_pids or run_pids)()
    others = [process for process in found if process.pid not in ours]
    if len(others) < len(found) or (sees_host_pids or is_in_host_namespace)():
        return CoTenants(processes=len(others), memory_bytes=_memory_bytes(others))
    return _untold(device.uuid, len(found))


def _untold(uuid: str, count: int) -> CoTenants:
    """What can be said where none of the processes on the GPU can be recognised."""
    if not count:
        return CoTenants(
            processes=None,
            note=f"In this container NVML names no process on {uuid}, not even this one, so it is not known whether "
            "others used it. Start the container with --pid=host to know.",
        )
    return CoTenants(
        processes=count - 1,
        note=f"In this container NVML names {count} process(es) on {uuid} by numbers of the host. One is taken for "
        "this run, the others for somebody else's. Start the container with --pid=host to know.",
    )


def _memory_bytes(processes: Sequence[Any]) -> int | None:
    sizes = [process.usedGpuMemory for process in processes]
    return None if None in sizes else sum(sizes)


def is_in_host_namespace() -> bool:
    """Whether process numbers here are those that the host's kernel uses; taken for true where it cannot be told."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == HOST_PID_NAMESPACE
    except OSError:
        return True


def run_pids(env: Mapping[str, str] = os.environ) -> frozenset[int]:
    """This process and those it started; of one rank of several, also its launcher and all that this one started."""
    own = psutil.Process()
    root = own
    with suppress(psutil.Error):
        launcher = own.parent() if _is_one_of_several(env) else None
        if launcher is not None and launcher.name() not in _STARTS_ANYTHING:
            root = launcher
    with suppress(psutil.Error):
        return frozenset({own.pid, root.pid, *(child.pid for child in root.children(recursive=True))})
    return frozenset({own.pid})


def _is_one_of_several(env: Mapping[str, str]) -> bool:
    return any(env.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_NTASKS"))
