"""FLOPs of operators: PyTorch's own count, with what it lacks; the pass that is counted stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from profiler.measure.flop_formulas import _LACKING, _REFUSED, operator_bytes, operator_flops, why_uncounted
from profiler.measure.flops import FlopCount
from workloads.transformer import Transformer
from workloads.transformer_config import TransformerConfig, model_flops_per_token

aten = torch.ops.aten


class _Attention(torch.nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(16, 48)
        self.causal = causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(2, 8, 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class _Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 5, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: torch.nn.Linear(7, 5), (3, 7)),
    "mlp": (
        lambda: torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.GELU(), torch.nn.Linear(9, 2)),
        (3, 7),
    ),
    "conv": (lambda: torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 9)),
    "attention": (lambda: _Attention(False), (2, 8, 16)),
    "causal attention": (lambda: _Attention(True), (2, 8, 16)),
    "lstm": (_Recurrent, (4, 7, 6)),
    "transformer": (
        lambda: torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True),
        (2, 5, 16),
    ),
}
FUSED_ATTENTION = {"attention": (2, 2, 8, 8), "causal attention": (2, 2, 8, 8)}
"""Batch, heads, positions, width: counted by PyTorch's registry as nothing on a CPU."""


def _pass(name: str, begin: Callable[[], Any], end: Callable[[Any], Any]) -> tuple[list[torch.Tensor], Any]:
    """Output and gradients of one seeded pass, and what `end` makes of what `begin` made."""
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model, x = make(), torch.randn(*shape, requires_grad=True)
    counting = begin()
    out = model(x)
    out.square().sum().backward()
    counted = end(counting)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert x.grad is not None
    return [out.detach(), x.grad, *grads, torch.rand(3)], counted


def _ours() -> FlopCount:
    count = FlopCount()
    count.start()
    return count


def _stopped(count: FlopCount) -> FlopCount:
    count.stop()
    count.stop()
    assert count.failed is None
    return count


def _exited(mode: FlopCounterMode) -> int:
    mode.__exit__(None, None, None)
    return mode.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
def test_the_pass_is_untouched(name: str):
    plain, _ = _pass(name, lambda: None, lambda _: None)
    counted, count = _pass(name, _ours, _stopped)
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))
    assert 0 < count.model_flops <= count.executed_flops
    assert count.operator_bytes > 0


@pytest.mark.parametrize("name", [name for name in MODELS if name != "lstm"])
def test_flops_are_torchs_own_and_those_that_it_lacks(name: str):
    _, ours = _pass(name, _ours, _stopped)
    _, torchs = _pass(name, lambda: FlopCounterMode(display=False).__enter__(), _exited)
    batch, heads, positions, width = FUSED_ATTENTION.get(name, (0, 0, 0, 0))
    product = 2 * batch * heads * positions * positions * width
    assert ours.executed_flops == torchs + 7 * product  # 2 forward, 5 backward: the scores are computed again
    assert ours.model_flops == torchs + 6 * product


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="an LSTM is not fused without oneDNN")
def test_a_fused_lstm_counts_as_much_as_its_matrix_products():
    _, fused = _pass("lstm", _ours, _stopped)
    with torch.backends.mkldnn.flags(enabled=False):
        _, plain = _pass("lstm", _ours, _stopped)
    first_steps = 4 * (
        2 * 4 * 20 * 5
    )  # of 2 layers and 2 directions: the gradient of a state that needs none
    assert fused.model_flops == plain.model_flops + first_steps > 0


def test_cudnn_and_miopen_layers_by_their_weights():
    """2 x tokens x matrix elements; biases and the packed copy of the weights do not count."""
    tokens = torch.empty(4, 3, 6, device="meta")
    weights = [torch.empty(shape, device="meta") for shape in ((20, 6), (20, 5), (20,), (20,))]
    forward = 2 * 12 * (20 * 6 + 20 * 5)
    for name in ("_cudnn_rnn", "miopen_rnn"):
        assert operator_flops(getattr(aten, name), (tokens, weights, 4), {}, None) == (forward, forward)
        twice = operator_flops(getattr(aten, f"{name}_backward"), (tokens, weights, 4), {}, None)
        assert twice == (2 * forward, 2 * forward)


