"""How much work a batch is: found where that is certain, null with a reason where not, and the training untouched."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from profiler.measure.batch import count_samples, count_tokens, has_embedding
from profiler.measure.flops import FlopCount, uncountable
from profiler.measure.guard import Guard
from profiler.measure.recorder import Work
from profiler.measure.work import MAX_SHAPES, WorkCounter

IDS = torch.zeros(4, 16, dtype=torch.int64)
IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)
Pair = namedtuple("Pair", "x y")

DIMENSION = "first dimension of the batch's tensors"
NO_TENSOR = "the batch holds no tensor. Pass samples= to count them"
NO_TOKENS = (
    "the batch's first tensor is no matrix of token ids (alone or with targets of its shape) for an embedding."
    " Pass tokens= to count them"
)
NO_KEY = "the batch has none of input_ids, decoder_input_ids, token_ids, tokens. Pass tokens= to count them"


@pytest.mark.parametrize(
    ("batch", "samples", "why"),
    [
        (IDS, 4, DIMENSION),
        ((IMAGES, LABELS), 4, DIMENSION),
        ([IMAGES, [LABELS, {"weights": LABELS}]], 4, DIMENSION),
        (Pair(IMAGES, LABELS), 4, DIMENSION),
        ({"input_ids": IDS, "scale": torch.tensor(2.0)}, 4, DIMENSION),
        (UserDict(input_ids=IDS), 4, DIMENSION),
        ((IMAGES, ["a cat", "a dog"], None, 3), 4, DIMENSION),
        (
            (IMAGES, LABELS[:3]),
            None,
            "the batch's tensors disagree in their first dimension ([3, 4]). Pass samples= to count them",
        ),
        ("text", None, NO_TENSOR),
        (["some", "text"], None, NO_TENSOR),
        (torch.tensor(1.0), None, NO_TENSOR),
        (None, None, NO_TENSOR),
        ({}, None, NO_TENSOR),
        (object(), None, NO_TENSOR),
    ],
)
def test_samples(batch: Any, samples: int | None, why: str):
    assert count_samples(batch) == (samples, why)


@pytest.mark.parametrize(
    ("batch", "embeds", "tokens", "why"),
    [
        ({"input_ids": IDS, "labels": IDS}, False, 64, "elements of batch['input_ids'], padding included"),
        (UserDict(tokens=IDS), False, 64, "elements of batch['tokens'], padding included"),
        ({"image": IMAGES}, True, None, NO_KEY),
        ({"input_ids": [[1, 2]]}, True, None, NO_KEY),
        ((IDS, IDS), True, 64, "elements of the batch's first tensor, padding included"),
        ((IDS.int(), LABELS), True, None, NO_TOKENS),
        (
            torch.zeros(4, 2, dtype=torch.int64),
            True,
            8,
            "elements of the batch's first tensor, padding included",
        ),
        ((IDS, IDS), False, None, NO_TOKENS),
        ((IMAGES, LABELS), True, None, NO_TOKENS),
        ((LABELS, IDS), True, None, NO_TOKENS),
        (IDS.bool(), True, None, NO_TOKENS),
        ("text", True, None, NO_TOKENS),
    ],
)
def test_tokens(batch: Any, embeds: bool, tokens: int | None, why: str):
    assert count_tokens(batch, embeds=embeds) == (tokens, why)


def test_embeddings_are_seen_however_deep():
    assert has_embedding(torch.nn.Sequential(torch.nn.Sequential(torch.nn.Embedding(3, 2))))
    assert not has_embedding(torch.nn.Linear(2, 2))


# -- FLOPs -------------------------------------------------------------------------------------------------------


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
        self.lstm = torch.nn.LSTM(6, 5, num_layers=2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: torch.nn.Linear(7, 5), (3, 7)),
    "mlp": (
        lambda: torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.GELU(), torch.nn.Linear(9, 2)),
        (3, 7),
    ),
    "conv": (lambda: torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 9)),
    "grouped conv": (lambda: torch.nn.Conv2d(4, 8, 3, groups=2), (2, 4, 7, 7)),
    "attention": (lambda: _Attention(False), (2, 8, 16)),
    "causal attention": (lambda: _Attention(True), (2, 8, 16)),
    "transformer": (
        lambda: torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True),
        (2, 5, 16),
    ),
}


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


def _stopped(count: FlopCount) -> int:
    count.stop()
    count.stop()
    assert count.failed is None
    return count.flops


def _torchs() -> FlopCounterMode:
    return FlopCounterMode(display=False).__enter__()


def _exited(mode: FlopCounterMode) -> int:
    mode.__exit__(None, None, None)
    return mode.get_total_flops()


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_torchs_own_and_the_pass_is_untouched(name: str):
    plain, _ = _pass(name, lambda: None, lambda _: None)
    counted, ours = _pass(name, _ours, _stopped)
    _, torchs = _pass(name, _torchs, _exited)
    assert ours == torchs
    assert ours > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))


def test_a_fused_lstm_is_refused_not_counted_as_nothing():
    """PyTorch's own counter says 0 FLOPs for it, so a model with one layer more would be counted far too low."""
    model = torch.nn.Sequential(_Recurrent(), torch.nn.Linear(5, 2))
    counter, notes, _ = _counter(model)
    with torch.backends.mkldnn.flags(enabled=True):
        work = _microbatch(counter, model, torch.zeros(2, 4, 6), torch.zeros(2, 4, 6))
    if not torch.backends.mkldnn.is_available():
        pytest.skip("without oneDNN an LSTM is not fused on the CPU")
    assert work.model_flops is None
    assert notes["model_flops"] == (
        "aten::mkldnn_rnn_layer (a fused recurrent layer) cannot be counted. Pass model_flops="
    )


