"""What one NVIDIA GPU's sensors tell, what asking them costs, and whether joulescale's numbers hold on it.

    python benchmarks/gpu.py [--output benchmarks/results/<gpu>] [--only counter,integrals] [--scale 1.0]

About 7 minutes. Needs torch with CUDA, joulescale's dependencies, and nothing else running on the GPU. Writes
`gpu.json` (every number) and `gpu.md` (a page to read). A check that fails is written down with its reason, and the
others go on. `--device cpu` rehearses the whole program where there is no GPU: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, without being installed

import torch
from gpu_checks import activity, counter, integrals, language_model, phases, sampling, square_wave
from gpu_checks.bench import Bench
from gpu_checks.page import page

CHECKS: Mapping[str, Callable[[Bench], Mapping[str, Any]]] = {
    "counter": counter.steps_and_costs,
    "integrals": integrals.counter_against_power,
    "square_wave": square_wave.phase_shift,
    "activity": activity.tensor_activity,
    "sampling": sampling.effect_on_steps,
    "phases": phases.against_separate_timing,
    "language_model": language_model.gpu_preset,
}


def main() -> None:
    """Run the checks and write what they found."""
    arguments = _arguments()
    bench = Bench.open(arguments.gpu, torch.device(arguments.device), arguments.scale)
    result: dict[str, Any] = {
        "command": "python benchmarks/gpu.py",
        "date": datetime.now(UTC).date().isoformat(),
        "rehearsal": arguments.device != "cuda" or arguments.scale != 1.0,
        "gpu": bench.facts(),
        "software": {"python": platform.python_version(), "torch": torch.__version__},
        "checks": {},
    }
    for name in arguments.only.split(",") if arguments.only else CHECKS:
        print(f"{name} ...", flush=True)
        result["checks"][name] = _run(CHECKS[name], bench)
        print(f"{name}: {result['checks'][name]['seconds']:.1f} s", flush=True)
        _write(arguments.output, result)  # after each: a machine may be taken back
    bench.close()
    print(f"written to {arguments.output}")
    failed = [name for name, found in result["checks"].items() if "failed" in found]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(check: Callable[[Bench], Mapping[str, Any]], bench: Bench) -> dict[str, Any]:
    start = time.monotonic()
    try:
        found = dict(check(bench))
    except Exception:  # noqa: BLE001 - minutes on a lent GPU are few: what fails is written down
        found = {"failed": traceback.format_exc(limit=6)}
    return {**found, "seconds": time.monotonic() - start}


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(result), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu"))
    parser.add_argument("--gpu", type=int, default=0, help="Its place in NVML's order.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", help=f"Some of {', '.join(CHECKS)}, joined by commas.")
    parser.add_argument("--scale", type=float, default=1.0, help="Of all durations.")
    arguments = parser.parse_args()
    unknown = set((arguments.only or "counter").split(",")) - set(CHECKS)
    if unknown:
        parser.error(f"there is no check named {', '.join(sorted(unknown))}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no CUDA device here; '--device cpu' rehearses the program without one")
    return arguments


if __name__ == "__main__":
    main()
