"""codecarbon beside us: a fake of its library in the child process, the real one once, and what is made of its word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import pytest
import torch
from fixtures_scripted import NEVER_S, FakeClock, Script, cpu_only, gpu, gpu_and_cpu, play
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from profiler import EfficiencyMonitor, open_run
from profiler.carbon.factors import CarbonFactors
from profiler.cli.main import app
from profiler.errors import SensorError, UnknownNameError
from profiler.integrations.codecarbon import CodecarbonTracker
from profiler.measure.guard import Guard
from profiler.measure.ranks import Place
from profiler.measure.recorder import Recorder
from profiler.measure.sensors.base import Probe
from profiler.measure.session import RunFacts, Session
from profiler.metrics.second_opinion import second_opinions
from profiler.metrics.summary import summarize
from profiler.report.terminal import run_table
from profiler.store.run import StoredRun
from profiler.store.runs import open_run as open_stored

FAKE = """
import json, os, sys, time
from types import SimpleNamespace

WRONG = os.environ.get("FAKE_CODECARBON", "")
if WRONG == "import":
    raise ImportError("broken")

class OfflineEmissionsTracker:
    def __init__(self, **options):
        self.options = options

    def start(self):
        if WRONG == "start raises":
            raise RuntimeError("no hardware")
        if WRONG == "start hangs":
            time.sleep(60)
        self.start_s = time.monotonic()

    def stop(self):
        if WRONG == "stop hangs":
            time.sleep(60)
        if WRONG == "stop exits":
            os._exit(3)
        if WRONG == "stop babbles":
            print("Traceback", flush=True)
        if WRONG == "stop gives nothing":
            self.final_emissions_data = SimpleNamespace(
                codecarbon_version="9.9", duration=1.0, emissions=None, cpu_energy=None, gpu_energy=0.0,
                ram_energy=0.0, energy_consumed=None, cpu_model="", gpu_model="",
            )
            return
        self.final_emissions_data = SimpleNamespace(
            codecarbon_version="9.9", duration=time.monotonic() - self.start_s, emissions=0.002, cpu_energy=1e-6,
            gpu_energy=2e-6, ram_energy=3e-6, energy_consumed=6e-6, cpu_model=json.dumps(self.options), gpu_model="",
        )
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A codecarbon that does as it is told, on the path of processes that are started from now on."""
    package = tmp_path / "fake" / "codecarbon"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return lambda wrong: monkeypatch.setenv("FAKE_CODECARBON", wrong)


def group_of(tracker: CodecarbonTracker) -> int:
    """The process group that the tracker's processes are in."""
    return tracker._process.pid


def is_gone(group: int, within_s: float = 10.0) -> bool:
    """Whether no process of a group is left, soon."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        states = [p.info["status"] for p in psutil.process_iter(["status"]) if _group(p.pid) == group]
        if all(
            state == psutil.STATUS_ZOMBIE for state in states
        ):  # orphans wait for a pid 1 that may not reap
            return True
        time.sleep(0.02)
    return False


def has_left_our_tree(group: int, within_s: float = 10.0) -> bool:
    """Whether no process of a group descends from this one, soon: whoever starts the tracker ends after it began."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        tree = psutil.Process().children(recursive=True)
        if group not in [_group(child.pid) for child in tree if child.is_running() and not _is_zombie(child)]:
            return True
        time.sleep(0.02)
    return False


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def said_wrongly(wrong: Callable[[str], None], fault: str) -> str:
    """What the tracker says of a fault of the library."""
    wrong(fault)
    with pytest.raises(SensorError) as failure:
        CodecarbonTracker(
            "FRA", start_timeout_s=0.5 if "start hangs" in fault else 20.0, stop_timeout_s=0.5
        ).stop()
    return str(failure.value)


# -- the tracker in its process ----------------------------------------------------------------------------------


