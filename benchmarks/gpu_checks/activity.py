"""GPM's tensor activity against a matrix product of known FLOPs."""

from __future__ import annotations

import threading
import time
from typing import Any

from gpu_checks.bench import Bench
from profiler.hardware import peak_flops_per_s


def tensor_activity(bench: Bench) -> dict[str, Any]:
    """What GPM says of the tensor pipes while bf16 products run, beside the share of the dense peak that they reach."""
    reached: list[float] = []
    seconds = bench.seconds(12.0)
    thread = threading.Thread(target=lambda: reached.append(bench.load.run(seconds)), daemon=True)
    thread.start()
    time.sleep(seconds / 6)
    readings = bench.poll(seconds * 2 / 3, 0.1)
    thread.join()
    name = bench.facts()["torch_name"]
    peak = peak_flops_per_s(name, "bf16")
    means = {
        column: readings[column].mean() for column in ("sm_activity", "tensor_activity", "dram_activity")
    }
    return {
        "flops_per_s": reached[0],
        "share_of_dense_bf16_peak": reached[0] / peak[0] if peak else None,
        **means,
        "readings_with_activity": int(readings["tensor_activity"].count()),
        "idle": {"tensor_activity": bench.poll(bench.seconds(4.0), 0.1)["tensor_activity"].tail(20).mean()},
    }
