"""RAPL on a made tree of powercap files."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from profiler.errors import SensorError
from profiler.measure.sensors.rapl import POWER_CEILING_W, RaplEnergy, counted_uj, open_rapl
from profiler.measure.sensors.rapl_zones import READABLE

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
        make_zone(root, f"intel-rapl:{socket}:0", "dram", 10_000_000 * (socket + 1))
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
            ("dram", "dram-1"): 20.0,
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

    def test_msr_counts_only_where_it_can_be_read(self, tmp_path: Path) -> None:
        broken = make_zone(tmp_path, "intel-rapl:0", "package-0")
        (broken / "energy_uj").write_text("nan")
        make_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
        assert only(tmp_path, Clock()).read() == 5.0

    def test_psys_is_left_out_and_said(self, tmp_path: Path) -> None:
        make_two_sockets(tmp_path)
        notes = {c.meter.device: c.meter.notes for c in open_rapl(tmp_path)[0]}
        psys = ("psys, the platform's own meter, is left out: it contains this package",)
        assert notes == {"package-0": psys, "package-1": psys, "dram-0": (), "dram-1": ()}


class Dies:
    """Packages that draw as scripted; files are written as time passes, by whoever waits."""

    def __init__(self, root: Path, counters: Sequence[int], watts: Sequence[float]) -> None:
        self._uj, self._watts = list(counters), watts
        self.zones = [
            make_zone(root, f"intel-rapl:{i}", f"package-0-die-{i}", uj) for i, uj in enumerate(counters)
        ]

    def wait(self, seconds: float) -> None:
        for number, zone in enumerate(self.zones):
            self._uj[number] += int(self._watts[number] * seconds * 1e6)
            (zone / "energy_uj").write_text(str(self._uj[number]))


class TestMirrors:
    def test_dies_that_show_one_counter_count_once(self, tmp_path: Path) -> None:
        dies = Dies(tmp_path, [68_000_000] * 4, [68.0] * 4)
        (counter,), reasons = open_rapl(tmp_path, wait=dies.wait)
        assert (counter.meter.device, reasons) == ("package-0-die-0", ())
        assert counter.meter.notes == tuple(
            f"package-0-die-{die} shows the very same counter (the dies of a socket may mirror one) and is left out"
            for die in (1, 2, 3)
        )

    def test_dies_that_happen_to_be_close_count_each(self, tmp_path: Path) -> None:
        dies = Dies(tmp_path, [68_000_000, 68_000_400], [68.0, 60.0])
        assert len(open_rapl(tmp_path, wait=dies.wait)[0]) == 2

    def test_what_shows_zero_is_no_mirror(self, tmp_path: Path) -> None:
        dies = Dies(tmp_path, [0, 0], [0.0, 0.0])
        assert len(open_rapl(tmp_path, wait=dies.wait)[0]) == 2

    @settings(max_examples=40, deadline=None)
    @given(
        sockets=st.lists(
            st.tuples(st.integers(1, RANGE_UJ // 2), st.floats(10, 500)), min_size=1, max_size=3
        ),
        dies=st.integers(1, 4),
    )
    def test_any_number_of_sockets_and_dies(
        self, tmp_path_factory: pytest.TempPathFactory, sockets: list[tuple[int, float]], dies: int
    ) -> None:
        """As many counters as sockets, whatever each socket's dies mirror."""
        starts = [start for start, _ in sockets]
        assume(all(abs(a - b) > 5_000_000 for n, a in enumerate(starts) for b in starts[:n]))
        each = [(start, watts) for start, watts in sockets for _ in range(dies)]
        tree = Dies(tmp_path_factory.mktemp("dies"), [s for s, _ in each], [w for _, w in each])
        counters, _ = open_rapl(tree.zones[0].parent, wait=tree.wait)
        assert len(counters) == len(sockets)
        assert sum(len(c.meter.notes) for c in counters) == len(sockets) * (dies - 1)


