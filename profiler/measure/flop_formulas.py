"""FLOPs and bytes of one operator: PyTorch's own formulas, and those it lacks.

A multiply-add is 2 FLOPs. Counted are matrix products, convolutions, attention and fused recurrent layers; not
counted is element-wise work. Causal attention is counted in full, whatever the kernel skips.

Two figures an operator. *Executed* is what it does. *Model* is what the mathematics asks for: a flash-like kernel
computes the attention scores again in its backward pass (5 products instead of 4), and that is recomputation.

Source: `torch.utils.flop_counter.flop_registry`; Dao et al. 2022 (FlashAttention, arXiv 2205.14135), algorithm 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import conv_flop_count, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

CONVENTION = (
    "multiply-add = 2; matrix products, convolutions, attention and recurrent layers of forward and backward;"
    " causal attention in full; no recomputation, element-wise work or optimizer"
)
"""What a counted `model_flops` counts."""

Formula = Callable[..., int]


class OperatorFlops(NamedTuple):
    """FLOPs of one operator, with and without what it computes a second time."""

    model: int
    executed: int


def operator_flops(
    operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> OperatorFlops | None:
    """FLOPs of an operator that ran; None if it is not one of those that are counted."""
    packet = getattr(operator, "_overloadpacket", operator)
    formula = _MENDED.get(packet) or flop_registry.get(packet) or _LACKING.get(packet)
    if formula is None:
        return None
    executed = int(formula(*args, **kwargs, out_val=result))
    return OperatorFlops(executed - _recomputed(packet, args, executed), executed)


def why_uncounted(operator: Any) -> str | None:
    """Why an operator that has no formula spoils a count, or None if it does no products worth counting."""
    packet = getattr(operator, "_overloadpacket", operator)
    name = str(packet).replace(".", "::")
    if packet in _REFUSED:
        return f"{name} has no FLOP formula. Pass model_flops="
    if operator.namespace in _KNOWN_NAMESPACES:
        return None
    if operator.namespace == "higher_order":
        return f"{name} runs a part of the model as one operator, which cannot be counted. Pass model_flops="
    return (
        f"{name} is not PyTorch's own operator and has no FLOP formula. Register one with"
        " torch.utils.flop_counter.register_flop_formula, or pass model_flops="
    )


def operator_bytes(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
    """Bytes of every tensor that an operator takes and gives, each once; 0 for views and plain allocations."""
    packet = getattr(operator, "_overloadpacket", operator)
    if packet in _MOVES_NOTHING or getattr(operator, "is_view", False):
        return 0
    return sum(_size(t) for value in (*args, *kwargs.values(), result) for t in _tensors(value))


def _size(tensor: torch.Tensor) -> int:
    """Bytes that lie in memory: an expanded tensor is as small as what it was expanded from."""
    if tensor.layout is not torch.strided:
        return int(tensor.numel() * tensor.element_size())
    return int(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _convolution_backward(
    grad: Any, inputs: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, wanted: Sequence[bool], **options: Any,
) -> int:  # fmt: skip
    """As much as the forward pass for each of the gradients of input and weight that are wanted.

    PyTorch's own formula counts the weight's as if there were no groups: 18 times too much for a depthwise net.
    """
    forward = conv_flop_count(inputs.shape, weight.shape, grad.shape, transposed=transposed)
    return int(forward * sum(wanted[:2]))


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **options: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **options: Any
) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


def _recurrent(tokens: Any, weights: Sequence[Any]) -> int:
    """Each weight matrix meets each token once; a packed sequence has no padding to count."""
    steps = tokens.numel() // tokens.shape[-1]
    return int(2 * steps * sum(weight.numel() for weight in weights if weight.dim() == 2))


def _onednn_layer(tokens: Any, input_weight: Any, hidden_weight: Any, *rest: Any, **options: Any) -> int:
    return _recurrent(tokens, (input_weight, hidden_weight))


def _layers(tokens: Any, weights: Sequence[Any], *rest: Any, **options: Any) -> int:
    return _recurrent(tokens, weights)


def _twice(forward: Formula) -> Formula:
    """A backward pass that gives the gradients of both factors of each product."""
    return lambda *args, **options: 2 * forward(*args, **options)


def _product(left: Any, right: Any, *rest: Any, out_val: Any = None, **options: Any) -> int:
    """`left @ right` of matrices or vectors: the inner dimension is left's last."""
    columns = right.shape[-1] if right.dim() > 1 else 1
    return int(2 * left.numel() * columns)


def _added_product(
    _addend: Any, left: Any, right: Any, *rest: Any, out_val: Any = None, **options: Any
) -> int:
    return _product(left, right)


def _products(lefts: Sequence[Any], rights: Sequence[Any], *rest: Any, **options: Any) -> int:
    return sum(_product(left, right) for left, right in zip(lefts, rights, strict=True))


