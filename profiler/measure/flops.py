"""Model FLOPs of a step: counted once, while the first microbatch runs, and scaled to the others.

The count is taken from the operators that really run (matrix products, convolutions, attention; a multiply-add
is 2 FLOPs; causal attention counted in full, as PyTorch's own registry does), with no extra pass: no second
forward, no random numbers drawn, no state touched. Element-wise work is not counted. What runs inside
`torch.compile` cannot be seen, so such a model needs a formula.

Source: the formulas of `torch.utils.flop_counter.flop_registry`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils.flop_counter import flop_registry

_FUSED_RECURRENT = ("aten::mkldnn_rnn_layer", "aten::_cudnn_rnn", "aten::miopen_rnn")
"""Matrix products inside one operator that PyTorch's registry has no formula for: it counts them as nothing."""


_PLAIN = (torch.Tensor, torch.nn.Parameter)


class FlopCount(TorchDispatchMode):
    """Counts from `start` to `stop`, which may lie in different functions.

    It looks at operators and touches none: what it cannot follow (tensor subclasses, compiled graphs) runs as it
    would without it, and is the reason for `failed`.

    Attributes:
        flops: Counted so far, recomputed activations left out.
        failed: Why the count is not the whole, or None.
        in_backward: Set it while the backward pass runs. An operator that runs there with gradients enabled
            recomputes an activation (`torch.utils.checkpoint`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
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

    def stop(self) -> bool:
        """Count no more. Returns False if another mode lies above this one, which then stays, and does nothing."""
        self._counting = False
        if self._entered and _get_current_dispatch_mode() is self:
            self._entered = False
            self.__exit__(None, None, None)
        if _compiled_graphs():
            self.failed = (
                "a part of the model is compiled, and what runs there cannot be counted. Pass model_flops="
            )
        return not self._entered

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator as it is, and add its FLOPs."""
        kwargs = dict(kwargs or {})
        if not self._counting:
            return func(*args, **kwargs)
        if any(kind not in _PLAIN for kind in types):
            self.failed = (
                "tensor subclasses (nested, sharded, quantised) cannot be counted. Pass model_flops="
            )
            return func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and torch.is_inference_mode_enabled():
            with self:  # composite operators reach us whole in inference mode: count their parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if func._schema.name in _FUSED_RECURRENT:
            self.failed = (
                f"{func._schema.name} (a fused recurrent layer) cannot be counted. Pass model_flops="
            )
        recomputed = self.in_backward and torch.is_grad_enabled()
        if formula is not None and not recomputed:
            self._add(formula, args, kwargs, result)
        return result

    def _add(self, formula: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        try:
            self.flops += int(formula(*args, **kwargs, out_val=result))
        except Exception as error:  # noqa: BLE001 - a formula's fault must not become the training's
            self.failed = f"the FLOP formula of an operator failed ({type(error).__name__}: {error})"


def _compiled_graphs() -> int:
    """Graphs that `torch.compile` has made in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])


def uncountable(module: torch.nn.Module) -> str | None:
    """Why FLOPs of `module` cannot be counted, or None if they can."""
    for part in module.modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            return (
                "the model is compiled: operators inside torch.compile cannot be counted. Pass model_flops="
            )
    return None
