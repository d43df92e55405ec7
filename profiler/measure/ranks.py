"""Who measures what: which process this is, and which GPUs are its own.

Nothing here touches hardware or the environment: both are passed in. GPUs are named by UUID, because
CUDA's, NVML's and PyTorch's indices are three different things.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from profiler.errors import InvalidValueError

GpuChoice = Literal["auto", "visible"] | Sequence[int | str]
"""`"auto"`: those that the trainer uses; `"visible"`: all that CUDA shows; or positions and UUIDs."""

TorchUuid = Callable[[int], str | None]
"""PyTorch's own word on the UUID of a device index, with or without `GPU-`; None when it does not know."""

_LEADING_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this process stands in a distributed run, in torch.distributed's words.

    Attributes:
        replica: Which copy of the model it works on, that is which share of the data: ranks that split one copy
            among them (tensor parallelism) are given the same batches. None if nobody said so: then its own.
        strategy: What divides the work, by the name of the framework's class; None if nothing does.
    """

    rank: int
    local_rank: int
    world_size: int
    replica: int | None = None
    strategy: str | None = None

    @property
    def measures_host(self) -> bool:
        """Whether this process reads the sensors of the whole host (CPU, memory): one a host does."""
        return self.local_rank == 0


def place_from(env: Mapping[str, str]) -> Place:
    """This process's place, from the variables of its launcher.

    `RANK`, `LOCAL_RANK` and `WORLD_SIZE` (torchrun, Lightning) are believed first. SLURM's are used only
    when none of these is set: inside an allocation a `torchrun` carries SLURM variables that are not its own.
    Lightning's launcher leaves `RANK` out; it then follows from `NODE_RANK`.

    Raises:
        InvalidValueError: A variable is not a whole number of at least 0, or the rank does not follow.

    >>> place_from({})
    Place(rank=0, local_rank=0, world_size=1, replica=None, strategy=None)
    """
    if not env.keys() & {"RANK", "LOCAL_RANK", "WORLD_SIZE"}:
        return Place(
            rank=_number(env, "SLURM_PROCID", 0),
            local_rank=_number(env, "SLURM_LOCALID", 0),
            world_size=_number(env, "SLURM_NTASKS", 1),
        )
    local_rank = _number(env, "LOCAL_RANK", 0)
    rank = _number(env, "RANK", 0) if "RANK" in env else _rank_from_node(env, local_rank)
    return Place(rank=rank, local_rank=local_rank, world_size=_number(env, "WORLD_SIZE", 1))


def _rank_from_node(env: Mapping[str, str], local_rank: int) -> int:
    node_rank = _number(env, "NODE_RANK", 0)
    if node_rank == 0:
        return local_rank
    if "LOCAL_WORLD_SIZE" not in env:
        raise InvalidValueError(
            f"RANK is not set and does not follow from NODE_RANK={node_rank} and LOCAL_RANK={local_rank}, so "
            "this process cannot tell its place. Set RANK or LOCAL_WORLD_SIZE, or use torchrun or srun."
        )
    return node_rank * _number(env, "LOCAL_WORLD_SIZE", 1) + local_rank


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default)).strip()
    if not re.fullmatch(r"[0-9]+", text):
        raise InvalidValueError(
            f"The environment variable {name} is {text!r}, so this process cannot tell its place in the run. "
            "It must be a whole number of at least 0; unset it if nothing launched this process."
        )
    return int(text)


def visible_uuids(
    cuda_visible_devices: str | None,
    all_uuids: Sequence[str],
    mig_uuids: Mapping[str, Sequence[str]] | None = None,
) -> tuple[str, ...]:
    """The devices that CUDA shows, in CUDA's order, as `CUDA_VISIBLE_DEVICES` says.

    Follows CUDA as `torch.cuda._parse_visible_devices` does: the first invalid entry ends the list; a device
    named twice makes it empty; `GPU-` and `MIG-` entries may be unambiguous prefixes and are not stripped of
    blanks; whatever trails an index is ignored. A MIG instance of the old form `MIG-GPU-<uuid>/<gi>/<ci>`
    is matched like any other. Indices are positions in `all_uuids`: see `order_note`.

    Args:
        cuda_visible_devices: The variable's value; None when it is not set, which shows all.
        all_uuids: Every GPU of the machine, in PCI order.
        mig_uuids: The MIG instances of each GPU, by its UUID.

    >>> visible_uuids("1,0", ["GPU-a", "GPU-b"])
    ('GPU-b', 'GPU-a')
    """
    if cuda_visible_devices is None:
        return tuple(all_uuids)
    if cuda_visible_devices.startswith("GPU-"):
        return _by_prefix(cuda_visible_devices, "GPU-", all_uuids)
    if cuda_visible_devices.startswith("MIG-"):
        instances = [uuid for of_gpu in (mig_uuids or {}).values() for uuid in of_gpu]
        return _by_prefix(cuda_visible_devices, "MIG-", instances)
    return _by_index(cuda_visible_devices, all_uuids)


def _by_index(text: str, all_uuids: Sequence[str]) -> tuple[str, ...]:
    indices: list[int] = []
    for entry in text.split(","):
        number = _LEADING_INTEGER.match(entry.strip())
        index = int(number[0]) if number else -1
        if index in indices:
            return ()
        if index < 0:
            break
        indices.append(index)
    beyond = next((place for place, index in enumerate(indices) if index >= len(all_uuids)), len(indices))
    return tuple(all_uuids[index] for index in indices[:beyond])


def _by_prefix(text: str, prefix: str, uuids: Sequence[str]) -> tuple[str, ...]:
    entries: list[str] = []
    for entry in text.split(","):
        if entry in entries:
            return ()
        if not entry.startswith(prefix):
            break
        entries.append(entry)
    found: list[str] = []
    for entry in entries:
        matches = [uuid for uuid in uuids if uuid.startswith(entry)]
        if len(matches) != 1:
            break
        if matches[0] in found:
            return ()
        found.append(matches[0])
    return tuple(found)


def order_note(env: Mapping[str, str], names: Sequence[str | None]) -> str | None:
    """Why CUDA's indices may not be NVML's here; None when they agree, or only UUIDs are used.

    Args:
        env: The environment, for `CUDA_DEVICE_ORDER` and `CUDA_VISIBLE_DEVICES`.
        names: The product names of all GPUs of the machine.
    """
    order = env.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    by_uuid = env.get("CUDA_VISIBLE_DEVICES", "").startswith(("GPU-", "MIG-"))
    if order == "PCI_BUS_ID" or by_uuid or len(set(names)) < 2:
        return None
    return (
        f"CUDA_DEVICE_ORDER is {order} and this machine has different GPUs, so CUDA's indices need not "
        "follow the PCI bus, as NVML's do: where PyTorch does not tell UUIDs, another GPU may be measured. "
        "Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or UUIDs in CUDA_VISIBLE_DEVICES."
    )


def select_gpus(
    choice: GpuChoice,
    *,
    visible: Sequence[str],
    all_uuids: Sequence[str],
    used: Sequence[int] = (),
    torch_uuid: TorchUuid | None = None,
) -> tuple[str, ...]:
    """The UUIDs of the GPUs to measure, each once.

    Args:
        choice: `"auto"` for the devices in `used`, `"visible"` for all that CUDA shows, or a sequence of
            positions among the visible ones (what PyTorch calls `cuda:<i>`) and of UUIDs or unambiguous
            prefixes of any GPU of the machine, visible or not.
        visible: Visible devices in CUDA's order, from `visible_uuids`.
        all_uuids: Every GPU and MIG instance of the machine.
        used: PyTorch's indices of the devices that the trainer uses.
        torch_uuid: PyTorch's word on an index, believed before the order of `visible`.

    Raises:
        InvalidValueError: No such GPU, or a choice that is none of the above.

    >>> select_gpus([1], visible=["GPU-b", "GPU-a"], all_uuids=["GPU-a", "GPU-b"])
    ('GPU-a',)
    """
    if choice == "visible":
        return tuple(visible)
    if choice != "auto" and (isinstance(choice, str) or not isinstance(choice, Sequence)):
        raise _unfit(choice)
    chosen: Sequence[int | str] = used if choice == "auto" else choice
    found = []
    for gpu in chosen:
        if isinstance(gpu, str):
            found.append(_named(gpu, all_uuids))
        elif isinstance(gpu, int) and not isinstance(gpu, bool):
            found.append(_at(gpu, visible, torch_uuid))
        else:
            raise _unfit(gpu)
    return tuple(dict.fromkeys(found))


def _unfit(value: object) -> InvalidValueError:
    return InvalidValueError(
        f"gpus is or holds {value!r}, which names no GPU, so it is not known what to measure. Pass 'auto', "
        "'visible', or a list of indices among the visible GPUs and of UUIDs, such as [0, 'GPU-1f2e3d4c'].",
    )


def _named(uuid: str, all_uuids: Sequence[str]) -> str:
    matches = [known for known in all_uuids if uuid and known.startswith(uuid)]
    if uuid in matches:
        return uuid
    if len(matches) == 1:
        return matches[0]
    kind = "fits several GPUs" if matches else "fits no GPU"
    raise InvalidValueError(
        f"gpus holds {uuid!r}, which {kind} of this machine, so it is not known what to measure. "
        f"Here are: {_listed(matches or all_uuids)}."
    )


def _at(index: int, visible: Sequence[str], torch_uuid: TorchUuid | None) -> str:
    if not 0 <= index < len(visible):
        raise InvalidValueError(
            f"gpus asks for GPU {index}, counted from 0, but {len(visible)} are visible to this process, so "
            f"it is not known what to measure. Visible: {_listed(visible)}. Check CUDA_VISIBLE_DEVICES."
        )
    told = torch_uuid(index) if torch_uuid else None
    fits = [uuid for uuid in visible if told and told in (uuid, uuid[len("GPU-") :])]
    return fits[0] if fits else visible[index]


def _listed(uuids: Sequence[str]) -> str:
    return ", ".join(uuids) or "none"
