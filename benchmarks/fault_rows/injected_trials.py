"""Children of row F5: fits with one function of ours made to raise; a line of JSON for each."""

from __future__ import annotations

import builtins
import ctypes
import json
import logging
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pynvml

from fault_rows.edge_fit import (
    CODECARBON_STUB,
    TWO_GPUS,
    VARIANTS,
    Left,
    Variant,
    differences,
    fit,
    still_usable,
)
from fault_rows.injection import STRIKE, Strikes
from profiler import EfficiencyMonitor, open_run, summarize
from profiler.integrations import codecarbon

SLOWEST_S = 20.0
BY_NAME = {variant.name: variant for variant in VARIANTS}


def count_calls(folder: str, variants: Sequence[str]) -> None:
    """Print how often each function is called in each variant of the fit; keep what a training without us leaves."""
    _prepare(Path(folder))
    calls = {}
    for name in variants:
        without = fit(BY_NAME[name], None, Path(folder) / f"without-{name}")
        (Path(folder) / f"{name}.left").write_bytes(pickle.dumps(without))
        found = _trial(BY_NAME[name], without, Path(folder) / f"all-{name}", is_counted=True)
        assert not found["wrong"], found
        calls[name] = dict(_strikes().calls)
    print(json.dumps(calls), flush=True)


def inject(folder: str, trials: Sequence[Sequence[Any]], first: int) -> None:
    """Try one after the other, until one leaves something that the next would see."""
    _prepare(Path(folder))
    for number, (function, kind, call, for_good, variant) in enumerate(trials, first):
        without: Left = pickle.loads((Path(folder) / f"{variant}.left").read_bytes())
        with _strikes().armed(function, kind, call, for_good=for_good):
            found = _trial(BY_NAME[variant], without, Path(folder) / f"trial-{number}")
        print(json.dumps({"fired": _strikes().fired, **found}), flush=True)
        if found["wrong"] or found["left"] or not _strikes().fired:
            return


def _trial(variant: Variant, without: Left, folder: Path, *, is_counted: bool = False) -> dict[str, Any]:
    lines, faults = _Lines(), list[str]()
    logger = logging.getLogger("joulescale")
    logger.handlers, logger.propagate = [lines], False
    threading.excepthook = lambda args: faults.append(f"a thread died of {args.exc_type.__name__}")
    sys.unraisablehook = lambda args: faults.append(f"unraisable {args.exc_type.__name__}: {args.err_msg}")
    with _strikes().resting():
        monitor = EfficiencyMonitor(folder / "runs", gpus="visible", summary=False, **variant.arguments())
    threads, start_s = set(threading.enumerate()), time.monotonic()
    with _strikes().counting() if is_counted else nullcontext():
        found = fit(variant, monitor, folder)
    took_s = time.monotonic() - start_s
    with _strikes().resting():
        wrong = differences(without, found) + still_usable(found) + faults
        wrong += [f"{len(lines.said)} log lines"] if len(lines.said) > 3 else []
        wrong += [f"the fit took {took_s:.1f} s"] if took_s > SLOWEST_S else []
        run = _stored(monitor)
    left = [f"wrapped {name}" for name in found.wrapped] + [
        t.name for t in threading.enumerate() if t not in threads
    ]
    return {"wrong": wrong, "left": left, "lines": lines.said, "took_s": took_s, **run}


def _stored(monitor: Any) -> dict[str, Any]:
    """What a reader makes of the run's folder."""
    if monitor.run_dir is None or not (monitor.run_dir / "run.json").exists():
        return {"status": None, "notes": {}}
    try:
        summary = summarize(open_run(monitor.run_dir.parent, monitor.run_dir.name))
    except Exception as error:  # noqa: BLE001 - told to the row
        return {"status": None, "notes": {}, "unreadable": f"{type(error).__name__}: {error}"}
    return {"status": summary["status"], "steps": summary["steps"], "notes": summary["notes"]}


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _strikes() -> Strikes:
    strikes: Strikes = getattr(builtins, STRIKE).__self__
    return strikes


def _prepare(folder: Path) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    stub = folder / "codecarbon_stub.py"
    stub.write_text(CODECARBON_STUB)
    codecarbon._CHILD = stub
    fake = ctypes.CDLL(os.environ["FAKE_NVML"])
    fake.fake_nvml_reset()
    for line in TWO_GPUS.strip().splitlines():
        assert fake.fake_nvml_command(line.strip().encode()) == 0
    pynvml.nvmlLib = fake
