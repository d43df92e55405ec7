"""The processors' meters as Linux shows them, in a made powercap tree whose counters really move: F23."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fault_rows.row import Fault, Outcome
from fault_rows.sensing import outcome_of, record
from profiler.measure.sensors.rapl import POWER_CEILING_W
from profiler.metrics.summary import summarize
from profiler.store.run import StoredRun

_RANGE_UJ = 262_143_328_850
_WATTS = {"package": 80.0, "dram": 10.0}
_SECONDS = 4.0
_ANEW_S = 3.0
"""When a counter is set back to 0, if it is; it has wrapped by then."""


@dataclass(frozen=True, slots=True)
class _Zone:
    """A zone's folder, its name, the power of its counter, and what the counter shows at first."""

    folder: str
    name: str
    watts: float
    begin_uj: int


_JUST_BELOW = _RANGE_UJ - 100_000_000
_PACKAGE = _Zone("intel-rapl:0", "package-0", _WATTS["package"], _JUST_BELOW)
_DRAM = _Zone("intel-rapl:0:0", "dram", _WATTS["dram"], 7_000_000)
_CASES: Mapping[str, Sequence[_Zone]] = {
    "mirrored": (
        _PACKAGE,
        _Zone("intel-rapl:1", "package-1", _WATTS["package"], _JUST_BELOW),
        _Zone("intel-rapl-mmio:0", "package-0", _WATTS["package"], _JUST_BELOW),
        _Zone("intel-rapl:2", "psys", 500.0, 5_000_000),
        _DRAM,
    ),
    "permission denied": (_PACKAGE, _DRAM),
    "starts anew": (_PACKAGE, _DRAM),
    "wraps": (_PACKAGE, _DRAM),
}


def _meters(trials: int, folder: Path) -> Outcome:
    def trial(number: int) -> tuple[float, list[str]]:
        name, zones = list(_CASES.items())[number % len(_CASES)]
        place, denied = folder / str(number), name == "permission denied"
        with _moving(place, zones, starts_anew=name == "starts anew"):
            as_whom = _deny(place / "powercap") if denied else []
            run = record(place, [], _SECONDS, rapl_root=place / "powercap", as_whom=as_whom).run
        wrong = _wrong_if_denied(run) if denied else _wrong(run, name)
        if int((place / "powercap/intel-rapl:0/energy_uj").read_text()) >= _JUST_BELOW:
            wrong.append("the counter did not wrap")
        return _most_w(run), [f"{name}: {why}" for why in wrong]

    return outcome_of(trial, trials, lambda most_w: f"at most {most_w:.0f} W between two readings")


def _deny(root: Path) -> list[str]:
    """Let nobody read the counters; the words that take root's power to read all the same from a process."""
    for path in root.glob("*/energy_uj"):
        path.chmod(0o000)
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@contextmanager
def _moving(place: Path, zones: Sequence[_Zone], *, starts_anew: bool) -> Iterator[None]:
    """A powercap folder whose counters move from the recording's word on, to the end of the block."""
    root = place / "powercap"
    for zone in zones:
        path = root / zone.folder
        path.mkdir(parents=True)
        (path / "name").write_text(zone.name)
        (path / "max_energy_range_uj").write_text(str(_RANGE_UJ))
    stop = threading.Event()

    def write(seconds: float) -> None:
        for zone in zones:
            moved_uj = zone.watts * seconds * 1e6
            anew = starts_anew and seconds > _ANEW_S
            count = int(zone.watts * (seconds - _ANEW_S) * 1e6) if anew else zone.begin_uj + int(moved_uj)
            _put(root / zone.folder / "energy_uj", str(count % _RANGE_UJ))

    write(0.0)
    writer = threading.Thread(target=_move, args=(write, place / "go", stop))
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def _move(write: Callable[[float], None], go: Path, stop: threading.Event) -> None:
    while not go.exists() and not stop.wait(0.01):
        pass
    start_s = time.monotonic()
    while not stop.wait(0.01):
        write(time.monotonic() - start_s)


def _put(path: Path, text: str) -> None:
    """At once, as the kernel shows it; who may not read it still may not."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    if path.exists():
        temporary.chmod(path.stat().st_mode)
    temporary.replace(path)


def _wrong(run: StoredRun, name: str) -> list[str]:
    summary, seen = summarize(run), {}
    for found in summary["energy"]["components"]:
        seen[found["component"]] = seen.get(found["component"], 0) + 1
        true_j = _WATTS["dram" if found["component"] == "dram" else "package"] * summary["duration_s"]
        if found["energy_j"] is None or abs(found["energy_j"] - true_j) > found["plus_minus_j"]:
            return [f"{found['device']}: {found['energy_j']} J, and it was {true_j:.1f} J"]
    wrong = [] if seen == {"cpu": 1, "dram": 1} else [f"measured {seen}"]
    least_w = _least_w(run, fallen=name == "starts anew")
    if least_w < 0.0 or _most_w(run) > POWER_CEILING_W:
        wrong.append(f"powers from {least_w:.0f} to {_most_w(run):.0f} W")
    return wrong + _not_happened(run, name)


def _wrong_if_denied(run: StoredRun) -> list[str]:
    summary, said = summarize(run), run.processes[0].facts.notes.get("cpu", "")
    wrong = [] if "may only be read by root" in said else [f"no reason but {said!r}"]
    return wrong if summary["energy"]["measured_j"] is None else [*wrong, "energy of what cannot be read"]


def _not_happened(run: StoredRun, name: str) -> list[str]:
    """Why this shows nothing."""
    said = json.dumps([dict(meter) for meter in run.processes[0].facts.meters])
    if name == "mirrored" and ("mirror" not in said or "psys" not in said):
        return ["nothing was left out"]
    fell = any(power < 0.0 for power in _powers_w(run))
    return ["the counter was not set back"] if name == "starts anew" and not fell else []


def _powers_w(run: StoredRun) -> list[float]:
    """Between consecutive readings of the package."""
    readings = run.processes[0].readings.drop_nulls("energy_j").sort("time_s")
    mine = readings.filter(readings["component"] == "cpu").select("time_s", "energy_j").rows()
    return [(b - a) / (t - s) for (s, a), (t, b) in pairwise(mine)]


def _least_w(run: StoredRun, *, fallen: bool = False) -> float:
    """The least power; one fall of a counter that was set back is told as such, and is none."""
    powers_w = sorted(_powers_w(run))
    return powers_w[1 if fallen else 0]


def _most_w(run: StoredRun) -> float:
    return max(_powers_w(run), default=0.0)


ROWS = (
    Fault(
        id="F23",
        fault="RAPL counters wrap, are mirrored and doubled, start anew, may not be read",
        pass_line="0 <= P <= P_max and energy inside its bar, each meter once; or null with the reason",
        run=_meters,
        trials=8,
        quick=2,
        programs=("gcc", "setpriv"),
    ),
)
