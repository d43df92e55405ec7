"""The performance monitors (GPM) of Hopper and newer, on the fake library."""

from __future__ import annotations

import threading
import time

import pytest
from fake_nvml.build import FakeNvml
from nvml_cases import ALL_CODES, GONE, GPM_METRICS, gauge_of, opened

from profiler.errors import SensorError
from profiler.measure.sensors.base import GaugeReading
from profiler.measure.sensors.nvml_device import NvmlDevice, NvmlSession
from profiler.measure.sensors.nvml_gauge import PERIODS_S
from profiler.measure.sensors.nvml_gpm import GPM, NvmlGpm

H100 = "gpu GPU-aaaa NVIDIA H100 80GB HBM3\npower 0 0 250\n"


def given(reading: GaugeReading) -> dict[str, float]:
    return {
        name: value for name, value in reading._asdict().items() if name in GPM_METRICS and value is not None
    }


class TestValues:
    def test_fractions_and_bytes_each_of_its_own_metric(self, fake_nvml: FakeNvml) -> None:
        values = dict(zip(GPM_METRICS, [80, 40, 60, 30, 100, 200, 3000, 4000], strict=True))
        fake_nvml.tell(H100 + "\n".join(f"gpm 0 {GPM_METRICS[q]} 0 {value}" for q, value in values.items()))
        gauge = gauge_of(opened(fake_nvml))
        fake_nvml.set_time(1)
        mib = 1024**2
        assert given(gauge.read()) == pytest.approx(
            {
                "sm_activity": 0.8,
                "sm_occupancy": 0.4,
                "tensor_activity": 0.6,
                "dram_activity": 0.3,
                "pcie_sent_bytes_per_s": 100 * mib,
                "pcie_received_bytes_per_s": 200 * mib,
                "nvlink_received_bytes_per_s": 3000 * mib,
                "nvlink_sent_bytes_per_s": 4000 * mib,
            }
        )

    def test_each_reading_is_the_mean_since_the_last(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell(H100 + "gpm 0 2 0 0\ngpm 0 2 3 100\ngpm 0 2 4.5 20")
        gauge, seen = gauge_of(opened(fake_nvml)), {}
        for tick in range(90):
            fake_nvml.set_time(tick * 0.1)
            seen |= {tick: value} if (value := gauge.read().sm_activity) is not None else {}
        assert seen == pytest.approx({40: 0.25, 80: 0.125 + 0.875 * 0.2})

    def test_two_buffers_are_enough_for_ever(self, one_gpu: FakeNvml) -> None:
        probes = opened(one_gpu)
        for second in range(20):
            one_gpu.set_time(second)
            gauge_of(probes).read()
            assert one_gpu.samples() == 2
        probes.close()
        probes.close()
        assert (one_gpu.samples(), one_gpu.misused_samples(), one_gpu.refcount()) == (0, 0, 0)


class TestRefusals:
    def test_before_hopper_null_with_the_reason(self, fake_nvml: FakeNvml) -> None:
        fake_nvml.tell("gpu GPU-aaaa NVIDIA A100-SXM4-80GB\npower 0 0 250")
        probes = opened(fake_nvml)
        assert probes.reasons == (
            "NVML does not give activity of SMs, tensor pipes and DRAM, PCIe and NVLink traffic (GPM) of GPU-aaaa: "
            "only Hopper and newer GPUs have these monitors. It stays null.",
        )
        fake_nvml.set_time(5)
        reading = gauge_of(probes).read()
        assert given(reading) == {}
        assert reading.utilization == 0.5
        assert fake_nvml.calls("nvmlGpmSampleGet") == 0

    def test_a_permission_that_vanishes_and_comes_back(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        known, news = [], {}
        for second in range(1, 9):
            if second == 3:
                one_gpu.tell("error nvmlGpmSampleGet 4")
            if second == 5:
                one_gpu.tell("clear nvmlGpmSampleGet")
            one_gpu.set_time(second * PERIODS_S[GPM])
            reading = gauge.read()
            assert reading.power_w == 250
            known += [second] if given(reading) else []
            news |= {second: " ".join(reading.news.values())} if reading.news else {}
        assert known == [1, 2, 6, 7, 8]  # at 5 it starts anew: two samples make one reading
        assert news == {
            3: "NVML did not give activity of SMs, tensor pipes and DRAM, PCIe and NVLink traffic (GPM) of GPU-aaaa: "
            "Insufficient Permissions (code 4). The driver refuses this user; ask the administrator."
        }

    @pytest.mark.parametrize("quantity", GPM_METRICS)
    def test_every_error_of_one_metric(self, one_gpu: FakeNvml, quantity: str) -> None:
        for code in ALL_CODES:
            gauge = gauge_of(opened(one_gpu))
            one_gpu.tell(f"error gpm:{GPM_METRICS[quantity]} {code}")
            one_gpu.set_time(one_gpu.time() + 1)
            if code in GONE:
                with pytest.raises(
                    SensorError, match=rf"did not give {quantity} of GPU-aaaa: .+\(code {code}\)"
                ):
                    gauge.read()
            else:
                reading = gauge.read()
                assert given(reading).keys() == GPM_METRICS.keys() - {quantity}
                assert f"did not give {quantity} of GPU-aaaa" in reading.news[quantity]
            one_gpu.tell(f"clear gpm:{GPM_METRICS[quantity]}")

    @pytest.mark.parametrize("percent", ["nan", "-1", "inf", "101"])
    def test_a_share_that_cannot_be(self, fake_nvml: FakeNvml, percent: str) -> None:
        fake_nvml.tell(H100 + f"gpm 0 2 0 {percent}\ngpm 0 10 0 100.05\ngpm 0 20 0 {percent}")
        gauge = gauge_of(opened(fake_nvml))
        fake_nvml.set_time(1)
        reading = gauge.read()
        assert (reading.sm_activity, reading.dram_activity) == (None, 1.0)
        told = f"{float(percent) / 100:g}"
        assert reading.news["sm_activity"] == (
            f"NVML gave sm_activity of GPU-aaaa as {told}, which no GPU can reach."
        )
        assert (reading.pcie_sent_bytes_per_s is None) == (percent != "101")

    def test_samples_of_two_starts_of_nvml_make_no_reading(self, one_gpu: FakeNvml) -> None:
        gauge = gauge_of(opened(one_gpu))
        one_gpu.tell("unload 9\nload")
        one_gpu.set_time(1)
        with pytest.raises(SensorError, match="code 9"):
            gauge.read()
        assert given(gauge.read()) == {}
        one_gpu.set_time(1 + PERIODS_S[GPM])
        assert given(gauge.read())


class TestBuffers:
    @pytest.mark.parametrize("code", ALL_CODES)
    def test_a_second_buffer_that_is_refused_frees_the_first(self, one_gpu: FakeNvml, code: int) -> None:
        one_gpu.tell(f"error nvmlGpmSampleAlloc {code} -1 1")
        probes = opened(one_gpu)
        assert one_gpu.samples() == 0
        assert f"(code {code})" in " ".join(probes.reasons)

    def test_a_gpu_that_cannot_be_opened_after_all_frees_them(self, one_gpu: FakeNvml) -> None:
        one_gpu.tell("error nvmlDeviceGetUtilizationRates 15")
        assert opened(one_gpu).probes == ()
        assert one_gpu.samples() == 0

    def test_a_call_that_hangs_keeps_its_buffers(self, one_gpu: FakeNvml) -> None:
        """Freeing what the driver may still write to could end the training."""
        gpm = NvmlGpm(NvmlDevice(NvmlSession(), "GPU-aaaa"), clock=one_gpu.time)
        one_gpu.tell("hang nvmlGpmSampleGet 0.3")
        stuck = threading.Thread(target=gpm.read)
        stuck.start()
        while not one_gpu.calls("nvmlGpmSampleGet"):
            time.sleep(0.005)
        gpm.close()
        assert one_gpu.samples() == 2
        stuck.join()
        assert one_gpu.misused_samples() == 0

    def test_a_closed_one_touches_nothing(self, one_gpu: FakeNvml) -> None:
        gpm = NvmlGpm(NvmlDevice(NvmlSession(), "GPU-aaaa"), clock=one_gpu.time)
        gpm.close()
        with pytest.raises(SensorError, match=r"\(GPM\) of GPU-aaaa: it was closed\."):
            gpm.read()
        assert one_gpu.misused_samples() == 0