@pytest.mark.parametrize(
    ("name", "shapes", "flops"),
    [
        ("mv", ((3, 4), (4,)), 24),
        ("dot", ((4,), (4,)), 8),
        ("addmv", ((3,), (3, 4), (4,)), 24),
        ("addbmm", ((3, 5), (2, 3, 4), (2, 4, 5)), 240),
        ("_int_mm", ((3, 4), (4, 5)), 120),
        ("_grouped_mm", ((6, 4), (3, 4, 5)), 240),  # 6 rows, 3 groups
        ("_grouped_mm", ((3, 2, 4), (4, 6)), 96),  # 6 columns in 3 groups
        ("_grouped_mm", ((4, 6), (6, 5)), 240),  # the gradient of the weights
        ("_grouped_mm", ((3, 2, 4), (3, 4, 5)), 240),
    ],
)
def test_products_that_torch_counts_as_nothing(name: str, shapes: tuple[tuple[int, ...], ...], flops: int):
    if not hasattr(aten, name):
        pytest.skip("not in this version of PyTorch")
    tensors = tuple(torch.empty(shape, device="meta") for shape in shapes)
    assert operator_flops(getattr(aten, name), tensors, {}, None) == (flops, flops)


@pytest.mark.parametrize(
    "kernel",
    [
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_fused_attention_overrideable",
    ],
)
def test_every_attention_kernel_recomputes_its_scores(kernel: str):
    """Grouped queries, and values of another width than the keys'."""
    query, key, value = (
        torch.empty(2, h, s, d, device="meta") for h, s, d in ((4, 8, 16), (2, 6, 16), (2, 6, 24))
    )
    grad = torch.empty(2, 4, 8, 24, device="meta")
    scores, mixed = 2 * 2 * 4 * 8 * 6 * 16, 2 * 2 * 4 * 8 * 6 * 24
    forward = operator_flops(getattr(aten, kernel), (query, key, value), {}, None)
    assert forward == (scores + mixed, scores + mixed)
    backward = operator_flops(getattr(aten, f"{kernel}_backward"), (grad, query, key, value), {}, None)
    assert backward == (2 * scores + 2 * mixed, 3 * scores + 2 * mixed)


def _is_composite(name: str) -> bool:
    """Made of other operators, which are counted."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))


def _is_composite(name: str) -> bool:
    """Made of other operators, which are counted."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))


def test_every_product_of_this_pytorch_has_a_formula_or_a_refusal():
    """A kernel that a new PyTorch brings must not be counted as nothing in silence."""
    products = re.compile(
        r"attention|_mm(_v2)?$|^b?mm$|addb?mm|mv$|_rnn|linear_backward|matmul_backward|_lstm$"
    )
    apart = re.compile(
        r"flatten_weight|choose_qparams|_search$|_out$|^lstm|quantized|fbgemm|linear_backward_"
    )
    every = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    composite = {name.split(".")[0] for name in every if _is_composite(name)}
    names = {name.split(".")[0] for name in every} - composite
    unknown = [
        name
        for name in sorted(full.removeprefix("aten::") for full in names)
        if products.search(name)
        and not apart.search(name)
        and getattr(aten, name) not in {**flop_registry, **_LACKING}
        and getattr(aten, name) not in _REFUSED
    ]
    assert unknown == []


def test_somebody_elses_operator_is_refused_by_name():
    with torch.library._scoped_library("joulescale_test", "FRAGMENT") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: x @ x.T, "CompositeExplicitAutograd")
        count = _ours()
        torch.ops.joulescale_test.mystery(torch.zeros(3, 4))
        count.stop()
        assert count.counted().failed == (
            "joulescale_test::mystery is not PyTorch's own operator and has no FLOP formula. Register one with"
            " torch.utils.flop_counter.register_flop_formula, or pass model_flops="
        )


def test_products_without_a_formula_are_refused():
    assert (
        why_uncounted(aten._cdist_forward.default)
        == "aten::_cdist_forward has no FLOP formula. Pass model_flops="
    )
    assert why_uncounted(aten.relu.default) is None


def test_a_linear_layer_by_hand():
    """2 x 3 x 7 x 5 forward, as much again for the input's and for the weight's gradient."""
    assert _pass("linear", _ours, _stopped)[1].model_flops == 3 * 2 * 3 * 7 * 5


def test_counting_stops_after_the_users_own_error():
    count = _ours()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.nn.Linear(3, 3)(torch.zeros(2, 2))
    count.stop()
    before = count.model_flops
    torch.zeros(2, 2) @ torch.zeros(2, 2)
    assert count.model_flops == before


@pytest.fixture
def forgotten_graphs() -> Iterator[None]:
    """A process that has compiled anything counts no eager model any more: clear what a test compiled."""
    yield
    torch._dynamo.utils.counters.clear()


