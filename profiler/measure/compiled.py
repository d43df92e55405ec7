"""Counts what `torch.compile` hides: the modules that hold compiled parts are run once more, without data.

A compiled graph shows no operators, so what those modules are called with is noted, and a copy of each is replayed
(`profiler.measure.replay`) once the microbatch is over. `training_step` itself is never run again: it logs, and does
whatever else a user wrote there.

A step with matrix products both inside and outside of these modules is refused, and so is a compiled LightningModule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from profiler.measure.flops import Counted, FlopCount
from profiler.measure.guard import fault_of, told
from profiler.measure.replay import (
    Call,
    as_it_was,
    autocast_of,
    first_that_works,
    nothing_drawn,
    on_cpu,
    shape_of,
)

MAX_CALLS = 256
"""Calls of watched modules within one microbatch that are counted."""

OUTSIDE = "matrix products run both inside and outside of compiled modules: not told apart. Pass model_flops="
TOO_MANY_CALLS = f"compiled modules are called more than {MAX_CALLS} times a microbatch. Pass model_flops="
SEVERAL_PASSES = (
    "compiled modules with several backward passes a microbatch are not counted. Pass model_flops="
)
NEVER_CALLED = "the compiled modules were not called in the first microbatch. Pass model_flops="


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
        self._calls: list[Call] = []
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

    def end_backward(self) -> None:
        """Nothing is watched any more."""

    def stop(self) -> bool:
        """Give the modules back as they were. False if a user's mode lies above ours, which then does nothing."""
        while self._restore:
            if error := fault_of(self._restore.pop()):
                self._cannot_note(error)
        return self._outside.stop()

    def counted(self) -> Counted:
        """Run the copies, forward and backward; call it once the microbatch is over."""
        failed = self._failed or self._outside.failed or (OUTSIDE if self._outside.executed_flops else None)
        if failed or not self._calls:
            return Counted.unknown(failed or NEVER_CALLED)
        with nothing_drawn():
            return first_that_works(self._calls, (on_cpu, as_it_was))

    def _watch(self, module: torch.nn.Module) -> None:
        """Put a note-taker before the callable that lies on the instance; nobody else's hooks are touched."""
        name = "_compiled_call_impl" if getattr(module, "_compiled_call_impl", None) else "forward"
        own = name in vars(module)
        original = getattr(module, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            if error := fault_of(self._arrive, module, args, kwargs):
                self._cannot_note(error)
            try:
                return original(*args, **kwargs)
            finally:
                if error := fault_of(self._leave):
                    self._cannot_note(error)

        def restore() -> None:
            if vars(module).get(name) is not noting:
                return  # replaced since, by somebody else
            if own:
                object.__setattr__(module, name, original)
            else:
                object.__delattr__(module, name)

        object.__setattr__(module, name, noting)
        self._restore.append(restore)

    def _cannot_note(self, error: BaseException) -> None:
        why = told(error).removeprefix("TypeError: ")
        self._failed = f"a compiled module's inputs cannot be noted ({why}). Pass model_flops="

    def _arrive(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self._depth += 1
        self._outside.pause()
        if self._depth == 1 and self._failed is None:
            self._note(module, args, kwargs)

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._outside.resume()

    def _note(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        taken, named = tree_map(shape_of, (args, kwargs))
        settings = torch.is_grad_enabled(), autocast_of(args, kwargs)
        self._calls.append(Call(module, taken, named, *settings))
        if len(self._calls) > MAX_CALLS:
            self._failed = TOO_MANY_CALLS