def test_a_linear_layer_by_hand():
    """2 x 3 x 7 x 5 forward, as much again for the input's and for the weight's gradient."""
    assert _pass("linear", _ours, _stopped)[1] == 3 * 2 * 3 * 7 * 5


def test_counting_stops_after_the_users_own_error():
    count = _ours()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.nn.Linear(3, 3)(torch.zeros(2, 2))
    count.stop()
    before = count.flops
    torch.zeros(2, 2) @ torch.zeros(2, 2)
    assert count.flops == before


def test_a_compiled_model_is_refused():
    why = "the model is compiled: operators inside torch.compile cannot be counted. Pass model_flops="
    assert uncountable(torch.compile(torch.nn.Linear(2, 2))) == why  # type: ignore[arg-type]
    inside = torch.nn.Sequential(torch.nn.Linear(2, 2))
    inside[0].compile()
    assert uncountable(inside) == why
    assert uncountable(torch.nn.Linear(2, 2)) is None


# -- the counter -------------------------------------------------------------------------------------------------


def _microbatch(counter: WorkCounter, model: torch.nn.Module, batch: Any, x: torch.Tensor) -> Work:
    counter.begin(batch)
    loss = model(x).sum()
    counter.begin_backward()
    loss.backward()
    counter.end_count()
    return counter.work()


def _counter(model: torch.nn.Module, **given: Any) -> tuple[WorkCounter, dict[str, str], Guard]:
    notes, guard = dict[str, str](), Guard()
    return WorkCounter(model, notes=notes, guard=guard, **given), notes, guard


def test_flops_are_counted_once_and_scaled_by_samples():
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model)
    first = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7))
    assert first == Work(samples=3, tokens=None, model_flops=2 * 2 * 3 * 7 * 5)  # no gradient of the input
    second = _microbatch(counter, model, torch.zeros(6, 7), torch.zeros(6, 7))
    assert second.model_flops == 2 * first.model_flops  # type: ignore[operator]
    assert counter.flops_source == (
        "counted on the first microbatch of each shape, scaled by its samples; causal attention in full, no"
        " element-wise work, no recomputation"
    )
    assert notes["tokens"] == NO_TOKENS


def test_each_shape_has_a_count_of_its_own():
    """A count by tokens says nothing of images: they are counted by samples."""
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model)
    assert _microbatch(counter, model, {"input_ids": IDS}, torch.zeros(4, 7)).model_flops == 560.0
    unlike = _microbatch(counter, model, {"image": IMAGES}, torch.zeros(8, 7))
    assert (unlike.samples, unlike.tokens, unlike.model_flops) == (4, None, 1120.0)
    again = _microbatch(counter, model, {"input_ids": IDS[:2]}, torch.zeros(2, 7))
    assert (again.tokens, again.model_flops) == (32, 280.0)
    assert notes["tokens"] == NO_KEY  # the sum stays unknown, and so does its reason
    assert "scaled by its samples and tokens" in counter.flops_source  # type: ignore[operator]


def test_more_shapes_than_are_counted_make_flops_unknown():
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model)
    works = [
        _microbatch(counter, model, torch.zeros(3, 4 + n), torch.zeros(3, 7)) for n in range(MAX_SHAPES + 1)
    ]
    assert [w.model_flops is None for w in works] == [False] * MAX_SHAPES + [True]
    assert notes["model_flops"].startswith("batches have more than 16 shapes")


def test_recomputed_activations_are_no_model_flops():
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.GELU(), torch.nn.Linear(9, 5))
    x = torch.zeros(3, 7)
    plain = _microbatch(_counter(model)[0], model, x, x).model_flops
    for reentrant in (True, False):

        class Saving(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)  # noqa: B023

        found = _microbatch(_counter(model)[0], Saving(), x, x.clone()).model_flops
        assert found == plain + 2 * 3 * 7 * 9  # type: ignore[operator]  # its input's gradient, no recomputation