def test_what_the_library_says_is_stored_in_joules_and_grams(library: Callable[[str], None]):
    tracker = CodecarbonTracker("DEU")
    assert has_left_our_tree(group_of(tracker)), "what it costs is no CPU time of ours"
    said = tracker.stop()
    assert said["components"] == pytest.approx({"cpu": 3.6, "gpu": 7.2, "ram": 10.8})
    assert said["energy_j"] == pytest.approx(21.6)
    assert said["emissions_g"] == pytest.approx(2.0)
    assert (said["tool"], said["version"], said["country"]) == ("codecarbon", "9.9", "DEU")
    assert 0.0 <= said["duration_s"] < 20.0
    assert is_gone(group_of(tracker))


def test_the_library_is_told_to_write_nothing_and_to_contact_nobody(library: Callable[[str], None]):
    options = json.loads(CodecarbonTracker("DEU").stop()["cpu_model"])
    assert options["country_iso_code"] == "DEU"
    assert options["output_methods"] == options["output_handlers"] == []
    assert options["emissions_endpoint"] is options["electricitymaps_api_token"] is None
    assert options["allow_multiple_runs"] is True, "else it takes the SIGTERM handler"


def test_without_a_country_its_emissions_are_left_out(library: Callable[[str], None]):
    said = CodecarbonTracker(None).stop()
    assert said["energy_j"] == pytest.approx(21.6)
    assert said["emissions_g"] is said["country"] is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("import", "codecarbon did not start: ImportError: broken"),
        ("start raises", "codecarbon did not start: RuntimeError: no hardware"),
        ("start hangs", "codecarbon did not start within 0.5 s"),
        ("stop hangs", "codecarbon did not stop within 0.5 s"),
        ("stop exits", "codecarbon did not stop: its process ended"),
        ("stop babbles", "codecarbon did not stop: its process said 'Traceback'"),
        ("stop gives nothing", "codecarbon said something else than expected (TypeError("),
    ],
)
def test_a_fault_of_the_library_is_one_sentence(library: Callable[[str], None], fault: str, message: str):
    assert said_wrongly(library, fault).startswith(message)


def test_nothing_of_a_library_that_hangs_is_left(library: Callable[[str], None]):
    library("stop hangs")
    tracker = CodecarbonTracker("FRA", stop_timeout_s=0.2)
    with pytest.raises(SensorError, match="did not stop within"):
        tracker.stop()
    assert is_gone(group_of(tracker))
    tracker.close()  # a second time does no harm


def test_signals_that_end_the_training_leave_it_its_last_word(library: Callable[[str], None]):
    tracker = CodecarbonTracker("FRA")
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(group_of(tracker), number)
    assert tracker.stop()["energy_j"] == pytest.approx(21.6)


