"""Every NVML error code on every NVML function that is called, at opening and midway: null with a reason, never harm.

The functions are found in the sources, so that a new call cannot be forgotten: it must be given a line in `CASES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_nvml.build import FakeNvml
from fixtures_sampling import Sampling
from nvml_cases import ALL_CODES, ENERGY, FIELDS, GONE, GPM_METRICS, USAGE, monitors

import profiler
from profiler.errors import SensorError
from profiler.measure.sensors.base import GaugeReading
from profiler.measure.sensors.nvml import GpuProbes, list_gpus, open_gpus
from profiler.measure.sensors.nvml_gauge import PERIODS_S
from profiler.records import Reading

SICK, WELL = "GPU-aaaa", "GPU-bbbb"
MACHINE = f"""
    gpu {SICK} NVIDIA H100 80GB HBM3
    power 0 0 250
    mig 0 MIG-1111
    process 0 4000001 1000
    {monitors(0)}
    gpu {WELL} NVIDIA H100 80GB HBM3
    power 1 0 250
    process 1 4000002 1000
    {monitors(1)}
"""
QUANTITIES = frozenset(
    {
        "energy_j",
        *(name for name in GaugeReading._fields if name not in ("news", "average_power_w")),
    }
)
GPM = frozenset(GPM_METRICS)
ALL_ASKED_S = max(PERIODS_S.values())
RETRIED_S = 120.0
"""By then whatever was lost for a few seconds has been tried again."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What becomes of one NVML function's failing on the first GPU.

    Attributes:
        nulls: The quantities that are then null.
        word: What the reason names.
        before: Lines without which it is not called at all.
        midway: Lines without which it is not called again midway; None if it is called at opening only.
        everywhere: It is no GPU's own, so both are hit.
        name: The library's function, if it is not of the same name.
    """

    nulls: frozenset[str] = frozenset()
    word: str = ""
    before: str = ""
    midway: str | None = ""
    everywhere: bool = False
    name: str = ""


def single(quantity: str, **more: str) -> Case:
    return Case(nulls=frozenset({quantity}), word=quantity, **more)  # type: ignore[arg-type]


PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"
LOST_ONCE = f"error {FIELDS} 15 0 0 1"
CASES: dict[str, Case] = {
    "nvmlInit": Case(nulls=QUANTITIES, midway="unload 9\nload", everywhere=True),
    "nvmlShutdown": Case(midway=LOST_ONCE, everywhere=True),
    "nvmlDeviceGetCount": Case(midway=None, everywhere=True, name="nvmlDeviceGetCount_v2"),
    "nvmlDeviceGetHandleByIndex": Case(midway=None, name="nvmlDeviceGetHandleByIndex_v2"),
    "nvmlDeviceGetUUID": Case(nulls=QUANTITIES, word="the parent GPU", midway=None),
    "nvmlDeviceGetMaxMigDeviceCount": Case(midway=None),
    "nvmlDeviceGetMigDeviceHandleByIndex": Case(midway=None),
    "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": Case(
        nulls=QUANTITIES, word="the parent GPU", midway=None
    ),
    "nvmlDeviceGetHandleByUUID": Case(nulls=QUANTITIES, word="NVML did not give", midway=LOST_ONCE),
    "nvmlDeviceGetName": Case(word="name", midway=None),
    "nvmlDeviceGetPowerManagementLimitConstraints": Case(word="power_max_w", midway=None),
    FIELDS: Case(nulls=frozenset({"power_w"}), word="energy and power"),
    ENERGY: single("energy_j", before="error field:83 3"),
    USAGE: single("average_power_w", before=f"error {FIELDS} 3 0"),
    "nvmlDeviceGetUtilizationRates": single("utilization"),
    "nvmlDeviceGetMemoryInfo": single("memory_used_bytes"),
    "nvmlDeviceGetTemperature": single("temperature_c"),
    "nvmlDeviceGetClockInfo": single("sm_clock_hz"),
    "nvmlDeviceGetEnforcedPowerLimit": single("power_limit_w"),
    "nvmlDeviceGetCurrentClocksEventReasons": single("throttle_reasons"),
    "nvmlDeviceGetCurrentClocksThrottleReasons": single(
        "throttle_reasons", before="error nvmlDeviceGetCurrentClocksEventReasons 13"
    ),
    "nvmlGpmQueryDeviceSupport": Case(nulls=GPM, word="(GPM)", midway=None),
    "nvmlGpmSampleAlloc": Case(nulls=GPM, word="(GPM)", midway=None, everywhere=True),
    "nvmlGpmSampleGet": Case(nulls=GPM, word="(GPM)"),
    "nvmlGpmMetricsGet": Case(nulls=GPM, word="(GPM)"),
    "nvmlGpmSampleFree": Case(midway=None, everywhere=True),
    PROCESSES: Case(word="the processes that use it", midway=None),
}


def called_functions() -> set[str]:
    """The NVML functions that the profiler's sources name."""
    sources = Path(profiler.__file__).parent.rglob("*.py")
    named = r'\bpynvml\.(?:_nvmlGetFunctionPointer\(")?(nvml[A-Z]\w+)'
    return {name for path in sources for name in re.findall(named, path.read_text())}


