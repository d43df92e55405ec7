"""FLOPs of compiled models: counted on copies without data, and the training stays as it was."""

from __future__ import annotations

import random
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch._dynamo.utils
from torch import nn
from torch.utils.checkpoint import checkpoint

from profiler import EfficiencyMonitor, open_run, summarize
from profiler.measure.compiled import watched_modules
from profiler.measure.guard import Guard
from profiler.measure.recorder import Work
from profiler.measure.replay import Call, Shape, as_it_was, first_that_works
from profiler.measure.work import WorkCounter

IDS = torch.arange(8).reshape(2, 4)


@pytest.fixture(autouse=True)
def forgotten_graphs() -> Iterator[None]:
    """A process that has compiled anything counts no eager model any more: clear what a test compiled."""
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


class Net(nn.Module):
    """Dropout draws, the norm keeps statistics, the counter is state of its own, the third layer is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 6)
        self.first, self.norm = nn.Linear(6, 9), nn.BatchNorm1d(4)
        self.blocks = nn.ModuleList(nn.Linear(9, 9) for _ in range(2))
        self.head = nn.Linear(9, 3)
        self.calls = 0
        self.history: list[float] = []

    def forward(self, ids: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        x = self.norm(self.first(self.embedding(ids) * scale))
        x = nn.functional.dropout(x, 0.5, self.training)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, early_stop=False)
        return {"logits": self.head(x)}


class Module(nn.Module):
    """What a LightningModule is to the counter."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        net = Net()
        if how == "wrapped":
            net = torch.compile(net, backend="eager")  # type: ignore[assignment]
        elif how == "in place":
            net.compile(backend="eager")
        elif how == "blocks":
            for number, block in enumerate(net.blocks):
                net.blocks[number] = torch.compile(block, backend="eager")  # type: ignore[assignment]
        self.net = net

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return self.net(batch, scale=2.0)["logits"].square().mean()


def _trained(how: str, *, counting: bool) -> tuple[list[Any], list[Work], dict[str, str], WorkCounter]:
    """Two steps; everything that they leave behind, the generators included."""
    module, notes = Module(how), dict[str, str]()
    counter = WorkCounter(module, notes=notes, guard=Guard())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    works = []
    for batch in (IDS, IDS.flip(0)):
        if counting:
            counter.begin(batch)
        loss = module.loss(batch)
        if counting:
            counter.begin_backward()
        loss.backward()
        if counting:
            counter.end_count()
            works.append(counter.work())
    left: list[Any] = [*module.state_dict().values(), *(p.grad for p in module.parameters())]
    return [*left, random.random(), np.random.random(), torch.rand(2)], works, notes, counter


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("how", ["wrapped", "in place", "blocks"])
def test_a_compiled_model_counts_as_the_same_one_uncompiled(how: str):
    plain = _trained("not", counting=True)[1]
    torch._dynamo.utils.counters.clear()
    _, compiled, notes, counter = _trained(how, counting=True)
    assert compiled[0].model_flops == plain[0].model_flops
    assert compiled[0].executed_flops == plain[0].executed_flops
    assert compiled[0].executed_flops - compiled[0].model_flops == 2 * (2 * 8 * 9 * 9)  # type: ignore[operator]
    assert compiled[1] == compiled[0]
    assert compiled[0].operator_bytes is None
    assert notes["operator_bytes"].startswith("the model is compiled: how much of its operators' traffic")
    assert counter.flops_source == (
        "counted on tensors without data, on uncompiled copies of the compiled modules, scaled by tokens"
    )


