"""joulescale: how much work a training run gets out of every joule, and how that changes with scale.

Record first, interpret later. The rooms, and which way things flow:

    measure/        runs inside the training: sensors, sampler, recorder; light, never raises into it
    store/          bytes on disk: Parquet parts, manifests, reading them back
    carbon/         what a person can say of grid, building, devices and price; intensity over time
    metrics/        pure functions from stored records to energy, phases, efficiency, carbon, points
    report/         draws metrics: terminal, charts
    integrations/   thin bridges: Lightning
    cli/            the `joulescale` command, one file a verb

The public names are resolved when they are first used, so that `import profiler` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiler.carbon.factors import CarbonFactors as CarbonFactors
    from profiler.integrations.lightning import EfficiencyMonitor as EfficiencyMonitor
    from profiler.integrations.loop import record as record
    from profiler.measure.session import RunFacts as RunFacts
    from profiler.metrics.points import scale_points as scale_points
    from profiler.metrics.summary import summarize as summarize
    from profiler.store.runs import open_run as open_run
    from profiler.store.runs import scan_runs as scan_runs

_HOMES = {
    "CarbonFactors": "profiler.carbon.factors",
    "EfficiencyMonitor": "profiler.integrations.lightning",
    "RunFacts": "profiler.measure.session",
    "record": "profiler.integrations.loop",
    "open_run": "profiler.store.runs",
    "scale_points": "profiler.metrics.points",
    "scan_runs": "profiler.store.runs",
    "summarize": "profiler.metrics.summary",
}

__all__ = [
    "CarbonFactors",
    "EfficiencyMonitor",
    "RunFacts",
    "open_run",
    "record",
    "scale_points",
    "scan_runs",
    "summarize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'profiler' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
