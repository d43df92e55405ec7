"""`joulescale doctor`: what can be measured on this machine, what cannot and why, and which code is running."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from profiler.cli.options import AsJson, print_json
from profiler.cli.run import wait_passively
from profiler.errors import SensorError
from profiler.measure.probes import GpuWish, OpenProbes, open_probes
from profiler.measure.ranks import Place
from profiler.measure.sensors.base import Probe
from profiler.report.quantity import format_quantity
from profiler.workload import workload_names

_PACKAGES = (
    "joulescale",
    "torch",
    "lightning",
    "polars",
    "pyarrow",
    "nvidia-ml-py",
    "codecarbon",
    "streamlit",
    "altair",
)


MeasurePeak = Annotated[
    bool,
    typer.Option(
        "--measure-peak",
        help="Time matrix products by dtype and memory bandwidth; about 10 s on a processor.",
    ),
]


def doctor(measure_peak: MeasurePeak = False, as_json: AsJson = False) -> None:
    """Say which sensors are here and which are not, and where this code was loaded from."""
    opened = open_probes(Place(rank=0, local_rank=0, world_size=1), GpuWish(choice="visible"))
    try:
        found = _examine(opened)
    finally:
        opened.close()
    if measure_peak:
        found["peaks"] = _peaks()
    if as_json:
        print_json(found)
    else:
        _print(found)


def _examine(opened: OpenProbes) -> dict[str, Any]:
    return {
        "sensors": [_sensor(probe) for probe in opened.probes],
        "missing": opened.notes,
        "loaded_from": {name: _location(name) for name in ("profiler", "workloads", "dashboard")},
        "shadowed": _shadowed(),
        "workloads": workload_names(),
        "software": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "environment": {
            key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
        },
    }


def _peaks() -> list[dict[str, Any]]:
    """Only here is torch loaded: everything else that doctor says comes without it."""
    wait_passively()
    from profiler.cli.peaks import measured_peaks

    return measured_peaks()


def _peaks_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in ("device", "what", "measured", "datasheet", "share", "how"):
        table.add_column(name, overflow="fold")
    for row in rows:
        unit = "B/s" if row["what"] == "memory" else "FLOP/s"
        table.add_row(
            Text(row["name"]),
            row["what"],
            Text(row["error"] or format_quantity(row["measured_per_s"], unit)),
            format_quantity(row["datasheet_per_s"], unit),
            format_quantity(row["share_of_datasheet"], "fraction"),
            Text((row["how"] or "").removeprefix("measured: ")),
        )
    return table


def _sensor(probe: Probe) -> dict[str, Any]:
    meter = probe.counter.meter
    row = {
        "component": meter.component,
        "device": meter.device,
        "name": meter.name,
        "source": meter.source,
        "relative_uncertainty": meter.relative_uncertainty,
        "uncertainty_source": meter.uncertainty_source,
        "notes": list(meter.notes),
    }
    try:
        return {**row, "energy_j": probe.counter.read(), "error": None}
    except SensorError as error:
        return {**row, "energy_j": None, "error": str(error)}


def _location(package: str) -> str | None:
    spec = find_spec(package)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)


def _shadowed() -> str | None:
    """A file of the user's beside the script wins over our package of the same name."""
    for name in ("profiler", "workloads", "dashboard"):
        rival = Path.cwd() / f"{name}.py"
        if rival.exists():
            return f"{rival} has the name of a joulescale package: scripts beside it import that file. Rename it."
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _print(found: dict[str, Any]) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for name in ("sensor", "device", "source", "error bar", "reads"):
        table.add_column(name, overflow="fold")
    for row in found["sensors"]:
        reads = row["error"] or format_quantity(row["energy_j"], "J")
        bar = f"± {format_quantity(row['relative_uncertainty'], 'fraction')}"
        table.add_row(row["component"], Text(row["name"]), row["source"], bar, Text(reads))
    console = Console()
    console.print(table)
    for row in found["sensors"]:
        for note in row["notes"]:
            console.print(Text(f"  {row['component']}: {note}", style="dim"))
    if "peaks" in found:
        console.print(_peaks_table(found["peaks"]))
    for name, reason in found["missing"].items():
        console.print(Text(f"  {name}: {reason}", style="dim"))
    for package, place in found["loaded_from"].items():
        typer.echo(f"{package} loaded from {place}")
    if found["shadowed"]:
        typer.echo(f"joulescale: {found['shadowed']}", err=True)
    typer.echo("  ".join(f"{name} {number or 'missing'}" for name, number in found["software"].items()))