def _grouped(left: Any, right: Any, *rest: Any, out_val: Any = None, **options: Any) -> int:
    """Groups of rows each with a matrix of its own: which group a row is in does not change its FLOPs.

    Two matrices cut along their inner dimension (the gradient of the weights) give a matrix a group.
    """
    if left.dim() == 2 and right.dim() == 2:
        return int(2 * left.numel() * right.shape[-1])
    if left.dim() == 3 and right.dim() == 2:
        return int(2 * right.numel() * left.shape[-2])
    return int(2 * left.numel() * right.shape[-1])


def _named(table: Mapping[str, Formula]) -> dict[Any, Formula]:
    """By operator, leaving out what this version of PyTorch does not have."""
    found = {getattr(torch.ops.aten, name, None): formula for name, formula in table.items()}
    return {operator: formula for operator, formula in found.items() if operator is not None}


_MENDED: Mapping[Any, Formula] = {torch.ops.aten.convolution_backward: _convolution_backward}
"""Instead of PyTorch's own formulas."""

_LACKING: Mapping[Any, Formula] = _named(
    {
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "_scaled_dot_product_fused_attention_overrideable": _attention,
        "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
        "_scaled_dot_product_attention_math_for_mps": _attention,
        "_cudnn_attention_forward": _attention,
        "_cudnn_attention_backward": _attention_backward,
        "mkldnn_rnn_layer": _onednn_layer,
        "mkldnn_rnn_layer_backward": _twice(_onednn_layer),
        "_cudnn_rnn": _layers,
        "_cudnn_rnn_backward": _twice(_layers),
        "miopen_rnn": _layers,
        "miopen_rnn_backward": _twice(_layers),
        "mv": _product,
        "dot": _product,
        "vdot": _product,
        "_int_mm": _product,
        "_scaled_mm_v2": _product,
        "addmv": _added_product,
        "addmv_": _added_product,
        "addmm_": _added_product,
        "addbmm": _added_product,
        "addbmm_": _added_product,
        "baddbmm_": _added_product,
        "_addmm_activation": _added_product,
        "_foreach_mm": _products,
        "_grouped_mm": _grouped,
        "_scaled_grouped_mm": _grouped,
        "_scaled_grouped_mm_v2": _grouped,
    }
)
"""Operators of PyTorch that its registry (2.13) counts as nothing."""

_REFUSED = frozenset(
    operator
    for name in (
        "_trilinear", "_lstm_mps", "lstm_mps_backward", "quantized_lstm", "quantized_gru",
        "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_triton_multi_head_attention",
        "_triton_scaled_dot_attention", "_flash_attention_forward_no_dropout_inplace", "_sparse_addmm",
        "_sparse_sparse_matmul", "hspmm", "_sparse_mm_reduce_impl", "_sparse_mm_reduce_impl_backward",
        "sparse_sampled_addmm", "_cslt_sparse_mm", "_sparse_semi_structured_linear",
        "_sparse_semi_structured_mm", "_sparse_semi_structured_addmm", "_weight_int4pack_mm",
        "_weight_int4pack_mm_for_cpu", "_weight_int4pack_mm_with_scales_and_zeros", "_weight_int8pack_mm",
        "_mixed_dtypes_linear", "_dyn_quant_matmul_4bit", "_cdist_forward", "_cdist_backward",
        "mkldnn_linear", "mkldnn_linear_backward", "linear_backward", "matmul_backward",
    )
    if (operator := getattr(torch.ops.aten, name, None)) is not None
)  # fmt: skip
"""Products whose FLOPs depend on more than shapes, or that no training was seen to use."""

_KNOWN_NAMESPACES = frozenset(
    {"aten", "prim", "prims", "profiler", "debugprims", "rngprims", "inductor", "c10d", "_c10d_functional"}
    | {"c10d_functional", "symm_mem", "torchvision", "torchaudio"}
)
"""Whose operators without a formula do no products worth counting."""

_BACKWARD_KERNELS = frozenset(
    operator
    for operator in (*flop_registry, *_LACKING)
    if "attention" in str(operator) and "backward" in str(operator)
)
"""Attention backward kernels: each computes the scores again, the first of its 5 products."""


def _recomputed(packet: Any, args: Sequence[Any], executed: int) -> int:
    """FLOPs of the scores that an attention kernel computes a second time: d_q of 3 d_q + 2 d_v."""
    if packet not in _BACKWARD_KERNELS:
        return 0
    first = 0 if "flex" in str(packet) else 1  # all others take the output's gradient first
    query, _, value = args[first : first + 3]
    width_q, width_v = query.shape[-1], value.shape[-1]
    return int(executed * width_q // (3 * width_q + 2 * width_v))


_MOVES_NOTHING = frozenset(
    operator
    for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
    if (operator := getattr(torch.ops.aten, name, None)) is not None
)
"""Operators that neither read nor write what they give."""
