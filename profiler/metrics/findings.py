"""What the numbers of a run can show, one function a finding.

Each looks at the numbers that would show it, and says nothing if they are not there or are not clear. A finding
names the numbers that it rests on, so that a reader can disagree with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from profiler.metrics.evidence import Evidence, GpuGauges

WORTH_SAYING = 0.15
"""A share of the time or energy below which mending its cause would hardly be seen beside run-to-run noise."""

OFTEN_IDLE = 0.85
"""A GPU on which a kernel runs in less than this share of the time waits for its host."""

FEW_UNITS_BUSY = 0.5
"""Below this SM activity, a GPU that always runs some kernel has too little work in each."""

SPINNING = 1.5
"""More busy threads than this while the loop waits for a batch: the loop itself needs one."""

THROTTLED = 0.10
"""Share of readings with clocks held back that costs a few percent of the speed."""

TITLES: Mapping[str, str] = {
    "data": "waiting for data",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer",
    "other": "hooks, callbacks and code of yours that is in no phase",
    "validation": "validation",
    "checkpoint": "writing checkpoints",
    "outside steps": "work outside of steps",
    "training steps": "training steps",
}
"""Phases as they are called in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the numbers say.

    Attributes:
        finding: Its name: where, data_bound, launch_bound, small_batch, throttled, power_capped, spinning, straggler,
            idle_draw, validation, checkpoint, outside, memory_bound or precision.
        share: Share of the time or energy that is at stake, at most; findings are ordered by it.
        says: What was seen, with its numbers.
        first_try: What to try first; None where there is nothing to mend.
        numbers: The numbers that say so.
    """

    finding: str
    share: float
    says: str
    first_try: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What the judges look at: the tables' evidence and the summary that was made of the run."""

    evidence: Evidence
    summary: Mapping[str, Any]
    peak_dtype: str | None
    openmp_policy: str | None

    @property
    def on_gpu(self) -> GpuGauges:
        """The GPU's gauges; all unknown for a run on the CPU."""
        return self.evidence.gpu or GpuGauges()

    @property
    def data_share(self) -> float | None:
        """Share of step time in which the loop waited for its batch; None if that was not timed."""
        return self.evidence.shares.get("data")

    def lasting(self, phase: str) -> float:
        """The smaller of a phase's shares in the two halves of the run."""
        return min((half.get(phase, 0.0) for half in self.evidence.halves), default=0.0)  # type: ignore[call-overload]

    def cost(self, phase: str) -> str:
        """What a phase cost, as words to follow a share of time: `, ~ 12 J`; nothing if that is not known."""
        rows = [p for p in self.summary["phases"] if p["phase"] == phase and p["energy_j"] is not None]
        whose = " of rank 0's devices" if self.summary["world_size"] > 1 else ""
        return "".join(
            f", {'~ ' if p['source'] == 'estimated' else ''}{p['energy_j']:.3g} J{whose}" for p in rows
        )


def _where(case: Case) -> Finding | None:
    phases: Sequence[Mapping[str, Any]] = case.summary["phases"]
    whole_s = case.summary["duration_s"]
    if not phases or not whole_s:
        return None
    longest = phases[0]
    share = longest["duration_s"] / whole_s
    says = f"{share:.0%} of the time went into {TITLES.get(longest['phase'], longest['phase'])}"
    numbers = {"time_share": share}
    priced = [
        p for p in phases if p["source"] == "measured"
    ]  # an estimate from CPU time only repeats the time
    whole_j = _leaders_j(case.summary["energy"]["components"])
    if priced and whole_j:
        dearest = max(priced, key=lambda p: float(p["energy_j"]))
        numbers["energy_share"] = dearest["energy_j"] / whole_j
        name = "the same" if dearest is longest else TITLES.get(dearest["phase"], dearest["phase"])
        says += f", {numbers['energy_share']:.0%} of the joules into {name}"
    return Finding(finding="where", share=share, says=says + ".", numbers=numbers)


def _leaders_j(components: Sequence[Mapping[str, Any]]) -> float | None:
    """Joules of the measured devices of rank 0, whose phases these are; None if one is unknown."""
    parts = [c["energy_j"] for c in components if c["rank"] == 0 and c["source"] != "estimated"]
    return None if None in parts else sum(parts)


def _data_bound(case: Case) -> Finding | None:
    share = case.data_share
    if share is None or case.lasting("data") < WORTH_SAYING:
        return None
    return Finding(
        finding="data_bound",
        share=share,
        says=f"Data-bound: {share:.0%} of the step time was spent waiting for the next batch"
        f"{case.cost('data')}.",
        first_try="more DataLoader workers (num_workers, persistent_workers=True), or prepare the data beforehand",
        numbers={"data_share": share},
    )


def _launch_bound(case: Case) -> Finding | None:
    running, data = case.on_gpu.kernel_running, case.data_share
    if running is None or running >= OFTEN_IDLE or data is None or data >= WORTH_SAYING:
        return None
    idle = 1.0 - running - data
    if idle < WORTH_SAYING:
        return None
    return Finding(
        finding="launch_bound",
        share=idle,
        says=f"Launch-bound: no kernel ran on the GPU in {1 - running:.0%} of the time, of which waiting for data "
        f"explains {data:.0%}: the host does not feed it fast enough.",
        first_try="torch.compile or CUDA graphs, a larger batch, and no .item() or print of a tensor in every step",
        numbers={"kernel_running": running, "data_share": data},
    )