def test_it_ends_with_the_process_that_started_it(library: Callable[[str], None]):
    code = (
        "import os; from profiler.integrations.codecarbon import CodecarbonTracker; t = CodecarbonTracker('FRA');"
        "print(t._process.pid, flush=True); os._exit(0)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert is_gone(int(said.stdout))


def test_the_real_library_answers_and_contacts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = tmp_path / "contacts"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.getaddrinfo', 'socket.gethostbyname') or (\n"
        "        event == 'socket.connect' and isinstance(arguments[1], tuple)\n"
        "    ):\n"
        f"        open({str(log)!r}, 'a').write(f'{{event}} {{arguments}}\\n')\n"
        "sys.addaudithook(hook)\n"
        f"open({str(log)!r}, 'a').write('watching\\n')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    tracker = CodecarbonTracker("FRA", start_timeout_s=60.0, stop_timeout_s=60.0)
    time.sleep(0.2)
    said = tracker.stop()
    assert said["energy_j"] == pytest.approx(sum(said["components"].values()))
    assert said["energy_j"] > 0.0
    assert said["duration_s"] > 0.0
    assert said["version"].startswith("3.")
    assert set(said["components"]) == {"cpu", "gpu", "ram"}
    assert set(log.read_text().split("\n")) == {"watching", ""}, "it looked for a network"


# -- around a fit ------------------------------------------------------------------------------------------------


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.line(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(runs_dir: Path, country: str | None = "FRA") -> StoredRun:
    facts = RunFacts(carbon={} if country is None else {"country": country})
    monitor = EfficiencyMonitor(runs_dir, name="run", facts=facts, second_opinion="codecarbon", summary=False)
    trainer = L.Trainer(
        max_epochs=1,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(Line(), DataLoader(TensorDataset(torch.randn(32, 2)), batch_size=4))
    assert trainer.state.finished
    return open_run(runs_dir, "run")


def test_a_fit_stores_the_opinion_beside_its_own_numbers(tmp_path: Path, library: Callable[[str], None]):
    run = fit(tmp_path / "runs")
    marks = {mark["kind"]: mark for mark in run.processes[0].marks.iter_rows(named=True)}
    opinion, whole = marks["second_opinion"], marks["fit"]
    assert opinion["start_s"] <= whole["start_s"], "its start is not in the training's time"
    assert opinion["end_s"] >= whole["end_s"]
    summary = summarize(run)
    (found,) = summary["second_opinions"]
    assert (found["tool"], found["version"], found["country"]) == ("codecarbon", "9.9", "FRA")
    assert found["energy_j"] == pytest.approx(21.6)
    assert found["emissions_g"] == pytest.approx(2.0)
    assert "second opinion" not in summary["notes"]


def test_a_library_that_fails_costs_the_fit_nothing_but_the_opinion(
    tmp_path: Path, library: Callable[[str], None]
):
    library("start raises")
    run = fit(tmp_path / "runs", country=None)
    summary = summarize(run)
    assert summary["second_opinions"] == []
    assert summary["status"] == "finished"
    assert summary["steps"] == 8
    assert "codecarbon did not start: RuntimeError: no hardware" in summary["notes"]["second opinion"]


def test_an_unknown_tool_is_refused_before_any_training():
    with pytest.raises(
        UnknownNameError, match=r"There is no second opinion named 'carbontracker'\..* Known: codecarbon"
    ):
        EfficiencyMonitor(second_opinion="carbontracker")


def test_the_command_stores_an_opinion_and_a_series_that_show_reads_elsewhere(
    tmp_path: Path, library: Callable[[str], None]
):
    grid = tmp_path / "grid.csv"
    grid.write_text("time,end,g_per_kwh\n2020-01-01T00:00Z,2090-01-01T00:00Z,250\n")
    words = ["run", "lm", "--preset", "smoke", "--name", "told", "--json"]
    words += ["--carbon-series", str(grid), "--intensity-kind", "marginal", "--pue", "1.5", "--wue", "1.8"]
    words += ["--price", "0.3", "--currency", "EUR", "--embodied-g", "1000", "--lifetime-years", "4"]
    words += ["--second-opinion", "codecarbon", "--runs-dir", str(tmp_path / "here")]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.stderr
    grid.unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    shown = CliRunner().invoke(app, ["show", "told", "--runs-dir", str(tmp_path / "there"), "--json"])
    said = json.loads(shown.stdout)
    found, energy_j = said["carbon"], said["energy"]["estimated_j"]
    assert found == json.loads(made.stdout)["carbon"]
    assert found["emissions_g"] == pytest.approx(energy_j / 3.6e6 * 1.5 * 250.0)
    assert found["carbon_intensity_kind"] == "marginal"
    assert found["carbon_intensity_source"].startswith("grid.csv: one interval")
    assert found["cost"] == pytest.approx(energy_j / 3.6e6 * 1.5 * 0.3)
    assert None not in found.values()
    assert said["second_opinions"][0]["version"] == "9.9"
    assert said["second_opinions"][0]["emissions_g"] is None, "no country was given"
    other = CliRunner().invoke(
        app, ["show", "told", "--runs-dir", str(tmp_path / "there"), "--carbon-intensity", "1", "--json"]
    )
    assert json.loads(other.stdout)["carbon"]["emissions_g"] == pytest.approx(energy_j / 3.6e6 * 1.5)


# -- what is made of it ------------------------------------------------------------------------------------------

NOTE = {
    "tool": "codecarbon",
    "version": "3.3.2",
    "duration_s": 4.0,
    "energy_j": 1000.0,
    "components": {"cpu": 100.0, "gpu": 820.0, "ram": 80.0},
    "country": "FRA",
    "emissions_g": 0.02,
}


def recorded(runs_dir: Path, counters: Any, note: dict[str, Any] | None = None) -> StoredRun:
    """A scripted run with an opinion over its seconds 1 to 5."""
    clock = FakeClock(now_s=3.0)
    session = Session(
        runs_dir,
        RunFacts(),
        place=Place(rank=0, local_rank=0, world_size=1),
        probes=[Probe(counter=counter) for counter in counters(clock)],
        guard=Guard(),
        name="scripted",
        clock=clock,
        sampling_period_s=NEVER_S,
    )
    session.recorder = Recorder(session.emit, clock=session.now, cpu_clock=clock.cpu)
    play(session, clock, Script())
    session.recorder.mark("second_opinion", 1.0, 5.0, note or NOTE)
    session.close("finished")
    return open_stored(runs_dir, "scripted")


def test_ours_and_theirs_are_compared_over_the_same_seconds_and_components(tmp_path: Path):
    run = recorded(tmp_path, gpu_and_cpu)
    summary = summarize(run, CarbonFactors(intensity_g_per_kwh=90.0, pue=1.5))
    (found,) = summary["second_opinions"]
    assert found["our_energy_j"] == pytest.approx(4.0 * 200.0)
    assert found["our_energy_source"] == "measured"
    by_component = {c["component"]: c for c in found["components"]}
    assert by_component["gpu"]["difference"] == pytest.approx(820.0 / 800.0 - 1.0)
    assert by_component["cpu"]["our_energy_j"] is None, "ours is an estimate, and the headline is measured"
    assert by_component["ram"]["difference"] is None
    assert found["energy_difference"] == pytest.approx(0.025), "what only they count is left out"
    ours_g = 800.0 * 1.5 * 90.0 / 3.6e6
    assert found["our_emissions_g"] == pytest.approx(ours_g)
    assert found["emissions_difference"] == pytest.approx(0.02 / ours_g - 1.0)
    assert summary["energy"]["measured_j"] == pytest.approx(200.0 * 8.5), "ours is what it was without them"


def test_an_estimate_is_compared_with_their_cpu(tmp_path: Path):
    (found,) = summarize(recorded(tmp_path, cpu_only))["second_opinions"]
    assert found["our_energy_source"] == "estimated"
    assert found["our_energy_j"] == pytest.approx(4.0 * 4.0)
    assert found["energy_difference"] == pytest.approx(100.0 / 16.0 - 1.0)
    assert found["our_emissions_g"] is found["emissions_difference"] is None


def test_without_energy_of_ours_there_is_nothing_to_compare(tmp_path: Path):
    run = recorded(tmp_path, lambda clock: [])
    (found,) = second_opinions(run.processes, [], CarbonFactors())
    assert found["energy_j"] == 1000.0
    assert found["our_energy_j"] is found["energy_difference"] is None


def test_the_terminal_prints_their_numbers_as_theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from profiler.report.terminal import show

    show(run_table(summarize(recorded(tmp_path, gpu()), CarbonFactors(country="FRA"))))
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "codecarbon 3.3.2 says 1.00 kJ (cpu 100 J, gpu 820 J, ram 80.0 J); +2 % on gpu, ours 800 J; 20.0 mg"
        in shown
    )
    assert "% on ours" in shown
    show(
        run_table(summarize(recorded(tmp_path / "x", gpu(), {**NOTE, "country": None, "emissions_g": None})))
    )
    assert "CO2e" not in capsys.readouterr().out