def test_every_function_that_is_called_has_a_case() -> None:
    assert called_functions() == CASES.keys()


def machines(fake: FakeNvml, case: Case) -> Iterator[int]:
    """A new machine for every error code."""
    for code in ALL_CODES:
        fake.reset()
        fake.tell(MACHINE)
        fake.tell(case.before)
        yield code


def rule(call: str, code: int, case: Case) -> str:
    return f"error {call} {code}" + ("" if case.everywhere else " 0")


def measured(probes: GpuProbes, fake: FakeNvml) -> Sampling:
    """A sampler on the fake's clock; it reads in the test's thread until `end`."""
    return Sampling(*probes.probes, clock=fake.time, period_s=3600)


def sample(run: Sampling, fake: FakeNvml, times: int = 3) -> list[Reading]:
    """What is read in so many times as long as it takes until every quantity was asked for."""
    before = len(run.readings)
    for _ in range(2 * times):
        fake.set_time(fake.time() + ALL_ASKED_S / 2.0)
        run.sampler.sample()
    return run.readings[before:]


def look_for_others(run: Sampling) -> None:
    """Once on the sampler's own thread."""
    run.sampler.start()
    run.sampler.stop()


def known(readings: list[Reading], device: str) -> set[str]:
    """The quantities that were told at least once."""
    mine = [reading for reading in readings if reading.device == device]
    return {
        name for name in QUANTITIES | {"average_power_w"} if any(getattr(r, name) is not None for r in mine)
    }


def check_values(run: Sampling, reset_s: float = 0.0) -> None:
    """What is told is true: the power is constant, and so are the rest of the fake's quantities.

    A counter may have started again at `reset_s`.
    """
    expected = {
        "power_w": 250,
        "average_power_w": 250,
        "utilization": 0.5,
        "temperature_c": 40,
        "sm_activity": 0.5,
    }
    for reading in run.readings:
        told = {name: getattr(reading, name) for name in expected if getattr(reading, name) is not None}
        assert told == pytest.approx({name: expected[name] for name in told})
        since_s = integrated_from_s(run, reading) if reading.source == "integrated" else reset_s
        possible = [250 * (reading.time_s - 0.0), 250 * (reading.time_s - since_s)]
        assert reading.energy_j is None or reading.energy_j in [pytest.approx(joules) for joules in possible]


def integrated_from_s(run: Sampling, reading: Reading) -> float:
    """An integral begins at its first reading."""
    return next(r.time_s for r in run.readings if r.device == reading.device)


def check_quantities(readings: list[Reading], case: Case, code: int) -> None:
    well, sick = known(readings, WELL), known(readings, SICK)
    if not case.everywhere:
        assert well >= QUANTITIES, (code, QUANTITIES - well)
    assert not sick & case.nulls, (code, sick & case.nulls)
    if code not in GONE:
        refused_before = {"energy_j", "power_w"} if case.before.startswith(f"error {FIELDS}") else set()
        assert QUANTITIES - case.nulls - refused_before <= sick, (code, QUANTITIES - case.nulls - sick)


def check_refusal(said: str, call: str, code: int) -> None:
    assert call in ("nvmlInit", "nvmlDeviceGetCount_v2")
    assert f"(code {code})" in said or "so GPU energy is null" in said