@pytest.mark.parametrize("how", ["wrapped", "in place", "blocks"])
def test_the_training_is_untouched(how: str):
    """Weights, gradients, running statistics, generators and attributes, bit for bit."""
    plain, counted = _trained(how, counting=False)[0], _trained(how, counting=True)[0]
    assert all(_same(a, b) for a, b in zip(plain, counted, strict=True))
    module = Module(how)
    before = [dict(vars(part)) for part in module.modules()]
    counter = WorkCounter(module, notes={}, guard=Guard())
    counter.begin(IDS)
    module.loss(IDS).backward()
    counter.end_count()
    assert [vars(part).keys() for part in module.modules()] == [was.keys() for was in before]
    forwards = [vars(part).get("forward") for part in module.modules()]
    assert all(now is was.get("forward") for now, was in zip(forwards, before, strict=True))


def test_the_outermost_module_that_holds_something_compiled_is_watched():
    inner = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 2), backend="eager"))  # type: ignore[arg-type]
    module = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([inner, nn.Linear(2, 2)]))
    assert watched_modules(module) == [inner]
    assert watched_modules(nn.Linear(2, 2)) == []


class _With(nn.Module):
    """A compiled part, and whatever a test does around it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = torch.compile(part, backend="eager")
        self.head = nn.Linear(3, 3)


class _Asks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.sum().item() < 1e9 else x


def _note(module: nn.Module, forward: Any) -> str:
    notes: dict[str, str] = {}
    counter = WorkCounter(module, notes=notes, guard=Guard())
    counter.begin(torch.zeros(2, 3))
    loss = forward(torch.zeros(2, 3)).sum()
    counter.begin_backward()
    loss.backward()
    counter.end_count()
    assert counter.work()[2:] == (None, None, None)
    return notes["model_flops"]


def test_products_outside_of_the_compiled_modules_are_refused():
    module = _With(nn.Linear(3, 3))
    assert _note(module, lambda x: module.head(module.part(x))) == (
        "matrix products run both inside and outside of compiled modules: not told apart. Pass model_flops="
    )


def test_a_model_that_asks_for_numbers_is_refused_with_the_reason():
    module = _With(_Asks())
    note = _note(module, module.part)
    assert note.startswith(
        "the compiled modules cannot be run on tensors without data to count them (DataDep"
    )
    assert note.endswith("Pass model_flops=")


def test_a_compiled_module_that_is_never_called_is_no_zero():
    module = _With(nn.Linear(3, 3))
    assert _note(module, lambda x: x * module.head.bias) == (
        "the compiled modules were not called in the first microbatch. Pass model_flops="
    )


class _Box:
    """Something that is neither a number nor a tensor, nor a tree of them."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


def test_an_object_that_a_module_could_change_is_not_passed_to_it_again():
    class Fills(nn.Module):
        def forward(self, x: torch.Tensor, box: _Box) -> torch.Tensor:
            box.x = x
            return x + 1

    module, box = _With(Fills()), _Box(torch.zeros(1))
    note = _note(module, lambda x: module.part(x, box) * module.head.bias)
    assert note == (
        "a compiled module's inputs cannot be noted (a _Box was passed to a compiled module). Pass model_flops="
    )
    assert type(box.x) is torch.Tensor


@pytest.mark.parametrize(("wrap", "found"), [(UserDict, True), (_Box, False)])
def test_outputs_are_looked_for_or_refused(wrap: Any, found: bool):
    """An output whose tensors are not seen would leave the backward pass out."""

    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> Any:
            out = self.linear(x)
            return UserDict(x=out) if wrap is UserDict else _Box(out)

    shape = Shape(torch.Size((2, 3)), (3, 1), torch.float32, torch.device("cpu"), False)
    counted = first_that_works([Call(Wraps(), (shape,), {}, True, None)], (as_it_was,))
    assert counted.model_flops == (72 if found else 0)
    assert (counted.failed is None) == found
    assert found or "TypeError: a _Box was returned by a compiled module" in str(counted.failed)