class TestRefusals:
    def test_a_file_that_vanishes(self, tmp_path: Path) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0")
        counter = only(tmp_path, Clock())
        shutil.rmtree(zone)
        with pytest.raises(
            SensorError, match=r"energy_uj cannot be read \(No such file or directory\), so this"
        ):
            counter.read()

    @pytest.mark.parametrize("text", ["", "lots", "1.5", "nan", "-5", "1_000", "²", "9" * 40, "\xff\x00"])
    def test_a_file_of_nonsense(self, tmp_path: Path, text: str) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0")
        (zone / "energy_uj").write_bytes(text.encode("latin-1"))
        counters, (reason,) = open_rapl(tmp_path)
        assert counters == ()
        assert reason.startswith(f"{zone}/energy_uj holds '")
        assert reason.endswith("', which is no count, so this energy is null.")

    def test_a_count_past_its_range(self, tmp_path: Path) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ + 1)
        assert open_rapl(tmp_path)[1] == (
            f"{zone}/energy_uj holds {RANGE_UJ + 1}, past its range of {RANGE_UJ}, so this energy is null.",
        )

    @pytest.mark.parametrize("text", ["0", "", "many"])
    def test_no_range(self, tmp_path: Path, text: str) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0", 5)
        (zone / "max_energy_range_uj").write_text(text)
        assert open_rapl(tmp_path)[1] == (
            f"{zone} does not say where its counter wraps, so this energy is null.",
        )

    def test_permission_denied_names_the_cure_once(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            make_two_sockets(Path(folder))
            for counter in Path(folder).glob("*/energy_uj"):
                counter.chmod(0o400 if os.geteuid() == 0 else 0)
            with _as_nobody():
                counters, (reason,) = open_rapl(Path(folder))
        assert counters == ()
        assert reason == (
            f"RAPL under {folder} may only be read by root (a guard against CVE-2020-8694), so the energy of CPU and "
            "memory is not measured. If nobody else uses this machine: "
            "sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj (until the next boot)."
        )

    def test_the_cure_opens_every_zone_behind_its_links(self, tmp_path: Path) -> None:
        """As in /sys/class/powercap: links to folders that lie in one another, read-only to root."""
        outer = make_zone(tmp_path / "devices", "intel-rapl:0", "package-0")
        inner = make_zone(outer, "intel-rapl:0:0", "dram")
        shown = tmp_path / "class"
        shown.mkdir()
        for zone in (outer, inner):
            (zone / "energy_uj").chmod(0o400)
            (shown / zone.name).symlink_to(zone)
        command = READABLE.removeprefix("sudo ").replace("/sys/class/powercap", str(shown))
        subprocess.run(["sh", "-c", command], check=True)
        assert all((zone / "energy_uj").stat().st_mode & 0o444 == 0o444 for zone in (outer, inner))
        assert (outer / "name").stat().st_mode & 0o444


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

    @pytest.mark.parametrize(
        ("after_s", "then_uj"),
        [
            (0.1, 1_000_000),  # a reset: to wrap it would have needed 262 kJ
            (0.1, 191_500_000),  # a jump: 101.5 J in 0.1 s
            (300.0, 95_000_000),  # away for so long that it may have wrapped
            (-1.0, 89_000_000),  # the clock went back, and so did the counter
        ],
    )
    def test_what_cannot_be_told_falls(
        self, tmp_path: Path, clock: Clock, after_s: float, then_uj: int
    ) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0", 90_000_000)
        counter = only(tmp_path, clock)
        before = counter.read()
        clock.now_s = after_s
        (zone / "energy_uj").write_text(str(then_uj))
        fallen = counter.read()
        assert fallen < before
        clock.now_s += 0.1
        (zone / "energy_uj").write_text(str(then_uj + 2_000_000))
        assert counter.read() - fallen == pytest.approx(2.0)

    def test_a_clock_that_goes_back_does_not_take_what_was_counted(
        self, tmp_path: Path, clock: Clock
    ) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0", 90_000_000)
        counter = only(tmp_path, clock)
        before = counter.read()
        clock.now_s = -5.0
        (zone / "energy_uj").write_text("91000000")
        assert counter.read() - before == pytest.approx(1.0)

    def test_a_zone_that_vanishes_and_comes_back_goes_on(self, tmp_path: Path, clock: Clock) -> None:
        zone = make_zone(tmp_path, "intel-rapl:0", "package-0", 90_000_000)
        counter = only(tmp_path, clock)
        before = counter.read()
        shutil.rmtree(zone)
        clock.now_s = 5.0
        with pytest.raises(SensorError, match="No such file or directory"):
            counter.read()
        clock.now_s = 10.0
        make_zone(tmp_path, "intel-rapl:0", "package-0", 590_000_000)
        assert counter.read() - before == pytest.approx(500.0)

    @given(
        start=st.integers(0, RANGE_UJ - 1),
        steps=st.lists(st.tuples(st.floats(0.01, 60), st.floats(0, 1)), min_size=1, max_size=50),
    )
    def test_any_trace_below_the_ceiling_is_recovered(
        self, start: int, steps: list[tuple[float, float]]
    ) -> None:
        """Any start, any intervals, any power up to the ceiling: the sum is exact over any number of wraps."""
        true_uj = total_uj = 0
        raw = start
        for seconds, load in steps:
            most_uj = POWER_CEILING_W * seconds * 1e6
            true_uj += (used := int(load * most_uj))
            previous, raw = raw, (raw + used) % RANGE_UJ
            step = counted_uj(previous, raw, range_uj=RANGE_UJ, most_uj=most_uj)
            assert step is not None
            total_uj += step
        assert total_uj == true_uj

    @given(
        previous=st.integers(0, RANGE_UJ - 1),
        used=st.integers(0, 3 * RANGE_UJ),
        most_uj=st.floats(0, 4e11),
    )
    def test_a_step_is_told_only_if_no_other_is_possible(
        self, previous: int, used: int, most_uj: float
    ) -> None:
        current = (previous + used) % RANGE_UJ
        step = counted_uj(previous, current, range_uj=RANGE_UJ, most_uj=most_uj)
        possible = [s for k in range(5) if (s := used % RANGE_UJ + k * RANGE_UJ) <= most_uj]
        assert step == (possible[0] if len(possible) == 1 else None)

    @settings(max_examples=50, deadline=None)
    @given(
        moves=st.lists(
            st.tuples(st.sampled_from([0.1, 1.0, 30.0]), st.floats(0, 900), st.sampled_from("...rv")),
            max_size=20,
        )
    )
    def test_any_course_of_wraps_resets_and_losses(
        self, tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[float, float, str]]
    ) -> None:
        """A read falls, or adds what was used; after a reset (r) at most what the ceiling allows; a file that cannot be
        read for a while (v) loses nothing.
        """
        root, clock = tmp_path_factory.mktemp("rapl"), Clock()
        zone = make_zone(root, "intel-rapl:0", "package-0", raw := RANGE_UJ - 50_000_000)
        counter = only(root, clock)
        last_j, last_s, used_j, was_reset = counter.read(), 0.0, 0.0, False
        for seconds, watts, event in moves:
            clock.now_s += seconds
            used_j += watts * seconds
            was_reset |= event == "r"
            raw = (0 if event == "r" else raw) + int(watts * seconds * 1e6)
            (zone / "energy_uj").write_text("gone" if event == "v" else str(raw % RANGE_UJ))
            if event == "v":
                with pytest.raises(SensorError, match="no count"):
                    counter.read()
                continue
            step_j = counter.read() - last_j
            most_j = POWER_CEILING_W * (clock.now_s - last_s + 0.001)
            assert step_j < 0.0 or step_j <= most_j
            if not was_reset and most_j < RANGE_UJ * 1e-6:
                assert step_j == pytest.approx(used_j, abs=1e-3)
            last_j, last_s, used_j, was_reset = last_j + step_j, clock.now_s, 0.0, False
