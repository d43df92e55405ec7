"""Children of row F11: fits that fork, spawn, copy and pickle; each prints one line of JSON."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from fault_rows.edge_fit import Model, data, quiet_trainer
from profiler import EfficiencyMonitor
from profiler.measure.lane import Lane

HANGS_S = 10.0


class Refers(TensorDataset):
    """A dataset that holds on to the monitor, as some hold on to their trainer: it travels into the workers."""

    monitor: Any = None

    def __getitem__(self, index: int) -> Any:
        if self.monitor is not None and index == 0:
            with self.monitor.phase("data"):
                self.monitor.mark("note", note={"by": os.getpid()})
        return super().__getitem__(index)


class AfterBatch(L.Callback):
    """Calls a function after each of the first batches."""

    def __init__(self, call: Callable[[L.Trainer], None], batches: int = 4) -> None:
        self._call, self._batches = call, batches

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index < self._batches:
            self._call(trainer)


def run(folder: str, way: str) -> None:
    """One way of making another process, or a copy, out of a fit."""
    WAYS[way](Path(folder))
    print(json.dumps({"done": way}), flush=True)


def _fit(folder: Path, *callbacks: L.Callback, rows: Any = None, **loader: Any) -> EfficiencyMonitor:
    monitor = EfficiencyMonitor(folder / "runs", summary=False)
    rows = rows or data()
    if isinstance(rows, Refers):
        rows.monitor = monitor
    trainer = quiet_trainer(callbacks=[monitor, *callbacks], enable_checkpointing=False)
    trainer.fit(Model(), DataLoader(rows, 8, **loader))
    return monitor


def _forks(folder: Path) -> None:
    """Children that use the monitor, raise, exit, or are trained on, while our threads hold their locks."""

    def fork(trainer: L.Trainer) -> None:
        for ending in ("uses", "exits", "closes"):
            child = os.fork()
            if child == 0:
                _in_child(trainer, ending)
            _wait_for(child)

    with _locks_held_all_the_time():
        _fit(folder, AfterBatch(fork))


def _in_child(trainer: L.Trainer, ending: str) -> None:
    signal.alarm(int(HANGS_S))
    monitor: Any = trainer.callbacks[0]  # type: ignore[attr-defined]
    with monitor.phase("validation"):
        monitor.mark("note", note={"by": "the child"})
    if ending == "closes":
        monitor.on_exception(trainer, trainer.lightning_module, ValueError("in the child"))
        monitor.teardown(trainer, trainer.lightning_module, "fit")
    if ending == "exits":
        import atexit

        atexit._run_exitfuncs()
    os._exit(0)


def _wait_for(child: int) -> None:
    until_s = time.monotonic() + HANGS_S
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.exit("a child hangs")
        time.sleep(0.005)
    if ended[1]:
        sys.exit(f"a child ended with {os.waitstatus_to_exitcode(ended[1])}")


class _locks_held_all_the_time:
    """The sampler's lock is held at nearly every instant, by a thread that no child has."""

    def __enter__(self) -> None:
        own = self._own = Lane.round

        def slow(lane: Lane) -> None:
            own(lane)
            with lane._change:
                time.sleep(0.05)

        Lane.round = slow  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        Lane.round = self._own  # type: ignore[method-assign]


def _workers(start: str) -> Callable[[Path], None]:
    def fit(folder: Path) -> None:
        rows = Refers(*data().tensors)
        _fit(folder, rows=rows, num_workers=2, multiprocessing_context=start)

    return fit


def _pool(folder: Path) -> None:
    def use(trainer: L.Trainer) -> None:
        pool = multiprocessing.get_context("fork").Pool(2)
        assert pool.map(abs, [-1, 2]) == [1, 2]
        pool.close()  # to end it by SIGTERM would hang without us, too: its processes inherit Lightning's handler
        pool.join()

    _fit(folder, AfterBatch(use, 2))


def _copies(folder: Path) -> None:
    """Trainer, callback and module, before, during and after; what is copied says nothing of what is open."""

    def copy_all(trainer: L.Trainer) -> None:
        monitor: Any = trainer.callbacks[0]  # type: ignore[attr-defined]
        for copied in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor)), copy.copy(monitor)):
            assert copied.now() == 0.0
            copied.on_exception(trainer, trainer.lightning_module, ValueError("of a copy"))
        assert copy.deepcopy(trainer.callbacks)[0].now() == 0.0  # type: ignore[attr-defined]
        torch.save(trainer.callbacks[:1], io.BytesIO())  # type: ignore[attr-defined]
        copied_trainer = copy.deepcopy(trainer)
        assert copied_trainer.save_checkpoint.__func__ is L.Trainer.save_checkpoint
        copy.deepcopy(trainer.lightning_module)

    monitor = _fit(folder, AfterBatch(copy_all))
    again = copy.deepcopy(monitor)
    quiet_trainer(callbacks=[again], enable_checkpointing=False).fit(Model(), DataLoader(data(), 8))
    assert again.run_dir != monitor.run_dir


def _ddp_spawn(folder: Path) -> None:
    """Two ranks that are spawned: the monitor, with a lambda that cannot travel, is pickled with the trainer."""
    monitor = EfficiencyMonitor(folder / "runs", summary=False, samples=lambda batch: 8)
    trainer = quiet_trainer(callbacks=[monitor], enable_checkpointing=False, strategy="ddp_spawn", devices=2)
    trainer.fit(Model(), DataLoader(data(), 8))


def _unfinished(folder: Path) -> None:
    """The script ends while the fit of a daemon thread is under way.

    The fit waits then: a thread that is within PyTorch at that moment aborts the process, with us and without.
    """
    waits, for_ever = threading.Event(), threading.Event()

    def wait(trainer: L.Trainer) -> None:
        if trainer.global_step == 3:
            waits.set()
            for_ever.wait()

    threading.Thread(target=_fit, args=(folder, AfterBatch(wait)), daemon=True).start()
    assert waits.wait(60.0)
    time.sleep(0.3)


WAYS: dict[str, Callable[[Path], None]] = {
    "fork with locks held": _forks,
    "workers that fork": _workers("fork"),
    "deepcopy and pickle": _copies,
    "script ends before the fit": _unfinished,
    "pool": _pool,
    "workers that spawn": _workers("spawn"),
    "workers by forkserver": _workers("forkserver"),
    "ddp_spawn": _ddp_spawn,
}