@pytest.mark.parametrize("function", CASES)
def test_at_opening(fake_nvml: FakeNvml, function: str) -> None:
    what = CASES[function]
    call = what.name or function
    for code in machines(fake_nvml, what):
        fake_nvml.tell(rule(call, code, what))
        try:
            list_gpus()
            probes = open_gpus(["MIG-1111", WELL], clock=fake_nvml.time)
        except SensorError as refusal:
            check_refusal(str(refusal), call, code)
            continue
        run = measured(probes, fake_nvml)
        readings = sample(run, fake_nvml)
        if call == PROCESSES:
            look_for_others(run)
        probes.close()
        assert fake_nvml.calls(call), f"{call} is never called: this tests nothing"
        assert run.guard.reasons == {}
        check_values(run)
        if call == ENERGY and code not in GONE:
            assert probes.probes[0].counter.meter.source == "integrated"
        elif (call, code) != ("nvmlDeviceGetCurrentClocksEventReasons", 13):  # the older name stands in
            check_quantities(readings, what, code)
            said = "\n".join([*probes.reasons, run.heard.sentences()])
            assert not what.word or (what.word in said and f"(code {code})" in said), (code, said)
        assert fake_nvml.misused_samples() == 0


@pytest.mark.parametrize("call", [call for call, what in CASES.items() if what.midway is not None])
def test_midway_and_back(fake_nvml: FakeNvml, call: str) -> None:
    what = CASES[call]
    assert what.midway is not None
    for code in machines(fake_nvml, what):
        probes = open_gpus(["MIG-1111", WELL], clock=fake_nvml.time)
        run = measured(probes, fake_nvml)
        sample(run, fake_nvml, 1)
        calls = fake_nvml.calls(call)
        fake_nvml.tell(f"{rule(call, code, what)}\n{what.midway}")
        sample(run, fake_nvml, 1)
        readings = sample(run, fake_nvml)
        fake_nvml.tell(f"clear {call}")
        fake_nvml.set_time(fake_nvml.time() + RETRIED_S)
        back = sample(run, fake_nvml)
        probes.close()
        assert fake_nvml.calls(call) > calls, f"{call} is not called again: this tests nothing"
        assert run.guard.reasons == {}
        assert (fake_nvml.misused_samples(), fake_nvml.samples()) == (0, 0)
        check_values(run, reset_s=ALL_ASKED_S if "load" in what.midway else 0.0)
        if (call, code) == ("nvmlDeviceGetCurrentClocksEventReasons", 13):
            continue
        if call != "nvmlShutdown":
            check_quantities(readings, what, code)
        said = run.heard.sentences()
        if what.word:
            assert what.word in said, (code, said)
            assert f"(code {code})" in said, (code, said)
        assert fake_nvml.refcount() == (1 if call == "nvmlShutdown" else 0)
        assert known(back, WELL) >= QUANTITIES, (code, QUANTITIES - known(back, WELL))
        assert known(back, SICK) >= QUANTITIES - (
            {"energy_j", "power_w"} if "Field" in what.before else set()
        )


@pytest.mark.parametrize("field", ["83", "186", "185"])
def test_every_error_of_each_field(fake_nvml: FakeNvml, field: str) -> None:
    quantity = {"83": "energy_j", "186": "power_w", "185": "average_power_w"}[field]
    other = {"power_w", "average_power_w"} - {quantity}
    for code in machines(fake_nvml, Case(before=f"error {ENERGY} 3 0 0" if field == "83" else "")):
        probes = open_gpus([SICK, WELL], clock=fake_nvml.time)
        run = measured(probes, fake_nvml)
        fake_nvml.tell(f"error field:{field} {code} 0")
        readings = sample(
            run, fake_nvml, times=6
        )  # two samples of one start make a mean, and each retry is a start
        probes.close()
        assert run.guard.reasons == {}
        assert quantity not in known(readings, SICK)
        assert known(readings, WELL) >= QUANTITIES
        assert f"did not give {quantity} of {SICK}" in run.heard.sentences()
        assert f"(code {code})" in run.heard.sentences()
        if code not in GONE:
            assert other <= known(readings, SICK)
        check_values(run)
