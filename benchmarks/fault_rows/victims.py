"""Forks processes that record, kills each with SIGKILL at a random instant, and prints what it had told until then.

    python victims.py session|fit FOLDER COUNT

A victim writes the number and the time of each step that it has ended into a pipe.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from profiler.measure.guard import Guard
from profiler.measure.ranks import Place
from profiler.measure.recorder import Work
from profiler.measure.sensors.base import Probe
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts, Session
from profiler.store import merge, writer

AT_ONCE = 2
Tell = Callable[[int], None]


def main() -> None:
    """Kill as many as asked for, a few at a time."""
    kind, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    victim = _fitting() if kind == "fit" else record_session
    chance = random.Random(count)
    for first in range(0, count, AT_ONCE):
        names = [f"{kind}-{number}" for number in range(first, min(first + AT_ONCE, count))]
        started = [(name, *_fork(victim, folder, name, quick_parts=chance.random() < 0.5)) for name in names]
        for name, child, pipe in started:
            with os.fdopen(pipe) as lines:
                first = lines.readline()  # it records
                time.sleep(chance.uniform(0.0, 3.0))
                os.kill(child, signal.SIGKILL)
                killed_s = time.monotonic()
                os.waitpid(child, 0)
                whole = [line.split() for line in (first, *lines) if line.endswith("\n")]
            told = [(int(step), float(ended_s)) for step, ended_s in whole]
            print(json.dumps({"name": name, "killed_s": killed_s, "told": told}), flush=True)


def _fork(
    victim: Callable[[Path, str, Tell], None], folder: Path, name: str, *, quick_parts: bool
) -> tuple[int, int]:
    """A process that records until it is killed, and the pipe that it tells its steps into."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    os.close(read)
    if quick_parts:  # so that kills meet the making of parts and their merging, too
        writer.PART_INTERVAL_S, merge.PARTS_AT_ONCE = 0.6, 3
    os.set_blocking(write, False)
    victim(folder, name, lambda step: _tell(write, step))
    os._exit(1)


def _tell(pipe: int, step: int) -> None:
    os.write(pipe, f"{step} {time.monotonic()}\n".encode())


def record_session(folder: Path, name: str, tell: Tell) -> None:
    """Ten milliseconds a step, eight scripted devices at 10 Hz."""
    devices = [
        ScriptedEnergy([(1.0, 300.0 + number)], clock=time.monotonic, device=f"GPU-{number}")
        for number in range(8)
    ]
    session = Session(
        folder,
        RunFacts(workload="victim"),
        place=Place(rank=0, local_rank=0, world_size=1),
        probes=[Probe(counter=device) for device in devices],
        guard=Guard(),
        name=name,
    )
    for step in range(1, 10_000):
        for phase in ("data", "forward", "backward", "optimizer"):
            session.recorder.enter(phase)  # type: ignore[arg-type]
            time.sleep(0.0025)
        session.recorder.end_step(step, Work(samples=8, tokens=64), loss=1.0 / step)
        tell(step)


def _fitting() -> Callable[[Path, str, Tell], None]:
    """Loads Lightning, once for all victims."""
    import lightning.pytorch as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from profiler.integrations.lightning import EfficiencyMonitor

    torch.set_num_threads(1)

    class Model(pl.LightningModule):
        def __init__(self, tell: Tell) -> None:
            super().__init__()
            self.net, self._tell = torch.nn.Linear(32, 1), tell

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            time.sleep(0.005)
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-3)

    class Teller(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: object) -> None:
            module._tell(trainer.global_step)  # after ours, which is listed before it

    def fit(folder: Path, name: str, tell: Tell) -> None:
        trainer = pl.Trainer(
            max_epochs=1000,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[EfficiencyMonitor(folder, name=name, summary=False), Teller()],
        )
        trainer.fit(Model(tell), DataLoader(TensorDataset(torch.randn(4096, 32)), batch_size=8))

    return fit


if __name__ == "__main__":
    main()
