"""NVIDIA GPUs through the real pynvml binding, on a fake library: finding, opening, losing and closing them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pynvml
import pytest
from fake_nvml.build import FakeNvml, build_library, subprocess_env
from fixtures_sampling import Sampling
from nvml_cases import FIELDS, ONE_GPU, TWO_GPUS, gauge_of, opened

from profiler.errors import SensorError
from profiler.measure.sensors.nvml import list_gpus, open_gpus


class TestOpening:
    def test_a_whole_gpu_needs_no_excuse(self, one_gpu: FakeNvml) -> None:
        assert opened(one_gpu).reasons == ()

    def test_what_is_missing_is_said_once(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetTemperature 4\nerror nvmlDeviceGetName 999")
        one_gpu.tell("error nvmlDeviceGetPowerManagementLimitConstraints 3")
        probes = opened(one_gpu)
        assert sorted(probes.reasons) == [
            "NVML did not give name of GPU-aaaa: Unknown Error (code 999). It stays null.",
            "NVML did not give power_max_w of GPU-aaaa: Not Supported (code 3). This GPU, its driver or its "
            "virtualisation does not offer it. It stays null.",
            "NVML did not give temperature_c of GPU-aaaa: Insufficient Permissions (code 4). The driver "
            "refuses this user; ask the administrator. It stays null.",
        ]
        meter = probes.probes[0].counter.meter
        assert (meter.name, meter.power_max_w) == ("NVIDIA GPU of unknown name", None)

    def test_one_lost_gpu_leaves_the_others(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS + f"\nerror {FIELDS} 15 0")
        probes = opened(fake_nvml, "GPU-aaaa", "GPU-bbbb", "GPU-cccc", "GPU-bbbb")
        assert [probe.counter.meter.device for probe in probes.probes] == ["GPU-bbbb"]
        assert probes.reasons == (
            "NVML did not give energy and power of GPU-aaaa: GPU is lost (code 15). The GPU fell off the bus; look for "
            "'Xid' in the kernel log. This GPU is not measured.",
            "NVML did not give energy and power of GPU-cccc: Not Found (code 6). No such device is here; "
            "'nvidia-smi -L' lists those that are. This GPU is not measured.",
        )

    def test_mig_is_the_parent_once_and_says_so(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(ONE_GPU + "\nmig 0 MIG-1111\nmig 0 MIG-2222")
        probes = opened(fake_nvml, "MIG-1111", "MIG-2222", "MIG-3333")
        (probe,) = probes.probes
        assert probe.counter.meter.device == "GPU-aaaa"
        assert probe.counter.meter.notes == (
            "MIG: the energy is that of the whole parent GPU, of which this run had MIG-1111, MIG-2222. The "
            "hardware does not meter instances, so no share is claimed.",
        )
        assert probes.reasons == (
            "NVML did not give the parent GPU of MIG-3333: Not Found (code 6). No such device is here; "
            "'nvidia-smi -L' lists those that are. This instance is not measured.",
        )
        fake_nvml.set_time(4)
        assert probe.counter.read() == pytest.approx(1000)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (9, "The NVIDIA driver is installed but not loaded, so GPU energy is null. Run 'nvidia-smi'"),
            (18, "The NVIDIA driver library and its kernel module are of different versions"),
            (4, "The NVIDIA driver refuses this user, so GPU energy is null. Ask the administrator"),
            (12, "No NVIDIA driver library (libnvidia-ml.so.1) was found, so GPU energy is null."),
            (999, "NVML did not start: Unknown Error (code 999), so GPU energy is null."),
        ],
    )
    def test_nvml_that_does_not_start(self, one_gpu: FakeNvml, code: int, message: str) -> None:
        one_gpu.tell(f"error nvmlInit {code}")
        for start in (lambda: opened(one_gpu), list_gpus):
            with pytest.raises(SensorError) as raised:
                start()
            assert str(raised.value).startswith(message)

    def test_no_gpu_asked_for_does_not_touch_nvml(self, one_gpu: FakeNvml) -> None:
        probes = open_gpus([])
        probes.close()
        assert (probes.probes, one_gpu.calls("nvmlInit")) == ((), 0)

    def test_list_keeps_places_and_migs(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS + "\nmig 1 MIG-1111\nmig 1 MIG-2222\nerror nvmlDeviceGetUUID 15 0")
        first, second = list_gpus()
        assert (first.uuid, first.name) == ("GPU-unreadable-0", None)
        assert (second.uuid, second.name) == ("GPU-bbbb", "NVIDIA A100-SXM4-80GB")
        assert second.mig_uuids == ("MIG-1111", "MIG-2222")
        assert fake_nvml.refcount() == 0

    def test_list_that_cannot_count(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetCount_v2 999")
        with pytest.raises(SensorError, match=r"NVML did not count the GPUs: Unknown Error \(code 999\)\."):
            list_gpus()
        assert one_gpu.refcount() == 0


class TestOwnership:
    def test_close_leaves_the_users_nvml_alone(self, one_gpu: FakeNvml) -> None:
        pynvml.nvmlInit()
        probes = opened(one_gpu)
        assert one_gpu.refcount() == 2
        probes.close()
        probes.close()
        assert one_gpu.refcount() == 1
        assert pynvml.nvmlDeviceGetCount() == 1
        pynvml.nvmlShutdown()

    def test_a_user_who_shuts_nvml_down_costs_one_reading(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        pynvml.nvmlShutdown()
        counter = probes.probes[0].counter
        with pytest.raises(SensorError, match=r"Uninitialized \(code 1\)\. This process shut NVML down"):
            counter.read()
        one_gpu.set_time(1)
        assert counter.read() == pytest.approx(250)
        probes.close()
        assert one_gpu.refcount() == 0

    def test_nvml_is_restarted_once_for_all_gpus(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS)
        probes = opened(fake_nvml, "GPU-aaaa", "GPU-bbbb")
        pynvml.nvmlShutdown()
        for probe in probes.probes:
            with pytest.raises(SensorError, match="Uninitialized"):
                probe.counter.read()
        assert [probe.counter.read() for probe in probes.probes] == [0.0, 12345.0]
        assert fake_nvml.refcount() == 1

    def test_a_call_that_hangs_leaves_the_training_running(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell(f"hang {FIELDS} 0.5")
        stuck = threading.Thread(target=counter.read)
        stuck.start()
        begin = time.monotonic()
        assert sum(range(100_000)) == 4_999_950_000  # needs the GIL
        assert time.monotonic() - begin < 0.4
        assert stuck.is_alive()
        stuck.join()

    def test_a_closed_probe_stays_closed(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        probes.close()
        counter = probes.probes[0].counter
        with pytest.raises(SensorError, match="Uninitialized"):
            counter.read()
        with pytest.raises(
            SensorError, match="The GPU sensors were closed; nothing can be read from them any more"
        ):
            counter.read()
        assert one_gpu.refcount() == 0

    def test_a_lost_gpu_that_returns_is_found_again(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell(f"error {FIELDS} 15 0 0 1\nerror nvmlDeviceGetHandleByUUID 28 0 0 2")
        for code in (15, 28, 28):
            with pytest.raises(SensorError, match=rf"\(code {code}\)"):
                counter.read()
        assert counter.read() == 0.0  # virtual time is still 0: the counter's own value


class TestReload:
    """A driver that went and came back: our share of NVML is given back and taken again, and the GPU looked up anew."""

    def test_a_reload_shows_as_a_reset(self, one_gpu: FakeNvml) -> None:
        counter = opened(one_gpu).probes[0].counter
        one_gpu.set_time(10)
        assert counter.read() == pytest.approx(2500)
        one_gpu.tell("unload 9")
        for _ in range(2):  # it is noticed, then looked for in vain
            with pytest.raises(SensorError, match=r"driver is installed but not loaded|Driver Not Loaded"):
                counter.read()
        one_gpu.set_time(20)
        one_gpu.tell("load")
        one_gpu.set_time(22)
        assert counter.read() == pytest.approx(500)
        assert one_gpu.refcount() == 1

    @pytest.mark.parametrize("code", [1, 9, 15, 18, 28, 3, 10, 29, 999])
    def test_whatever_the_code(self, one_gpu: FakeNvml, code: int) -> None:
        """Also one that would mean less if a single quantity had it: then the next call restarts NVML already."""
        probe = opened(one_gpu).probes[0]
        one_gpu.set_time(10)
        probe.counter.read()
        one_gpu.tell(f"unload {code}\nload")
        one_gpu.set_time(12)
        with suppress(SensorError):
            probe.counter.read()
        assert probe.counter.read() == pytest.approx(500)
        assert gauge_of(opened(one_gpu)).read().temperature_c == 40

    def test_of_two_gpus_nvml_is_restarted_once(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS)
        probes = opened(fake_nvml, "GPU-aaaa", "GPU-bbbb")
        fake_nvml.tell("unload 9\nload")
        inits = fake_nvml.calls("nvmlInit")
        for probe in probes.probes:
            with pytest.raises(SensorError, match="code 9"):
                probe.counter.read()
        assert [probe.counter.read() for probe in probes.probes] == [0, 0]
        assert fake_nvml.calls("nvmlInit") - inits == 1
        probes.close()
        assert fake_nvml.refcount() == 0

    def test_one_lost_gpu_takes_nothing_from_the_other(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(TWO_GPUS)
        run = Sampling(*opened(fake_nvml, "GPU-aaaa", "GPU-bbbb").probes, clock=fake_nvml.time)
        fake_nvml.tell(f"error {FIELDS} 15 0")
        for tick in range(300):
            fake_nvml.set_time(tick * 0.1)
            run.sampler.sample()
        assert run.heard.of("GPU-aaaa") == []
        assert len(run.heard.of("GPU-bbbb")) == 300
        assert all(reading.energy_j is not None for reading in run.heard.of("GPU-bbbb"))
        assert {device for device, _ in run.lost} == {"GPU-aaaa", "GPU-aaaa gauge"}
        assert fake_nvml.calls("nvmlInit") <= 9  # at 0, 5, 15 s by each of two sensors, and at opening

    def test_while_the_user_holds_nvml_it_stays_lost_with_the_reason(self, one_gpu: FakeNvml) -> None:
        """Only ours is ours to give back: the library starts anew when nobody holds it."""
        pynvml.nvmlInit()
        counter = opened(one_gpu).probes[0].counter
        one_gpu.tell("unload 9\nload")
        for _ in range(3):
            with pytest.raises(SensorError, match="code 9"):
                counter.read()
        assert one_gpu.refcount() == 2
        pynvml.nvmlShutdown()
        assert counter.read() == 0

    def test_a_run_through_a_reload_has_a_gap_and_goes_on(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        run = Sampling(*probes.probes, clock=one_gpu.time)
        for tick in range(600):
            one_gpu.set_time(tick * 0.1)
            if tick == 200:
                one_gpu.tell("unload 18")
            if tick == 220:
                one_gpu.tell("load")
            run.sampler.sample()
        energy = [(round(r.time_s, 1), r.energy_j) for r in run.readings if r.energy_j is not None]
        gaps = [(a, b) for (a, _), (b, _) in pairwise(energy) if b - a > 0.15]
        assert gaps == [(19.9, 25.1)]  # noticed at 20.0, tried again at 20.1 in vain and then 5 s later
        falls = [b for (_, a), (_, b) in pairwise(energy) if b < a]
        assert falls == pytest.approx([250 * 3.1], abs=26)
        assert run.guard.reasons == {}
        assert [device for device, _ in run.lost] == ["GPU-aaaa", "GPU-aaaa gauge"]
        probes.close()
        assert (one_gpu.refcount(), one_gpu.samples(), one_gpu.misused_samples()) == (0, 0, 0)

    def test_closing_during_a_restart_leaves_nothing_behind(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        counter = probes.probes[0].counter
        pynvml.nvmlShutdown()
        with pytest.raises(SensorError, match="Uninitialized"):
            counter.read()
        one_gpu.tell("hang nvmlInit 0.3")
        before, said = one_gpu.calls("nvmlInit"), []

        def read() -> None:
            try:
                counter.read()
            except SensorError as error:
                said.append(str(error))

        stuck = threading.Thread(target=read)
        stuck.start()
        while one_gpu.calls("nvmlInit") == before:
            time.sleep(0.005)
        begin = time.monotonic()
        probes.close()
        assert time.monotonic() - begin < 0.2
        stuck.join()
        assert said == ["The GPU sensors were closed; nothing can be read from them any more."]
        assert one_gpu.refcount() == 0


READ_VISIBLE = textwrap.dedent("""
    import json, os, time
    from profiler.measure.ranks import visible_uuids
    from profiler.measure.sensors.nvml import list_gpus, open_gpus
    gpus = list_gpus()
    uuids = [gpu.uuid for gpu in gpus]
    migs = {gpu.uuid: gpu.mig_uuids for gpu in gpus}
    visible = visible_uuids(os.environ.get("CUDA_VISIBLE_DEVICES"), uuids, migs)
    probes = open_gpus(visible)
    start, begin = [probe.counter.read() for probe in probes.probes], time.monotonic()
    time.sleep(0.5)
    spent = [probe.counter.read() - before for probe, before in zip(probes.probes, start)]
    seconds = time.monotonic() - begin
    reasons = probes.probes[0].gauge.read().throttle_reasons if probes.probes else None
    print(json.dumps({"devices": [probe.counter.meter.device for probe in probes.probes],
                      "watts": [joules / seconds for joules in spent], "throttle_reasons": reasons}))
    probes.close()
