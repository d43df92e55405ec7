"""The command: what it prints, and what it says to a person who got something wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from profiler.cli.carbon_options import CarbonOptions
from profiler.cli.main import COMMANDS, app
from profiler.cli.point_process import Point, PointFailed, SweepProgress, run_point
from profiler.errors import JoulescaleError


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def joulescale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """The command in this process, in an empty folder; errors become what `main` makes of them."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Said:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if isinstance(done.exception, JoulescaleError):
            return Said(2, done.stdout, f"joulescale: {done.exception}")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Said(done.exit_code, done.stdout, done.stderr)

    return call


def process(*words: str, **environment: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "profiler.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return Said(done.returncode, done.stdout, done.stderr)


SHOWN = {
    "": "run_id workload preset status steps tokens samples duration_s phenomenon notes",
    "energy": "measured_j measured_plus_minus_j estimated_j estimated_plus_minus_j components",
    "throughput": "tokens_per_s samples_per_s step_s_p50 step_s_p95",
    "efficiency": "model_flops executed_flops flops_source flops_convention flops_counted_over_given flops_per_s"
    " peak_flops_per_s peak_source mfu hfu roofline tokens_per_j energy_per_token_j",
    "memory": "peak_allocated_bytes peak_reserved_bytes peak_host_rss_bytes",
    "carbon": "carbon_intensity_g_per_kwh carbon_intensity_source pue facility_energy_kwh emissions_g emissions_low_g"
    " emissions_high_g embodied_g water_l cost",
}
"""The keys that scripts rely on, from the architecture."""


def test_a_sweep_stores_its_points_and_runs_none_twice(smoke_runs: Path) -> None:
    again = process("sweep", "lm", "--preset", "smoke", "--runs-dir", str(smoke_runs), "--json")
    assert again.status == 0, again.err
    said = json.loads(again.out)
    assert [p["status"] for p in said["points"]] == ["reused", "reused"]
    assert len(said["scale"]) == 4
    assert {p["params"] for p in said["scale"]} == {10256, 32800}
    assert all(p["energy_source"] == "estimated" and p["energy_j"] > 0.0 for p in said["scale"])


def test_show_prints_every_key_and_a_reason_for_every_null(
    joulescale: Callable[..., Said], smoke_runs: Path
) -> None:
    said = joulescale("show", "latest", "--runs-dir", smoke_runs, "--json")
    shown = json.loads(said.out)
    for part, keys in SHOWN.items():
        values = shown[part] if part else shown
        assert set(keys.split()) <= set(values)
        for key, value in values.items():
            name = f"{part}.{key}" if part else key
            assert value is not None or shown["notes"][name], name
    assert (shown["workload"], shown["preset"], shown["status"], shown["steps"]) == (
        "lm",
        "smoke",
        "finished",
        70,
    )
    assert 0.0 < shown["efficiency"]["mfu"] < 1.0
    assert shown["efficiency"]["peak_source"].startswith("measured: best of")
    assert shown["efficiency"]["flops_counted_over_given"] == 1.0
    assert shown["efficiency"]["roofline"]["intensity_flops_per_byte"] > 0.0
    assert "causal attention in full" in shown["efficiency"]["flops_convention"]
    for phase in shown["phases"]:
        assert {"phase", "duration_s", "energy_j", "plus_minus_j"} <= set(phase)


def test_show_for_people_marks_estimates(joulescale: Callable[..., Said], smoke_runs: Path) -> None:
    said = joulescale("show", "--runs-dir", smoke_runs)
    assert "not measured" in said.out
    assert "J (estimated)" in said.out
    assert "no country is assumed: give --country or --carbon-intensity" in " ".join(said.out.split())


def test_list_shows_each_run(joulescale: Callable[..., Said], smoke_runs: Path) -> None:
    rows = json.loads(joulescale("list", "--runs-dir", smoke_runs, "--json").out)
    assert [row["status"] for row in rows] == ["finished", "finished"]
    text = joulescale("list", "--runs-dir", smoke_runs).out
    assert all(row["run_id"] in text for row in rows)


def test_emissions_need_a_grid_and_say_which(joulescale: Callable[..., Said], smoke_runs: Path) -> None:
    words = ["show", "latest", "--runs-dir", smoke_runs, "--json"]
    assert json.loads(joulescale(*words).out)["carbon"]["emissions_g"] is None
    france = json.loads(joulescale(*words, "--country", "FRA", "--pue", "1.5").out)
    carbon, energy = france["carbon"], france["energy"]["estimated_j"]
    assert carbon["carbon_intensity_g_per_kwh"] == pytest.approx(56.039)
    assert carbon["carbon_intensity_source"].startswith(
        "France, average of 2023, location-based (codecarbon "
    )
    assert carbon["emissions_g"] == pytest.approx(energy / 3.6e6 * 1.5 * 56.039)
    assert carbon["emissions_low_g"] < carbon["emissions_g"] < carbon["emissions_high_g"]
    given = json.loads(joulescale(*words, "--carbon-intensity", "100").out)["carbon"]
    assert (given["carbon_intensity_g_per_kwh"], given["carbon_intensity_source"]) == (100.0, "given")


@pytest.mark.parametrize("verb", ["run", "sweep", "show", "list", "scale"])
def test_every_command_that_knows_energy_takes_the_carbon_options(
    joulescale: Callable[..., Said], verb: str
) -> None:
    shown = joulescale(verb, "--help").out
    for option in ("--country", "--carbon-series", "--intensity-kind", "--wue", "--embodied-g", "--currency"):
        assert option in shown
    assert ("--carbon-live" in shown) == (verb in ("run", "sweep", "show")), (
        "a request for each run of a folder"
    )


@pytest.mark.parametrize("verb", COMMANDS)
def test_all_that_print_numbers_print_them_as_json_too(joulescale: Callable[..., Said], verb: str) -> None:
    """The output of `exec` is its command's own; the dashboard prints an address."""
    assert ("--json" in joulescale(verb, "--help").out) == (verb not in ("exec", "dashboard"))


def test_a_folder_without_runs_is_said_alike_by_all(joulescale: Callable[..., Said], tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    said = [joulescale(verb, "--runs-dir", folder) for verb in ("list", "show", "recover", "scale")]
    texts = [text.out.strip() or text.err.removeprefix("joulescale: ").strip() for text in said]
    hint = f"Fill it with 'joulescale sweep lm --preset cpu --runs-dir '{folder}''."
    runs, points = (f"There are no {what} in '{folder}' yet. {hint}" for what in ("runs", "points"))
    assert texts == [runs, runs, runs, points]


def test_a_sweep_passes_its_options_on(tmp_path: Path) -> None:
    carbon = CarbonOptions(country="FRA", carbon_series=Path("a b.csv"), price=0.3, currency="EUR")
    given = ["--country", "FRA", "--carbon-series", "a b.csv", "--price", "0.3", "--currency", "EUR"]
    assert carbon.words() == given
    point = Point(
        workload="lm", preset="smoke", seed=0, settings=None, texts={}, label="d_model=16", options=given
    )
    assert point.command(tmp_path)[-len(given) :] == given


def test_a_sweep_says_how_often_its_points_write_checkpoints(
    joulescale: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def not_run(point: Point, runs_dir: Path, progress: object) -> str:
        asked.append(point.command(runs_dir))
        raise PointFailed("only asked")

    monkeypatch.setattr("profiler.cli.sweep.run_point", not_run)
    joulescale("sweep", "lm", "--preset", "smoke", "--checkpoint-s", "2.5", "--runs-dir", tmp_path)
    assert len(asked) == 2
    for words in asked:
        assert words[words.index("--checkpoint-s") + 1] == "2.5"


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_scale_plots_to_a_file(
    joulescale: Callable[..., Said], smoke_runs: Path, tmp_path: Path, suffix: str
) -> None:
    chart = tmp_path / f"chart.{suffix}"
    said = joulescale("scale", "--runs-dir", smoke_runs, "--x", "energy_j", "--y", "loss", "--plot", chart)
    assert said.status == 0, said.err
    assert "estimated from CPU time, not measured" in said.out
    start = chart.read_bytes()[:400]
    assert {"svg": b"<svg", "png": b"\x89PNG", "html": b"<!DOCTYPE html>"}[suffix] in start


def test_doctor_says_what_is_missing_and_why(joulescale: Callable[..., Said]) -> None:
    found = json.loads(joulescale("doctor", "--json").out)
    assert found["sensors"], "a processor is always there, measured or estimated"
    assert all(s["energy_j"] is not None or s["error"] for s in found["sensors"])
    assert Path(found["loaded_from"]["profiler"]).name == "profiler"
    assert "lm" in found["workloads"]
    assert joulescale("doctor").status == 0


def test_doctor_warns_of_a_file_that_shadows_the_package(
    joulescale: Callable[..., Said], tmp_path: Path
) -> None:
    (tmp_path / "profiler.py").write_text("")
    assert (
        "has the name of a joulescale package" in json.loads(joulescale("doctor", "--json").out)["shadowed"]
    )


WRONG = [
    ("run lmm", "There is no workload named 'lmm'. Did you mean 'lm'?"),
    ("run lm --preset smol", "There is no preset named 'smol'. Did you mean 'smoke'?"),
    ("run lm --preset smoke --set dmodel=3", "There is no setting named 'dmodel'. Did you mean 'd_model'?"),
    ("run lm --preset smoke --set d_model=wide", "The setting d_model = 'wide' is not a whole number."),
    ("run lm --preset smoke --set d_model", "'d_model' is no KEY=VALUE. Write it as in '--set d_model=64'."),
    ("run lm --preset smoke --set d_model=17", "d_model = 17 cannot be cut into heads of head_dim = 16."),
    ("run lm --preset smoke --set seq_len=64 --set seq_len=32", "The setting 'seq_len' is given twice"),
    (
        "run lm --preset smoke --runs-dir file",
        "The runs folder 'file' is a file. Name a folder with --runs-dir.",
    ),
    ("run lm --preset smoke --runs-dir file/runs", "'file/runs' cannot be written to (Not a directory)"),
    (
        "run lm --preset smoke --runs-dir foreign",
        "The folder 'foreign' holds other things and no joulescale runs",
    ),
    ("run lm --preset smoke --data empty.txt", "empty.txt is empty, so there is nothing to train on."),
    ("run lm --preset smoke --data binary", "binary is not text: it has a NUL byte"),
    ("run lm --preset smoke --data nowhere", "No file, folder or match for a glob is at 'nowhere'."),
    ("run lm --preset smoke --country Narnia", "There is no country's grid named 'Narnia'."),
    ("run lm --preset smoke --country france", "Use its code: FRA."),
    ("run lm --preset smoke --country fra", "Write it in capitals: FRA."),
    ("run lm --preset smoke --pue 0.9", "The PUE 0.9 is not within 1 to 10"),
    ("run lm --preset smoke --carbon-intensity nan", "The carbon intensity nan is not within 0 to 10000"),
    ("run lm --preset smoke --wue -1", "The WUE -1.0 is not within 0 to 1000 litres a kWh of the computers."),
    (
        "run lm --preset smoke --price 0.3",
        "--price is given without --currency, so a cost would say nothing.",
    ),
    (
        "run lm --preset smoke --carbon-series gone.csv",
        "'gone.csv' cannot be read: No such file or directory.",
    ),
    ("run lm --preset smoke --carbon-series empty.txt", "'empty.txt' is neither .csv nor .parquet."),
    ("run lm --preset smoke --carbon-live us", "There is no live source of carbon intensity named 'us'."),
    (
        "run lm --preset smoke --carbon-live gb --carbon-intensity 5",
        "are both given, so it is not clear which counts.",
    ),
    ("run lm --preset smoke --second-opinion guess", "There is no second opinion named 'guess'."),
    (
        "run lm --preset smoke --country FRA --intensity-kind marginal",
        "Packaged national intensities are averages.",
    ),
    (
        "sweep lm --preset smoke --embodied-g nan",
        "The embodied carbon nan g is not within 0 to 1e12 gCO2e a device.",
    ),
    ("sweep lm --preset smoke --second-opinion guess", "There is no second opinion named 'guess'."),
    (
        "scale --runs-dir empty --lifetime-years 0",
        "The lifetime of 0.0 years is not within 0.01 to 100 years",
    ),
    (
        "list --runs-dir empty --intensity-kind mean --carbon-intensity 5",
        "There is no kind of intensity named 'mean'.",
    ),
    (
        "show --runs-dir empty --carbon-live us",
        "There is no live source of carbon intensity named 'us'. Known: gb.",
    ),
    ("run lm --preset smoke --name ../up", "The run name '../up' cannot be a folder's name."),
    ("sweep lm --grid d_model=", "The grid gives 'd_model' no value, so it has no points."),
    ("sweep lm --grid d_model", "'d_model' is no part of a grid. Write it as in --grid 'd_model=32,64,128'."),
    ("sweep lm --grid width=16", "There is no setting named 'width'."),
    ("sweep lm --seeds one", "--seeds 'one' is no list of whole numbers from 0 to 4294967295."),
    ("sweep lm --preset smoke --runs-dir file", "The runs folder 'file' is a file."),
    ("list", "There is no runs folder 'runs'."),
    ("list --runs-dir foreign", "The folder 'foreign' holds other things and no joulescale runs"),
    (
        "show --runs-dir empty",
        "There are no runs in 'empty' yet. Fill it with 'joulescale sweep lm --preset cpu",
    ),
    (
        "recover --runs-dir empty",
        "There are no runs in 'empty' yet. Fill it with 'joulescale sweep lm --preset cpu",
    ),
    ("scale --runs-dir empty --x width", "There is no axis named 'width'."),
    (
        "scale --runs-dir empty --plot chart.svg",
        "There are no points to draw: no run has reached a token budget yet.",
    ),
]


@pytest.mark.parametrize(("line", "message"), WRONG)
def test_a_mistake_gets_one_clear_message_and_leaves_nothing(
    joulescale: Callable[..., Said], tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    said = joulescale(*line.split())
    assert said.status == 2
    assert message in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_taken_is_refused(joulescale: Callable[..., Said], smoke_runs: Path) -> None:
    taken = next(smoke_runs.glob("*/run.json")).parent.name
    said = joulescale("run", "lm", "--preset", "smoke", "--runs-dir", smoke_runs, "--name", taken)
    assert said.status == 2
    assert f"There is a run named '{taken}' in {smoke_runs} already" in said.err


def test_the_gpu_preset_without_a_gpu_is_refused(joulescale: Callable[..., Said], tmp_path: Path) -> None:
    for verb in ("run", "sweep"):
        said = joulescale(verb, "lm", "--preset", "gpu")
        if said.status == 0:
            pytest.fail("this machine has a GPU: run the gpu suite")
        assert "torch finds no CUDA device here, so the run was not started" in said.err
        assert not (tmp_path / "runs").exists()


def test_a_mistake_ends_the_real_command_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    said = process("show", "nothing", "--runs-dir", str(tmp_path / "nowhere"))
    assert said.status == 2
    assert said.err.startswith("joulescale: There is no runs folder")
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_corpus_shorter_than_the_budget_is_said_and_trained_on(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("to be or not to be, that is the question. " * 50)
    words = ["run", "lm", "--preset", "smoke", "--set", "token_budgets=4096", "--json"]
    said = process(*words, "--data", str(tmp_path / "short.txt"), "--runs-dir", str(tmp_path / "runs"))
    assert said.status == 0, said.err
    assert "repeat" in said.err
    assert "repeat" in json.loads(said.out)["notes"]["data"]


class Doomed(Point):
    """A point whose process says why it ends, and ends badly."""

    def command(self, runs_dir: Path) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('joulescale: the disk is full')"]


def test_a_point_that_fails_says_why(tmp_path: Path) -> None:
    point = Doomed(workload="lm", preset="smoke", seed=0, settings=None, texts={}, label="d_model=16")
    with SweepProgress({"d_model=16": 1.0}) as progress, pytest.raises(PointFailed) as failure:
        run_point(point, tmp_path, progress)
    assert str(failure.value) == "the disk is full (exit status 1)"


def test_a_diverged_training_is_stored_as_such(tmp_path: Path) -> None:
    words = ["sweep", "lm", "--preset", "smoke", "--grid", "d_model=16", "--set", "lr=1e9"]
    said = process(*words, "--set", "token_budgets=4096", "--runs-dir", str(tmp_path / "runs"), "--json")
    assert said.status == 0, said.err
    point = json.loads(said.out)["scale"][0]
    assert point["loss"] is None or point["loss"] > 5.0
    assert point["energy_j"] > 0.0
