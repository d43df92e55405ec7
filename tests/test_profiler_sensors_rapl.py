"""RAPL on a made tree of powercap files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import SensorError
from profiler.measure.sensors.rapl import RaplEnergy, open_rapl, unwrap_step_uj

RANGE_UJ = 262_143_328_850


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_zone(root: Path, folder: str, name: str, energy_uj: int = 0, **files: int) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    for file, number in files.items():
        (zone / file).write_text(f"{number}\n")
    return zone


def make_two_sockets(root: Path) -> None:
    (root / "intel-rapl").mkdir(parents=True)
    (root / "intel-rapl-mmio").mkdir()
    (root / "dtpm").mkdir()
    for socket in (0, 1):
        make_zone(root, f"intel-rapl:{socket}", f"package-{socket}", 1_000_000 * (socket + 1))
        make_zone(root, f"intel-rapl:{socket}:0", "dram", 10_000_000)
        make_zone(root, f"intel-rapl:{socket}:1", "core", 7)
        make_zone(root, f"intel-rapl:{socket}:2", "uncore", 7)
        make_zone(root, f"intel-rapl-mmio:{socket}", f"package-{socket}", 7)
    make_zone(root, "intel-rapl:2", "psys", 7)


def only(root: Path, clock: Clock) -> RaplEnergy:
    counters, reasons = open_rapl(root, clock=clock)
    assert reasons == ()
    (counter,) = counters
    return counter


class TestZones:
    def test_packages_and_memory_once_each(self, tmp_path: Path) -> None:
        make_two_sockets(tmp_path)
        counters, reasons = open_rapl(tmp_path)
        assert reasons == ()
        found = {(c.meter.component, c.meter.device): c.read() for c in counters}
        assert found == {
            ("cpu", "package-0"): 1.0,
            ("cpu", "package-1"): 2.0,
            ("dram", "dram-0"): 10.0,
            ("dram", "dram-1"): 10.0,
        }

    def test_mmio_counts_where_msr_is_missing(self, tmp_path: Path) -> None:
        make_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
        assert only(tmp_path, Clock()).read() == 5.0

    def test_zones_behind_links(self, tmp_path: Path) -> None:
        zone = make_zone(tmp_path / "devices", "intel-rapl:0", "package-0", 3_000_000)
        (tmp_path / "class").mkdir()
        (tmp_path / "class" / "intel-rapl:0").symlink_to(zone)
        assert only(tmp_path / "class", Clock()).read() == 3.0

    def test_meter(self, tmp_path: Path) -> None:
        make_zone(
            tmp_path,
            "intel-rapl:0",
            "package-0",
            constraint_0_power_limit_uw=205_000_000,
            constraint_0_max_power_uw=205_000_000,
            constraint_1_power_limit_uw=246_000_000,
            constraint_1_time_window_us=9_000_000_000,
        )
        meter = only(tmp_path, Clock()).meter
        assert (meter.source, meter.name, meter.power_max_w) == ("counter", "CPU package-0 (RAPL)", 246.0)
        assert meter.relative_uncertainty == 0.10
        assert "2108.00808" in meter.uncertainty_source

    def test_no_limit_is_unknown(self, tmp_path: Path) -> None:
        make_zone(tmp_path, "intel-rapl:0:0", "dram", constraint_0_max_power_uw=0)
        assert only(tmp_path, Clock()).meter.power_max_w is None

    @pytest.mark.parametrize("root", ["empty", "missing"])
    def test_no_rapl(self, tmp_path: Path, root: str) -> None:
        (tmp_path / "empty").mkdir()
        counters, reasons = open_rapl(tmp_path / root)
        assert counters == ()
        assert reasons == (
            f"There is no RAPL package under {tmp_path / root}, so the energy of CPU and memory is not "
            "measured. That is usual in virtual machines and containers; on bare Linux try "
            "'sudo modprobe intel_rapl_msr'.",
        )


class TestRefusals:
    def test_a_file_that_vanishes(self, tmp_path: Path) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0")
        counter = only(tmp_path, Clock())
        shutil.rmtree(zone)
        with pytest.raises(
            SensorError, match=r"energy_uj cannot be read \(No such file or directory\), so this"
        ):
            counter.read()

    @pytest.mark.parametrize("text", ["", "lots", "1.5"])
    def test_a_file_of_nonsense(self, tmp_path: Path, text: str) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0")
        (zone / "energy_uj").write_text(text)
        counters, (reason,) = open_rapl(tmp_path)
        assert counters == ()
        assert reason == f"{zone}/energy_uj does not hold a whole number, so this energy is null."

    def test_permission_denied_names_file_and_cure(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            zone = make_zone(Path(folder), "intel-rapl:0", "package-0")
            (zone / "energy_uj").chmod(0o400 if os.geteuid() == 0 else 0)
            with _as_nobody():
                counters, (reason,) = open_rapl(Path(folder))
        assert counters == ()
        assert reason == (
            f"{zone}/energy_uj may only be read by root (a guard against CVE-2020-8694), so this energy is "
            "null. If the machine is yours: sudo chmod -R a+r /sys/class/powercap/intel-rapl"
        )


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root reads every file: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestUnwrapping:
    def test_a_wrap_goes_on(self, tmp_path: Path, clock: Clock) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 5_000_000)
        counter = only(tmp_path, clock)
        before = counter.read()
        clock.now_s = 0.1
        (zone / "energy_uj").write_text("15000000")
        assert counter.read() - before == pytest.approx(20.0)

    def test_a_reset_falls(self, tmp_path: Path, clock: Clock) -> None:
        zone = make_zone(
            tmp_path, "intel-rapl:0", "package-0", 90_000_000, constraint_0_max_power_uw=200_000_000
        )
        counter = only(tmp_path, clock)
        clock.now_s = 0.1
        (zone / "energy_uj").write_text("1000000")
        assert counter.read() == pytest.approx(1.0)
        clock.now_s = 0.2
        (zone / "energy_uj").write_text("3000000")
        assert counter.read() == pytest.approx(3.0)

    def test_the_ceiling_serves_where_no_limit_is_known(self) -> None:
        assert unwrap_step_uj(100, 50, range_uj=RANGE_UJ, most_uj=2000e6 * 0.1) is None

    @given(
        start=st.integers(0, RANGE_UJ - 1),
        steps=st.lists(st.tuples(st.floats(0.01, 60), st.floats(0, 1)), min_size=1, max_size=50),
        power_max_w=st.floats(1, 1000),
    )
    def test_any_trace_below_the_limit_is_recovered(
        self, start: int, steps: list[tuple[float, float]], power_max_w: float
    ) -> None:
        """Any start, any intervals, any power up to the limit: the sum is exact over any number of wraps."""
        true_uj = total_uj = 0
        raw = start
        for seconds, load in steps:
            most_uj = power_max_w * seconds * 1e6
            true_uj += (used := int(load * most_uj))
            previous, raw = raw, (raw + used) % RANGE_UJ
            step = unwrap_step_uj(previous, raw, range_uj=RANGE_UJ, most_uj=most_uj)
            assert step is not None
            total_uj += step
        assert total_uj == true_uj

    @given(
        previous=st.integers(0, RANGE_UJ - 1),
        current=st.integers(0, RANGE_UJ - 1),
        most_uj=st.floats(0, 1e12),
    )
    def test_a_fall_is_never_more_than_possible(self, previous: int, current: int, most_uj: float) -> None:
        step = unwrap_step_uj(previous, current, range_uj=RANGE_UJ, most_uj=most_uj)
        if current < previous:
            assert step is None or 0 <= step <= most_uj
        else:
            assert step == current - previous

    @given(raws=st.lists(st.integers(0, RANGE_UJ - 1), min_size=2, max_size=20))
    def test_the_counter_falls_only_at_resets(
        self, tmp_path_factory: pytest.TempPathFactory, raws: list[int]
    ) -> None:
        root, clock = tmp_path_factory.mktemp("rapl"), Clock()
        zone = make_zone(root, "intel-rapl:0", "package-0", raws[0], constraint_0_max_power_uw=300_000_000)
        counter = only(root, clock)
        energy, last = counter.read(), raws[0]
        for raw in raws[1:]:
            clock.now_s += 100.0
            (zone / "energy_uj").write_text(str(raw))
            before, energy = energy, counter.read()
            is_reset = raw < last and raw - last + RANGE_UJ > 300e6 * 100
            assert (energy < before) == is_reset
            last = raw