def test_several_closures_a_step_are_several_passes():
    model = torch.nn.Linear(7, 5)
    counter, _, _ = _counter(model)
    one = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7)).model_flops
    counter.begin(torch.zeros(3, 7))
    for _ in range(10):
        counter.begin_backward()
    assert counter.work().model_flops == 10 * one  # type: ignore[operator]


def test_a_batch_without_a_backward_pass_is_not_taken_for_one_with():
    model = torch.nn.Linear(7, 5)
    counter, _, _ = _counter(model)
    counter.begin(torch.zeros(3, 7))
    model(torch.zeros(3, 7))
    counter.end_count()
    assert counter.work().model_flops is None
    full = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7))
    assert full.model_flops == 2 * 2 * 3 * 7 * 5


def test_other_trained_parameters_are_counted_anew():
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.Linear(9, 5))
    model[0].requires_grad_(False)
    counter, _, _ = _counter(model)
    counter.begin_epoch()
    frozen = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7)).model_flops
    model[0].requires_grad_(True)
    counter.begin_epoch()
    whole = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7)).model_flops
    assert whole - frozen == 2 * 3 * 9 * 5 + 2 * 3 * 7 * 9  # type: ignore[operator]


def test_what_cannot_be_followed_runs_as_without_us():
    """Nested tensors made the count crash the training."""
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model)
    nested = torch.nested.nested_tensor([torch.zeros(2, 7), torch.zeros(3, 7)], layout=torch.jagged)
    counter.begin(torch.zeros(2, 7))
    loss = model(nested).values().sum()
    counter.begin_backward()
    loss.backward()
    counter.end_count()
    assert counter.work().model_flops is None
    assert notes["model_flops"] == (
        "tensor subclasses (nested, sharded, quantised) cannot be counted. Pass model_flops="
    )


def test_a_users_mode_above_ours_stays_where_it_is():
    class Users(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    counter, _, _ = _counter(torch.nn.Linear(7, 5))
    counter.begin(torch.zeros(3, 7))
    with Users() as users:
        counter.begin_backward()
        counter.end_count()
        assert _get_current_dispatch_mode() is users
    counter.begin(torch.zeros(3, 7))
    counter.end_count()
    assert _get_current_dispatch_mode() is None


@pytest.mark.parametrize("number", [1j, "many", float("nan"), -3, None])
def test_what_a_users_function_says_must_be_a_number(number: Any):
    counter, _, guard = _counter(torch.nn.Linear(7, 5), tokens=lambda b: number)
    assert _microbatch(counter, torch.nn.Linear(7, 5), torch.zeros(3, 7), torch.zeros(3, 7)).tokens is None
    assert "tokens" in guard.reasons


def test_the_loaders_batch_size_tells_samples_from_time():
    assert count_samples(torch.zeros(20, 8, 3), 8) == (
        None,
        "a batch's first dimension is 20, but the loader's batches are 8. Pass samples=",
    )
    assert count_samples(torch.zeros(8, 20, 3), 8) == (8, DIMENSION)


def test_without_samples_or_tokens_flops_have_no_basis():
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model)
    assert _microbatch(counter, model, "text", torch.zeros(4, 7)) == Work(
        samples=None, tokens=None, model_flops=None
    )
    assert notes["model_flops"] == (
        "neither samples nor tokens of a batch are known, so a count cannot be scaled. Pass model_flops="
    )


def test_a_model_without_matrix_products_has_no_count():
    model = torch.nn.LayerNorm(7)
    counter, notes, _ = _counter(model)
    assert _microbatch(counter, model, torch.zeros(4, 7), torch.zeros(4, 7)).model_flops is None
    assert notes["model_flops"] == "no operator with a known FLOP formula ran. Pass model_flops="


def test_what_the_user_gives_is_taken():
    model = torch.nn.Linear(7, 5)
    counter, _, _ = _counter(model, tokens=lambda b: 9, samples=len, model_flops=lambda b: 1e3)
    work = _microbatch(counter, model, torch.zeros(4, 7), torch.zeros(4, 7))
    assert work == Work(samples=4, tokens=9, model_flops=1e3)
    assert counter.flops_source == "given"


def test_a_users_function_that_fails_is_switched_off_alone():
    model = torch.nn.Linear(7, 5)
    counter, _, guard = _counter(model, tokens=lambda b: {}["nope"])
    work = _microbatch(counter, model, torch.zeros(4, 7), torch.zeros(4, 7))
    assert (work.samples, work.tokens) == (4, None)
    assert list(guard.reasons) == ["tokens"]
