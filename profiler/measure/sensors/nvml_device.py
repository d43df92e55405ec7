"""One GPU behind NVML, by UUID: sessions, handles, and NVML's error codes as sentences.

NVML counts its own init and shutdown calls, so a session of ours never disturbs the user's use of `pynvml`,
and theirs can at worst end ours early, which the next question mends. The same way mends a driver that was
reloaded: our share of NVML is given back and taken again, and devices are looked up anew by UUID.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, final

import pynvml

from profiler.errors import SensorError

T = TypeVar("T")
Handle = Any
"""NVML's opaque pointer to a device; valid until the driver or the session goes."""

_INIT_HINTS: Mapping[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "No NVIDIA driver library (libnvidia-ml.so.1) was found, so GPU energy is null. "
        "If this machine has an NVIDIA GPU, install its driver, or start the container with --gpus all."
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "The NVIDIA driver is installed but not loaded, so GPU energy is null. "
        "Run 'nvidia-smi' to see why, and 'sudo modprobe nvidia' to load it."
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The NVIDIA driver library and its kernel module are of different versions, so GPU energy is null. "
        "Reboot, or reload the module, after a driver update."
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "The NVIDIA driver refuses this user, so GPU energy is null. "
        "Ask the administrator for access to /dev/nvidiactl and /dev/nvidia*."
    ),
}

_HINTS: Mapping[int, str] = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: "This GPU, its driver or its virtualisation does not offer it.",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "This driver is too old or too new for the call; update it.",
    pynvml.NVML_ERROR_NO_PERMISSION: "The driver refuses this user; ask the administrator.",
    pynvml.NVML_ERROR_NOT_FOUND: "No such device is here; 'nvidia-smi -L' lists those that are.",
    pynvml.NVML_ERROR_GPU_IS_LOST: "The GPU fell off the bus; look for 'Xid' in the kernel log.",
    pynvml.NVML_ERROR_RESET_REQUIRED: "The GPU must be reset by the administrator.",
    pynvml.NVML_ERROR_UNINITIALIZED: "This process shut NVML down; the next reading restarts it.",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "The driver was unloaded; NVML is started again to look for it.",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The driver was updated under this process, which keeps the old library until it ends."
    ),
}

_GONE = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
        pynvml.NVML_ERROR_NOT_FOUND,
    }
)
"""After these, NVML is started again and the device looked up anew."""


class QuantityRefused(SensorError):
    """The device is there, but does not give this one quantity."""


@final
class NvmlSession:
    """One initialisation of NVML that is ours, to be closed once.

    Attributes:
        starts: How often it was started; handles and samples of an earlier start mean nothing in a later one.
    """

    def __init__(self) -> None:
        """Initialise NVML.

        Raises:
            SensorError: There is no driver, or it does not let us in.
        """
        self.starts = 0
        self._is_open, self._is_started = True, False
        self._lock = threading.Lock()
        self._start()

    def restart(self, failed_start: int) -> None:
        """Give our share of NVML back and take it again, once for all devices that failed in the same start.

        Raises:
            SensorError: NVML refuses, or this session is closed.
        """
        with self._lock:
            if self._is_open and self.starts == failed_start:
                self._stop()
                self._start()
        if not self._is_open:
            self.close()  # whoever closed it meanwhile could not wait for the driver
            raise SensorError("The GPU sensors were closed; nothing can be read from them any more.")

    def close(self) -> None:
        """Give our share of NVML back; further calls do nothing. Never waits for a restart under way."""
        self._is_open = False
        if self._lock.acquire(blocking=False):
            self._stop()
            self._lock.release()

    def _start(self) -> None:
        _start_nvml()
        self._is_started = True
        self.starts += 1

    def _stop(self) -> None:
        if self._is_started:
            self._is_started = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _start_nvml() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        unknown = f"NVML did not start: {error} (code {error.value}), so GPU energy is null."
        raise SensorError(_INIT_HINTS.get(error.value, unknown)) from error


@final
class NvmlDevice:
    """Asks one GPU, found by UUID, and looks it up again after it was lost."""

    def __init__(self, session: NvmlSession, uuid: str) -> None:
        """Remember the UUID; the first question looks it up."""
        self.uuid = uuid
        self._session = session
        self._handle: Handle | None = None
        self._start = 0
        self._must_restart = False

    @property
    def start(self) -> int:
        """In which start of NVML the device was last looked up."""
        return self._start

    def renew(self) -> None:
        """Start NVML again before the next question: its answers are no longer to be trusted."""
        self._handle, self._must_restart = None, True

    def ask(self, quantity: str, call: Callable[[Handle], T]) -> T:
        """What `call` returns for this device's handle.

        Args:
            quantity: What is asked for, for the message.
            call: Takes the handle; raises `pynvml.NVMLError` when NVML refuses.

        Raises:
            QuantityRefused: Only this quantity is not to be had.
            SensorError: The device or the driver is gone.
        """
        try:
            return call(self._find())
        except pynvml.NVMLError as error:
            raise self.refusal(quantity, error) from error

    def _find(self) -> Handle:
        if self._must_restart:
            self._session.restart(self._start)
            self._must_restart = False
        if self._handle is None or self._start != self._session.starts:
            self._start = self._session.starts
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
        return self._handle

    def refusal(self, quantity: str, error: pynvml.NVMLError) -> SensorError:
        """The error to raise for one of NVML's; after those of a device that is gone it is looked up anew."""
        is_gone = error.value in _GONE
        if is_gone:
            self.renew()
        elif error.value == pynvml.NVML_ERROR_INVALID_ARGUMENT:
            self._handle = None
        kind = SensorError if is_gone else QuantityRefused
        hint = _HINTS.get(error.value, "")
        said = f"NVML did not give {quantity} of {self.uuid}: {error} (code {error.value})."
        return kind(f"{said} {hint}".rstrip())