@pytest.mark.usefixtures("forgotten_graphs")
def test_control_flow_as_one_operator_runs_and_is_refused():
    """`torch.cond` is an operator of its own kind: a mode that does not know it made it raise."""
    count = _ours()
    with torch.no_grad():
        out = torch.cond(torch.tensor(True), lambda x: x @ x, lambda x: x + 1, (torch.eye(3),))
    count.stop()
    assert torch.equal(out, torch.eye(3))
    assert count.counted().failed is not None


# -- bytes -------------------------------------------------------------------------------------------------------


def test_bytes_of_a_product_are_its_three_matrices():
    a, b = torch.zeros(3, 4), torch.zeros(4, 5)
    assert operator_bytes(aten.mm.default, (a, b), {}, a @ b) == 4 * (12 + 20 + 15)


def test_views_and_allocations_move_nothing_and_an_expanded_tensor_is_small():
    a = torch.zeros(3, 4)
    for view in (
        aten.view.default,
        aten.t.default,
        aten.expand.default,
        aten.detach.default,
        aten._unsafe_view.default,
    ):
        assert operator_bytes(view, (a,), {}, a) == 0
    assert operator_bytes(aten._unsafe_view.default, (a,), {}, a) == 0
    assert operator_bytes(aten.empty_like.default, (a,), {}, a) == 0
    expanded = torch.zeros(1).expand(1000)
    assert operator_bytes(aten.sum.default, (expanded,), {}, torch.zeros(())) == 4 + 4


def test_lists_of_tensors_are_looked_into():
    parts = [torch.zeros(2), torch.zeros(3)]
    assert operator_bytes(aten.cat.default, (parts,), {}, torch.zeros(5)) == 4 * 10


# -- a whole model: formula, real pass, meta device ----------------------------------------------------------------

SIZES = [
    TransformerConfig(d_model=16, n_layer=2, head_dim=16, seq_len=64, vocab_size=257),
    TransformerConfig(d_model=64, n_layer=2, head_dim=16, seq_len=128, vocab_size=257),
    TransformerConfig(d_model=128, n_layer=4, head_dim=32, seq_len=32, vocab_size=1000),
    TransformerConfig(d_model=32, n_layer=1, head_dim=8, seq_len=256, vocab_size=64),
]


def _counted(config: TransformerConfig, device: str, saving: bool = False) -> FlopCount:
    with torch.device(device):
        model, tokens = Transformer(config), torch.zeros(2, config.seq_len, dtype=torch.int64)
    if saving:
        for block in model.blocks:
            block.forward = _checkpointed(block.forward)
    count = _ours()
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    count.begin_backward()
    loss.backward()
    return _stopped(count)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: checkpoint(forward, *args, use_reentrant=False, early_stop=False)


@pytest.mark.parametrize("config", SIZES, ids=str)
def test_lm_by_formula_on_the_real_pass_and_on_the_meta_device_agree(config: TransformerConfig):
    """Exactly, not only within 1 %: the formula counts what the model multiplies, and nothing else."""
    formula = 2 * config.seq_len * model_flops_per_token(config)
    assert _counted(config, "cpu").model_flops == formula
    assert _counted(config, "meta").model_flops == formula


@pytest.mark.parametrize("config", SIZES[:2], ids=str)
def test_checkpointing_adds_one_forward_of_the_blocks_to_what_is_executed_and_nothing_to_the_model(
    config: TransformerConfig,
):
    plain, saving = _counted(config, "meta"), _counted(config, "meta", saving=True)
    head = 2 * 2 * config.seq_len * config.d_model * config.vocab_size
    assert saving.model_flops == plain.model_flops == plain.executed_flops
    assert saving.executed_flops - plain.executed_flops == plain.model_flops / 3 - head


@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (4, False), (16, False), (4, True)])
def test_both_gradients_of_a_convolution_cost_as_much_as_its_forward_pass(
    groups: int, transposed: bool
) -> None:
    make = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer = make(16, 16, 3, padding=1, groups=groups)
    inputs = torch.randn(2, 16, 8, 8, requires_grad=True)
    count = FlopCount()
    count.start()
    out = layer(inputs)
    count.begin_backward()
    out.sum().backward()
    count.stop()
    forward = 2 * 2 * 8 * 8 * 16 * (16 // groups) * 9
    assert count.counted().model_flops == 3 * forward


def test_a_forward_pass_after_a_backward_pass_is_no_recomputation() -> None:
    layer, inputs = torch.nn.Linear(8, 8), torch.randn(4, 8)
    count = FlopCount()
    count.start()
    for _ in range(2):
        loss = layer(inputs).sum()
        count.begin_backward()
        loss.backward()
        count.end_backward()
    count.stop()
    counted = count.counted()
    assert counted.model_flops == counted.executed_flops == 2 * (2 * 2 * 4 * 8 * 8)
