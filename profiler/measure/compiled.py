"""Counts what `torch.compile` hides: the modules that hold compiled parts are run once more, on tensors without data.

A compiled graph shows no operators. But FLOPs depend on shapes alone, so a copy of each such module, with fake
parameters, is fed fake inputs of the shapes that the real one was called with, forward and backward, uncompiled.
No memory is taken, no kernel runs, no random number is drawn, and the copy is thrown away. `training_step` itself is
never run again: it logs, and does whatever else a user wrote there.

Limits: the sum of a module's outputs stands in for the loss, so an output that the loss never uses is counted too;
a step with matrix products both inside and outside these modules is refused, and so is a compiled LightningModule.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from profiler.measure.flops import COMPILED, Counted, FlopCount, compiled_graphs

MAX_CALLS = 256
"""Calls of watched modules within one microbatch that are counted."""

OUTSIDE = "matrix products run both inside and outside of compiled modules: not told apart. Pass model_flops="
TOO_MANY_CALLS = f"compiled modules are called more than {MAX_CALLS} times a microbatch. Pass model_flops="
SEVERAL_PASSES = (
    "compiled modules with several backward passes a microbatch are not counted. Pass model_flops="
)
NEVER_CALLED = "the compiled modules were not called in the first microbatch. Pass model_flops="
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tensor without its numbers; no named tuple, which a tree of arguments would fall apart into."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool


class _Call(NamedTuple):
    """One call of a watched module: what it took, and the settings it ran under."""

    module: torch.nn.Module
    args: Any
    kwargs: Any
    with_grad: bool
    autocast: tuple[str, torch.dtype] | None


def watched_modules(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The outermost modules below `module` that are, or hold, a compiled one."""
    found = []
    for child in module.children():
        if not any(_is_compiled(part) for part in child.modules()):
            continue
        holder = isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict)
        found += watched_modules(child) if holder else [child]
    return found


def why_hidden(module: torch.nn.Module) -> str | None:
    """Why nothing of a model can be seen although no module below it is compiled, or None."""
    if getattr(module, "_compiler_ctx", None) is not None or _is_compiled(module):
        return "the whole LightningModule is compiled, its training_step included. Pass model_flops="
    return None


def _is_compiled(module: torch.nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


class CompiledCount:
    """Counts one microbatch of a model with compiled parts.

    From `start` to the backward pass it notes what the watched modules are called with, and counts eagerly what runs
    outside of them: that must be nothing.
    """

    def __init__(self, watched: list[torch.nn.Module]) -> None:
        self._outside = FlopCount()
        self._watched = watched
        self._calls: list[_Call] = []
        self._restore: list[Callable[[], None]] = []
        self._depth = 0
        self._failed: str | None = None
        self._ended = False

    def start(self) -> None:
        """Watch from here on."""
        for module in self._watched:
            self._watch(module)
        self._outside.start()

    def begin_backward(self) -> None:
        """Gradients are counted on the copy; what is called after the first backward pass would be missed."""
        if self._ended:
            self._failed = SEVERAL_PASSES
        self._ended = True
        self.stop()

    def stop(self) -> bool:
        """Give the modules back as they were. False if a user's mode lies above ours, which then does nothing."""
        while self._restore:
            self._restore.pop()()
        return self._outside.stop()

    def counted(self) -> Counted:
        """Run the copies, forward and backward; call it once the microbatch is over."""
        failed = self._failed or self._outside.failed or (OUTSIDE if self._outside.executed_flops else None)
        if failed or not self._calls:
            return Counted.unknown(failed or NEVER_CALLED)
        with _nothing_drawn():
            return _first_that_works(self._calls, (_on_cpu, _as_it_was))

    def _watch(self, module: torch.nn.Module) -> None:
        """Put a note-taker before the callable that lies on the instance; nobody else's hooks are touched."""
        name = "_compiled_call_impl" if getattr(module, "_compiled_call_impl", None) else "forward"
        own = name in vars(module)
        original = getattr(module, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            with self._inside(module, args, kwargs):
                return original(*args, **kwargs)

        def restore() -> None:
            if vars(module).get(name) is not noting:
                return  # replaced since, by somebody else
            if own:
                object.__setattr__(module, name, original)
            else:
                object.__delattr__(module, name)

        object.__setattr__(module, name, noting)
        self._restore.append(restore)

    @contextmanager
    def _inside(self, module: torch.nn.Module, args: Any, kwargs: Any) -> Iterator[None]:
        self._outside.pause()
        if self._depth == 0 and self._failed is None:
            self._note(module, args, kwargs)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._outside.resume()

    def _note(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """Inside the training's forward pass: whatever happens here must not become its error."""
        try:
            taken, named = tree_map(_shape_of, (args, kwargs))
            settings = torch.is_grad_enabled(), _autocast(args, kwargs)
            self._calls.append(_Call(module, taken, named, *settings))
        except Exception as error:  # noqa: BLE001 - see above
            self._failed = f"a compiled module's inputs cannot be noted ({error}). Pass model_flops="
        if len(self._calls) > MAX_CALLS:
            self._failed = TOO_MANY_CALLS


_Place = Callable[[torch.device], torch.device]


def _on_cpu(device: torch.device) -> torch.device:
    """Where a module's own kernels for one kind of device, which need numbers, are not taken."""
    return torch.device("cpu")


def _as_it_was(device: torch.device) -> torch.device:
    """Where it really is, for a module that names its device."""
    return device


def _first_that_works(calls: list[_Call], places: Sequence[_Place]) -> Counted:
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


def _replay(calls: list[_Call], place: _Place) -> Counted:
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


def _one_pass(module: torch.nn.Module, call: _Call, count: FlopCount, place: _Place) -> None:
    """Forward, and backward from the sum of the outputs."""
    args, kwargs = tree_map(lambda value: _empty_of(value, place), (call.args, call.kwargs))
    count.in_backward = False
    kind, dtype = call.autocast or ("cpu", torch.bfloat16)
    kind = place(torch.device(kind)).type
    with (
        torch.set_grad_enabled(call.with_grad),
        torch.autocast(kind, dtype, enabled=call.autocast is not None),
    ):
        outputs = tree_leaves(module.forward(*args, **kwargs))
    trained = [out for out in outputs if isinstance(out, torch.Tensor) and out.requires_grad]
    if trained:
        count.in_backward = True
        torch.autograd.backward(trained, [torch.empty_like(out) for out in trained])


def _without_data(module: torch.nn.Module, fake: FakeTensorMode, place: _Place) -> torch.nn.Module:
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


def _fake_of(tensor: torch.Tensor, fake: FakeTensorMode, place: _Place) -> torch.Tensor:
    shape = replace(_shape_of(tensor), requires_grad=False)
    with fake:
        empty = _empty_of(shape, place)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty  # type: ignore[no-any-return]


def _shape_of(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise TypeError(f"a {type(value).__name__} was passed to a compiled module")
    return _Shape(value.size(), value.stride(), value.dtype, value.device, value.requires_grad)


def _empty_of(value: Any, place: _Place) -> Any:
    if not isinstance(value, _Shape):
        return value
    tensor = torch.empty_strided(value.size, value.stride, dtype=value.dtype, device=place(value.device))
    return tensor.requires_grad_(value.requires_grad)


def _autocast(args: Any, kwargs: Any) -> tuple[str, torch.dtype] | None:
    """The autocast that the inputs' device is under."""
    kinds = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
    on = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    return (on[0], torch.get_autocast_dtype(on[0])) if on else None


@contextmanager
def _nothing_drawn() -> Iterator[None]:
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