def _small_batch(case: Case) -> Finding | None:
    running, active = case.on_gpu.kernel_running, case.on_gpu.sm_activity
    if running is None or active is None or running < OFTEN_IDLE or active >= FEW_UNITS_BUSY:
        return None
    samples = case.evidence.samples_per_step
    batch = f" at {samples:.0f} samples a step" if samples else ""
    return Finding(
        finding="small_batch",
        share=1.0 - active,
        says=f"Small kernels: something ran on the GPU in {running:.0%} of the time, but only {active:.0%} of its "
        f"multiprocessors had work{batch}.",
        first_try="a larger batch, if memory and the learning-rate schedule allow it",
        numbers={"kernel_running": running, "sm_activity": active},
    )


def _throttled(case: Case) -> Finding | None:
    rows = [r for r in case.summary["throttling"] if r["reason"] != "software power cap"]
    worst = max(rows, key=lambda r: float(r["share"]), default=None)
    if worst is None or worst["share"] < THROTTLED:
        return None
    reasons = " and ".join(dict.fromkeys(r["reason"] for r in rows if r["share"] >= THROTTLED))
    return Finding(
        finding="throttled",
        share=worst["share"],
        says=f"Throttled: the driver held the clocks back in {worst['share']:.0%} of readings ({reasons}).",
        first_try="look at cooling and power supply of that GPU; compare it with a sister GPU",
        numbers={"share_of_readings": worst["share"]},
    )


def _power_capped(case: Case) -> Finding | None:
    shares = [float(r["share"]) for r in case.summary["throttling"] if r["reason"] == "software power cap"]
    if not shares or max(shares) < WORTH_SAYING:
        return None
    return Finding(
        finding="power_capped",
        share=max(shares),
        says=f"Power-capped: in {max(shares):.0%} of readings the GPU ran below its clock to stay within its power "
        "limit, as it should under heavy matrix products.",
        first_try="a lower power limit (nvidia-smi -pl, needs root) often saves more energy than it costs speed; "
        "measure both",
        numbers={"share_of_readings": max(shares)},
    )


def _spinning(case: Case) -> Finding | None:
    busy, share = case.evidence.busy_threads.get("data"), case.data_share
    if busy is None or share is None or busy < SPINNING or share < 0.01:
        return None
    policy = f" (OMP_WAIT_POLICY={case.openmp_policy})" if case.openmp_policy else ""
    return Finding(
        finding="spinning",
        share=share,
        says=f"Spinning threads: while the loop waited for data, {busy:.1f} threads of this process were busy"
        f"{policy}. Threads that spin at a barrier burn joules and do nothing.",
        first_try="OMP_WAIT_POLICY=PASSIVE in the environment, or fewer threads (OMP_NUM_THREADS)",
        numbers={"busy_threads": busy, "data_share": share},
    )


def _idle_draw(case: Case) -> Finding | None:
    share = (case.summary["energy"].get("idle") or {}).get("share")
    if share is None or share < 0.3:
        return None
    return Finding(
        finding="idle_draw",
        share=share,
        says=f"Idle draw: what the devices use when idle makes up {share:.0%} of the energy.",
        first_try="finish sooner or share the machine: a larger batch, several small runs on one device",
        numbers={"idle_share": share},
    )


def _heavy_phase(finding: str, phase: str, first_try: str) -> Callable[[Case], Finding | None]:
    def judge(case: Case) -> Finding | None:
        whole_s = case.summary["duration_s"]
        seconds = sum(p["duration_s"] for p in case.summary["phases"] if p["phase"] == phase)
        if not whole_s or seconds / whole_s < WORTH_SAYING:
            return None
        share = seconds / whole_s
        return Finding(
            finding=finding,
            share=share,
            says=f"{share:.0%} of the time went into {TITLES[phase]} ({seconds:.3g} s of {whole_s:.3g} s"
            f"{case.cost(phase)}).",
            first_try=first_try,
            numbers={"time_share": share},
        )

    return judge


def _memory_bound(case: Case) -> Finding | None:
    placed = case.summary["efficiency"].get("roofline") or {}
    share = placed.get("share_of_attainable")
    # operator traffic is an upper bound, so only a measured one can show that memory is the limit
    if (
        placed.get("bound") != "memory"
        or share is None
        or "measured" not in (placed.get("bytes_source") or "")
    ):
        return None
    return Finding(
        finding="memory_bound",
        share=share,
        says=f"Memory-bound: {placed['intensity_flops_per_byte']:.3g} FLOP for each byte moved, and {share:.0%} of "
        "the speed that memory allows.",
        first_try="torch.compile (fused element-wise work), bf16, a larger batch",
        numbers={"share_of_attainable": share},
    )


def _precision(case: Case) -> Finding | None:
    mfu, dtype = case.summary["efficiency"]["mfu"], case.peak_dtype
    if case.evidence.gpu is None or dtype not in ("fp32", "tf32") or mfu is None or mfu < WORTH_SAYING:
        return None
    return Finding(
        finding="precision",
        share=mfu,
        says=f"Matrix products ran in {dtype} at {mfu:.0%} of that dtype's peak; bf16's is higher on this GPU.",
        first_try='precision="bf16-mixed"',
        numbers={"mfu": mfu},
    )


JUDGES: tuple[Callable[[Case], Finding | None], ...] = (
    _where,
    _data_bound,
    _launch_bound,
    _small_batch,
    _throttled,
    _power_capped,
    _spinning,
    _idle_draw,
    _heavy_phase("validation", "validation", "validate less often or on less (val_check_interval, limit_val_batches)"),
    _heavy_phase("checkpoint", "checkpoint", "checkpoint less often, to a faster disk, or in the background"),
    _heavy_phase("outside", "outside steps", "look at set-up, epoch ends and callbacks: no phase claims this time"),
    _memory_bound,
    _precision,
)  # fmt: skip
