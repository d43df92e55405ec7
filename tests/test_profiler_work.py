"""How much work a batch is: found where that is certain, null with a reason where not, and the training untouched."""

from __future__ import annotations

from collections import UserDict, namedtuple
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

from profiler.measure.batch import count_samples, count_tokens, has_embedding
from profiler.measure.guard import Guard
from profiler.measure.recorder import Work
from profiler.measure.shape_counts import MAX_SHAPES
from profiler.measure.work import WorkCounter

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
    assert first[:4] == (3, None, 420.0, 420.0)  # 2 products of 2 x 3 x 7 x 5: no gradient of the input
    forward, backward = (
        4 * (21 + 35 + 5 + 15),
        4 * (15 + 21 + 35),
    )  # x, weight, bias, output; two factors, gradient
    assert first.operator_bytes is not None
    assert first.operator_bytes > forward + backward  # and the sum, its gradient, the bias's gradient
    second = _microbatch(counter, model, torch.zeros(6, 7), torch.zeros(6, 7))
    assert second[2:] == tuple(2 * amount for amount in first[2:])  # type: ignore[operator]
    assert counter.flops_source == ("counted on the first microbatch of each shape, scaled by its samples")
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

        found = _microbatch(_counter(model)[0], Saving(), x, x.clone())
        assert found.model_flops == plain + 2 * 3 * 7 * 9  # type: ignore[operator]  # its input's gradient
        again = (
            2 * 3 * (7 * 9 + (9 * 5 if reentrant else 0))
        )  # the other kind stops once it has what it needs
        assert found.executed_flops == found.model_flops + again  # type: ignore[operator]


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


def test_what_the_user_gives_is_held_against_a_count_and_completed_by_it():
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model, model_flops=lambda batch: 420.0)
    work = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7))
    assert work[:4] == (3, None, 420.0, 420.0)
    assert counter.counted_over_given == 1.0
    assert counter.flops_source == "given"
    assert "flops_check" not in notes


@pytest.mark.parametrize(
    ("given", "note", "executed"),
    [
        (424.0, None, 420.0),
        (
            840.0,
            "FLOPs as counted are 0.5 of what model_flops= gives: the formula counts more than runs, or a kernel"
            " escaped the count",
            None,
        ),
        (
            210.0,
            "FLOPs as counted are 2 of what model_flops= gives: the formula leaves something out, or counts"
            " attention in half",
            420.0,
        ),
    ],
)
def test_a_formula_that_the_count_does_not_bear_out_is_named(given: float, note: str | None, executed: Any):
    model = torch.nn.Linear(7, 5)
    counter, notes, _ = _counter(model, model_flops=lambda batch: given)
    work = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7))
    assert (work.model_flops, work.executed_flops) == (given, executed)
    assert counter.counted_over_given == pytest.approx(420.0 / given)
    assert notes.get("flops_check") == note
    missed = "the count misses a part of what the formula says, so what ran in all is not known"
    assert notes.get("executed_flops") == (None if executed else missed)


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
    assert work[:3] == (4, 9, 1e3)
    assert counter.flops_source == "given"


def test_a_users_function_that_fails_is_switched_off_alone():
    model = torch.nn.Linear(7, 5)
    counter, _, guard = _counter(model, tokens=lambda b: {}["nope"])
    work = _microbatch(counter, model, torch.zeros(4, 7), torch.zeros(4, 7))
    assert (work.samples, work.tokens) == (4, None)
    assert list(guard.reasons) == ["tokens"]


def test_a_batch_like_the_last_one_need_not_be_looked_at():
    model = torch.nn.Linear(7, 5)
    counter, _, _ = _counter(model)
    counter.begin(torch.zeros(3, 7))
    assert counter.steady() is None, "nothing is counted yet"
    counter.end_count()
    work = _microbatch(counter, model, torch.zeros(3, 7), torch.zeros(3, 7))
    assert counter.steady() == (torch.Size((3, 7)), work)
    assert counter.again(2).model_flops == 2 * work.model_flops  # type: ignore[operator]
    assert counter.steady() is None, "two passes are no measure of one"
    assert counter.again(0).model_flops is None
    assert counter.again(1) == work


def test_what_can_never_be_counted_need_not_be_looked_at_again():
    model = torch.nn.LayerNorm(7)
    counter, _, _ = _counter(model)
    _microbatch(counter, model, torch.zeros(4, 7), torch.zeros(4, 7))
    assert counter.steady() == (torch.Size((4, 7)), Work(samples=4))


def test_where_the_user_tells_each_batch_is_looked_at():
    model = torch.nn.Linear(7, 5)
    counter, _, _ = _counter(model, tokens=lambda batch: 9)
    _microbatch(counter, model, torch.zeros(4, 7), torch.zeros(4, 7))
    assert counter.steady() is None