def test_several_backward_passes_are_refused():
    """What is called between them would be missed."""
    module, notes = _With(nn.Linear(3, 3)), dict[str, str]()
    counter = WorkCounter(module, notes=notes, guard=Guard())
    counter.begin(torch.zeros(2, 3))
    for _ in range(2):
        loss = module.part(torch.zeros(2, 3)).sum()
        counter.begin_backward()
        loss.backward()
    counter.end_count()
    assert counter.work().model_flops is None
    assert notes["model_flops"] == (
        "compiled modules with several backward passes a microbatch are not counted. Pass model_flops="
    )


def test_a_module_that_does_not_run_at_one_place_is_counted_at_the_next():
    """A module that names its GPU cannot be run as if on a processor."""

    def nowhere(device: torch.device) -> torch.device:
        raise RuntimeError(f"expected all tensors on {device}")

    shape = Shape(torch.Size((2, 3)), (3, 1), torch.float32, torch.device("cpu"), False)
    calls = [Call(nn.Linear(3, 3), (shape,), {}, True, None)]
    assert first_that_works(calls, (nowhere, as_it_was)).model_flops == 2 * 2 * 2 * 3 * 3
    assert first_that_works(calls, (as_it_was, nowhere)).model_flops == 2 * 2 * 2 * 3 * 3
    assert "(RuntimeError: expected all tensors on cpu)" in str(first_that_works(calls, (nowhere,)).failed)


def test_a_compiled_function_is_refused():
    linear = nn.Linear(3, 3)
    assert _note(linear, torch.compile(lambda x: linear(x), backend="eager")) == (
        "a part of the model is compiled, and what runs there cannot be counted. Pass model_flops="
    )


def test_a_wholly_compiled_lightning_module_is_refused():
    module = nn.Linear(3, 3)
    module._compiler_ctx = {}  # type: ignore[assignment]  # what Lightning leaves on it
    assert _note(module, module.forward) == (
        "the whole LightningModule is compiled, its training_step included. Pass model_flops="
    )


def test_the_users_error_inside_a_watched_module_stays_theirs_and_the_module_is_given_back():
    module = _With(nn.Linear(3, 3))
    counter = WorkCounter(module, notes={}, guard=Guard())
    counter.begin(torch.zeros(2, 3))
    with pytest.raises(RuntimeError, match=r"size|shape"):
        module.part(torch.zeros(2, 7))
    counter.end_count()
    assert module.part(torch.zeros(2, 3)).shape == (2, 3)
    assert "noting" not in repr(vars(module.part).get("forward"))


def test_a_tensor_subclass_as_input_is_refused_and_runs():
    module = _With(nn.Linear(3, 3))
    nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=torch.jagged)
    assert _note(module, lambda x: module.part(nested).values()) == (
        "a compiled module's inputs cannot be noted (a NestedTensor was passed to a compiled module)."
        " Pass model_flops="
    )


class _Lit(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 9), nn.Dropout(0.5), nn.Linear(9, 3))
        self.net.compile(backend="eager")

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _fitted(*callbacks: L.Callback) -> list[torch.Tensor]:
    torch.manual_seed(0)
    module, data = _Lit(), torch.utils.data.TensorDataset(torch.arange(40).reshape(10, 4) % 8)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=5))
    return [*module.state_dict().values(), torch.rand(3)]


def test_a_lightning_fit_of_a_compiled_model_is_counted_and_bit_equal(tmp_path: Path):
    monitor = EfficiencyMonitor(tmp_path, summary=False)
    assert all(torch.equal(a, b) for a, b in zip(_fitted(), _fitted(monitor), strict=True))
    assert monitor.run_dir is not None
    efficient = summarize(open_run(tmp_path, monitor.run_dir.name))["efficiency"]
    by_hand = 40 * (
        2 * 2 * 6 * 9 + 3 * 2 * 9 * 3 + 2 * 6 * 9
    )  # tokens; the embedding's gradient is a product too
    assert efficient["model_flops"] == efficient["executed_flops"] == by_hand
    assert "copies of the compiled modules" in efficient["flops_source"]
    assert "causal attention in full" in efficient["flops_convention"]
