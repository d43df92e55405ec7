"""AMD GPUs as `amdsmi`, ROCm's own binding, shows them; it is only asked where it is installed.

Units as in the binding and the library under it (amdsmi 7.0.2): the energy counter is a count times
`counter_resolution`, microjoules (15.3 on CDNA); powers are watts, but power caps microwatts; activities percent;
clocks megahertz; memory bytes; temperatures degrees, though the header says millidegrees, as they once were.
What a card does not have is "N/A", or the highest number of its type.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from profiler.errors import SensorError
from profiler.measure.ranks import visible_uuids
from profiler.units import J_PER_MICROJOULE

_DRIVER = Path("/dev/kfd")
_LIBRARY = "libamd_smi.so"


def load_amdsmi(driver: Path = _DRIVER) -> Any:
    """The module `amdsmi`; None where AMD's driver is not: other packages bring the module to any machine.

    It is not imported where its library is not found: it would say so on standard output, which is not ours.

    Raises:
        SensorError: There is an AMD GPU, but it cannot be asked.
    """
    if not driver.exists():
        return None
    if find_spec("amdsmi") is None:
        raise SensorError(
            "This machine has an AMD GPU, and amdsmi is not installed, so its energy is null. Run "
            "'pip install \"joulescale[amd]\"', in the version of your ROCm."
        )
    if not any(_loads(path) for path in _library_paths()):
        raise SensorError(f"amdsmi is installed, but ROCm's {_LIBRARY} is not, so AMD GPUs are not measured.")
    return import_module("amdsmi")


def _library_paths() -> Iterator[str]:
    """Where amdsmi looks for its library."""
    rocm = os.environ.get("ROCM_HOME", os.environ.get("ROCM_PATH", "/opt/rocm"))
    yield str(Path(rocm) / "lib" / _LIBRARY)
    yield _LIBRARY
    spec = find_spec("amdsmi")
    if spec is not None and spec.origin is not None:
        yield str(Path(spec.origin).parent / _LIBRARY)


def _loads(path: str) -> bool:
    try:
        ctypes.CDLL(path)
    except OSError:
        return False
    return True


@final
class AmdDevice:
    """One AMD GPU: every question to it, with its refusals as `SensorError`.

    Args:
        binding: The module `amdsmi`.
        handle: Its handle of the GPU.
        uuid: HIP's name of the GPU.
    """

    def __init__(self, binding: Any, handle: Any, uuid: str) -> None:
        self.smi = binding
        self.uuid = uuid
        self._handle = handle

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of the binding says of this GPU.

        Raises:
            SensorError: It refused.
        """
        try:
            return getattr(self.smi, function)(self._handle, *arguments)
        except (self.smi.AmdSmiException, AttributeError, OSError) as error:  # or it is of another version
            said = " ".join(str(error).split())
            raise SensorError(f"{self.uuid}: {function} failed: {said}.") from error

    def number(self, function: str, key: str, *arguments: Any) -> float:
        """One number of a dictionary that a function gives, in the binding's unit.

        Raises:
            SensorError: It refused, or has no such number.
        """
        answer = self.ask(function, *arguments)
        value = answer.get(key) if isinstance(answer, Mapping) else answer
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_told(value):
            raise SensorError(f"{self.uuid}: {function} gives {key} as {value!r}.")
        return float(value)

    def energy_j(self) -> float:
        """What its counter shows, in joules.

        Raises:
            SensorError: It has none.
        """
        told = self.ask("amdsmi_get_energy_count")
        count = told.get("energy_accumulator", told.get("power"))  # the latter before amdsmi 6.2
        resolution_uj = told.get("counter_resolution")
        if not count or not resolution_uj or not _is_told(count) or not 0.0 < resolution_uj < 1e6:
            raise SensorError(f"{self.uuid}: its energy counter shows {count!r} x {resolution_uj!r} uJ.")
        return float(count * resolution_uj * J_PER_MICROJOULE)

    def power_w(self) -> float:
        """Watts now, or their mean over a moment: MI300 and newer tell the one, others the other.

        Raises:
            SensorError: It tells neither.
        """
        with suppress(SensorError):
            return self.number("amdsmi_get_power_info", "current_socket_power")
        return self.number("amdsmi_get_power_info", "average_socket_power")


def _is_told(value: float) -> bool:
    return value >= 0 and value not in (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def visible_amd(environment: Mapping[str, str], uuids: Sequence[str]) -> tuple[str, ...]:
    """The GPUs that HIP shows, in its order: first ROCR's variable chooses, then HIP's among those.

    `CUDA_VISIBLE_DEVICES` is HIP's too, where `HIP_VISIBLE_DEVICES` is not set.

    >>> visible_amd({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "1"}, ["GPU-a", "GPU-b", "GPU-c"])
    ('GPU-b',)
    """
    shown = visible_uuids(environment.get("ROCR_VISIBLE_DEVICES"), uuids)
    return visible_uuids(
        environment.get("HIP_VISIBLE_DEVICES", environment.get("CUDA_VISIBLE_DEVICES")), shown
    )


def list_amd(binding: Any) -> list[AmdDevice]:
    """All AMD GPUs in HIP's order, which need not be that of the PCI bus. The library must have been started."""
    ordered = []
    for place, handle in enumerate(binding.amdsmi_get_processor_handles()):
        told = binding.amdsmi_get_gpu_enumeration_info(handle)
        hip = told["hip_id"] if isinstance(told["hip_id"], int) else place
        uuid = told["hip_uuid"] if str(told["hip_uuid"]).startswith("GPU-") else f"GPU-amd-{hip}"
        ordered.append((hip, AmdDevice(binding, handle, uuid)))
    return [device for _, device in sorted(ordered, key=lambda pair: pair[0])]
