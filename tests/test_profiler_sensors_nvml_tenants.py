"""Other processes on the same GPU: told apart where NVML lets us, and said where not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from fake_nvml.build import FakeNvml
from fixtures_sampling import Sampling
from nvml_cases import ALL_CODES, opened

from profiler.errors import SensorError
from profiler.measure.sensors.base import CoTenants, Probe
from profiler.measure.sensors.nvml_device import NvmlDevice, NvmlSession
from profiler.measure.sensors.nvml_tenants import find_co_tenants, is_in_host_namespace, run_pids

PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"


def found(fake: FakeNvml, *listed: tuple[int, int], host: bool = True) -> CoTenants:
    """What is said of these process numbers and bytes, where 10 and 11 are this run's."""
    fake.tell("\n".join(f"process 0 {pid} {size}" for pid, size in listed))
    device = NvmlDevice(NvmlSession(), "GPU-aaaa")
    return find_co_tenants(device, our_pids=lambda: {10, 11}, sees_host_pids=lambda: host)


class TestCounting:
    @pytest.mark.parametrize("host", [True, False])
    def test_ours_are_left_out(self, one_gpu: FakeNvml, host: bool) -> None:
        """One that is recognised shows that the numbers are comparable, also in a container of a newer driver."""
        others = found(one_gpu, (10, 5), (77, 100), (11, 5), (78, 200), host=host)
        assert others == CoTenants(processes=2, memory_bytes=300)

    @pytest.mark.parametrize("host", [True, False])
    def test_alone(self, one_gpu: FakeNvml, host: bool) -> None:
        assert found(one_gpu, (10, 5), host=host) == CoTenants(processes=0, memory_bytes=0)

    def test_before_this_run_used_the_gpu(self, one_gpu: FakeNvml) -> None:
        assert found(one_gpu, (77, 100)) == CoTenants(processes=1, memory_bytes=100)

    def test_memory_that_is_not_told(self, one_gpu: FakeNvml) -> None:
        assert found(one_gpu, (77, -1), (78, 5)) == CoTenants(processes=2, memory_bytes=None)

    def test_numbers_of_the_host_in_a_container(self, one_gpu: FakeNvml) -> None:
        others = found(one_gpu, (40077, 100), (40078, 5), (40079, 5), host=False)
        assert (others.processes, others.memory_bytes) == (2, None)
        assert others.note == (
            "In this container NVML names 3 process(es) on GPU-aaaa by numbers of the host. One is taken for this run, "
            "the others for somebody else's. Start the container with --pid=host to know."
        )

    def test_no_number_in_a_container(self, one_gpu: FakeNvml) -> None:
        others = found(one_gpu, host=False)
        assert others.processes is None
        assert others.note is not None
        assert others.note.startswith(
            "In this container NVML names no process on GPU-aaaa, not even this one, so it"
        )

    @pytest.mark.parametrize("code", ALL_CODES)
    def test_every_error_is_a_reason(self, one_gpu: FakeNvml, code: int) -> None:
        one_gpu.tell(f"error {PROCESSES} {code}")
        with pytest.raises(SensorError, match=rf"the processes that use it of GPU-aaaa: .+\(code {code}\)"):
            found(one_gpu, (77, 1))


class TestThisRun:
    def test_a_single_process_and_what_it_started(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            pids = run_pids({})
            child.communicate(b"\n")
        assert {os.getpid(), child.pid} <= pids
        assert os.getppid() not in pids

    def test_a_rank_knows_its_launcher_and_the_other_ranks(self) -> None:
        assert {os.getpid(), os.getppid()} <= ranks_as_seen_from_a_rank(through_a_shell=False)

    def test_a_shell_is_no_launcher(self) -> None:
        assert os.getpid() not in ranks_as_seen_from_a_rank(through_a_shell=True)

    def test_namespace(self) -> None:
        assert is_in_host_namespace() in (True, False)
        assert psutil.pid_exists(os.getpid())


def ranks_as_seen_from_a_rank(*, through_a_shell: bool) -> set[int]:
    """The processes of the run, by a rank that this process, or a shell of its own, started."""
    code = textwrap.dedent("""
        import json
        from profiler.measure.sensors.nvml_tenants import run_pids
        print(json.dumps(sorted(run_pids({"WORLD_SIZE": "2"}))))
    """)
    command = [sys.executable, "-c", code]
    if through_a_shell:
        command = ["sh", "-c", '"$0" "$@"; true', *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pids = set(json.loads(done.stdout))
    return pids | {os.getppid()} if os.getpid() in pids else pids


class TestThroughTheSampler:
    def test_marked_at_the_start_and_the_end(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"process 0 {os.getpid()} 1000\nprocess 0 999999 5000")
        (probe,) = opened(one_gpu).probes
        run = Sampling(probe, clock=one_gpu.time, period_s=3600)
        run.sampler.start()
        while one_gpu.calls(PROCESSES) < 2:  # its size, and then its entries
            time.sleep(0.002)
        time.sleep(0.01)
        one_gpu.tell("process 0 999998 -1")
        run.sampler.stop()
        assert run.heard.co_tenants == [
            ("GPU-aaaa", CoTenants(processes=1, memory_bytes=5000)),
            ("GPU-aaaa", CoTenants(processes=2, memory_bytes=None)),
        ]
        assert one_gpu.calls(PROCESSES) == 4

    def test_a_list_that_is_refused_is_said_and_nothing_marked(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell(f"error {PROCESSES} 4")
        (probe,) = opened(one_gpu).probes
        run = Sampling(
            Probe(counter=probe.counter, co_tenants=probe.co_tenants), clock=one_gpu.time, period_s=3600
        )
        run.sampler.start()
        run.sampler.stop()
        assert run.heard.co_tenants == []
        subject, sentence = run.heard.news[0]
        assert subject == "other processes on GPU-aaaa"
        assert "Insufficient Permissions (code 4)" in sentence
        assert run.readings
