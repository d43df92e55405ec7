"""Small fits with everything of the monitor switched on, and what a training leaves behind, to be compared."""

from __future__ import annotations

import pickle
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.data import DataLoader, TensorDataset

TWO_GPUS = """
    clock real
    gpu GPU-aaaa NVIDIA H100 80GB HBM3
    power 0 0 100
    wave 0 300 0.7 0.4 0.1
    gpm 0 2 0 50
    gpu GPU-bbbb NVIDIA H100 80GB HBM3
    power 1 0 400
"""

CODECARBON_STUB = """
import json, sys, time
start_s = time.monotonic()
print(json.dumps({"started": True}), flush=True)
sys.stdin.readline()
print(json.dumps({"version": "0", "duration_s": time.monotonic() - start_s, "emissions_kg": 0.0, "total_kwh": 1e-6,
                  "kwh": {"cpu": 1e-6}, "cpu_model": "a", "gpu_model": None}), flush=True)
"""


class Model(L.LightningModule):
    """A classifier with dropout: it draws random numbers in every step."""

    def __init__(self, *, manual: bool = False, compiled: bool = False) -> None:
        super().__init__()
        net = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 4))
        self.net = torch.compile(net, backend="eager") if compiled else net
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        if self.automatic_optimization:
            return loss
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


class UsersOwnError(Exception):
    """The user's."""


class User(L.Callback):
    """Does what a user may do with a monitor; without one it draws the same random numbers."""

    def __init__(self, monitor: Any, *, fails: bool = False) -> None:
        self._monitor, self._fails = monitor, fails

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        monitor = self._monitor
        if monitor is not None:
            monitor.mark("note", note={"at": monitor.now()})
            with monitor.phase("validation"):
                pickle.loads(pickle.dumps(monitor))
        random.random()
        np.random.rand()
        if self._fails and trainer.global_step == 2:
            raise UsersOwnError("of the user", 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A kind of fit; `arguments` go to the monitor."""

    name: str
    model: Callable[[], Model]
    accumulate: int = 1
    fails: bool = False
    arguments: Callable[[], dict[str, Any]] = dict


def _given() -> dict[str, Any]:
    from profiler import RunFacts

    return {
        "tokens": _sixteen,
        "samples": _sixteen,
        "model_flops": _sixteen,
        "idle_s": 0.02,
        "facts": RunFacts(workload="edge", carbon={"country": "FRA"}),
    }


def _sixteen(batch: Any) -> int:
    return 16


def _broken(batch: Any) -> int:
    raise ZeroDivisionError("the user's function fails")


VARIANTS = (
    Variant(name="automatic", model=Model, accumulate=2, arguments=_given),
    Variant(name="manual", model=lambda: Model(manual=True), arguments=lambda: {"tokens": _broken}),
    Variant(name="compiled", model=lambda: Model(compiled=True)),
    Variant(name="exception", model=Model, fails=True),
    Variant(name="long", model=Model, arguments=lambda: {"second_opinion": "codecarbon", "idle_s": 2.2}),
)


def data(samples: int = 96) -> TensorDataset:
    """Numbers that are drawn once the seed is set."""
    return TensorDataset(torch.randn(samples, 6), torch.randint(0, 4, (samples,)))


def quiet_trainer(**options: Any) -> L.Trainer:
    """A trainer that prints nothing."""
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, **options},
    )


@dataclass
class Left:
    """What a fit left: of the training, and of its process."""

    state: dict[str, torch.Tensor]
    generators: tuple[Any, ...]
    raised: tuple[Any, ...] | None
    wrapped: list[str]
    handlers: list[Any]
    threads: list[str]
    afterwards: list[str]


def fit(variant: Variant, monitor: Any, folder: Path) -> Left:
    """Train, with a monitor or without."""
    L.seed_everything(7, verbose=False)
    torch._dynamo.reset()
    module, dataset = variant.model(), data()
    keep = ModelCheckpoint(folder / "checkpoints", every_n_train_steps=2)
    ours = [] if monitor is None else [monitor]
    trainer = quiet_trainer(
        accumulate_grad_batches=variant.accumulate,
        log_every_n_steps=1,
        callbacks=[*ours, User(monitor, fails=variant.fails), keep],
    )
    before = set(threading.enumerate())
    raised = None
    try:
        trainer.fit(module, DataLoader(dataset, 16, shuffle=True), DataLoader(dataset, 32))
    except BaseException as error:  # noqa: BLE001 - compared with the other fit's
        raised = (type(error), error.args, _chain(error.__cause__), _chain(error.__context__))
    return Left(
        state={name: value.clone() for name, value in module.state_dict().items()},
        generators=(torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        raised=raised,
        wrapped=_still_wrapped(trainer, module),
        handlers=[signal.getsignal(number) for number in sorted(signal.valid_signals())],
        threads=[t.name for t in threading.enumerate() if t not in before and not t.daemon],
        afterwards=_afterwards(trainer, module, folder),
    )


def differences(without: Left, found: Left) -> list[str]:
    """What of a training is not as it is without us."""
    wrong = [name for name, value in without.state.items() if not torch.equal(found.state[name], value)]
    said = [f"weights differ: {', '.join(wrong)}"] if wrong else []
    said += ["random numbers differ"] if found.generators != without.generators else []
    said += [f"raised {found.raised}, not {without.raised}"] if found.raised != without.raised else []
    said += ["signal handlers differ"] if found.handlers != without.handlers else []
    said += [f"threads that are no daemons: {', '.join(found.threads)}"] if found.threads else []
    return said


def still_usable(left: Left) -> list[str]:
    """What the user's own objects can do no more, where something of ours stayed on them."""
    return [f"the trainer of before raises {error!r}" for error in left.afterwards]


def _chain(error: BaseException | None) -> Any:
    return None if error is None else (type(error), error.args)


def _still_wrapped(trainer: L.Trainer, module: nn.Module) -> list[str]:
    fetcher: Any = trainer.fit_loop._data_fetcher
    named = {
        "save_checkpoint": "save_checkpoint" in vars(trainer),
        "dispatch mode": _get_current_dispatch_mode() is not None,
        "forward": any(
            _is_ours(vars(part).get(name))
            for part in module.modules()
            for name in ("forward", "_compiled_call_impl")
        ),
        "fetcher": _is_ours(type(getattr(fetcher, "_start_profiler", None))),
        "hooks": any(part._forward_pre_hooks or part._forward_hooks for part in module.modules()),
    }
    return [name for name, is_so in named.items() if is_so]


def _is_ours(called: Any) -> bool:
    return str(getattr(called, "__module__", "")).partition(".")[0] == "profiler"


def _afterwards(trainer: L.Trainer, module: Model, folder: Path) -> list[str]:
    """Use what may still be wrapped; nothing is drawn, so the state above is as it was."""
    try:
        trainer.save_checkpoint(folder / "afterwards.ckpt")
        with torch.random.fork_rng():
            module.net(torch.zeros(2, 6)).sum().backward()
    except BaseException as error:  # noqa: BLE001 - told to the row
        return [repr(error)]
    return []