""")


def run_python(code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)


class TestSubprocess:
    SCRIPT = "gpu GPU-aaaa NVIDIA H100\npower 0 0 400\nupdate 0 0.01\nmig 0 MIG-1111\n" + (
        "gpu GPU-bbbb NVIDIA H100\npower 1 0 100\nupdate 1 0.01\n"
    )

    @pytest.mark.parametrize(
        ("visible", "devices"),
        [
            ("0", ["GPU-aaaa"]),
            ("1", ["GPU-bbbb"]),
            ("1,0", ["GPU-bbbb", "GPU-aaaa"]),
            ("GPU-bbbb", ["GPU-bbbb"]),
            ("GPU-b", ["GPU-bbbb"]),
            ("MIG-1111", ["GPU-aaaa"]),
            ("", []),
            ("-1", []),
        ],
    )
    def test_cuda_visible_devices_picks_the_right_gpu(
        self, nvml_library: Path, tmp_path: Path, visible: str, devices: list[str]
    ) -> None:
        env = subprocess_env(nvml_library, tmp_path / "gpus", self.SCRIPT, CUDA_VISIBLE_DEVICES=visible)
        done = run_python(READ_VISIBLE, env)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["devices"] == devices
        # Half a second of real time, of which the counter may miss 10 ms at each end, on a busy machine.
        expected = [{"GPU-aaaa": 400, "GPU-bbbb": 100}[device] for device in devices]
        assert found["watts"] == pytest.approx(expected, rel=0.1)

    @pytest.mark.parametrize(
        ("missing", "reasons"),
        [
            (("WITHOUT_EVENT_REASONS",), 4),
            (("WITHOUT_THROTTLE_REASONS",), 4),
            (("WITHOUT_EVENT_REASONS", "WITHOUT_THROTTLE_REASONS"), None),
        ],
    )
    def test_a_driver_without_the_symbol(
        self, nvml_library: Path, tmp_path: Path, missing: tuple[str, ...], reasons: int | None
    ) -> None:
        library = build_library(tmp_path, *missing)
        env = subprocess_env(
            library, tmp_path / "gpus", self.SCRIPT + "set 0 reasons 4\n", CUDA_VISIBLE_DEVICES="0"
        )
        done = run_python(READ_VISIBLE, env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["throttle_reasons"] == reasons

    def test_no_library(self, tmp_path: Path) -> None:
        (tmp_path / "libnvidia-ml.so.1").write_text("not a library: hides the machine's own, if it has one")
        env = subprocess_env(tmp_path / "libnvidia-ml.so.1", tmp_path / "gpus", "")
        done = run_python("from profiler.measure.sensors.nvml import list_gpus; list_gpus()", env)
        assert done.returncode == 1
        assert (
            "profiler.errors.SensorError: No NVIDIA driver library (libnvidia-ml.so.1) was found, so GPU "
            "energy is null. If this machine has an NVIDIA GPU, install its driver, or start the container "
            "with --gpus all."
        ) in done.stderr

    def test_import_profiler_leaves_pynvml_alone(self) -> None:
        code = "import sys, profiler, profiler.hardware_events; assert 'pynvml' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_gpu_that_is_cut_into_instances_is_a_parent_even_if_it_is_asked_for_whole(fake_nvml: FakeNvml):
    fake_nvml.tell("gpu GPU-aaaa NVIDIA H100 80GB HBM3\nmig 0 MIG-1111\nmig 0 MIG-2222\npower 0 0 300")
    with closing(open_gpus(["GPU-aaaa"], clock=fake_nvml.time)) as opened:
        meter = opened.probes[0].counter.meter
    assert meter.scope == "parent_of_mig"
    assert "of which this run had MIG-1111, MIG-2222" in meter.notes[0]
