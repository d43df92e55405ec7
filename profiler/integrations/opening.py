"""Opening a record, and what is measured around a training: what every integration that runs inside one has in common.

What is opened leaves its end in a list of `(part, close)`; whoever opens closes them, the last first, each under the
guard.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from profiler.carbon.factors import CarbonFactors
from profiler.integrations.codecarbon import CodecarbonTracker
from profiler.integrations.lightning_facts import SlowMemory, find_peak, gpu_wish, phase_clock, phase_note
from profiler.measure.attempt import ResumePoint
from profiler.measure.guard import Guard
from profiler.measure.idle import record_idle
from profiler.measure.probes import NO_PROBES, OpenProbes, open_probes
from profiler.measure.ranks import GpuChoice, Place
from profiler.measure.session import RunFacts, Session

Ends = list[tuple[str, Callable[[], None]]]


def open_session(
    runs_dir: Path,
    facts: RunFacts,
    *,
    guard: Guard,
    ends: Ends,
    place: Place,
    device: torch.device,
    precision: str | int | None,
    gpus: GpuChoice,
    peak: float | Literal["measure"] | None,
    name: str | None,
    resumed: ResumePoint | None,
    status: Callable[[], str],
) -> Session:
    """Open the sensors that this process reads, and the record.

    Args:
        runs_dir: The runs folder.
        facts: What is known of the run.
        guard: Switches off what fails.
        ends: Takes how to close what is opened.
        place: Rank, local rank and world size of this process.
        device: Where it trains.
        precision: Lightning's name of the precision.
        gpus: As for `EfficiencyMonitor`.
        peak: Likewise its `peak_flops_per_s`.
        name: The run's name; None makes one.
        resumed: The checkpoint that the training goes on from.
        status: How the run ended, asked when it did.

    Raises:
        JoulescaleError: The record cannot be opened. What is in `ends` must be closed then, too.
    """
    known = guard.call("the peak", find_peak, peak, device, precision, place.world_size)
    found_peak, peak_note = known or (None, {})
    probes = guard.call("the sensors", _open_probes, place, gpus, device) or NO_PROBES
    ends.append(("closing the sensors", probes.close))
    session = Session(
        runs_dir,
        facts,
        place=place,
        probes=probes.probes,
        guard=guard,
        name=name,
        resumed=resumed,
        peak=found_peak,
        phases_known=device.type in ("cpu", "cuda"),
        memory=SlowMemory(device).read,
        **phase_clock(device),
    )
    ends.append(("storing at the end", lambda: session.close(status())))
    session.notes.update(probes.notes | peak_note | phase_note(device))
    return session


def measure_around(
    session: Session,
    *,
    guard: Guard,
    ends: Ends,
    idle_s: float | None,
    second_opinion: str | None,
    country: str | None,
) -> None:
    """What lies before the training, and the mark over all of it that is stored when it ends.

    Args:
        session: The record.
        guard: Switches off what fails.
        ends: As above.
        idle_s: Seconds of the idle baseline; None: none is measured.
        second_opinion: Whose tracker is to run beside ours, or None.
        country: What it takes the grid to be.
    """
    if idle_s is not None:
        guard.call("the idle baseline", record_idle, session, idle_s)
    if second_opinion:
        guard.call("second opinion", _ask_codecarbon, session, ends, country)
    start_s = session.now()
    ends.append(("marking the fit", lambda: _mark_fit(session, start_s)))


def close_all(ends: Ends, guard: Guard) -> None:
    """Close what is open, the last first. After a Ctrl-C in here the next call goes on with the rest."""
    while ends:
        part, end = ends[-1]
        guard.call(part, end)
        ends.remove((part, end))


def _open_probes(place: Place, gpus: GpuChoice, device: torch.device) -> OpenProbes:
    return open_probes(place, gpu_wish(gpus, device))


def _ask_codecarbon(session: Session, ends: Ends, country: str | None) -> None:
    opinion = CodecarbonTracker(country)
    ends.append(("ending the second opinion", opinion.close))
    ends.append(("second opinion", lambda: _hear(session, opinion)))


def _mark_fit(session: Session, start_s: float) -> None:
    session.recorder.enter(None)
    session.recorder.mark("fit", start_s, session.now())


def _hear(session: Session, opinion: CodecarbonTracker) -> None:
    """Store what a second opinion says, over the seconds that it is of."""
    session.sample()
    end_s = session.now()
    said = opinion.stop()
    session.recorder.mark("second_opinion", end_s - float(said["duration_s"]), end_s, said)


def country_of(facts: RunFacts) -> str | None:
    """The country that was given with a run."""
    return CarbonFactors.of(facts.carbon).country
