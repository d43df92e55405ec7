"""One process's recording of one attempt of a run: sensors, recorder and writer, opened and closed together.

Everything that is stored about the run beside its rows is gathered here: the manifest (by global rank 0) and
this process's file. Both are rewritten at every flush, which is the run's heartbeat.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.carbon.factors import CarbonFactors
from profiler.measure.attempt import Allotment, ResumePoint, Wish, allot, as_note
from profiler.measure.deferred import Scalars
from profiler.measure.guard import Guard
from profiler.measure.ranks import Place
from profiler.measure.recorder import DeviceTimer, Memory, Recorder
from profiler.measure.redaction import redact, redact_notes
from profiler.measure.sampler import SAMPLING_PERIOD_S, Sampler
from profiler.measure.sensors.base import CoTenants, Probe
from profiler.measure.surroundings import environment, hardware, software
from profiler.records import Row
from profiler.store.claim import attempt_dir
from profiler.store.factors import write_factors
from profiler.store.folder import writable_runs_dir
from profiler.store.lease import Lease
from profiler.store.manifest import (
    PROCESS_NAME,
    Manifest,
    ProcessFile,
    write_json,
    write_manifest,
)
from profiler.store.node import boot_id
from profiler.store.writer import JournalWriter
from profiler.words import counted

if TYPE_CHECKING:
    from profiler.measure.peak import Peak


STORE_WAIT_S = 5.0
"""So long a checkpoint may wait, once, for a disk that hangs; storing takes some milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of a run before it starts; fields as in `store.manifest.Manifest`.

    `carbon` may be written as a mapping, such as `{"country": "FRA", "pue": 1.2}`.

    Raises:
        UsageError: A factor of `carbon` does not exist or cannot be used.
    """

    workload: str | None = None
    preset: str | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    params: int | None = None
    flops_formula: str | None = None
    flops_convention: str | None = None
    carbon: CarbonFactors | Mapping[str, Any] = field(default_factory=CarbonFactors)
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "carbon", CarbonFactors.of(self.carbon))


class Session:
    """Opens on construction: makes the run's folder, starts sampling and writing.

    Args:
        runs_dir: The runs folder; made if need be.
        facts: What is known of the run.
        place: Rank, local rank and world size of this process.
        probes: The sensors that this process reads.
        guard: Switches off what fails.
        name: The run's name; None makes one.
        resumed: The checkpoint that the training goes on from; its run is gone on with if nothing speaks against it.
        peak: What the run's devices can do and move at most, together.
        phases_known: As for `Recorder`.
        timer_on: Makes, of the run's clock, what tells the times of phases on an asynchronous device.
        scalars: As for `Recorder`.
        memory: As for `Recorder`.
        clock: Monotonic seconds from any origin.
        sampling_period_s: Seconds between two readings of the sensors.

    Raises:
        RunsFolderError: The folder cannot be written to.
        InvalidValueError: The name is no folder's name.
    """

    def __init__(
        self,
        runs_dir: Path,
        facts: RunFacts,
        *,
        place: Place,
        probes: Sequence[Probe],
        guard: Guard,
        name: str | None = None,
        resumed: ResumePoint | None = None,
        peak: Peak | None = None,
        phases_known: bool = True,
        timer_on: Callable[[Callable[[], float]], DeviceTimer] | None = None,
        scalars: Scalars | None = None,
        memory: Callable[[], Memory | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sampling_period_s: float = SAMPLING_PERIOD_S,
    ) -> None:
        self.guard = guard
        self.notes: dict[str, str] = dict(facts.notes)
        self.flops_source: str | None = facts.flops_formula
        self.flops_convention: str | None = facts.flops_convention
        self.flops_counted_over_given: float | None = None
        self._place, self._probes, self._facts, self._peak = place, tuple(probes), facts, peak
        self._clock, self._origin_s, self._wall_unix_s = clock, clock(), time.time()
        self.last_step: int | None = None
        self._status, self._waits_for_disk = "running", True
        self._slept_s = 0.0
        folder = writable_runs_dir(runs_dir.absolute())  # the training may change its folder
        wish = Wish(name=name, workload=facts.workload, likeness=_likeness(facts), resumed=resumed)
        self._allotted = allotted = allot(folder, wish, place)
        self._tell(allotted)
        self.run_dir, self.attempt = allotted.run_dir, allotted.attempt
        before = allotted.before
        self._created_at = before.created_at if before else _utc_now()
        self._parent = as_note(allotted.parent) or (before.parent if before else None)
        process = f"{socket.gethostname()}-{place.rank}-{os.getpid()}"
        self._folder = attempt_dir(self.run_dir, self.attempt) / process
        self._lease: Lease | None = None
        self._carbon: Mapping[str, Any] = {}
        self._gap_start_s, self._gap_reason = 0.0, ""
        self._hardware, self._software = hardware(self._probes), software()
        self._writer = JournalWriter(
            self._folder,
            prepare=self._make_folder,
            gather=self._digest,
            on_beat=self._beat,
            on_error=self._disk_failed,
            on_recovered=self._disk_recovered,
            on_lost=self._rows_lost,
            guarded=functools.partial(guard.call, "storing"),
        )
        self.recorder = Recorder(
            self.emit,
            clock=clock,
            origin_s=self._origin_s,
            rank=place.rank,
            phases_known=phases_known,
            timer=timer_on(self.now) if timer_on else None,
            scalars=scalars,
            memory=memory,
        )
        self._sampler = Sampler(
            self._probes,
            clock=self.now,
            emit=self.emit,
            on_lost=self._sensor_lost,
            on_news=self._sensor_news,
            on_co_tenants=self._co_tenants,
            on_gap=self._driver_gap,
            on_suspended=self._suspended,
            guard=guard,
            period_s=sampling_period_s,
        )
        self._writer.open()
        guard.call("storing in the background", self._writer.start)  # without a thread close() stores it all
        guard.call("sampling in the background", self._sampler.start)

    def now(self) -> float:
        """Seconds on the run's clock: monotonic, 0 when the session opened."""
        return self._clock() - self._origin_s

    def emit(self, row: Row) -> None:
        """Store a row."""
        self._writer.append(row)

    def _digest(self) -> None:
        self.guard.call("recording", self.recorder.digest)

    def sample(self) -> None:
        """Read the sensors now, beside the sampler's own rhythm: at the edge of a window that matters."""
        self._sampler.sample()

    def store_now(self) -> None:
        """Store what was recorded so far before a checkpoint says that it was done.

        What is in a checkpoint is never trained again, so a row that is lost with the process is lost for good. A disk
        that hangs is waited for once, and never again.
        """
        if not self._writer.store_soon(STORE_WAIT_S if self._waits_for_disk else 0.0):
            self._waits_for_disk = False

    def close(self, status: str) -> None:
        """Stop sampling, store everything, and say how the run ended (finished or interrupted)."""
        self._status = status
        self.guard.call("the last reading", self._sampler.stop)
        self.guard.call("recording at the end", self.recorder.flush)
        self.guard.call("storing the rest", self._writer.close)
        if "storing the rest" in self.guard.reasons:
            self.guard.call("saying how the run ended", self._beat)
        for lease in (self._lease, self._allotted.lease):
            if lease is not None:
                self.guard.call("giving the lease back", lease.release)

    def _tell(self, allotted: Allotment) -> None:
        """Say it where a training is not the run that it asked to be."""
        run_id, parent = allotted.run_dir.name, allotted.parent
        if allotted.why is not None:
            self.guard.warn("the run's name", f"{allotted.why}, so this one is {run_id!r}")
        if allotted.unclaimed is not None:
            self.notes["the run's name"] = (
                f"the folder of attempt {allotted.attempt} could not be claimed ({allotted.unclaimed}), so another"
                " training of this name that began in the same moment may have stored its rows beside these"
            )
        if parent is not None:
            where = f"step {parent.step} of {parent.run_id!r}, attempt {parent.attempt}"
            self.notes["went on from"] = f"this training went on from {where}, and is a run of its own"

    def _make_folder(self) -> None:
        """What a run needs on disk before its first row; as often as it takes, if the disk is full at the start."""
        writable_runs_dir(self.run_dir.parent)
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._place.rank == 0:
            self._carbon = write_factors(self.run_dir, CarbonFactors.of(self._facts.carbon))
        self._beat()
        if self._lease is not None:
            self._lease.release()
        self._lease = Lease(self._folder)

    def _beat(self) -> None:
        write_json(self._folder / PROCESS_NAME, self._process_file())
        if self._place.rank == 0:
            write_manifest(self.run_dir, self._manifest())

    def _sensor_lost(self, device: str, reason: str) -> None:
        self.notes[f"sensor {device}"] = reason
        self.recorder.mark("sensor_lost", self.now(), note={"device": device, "reason": reason})

    def _sensor_news(self, subject: str, sentence: str) -> None:
        self.notes[f"sensor {subject}"] = sentence
        self.recorder.mark("note", self.now(), note={"subject": subject, "text": sentence})

    def _co_tenants(self, device: str, others: CoTenants) -> None:
        note = {"device": device, "processes": others.processes, "memory_bytes": others.memory_bytes}
        self.recorder.mark("co_tenants", self.now(), note=note)

    def _driver_gap(self, driver: str, start_s: float, end_s: float) -> None:
        self.notes[f"driver {driver}"] = f"{driver} did not answer from {start_s:.1f} s to {end_s:.1f} s"
        self.recorder.mark("sensor_gap", start_s, end_s, {"driver": driver})

    def _suspended(self, start_s: float, end_s: float, slept_s: float) -> None:
        self._slept_s += slept_s
        self.notes["suspended"] = (
            f"the machine slept for {self._slept_s:.0f} s in all: they are no part of any duration, and what counters "
            "say of them no part of the energy"
        )
        self.recorder.mark("suspended", start_s, end_s, {"slept_s": slept_s})

    def _notes(self) -> dict[str, str]:
        dropped = self._writer.dropped
        were = counted(dropped, "row was", "rows were")
        why = f"{were} dropped: the disk was gone for too long, or a value fitted no column"
        return redact_notes({**self.notes, **self.guard.notes, **({"rows": why} if dropped else {})})

    def _rows_lost(self, count: int) -> None:
        self.guard.warn(
            "storing the rest",
            f"{counted(count, 'row')} could not be written to {self.run_dir} and {'is' if count == 1 else 'are'} lost",
        )

    def _disk_failed(self, error: OSError) -> None:
        self._gap_start_s, self._gap_reason = self.now(), error.strerror or str(error)
        self.guard.warn(
            "storing",
            f"{self._gap_reason} ({self.run_dir}); what is recorded waits in memory until the disk takes it again, and"
            " its readings get coarser if that lasts",
        )

    def _disk_recovered(self, thinned: int) -> None:
        note = {"reason": self._gap_reason, "readings_left_out": thinned}
        self.recorder.mark("gap", self._gap_start_s, self.now(), note)

    def _process_file(self) -> ProcessFile:
        now = _utc_now()
        return ProcessFile(
            host=socket.gethostname(),
            rank=self._place.rank,
            local_rank=self._place.local_rank,
            world_size=self._place.world_size,
            pid=os.getpid(),
            attempt=self.attempt,
            clock={"wall_unix_s": self._wall_unix_s, "monotonic_s": self._origin_s},
            boot_id=boot_id(),
            replica=self._place.replica,
            strategy=self._place.strategy,
            status=self._status,
            heartbeat=now,
            ended_at=None if self._status == "running" else now,
            resumed=as_note(self._allotted.resumed),
            meters=tuple(asdict(probe.counter.meter) for probe in self._probes),
            notes=self._notes(),
        )

    def _manifest(self) -> Manifest:
        facts, now = self._facts, _utc_now()
        manifest = Manifest(
            run_id=self.run_dir.name,
            workload=facts.workload,
            preset=facts.preset,
            seed=facts.seed,
            status=self._status,
            created_at=self._created_at,
            heartbeat=now,
            ended_at=None if self._status == "running" else now,
            attempt=self.attempt,
            last_step=self.last_step,
            parent=self._parent,
            settings=redact(facts.settings),
            identity=redact(facts.identity),
            data=redact(facts.data),
            params=facts.params,
            world_size=self._place.world_size,
            flops_source=self.flops_source,
            flops_convention=self.flops_convention,
            flops_counted_over_given=self.flops_counted_over_given,
            carbon=self._carbon,
            hardware=self._hardware,
            software=self._software,
            environment=environment(),
            notes=self._notes(),
        )
        if self._peak is None:
            return manifest
        peak = self._peak
        return replace(
            manifest,
            peak_flops_per_s=peak.flops_per_s,
            peak_dtype=peak.dtype,
            peak_source=peak.source,
            peak_bytes_per_s=peak.bytes_per_s,
            peak_bytes_source=peak.bytes_source,
        )


def _likeness(facts: RunFacts) -> dict[str, Any]:
    """What a run and its further attempts have in common, as it is stored."""
    return {
        "workload": facts.workload,
        "seed": facts.seed,
        "settings": redact(facts.settings),
        "identity": redact(facts.identity),
    }


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
