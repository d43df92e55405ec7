"""The process in which codecarbon's tracker runs; started by `codecarbon.py` beside it, by path, with Python's `-P`.

    argument     ISO 3166 alpha-3 code of the grid
    hears        a line on standard input, or its end: stop
    says         one JSON line when the tracker runs, and one with its result when it has stopped; `error` if it cannot

It leaves the training's process tree at once, and stays in the session that it was started in, to be killed there.
It imports nothing of ours: only the tracker and the standard library. `-P` keeps this folder off the path, where
`codecarbon.py` would stand in for the real one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Track until told to stop, or until whoever started this is gone."""
    if os.fork():  # a child of nobody: what the tracker costs is no CPU time of the training's processes
        os._exit(0)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # meant for the training: it tells this process when to end
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    try:
        _track(sys.argv[1])
    except Exception as error:  # noqa: BLE001 - whatever it is, who started this stores it as the reason
        _say({"error": f"{type(error).__name__}: {error}"})


def _track(country: str) -> None:
    tracker = _tracker(country)
    tracker.start()
    _say({"started": True})
    sys.stdin.readline()
    tracker.stop()
    data = tracker.final_emissions_data
    _say(
        {
            "version": data.codecarbon_version,
            "duration_s": data.duration,
            "emissions_kg": data.emissions,
            "kwh": {"cpu": data.cpu_energy, "gpu": data.gpu_energy, "ram": data.ram_energy},
            "total_kwh": data.energy_consumed,
            "cpu_model": data.cpu_model,
            "gpu_model": data.gpu_model,
        }
    )


def _tracker(country: str) -> Any:
    """Codecarbon's tracker with every door to a network or a file shut, whatever its configuration files say."""
    from codecarbon import OfflineEmissionsTracker

    return OfflineEmissionsTracker(
        country_iso_code=country,
        region=None,
        cloud_provider=None,
        cloud_region=None,
        output_methods=[],
        output_handlers=[],
        emissions_endpoint=None,
        electricitymaps_api_token=None,
        allow_multiple_runs=True,
        tracking_mode="machine",
        pue=1.0,
        wue=0.0,
        log_level="critical",
    )


def _say(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
