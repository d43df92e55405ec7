"""Model FLOPs of a step: counted once, while the first microbatch runs, and scaled to the others.

The count is taken from the operators that really run (matrix products, convolutions, attention; a multiply-add
is 2 FLOPs; causal attention counted in full, as PyTorch's own registry does), with no extra pass: no second
forward, no random numbers drawn, no state touched. Element-wise work is not counted. What runs inside
`torch.compile` cannot be seen, so such a model needs a formula.

Source: the formulas of `torch.utils.flop_counter.flop_registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_FUSED_RECURRENT = ("aten::mkldnn_rnn_layer", "aten::_cudnn_rnn", "aten::miopen_rnn")
"""Matrix products inside one operator that PyTorch's registry has no formula for: it counts them as nothing."""


class FlopCount(TorchDispatchMode):
    """Counts while it is the active mode; use `start` and `stop`, which may lie in different functions."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.failed: str | None = None
        self._active = False

    def start(self) -> None:
        """Count every operator from here on."""
        self.__enter__()
        self._active = True

    def stop(self) -> None:
        """Count no more. Safe to call again."""
        if self._active:
            self._active = False
            self.__exit__(None, None, None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator as it is, and add its FLOPs."""
        kwargs = dict(kwargs or {})
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # composite operators reach us whole in inference mode: count their parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if func._schema.name in _FUSED_RECURRENT:
            self.failed = (
                f"{func._schema.name} (a fused recurrent layer) cannot be counted. Pass model_flops="
            )
        if formula is not None:
            self._add(formula, args, kwargs, result)
        return result

    def _add(self, formula: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        try:
            self.flops += int(formula(*args, **kwargs, out_val=result))
        except Exception as error:  # noqa: BLE001 - a formula's fault must not become the training's
            self.failed = f"the FLOP formula of an operator failed ({type(error).__name__}: {error})"


def uncountable(module: torch.nn.Module) -> str | None:
    """Why FLOPs of `module` cannot be counted, or None if they can."""
    for part in module.modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            return (
                "the model is compiled: operators inside torch.compile cannot be counted. Pass model_flops="
            )
        if type(part).__name__ in ("FullyShardedDataParallel", "FSDPModule"):
            return "the model is sharded: counting is not supported yet. Pass model_flops="
    return None
