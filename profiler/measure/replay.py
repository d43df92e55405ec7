"""Runs a module once more on tensors without data, to count what it does: no memory, no kernels, no random numbers.

FLOPs depend on shapes alone. A copy of the module, with fake parameters and uncompiled, is fed fake inputs of the
shapes that the real one was called with, forward and backward, and thrown away. What a module could change of the
training's (objects, caches) is never passed to it a second time: such a call is refused.

The sum of a module's outputs stands in for the loss, so an output that the loss never uses is counted too.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from profiler.measure.flops import COMPILED, Counted, FlopCount, compiled_graphs

PLAIN_VALUES = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, Enum)
"""What a module cannot change."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor without its numbers; no named tuple, which a tree of arguments would fall apart into."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool


class Call(NamedTuple):
    """One call of a watched module: what it took, and the settings it ran under."""

    module: torch.nn.Module
    args: Any
    kwargs: Any
    with_grad: bool
    autocast: tuple[str, torch.dtype] | None


def shape_of(value: Any) -> Any:
    """What stands for an argument; one that the module could change is not passed to it a second time."""
    if value is None or isinstance(value, PLAIN_VALUES):
        return value
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise TypeError(f"a {type(value).__name__} was passed to a compiled module")
    return Shape(value.size(), value.stride(), value.dtype, value.device, value.requires_grad)


def autocast_of(args: Any, kwargs: Any) -> tuple[str, torch.dtype] | None:
    """The autocast that the inputs' device is under."""
    kinds = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    on = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    return (on[0], torch.get_autocast_dtype(on[0])) if on else None


Place = Callable[[torch.device], torch.device]


def on_cpu(device: torch.device) -> torch.device:
    """Where a module's own kernels for one kind of device, which need numbers, are not taken."""
    return torch.device("cpu")


def as_it_was(device: torch.device) -> torch.device:
    """Where it really is, for a module that names its device."""
    return device


def first_that_works(calls: list[Call], places: Sequence[Place]) -> Counted:
    """The count at the first place at which the users' modules run on tensors without numbers."""
    why = ""
    for place in places:
        try:
            return _replay(calls, place)
        except Exception as error:  # noqa: BLE001 - whatever a user's module does with such tensors
            why = f"{type(error).__name__}: {_first_line(error)}"
    return Counted.unknown(
        f"the compiled modules cannot be run on tensors without data to count them ({why}). Pass model_flops="
    )


def _replay(calls: list[Call], place: Place) -> Counted:
    graphs = compiled_graphs()
    count = FlopCount()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    copies = {id(call.module): _without_data(call.module, fake, place) for call in calls}
    with fake:
        count.start()
        try:
            for call in calls:
                _one_pass(copies[id(call.module)], call, count, place)
        finally:
            count.stop()
    if compiled_graphs() != graphs:
        return Counted.unknown(COMPILED)  # a function that is compiled by itself
    return count.counted()._replace(operator_bytes=None)  # what fusion leaves of them is not known


def _one_pass(module: torch.nn.Module, call: Call, count: FlopCount, place: Place) -> None:
    """Forward, and backward from the sum of the outputs."""
    args, kwargs = tree_map(lambda value: _empty_of(value, place), (call.args, call.kwargs))
    count.in_backward = False
    kind, dtype = call.autocast or ("cpu", torch.bfloat16)
    kind = place(torch.device(kind)).type
    with (
        torch.set_grad_enabled(call.with_grad),
        torch.autocast(kind, dtype, enabled=call.autocast is not None),
    ):
        outputs = _tensors(module.forward(*args, **kwargs))
    trained = [out for out in outputs if out.requires_grad]
    if trained:
        count.in_backward = True
        torch.autograd.backward(trained, [torch.empty_like(out) for out in trained])


def _tensors(outputs: Any) -> list[torch.Tensor]:
    """Those in a module's output.

    Raises:
        TypeError: It may hold tensors that cannot be found.
    """
    leaves = tree_leaves(outputs)
    if any(isinstance(leaf, Mapping) for leaf in leaves):
        leaves = [out for leaf in leaves for out in (leaf.values() if isinstance(leaf, Mapping) else (leaf,))]
    for leaf in leaves:
        if not (leaf is None or isinstance(leaf, (torch.Tensor, *PLAIN_VALUES))):
            raise TypeError(f"a {type(leaf).__name__} was returned by a compiled module")
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _without_data(module: torch.nn.Module, fake: FakeTensorMode, place: Place) -> torch.nn.Module:
    """A copy of a module with fake tensors, without hooks, and with what was compiled as it was before."""
    memo: dict[int, Any] = {}
    parts = list(module.modules())
    for tensor in (t for part in parts for t in _own_tensors(part)):
        memo.setdefault(id(tensor), _fake_of(tensor, fake, place))
    for wrapper in reversed([part for part in parts if hasattr(part, "_orig_mod")]):
        memo[id(wrapper)] = copy.deepcopy(wrapper._orig_mod, memo)
    copied = copy.deepcopy(module, memo)
    for part in copied.modules():
        for hooks in _HOOKS:
            getattr(part, hooks).clear()
    return copied


def _own_tensors(part: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from part.parameters(recurse=False)
    yield from part.buffers(recurse=False)
    yield from (value for value in vars(part).values() if isinstance(value, torch.Tensor))


def _fake_of(tensor: torch.Tensor, fake: FakeTensorMode, place: Place) -> torch.Tensor:
    shape = replace(shape_of(tensor), requires_grad=False)
    with fake:
        empty = _empty_of(shape, place)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty  # type: ignore[no-any-return]


def _empty_of(value: Any, place: Place) -> Any:
    if not isinstance(value, Shape):
        return value
    tensor = torch.empty_strided(value.size, value.stride, dtype=value.dtype, device=place(value.device))
    return tensor.requires_grad_(value.requires_grad)


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Put every generator of random numbers back where it was."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]
