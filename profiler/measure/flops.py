"""Counts what the operators of a microbatch do, while they run: FLOPs and bytes, with no extra pass.

No second forward, no random numbers drawn, no state touched. What runs inside `torch.compile` cannot be seen: see
`profiler.measure.compiled`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from profiler.measure.flop_formulas import operator_bytes, operator_flops, why_uncounted
from profiler.measure.guard import fault_of, told

_FOLLOWED = (torch.Tensor, torch.nn.Parameter, FakeTensor)

COMPILED = "a part of the model is compiled, and what runs there cannot be counted. Pass model_flops="
SUBCLASSES = "tensor subclasses (nested, sharded, quantised) cannot be counted. Pass model_flops="


class Counted(NamedTuple):
    """What one microbatch did; `failed` says why it is not known."""

    model_flops: float
    executed_flops: float
    operator_bytes: float | None
    failed: str | None = None

    @classmethod
    def unknown(cls, reason: str) -> Counted:
        """Nothing is known, because of `reason`."""
        return cls(0.0, 0.0, None, reason)


class Count(Protocol):
    """Counts one microbatch."""

    def start(self) -> None:
        """Before the forward pass."""
        ...

    def begin_backward(self) -> None:
        """Before each backward pass."""
        ...

    def end_backward(self) -> None:
        """After each backward pass; in manual optimization another forward pass may follow."""
        ...

    def stop(self) -> bool:
        """Count no more; False if it must be called again later, because somebody else's mode lies above."""
        ...

    def counted(self) -> Counted:
        """The result, once the microbatch is over."""
        ...


class FlopCount(TorchDispatchMode):
    """Counts from `start` to `stop`, which may lie in different functions.

    It looks at operators and touches none: what it cannot follow (tensor subclasses, compiled graphs) runs as it
    would without it, and is the reason for `failed`.

    Attributes:
        model_flops: Counted so far; recomputed activations left out.
        executed_flops: The same with everything that is computed twice.
        operator_bytes: What every operator took and gave, as if none was fused and nothing stayed in a cache.
        failed: Why the count is not the whole, or None.
        in_backward: Set it while the backward pass runs. An operator that runs there with gradients enabled
            recomputes an activation (`torch.utils.checkpoint`).
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.model_flops = self.executed_flops = self.operator_bytes = 0
        self.failed: str | None = None
        self.in_backward = False
        self._counting = self._entered = False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let `torch.compile` work as if there was no mode; else it would never compile what it first sees now."""
        return True

    def start(self) -> None:
        """Count every operator from here on."""
        self._counting = True
        if not self._entered:
            self._entered = True
            self.__enter__()

    def begin_backward(self) -> None:
        """What runs from here on is backward, or recomputation."""
        self.in_backward = True

    def end_backward(self) -> None:
        """What runs from here on is forward again."""
        self.in_backward = False

    def pause(self) -> None:
        """Let operators pass uncounted until `resume`."""
        self._counting = False

    def resume(self) -> None:
        """Count again, if `stop` has not come in between."""
        self._counting = self._entered

    def counted(self) -> Counted:
        """The result."""
        if self.failed:
            return Counted.unknown(self.failed)
        return Counted(float(self.model_flops), float(self.executed_flops), float(self.operator_bytes))

    def stop(self) -> bool:
        """Count no more. Returns False if another mode lies above this one, which then stays, and does nothing."""
        self._counting = False
        if self._entered and _get_current_dispatch_mode() is self:
            self._entered = False
            self.__exit__(None, None, None)
        return not self._entered

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator as it is, and add what it did."""
        kwargs = dict(kwargs or {})
        if not self._counting:
            return func(*args, **kwargs)
        if any(kind not in _FOLLOWED for kind in types):
            self.failed = SUBCLASSES
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and not isinstance(func, HigherOrderOperator):
            with self:  # composite operators reach us whole in inference mode: count their parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if error := fault_of(self._add, func, args, kwargs, result):
            self.failed = f"the FLOP formula of an operator failed ({told(error)})"
        return result

    def _add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self.operator_bytes += operator_bytes(func, args, kwargs, result)
        flops = operator_flops(func, args, kwargs, result)
        if flops is None:
            self.failed = why_uncounted(func) or self.failed
            return
        self.executed_flops += flops.executed
        if not (self.in_backward and torch.is_grad_enabled()):
            self.model_flops += flops.model


def compiled_graphs() -> int:
    """Graphs that `torch.compile` has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
