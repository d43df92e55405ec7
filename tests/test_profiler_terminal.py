"""What a run and many runs look like in a terminal: states, units of work, peaks, notes, damage, emissions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fixtures_phenomena import experiment_run, two_arms
from fixtures_runs import make_points
from fixtures_scripted import Script, cpu_only, gpu, gpu_and_cpu, nothing, scripted_run

from profiler.carbon.factors import CarbonFactors
from profiler.measure.peak import Peak
from profiler.measure.session import RunFacts
from profiler.metrics.overview import overview
from profiler.metrics.phenomena import over_seeds
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.report.facts import hfu_text, mfu_text, roofline_text, status_text
from profiler.report.notes import grouped_notes
from profiler.report.phenomenon_rows import over_seeds_row
from profiler.report.tables import damaged_sentence, overview_table, points_table, status_cell
from profiler.report.terminal import run_table, show
from profiler.store.run import StoredRun
from profiler.store.runs import open_run, scan_runs

CPU_NOTES = {
    "gpu": "this process trains on no NVIDIA GPU, so none is measured",
    "cpu": "There is no RAPL package. Try 'sudo modprobe intel_rapl_msr'.",
    "samples": "first dimension of the batch's tensors",
    "tokens": "the batch is no matrix of token ids. Pass tokens= to count them",
    "mfu": "No dense fp32 peak is known. Pass peak_flops_per_s=",
    "omp_wait_policy": "OMP_WAIT_POLICY was unset",
}
SAMPLES = Script(tokens=None, samples=64)


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is printed of a table."""

    def call(table: Any) -> str:
        show(table)
        return capsys.readouterr().out

    return call


def words(text: str) -> str:
    return " ".join(text.split())


def edited(run: StoredRun, **fields: object) -> StoredRun:
    """The run with other words in its manifest."""
    manifest = json.loads((run.path / "run.json").read_text()) | fields
    (run.path / "run.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "checksum"}))
    return open_run(run.path.parent, run.run_id)


def damaged(run: StoredRun, table: str = "readings") -> StoredRun:
    part = min(run.path.glob(f"attempt-*/*/{table}-*.parquet"))
    part.write_bytes(part.read_bytes()[:50])
    return open_run(run.path.parent, run.run_id)


# -- one run -----------------------------------------------------------------------------------------------------


def test_where_tokens_are_not_counted_samples_stand_in(tmp_path: Path, shown: Callable[..., str]):
    text = words(shown(run_table(summarize(scripted_run(tmp_path, SAMPLES, counters=cpu_only)))))
    assert "throughput 80.0 samples/s (time inside steps only)" in text
    assert "energy per sample ~ " in text
    assert "mJ/sample" in text
    assert "energy per token" not in text


def test_of_samples_alone_no_tokens_are_spoken_of_where_the_energy_is_unknown(
    tmp_path: Path, shown: Callable[..., str]
):
    run = scripted_run(tmp_path, SAMPLES, counters=nothing)
    text = words(shown(run_table(summarize(run))))
    assert "energy per sample unknown" in text
    assert "energy per token" not in text


def test_energy_of_a_unit_of_work_has_its_error_bar(tmp_path: Path, shown: Callable[..., str]):
    summary = summarize(scripted_run(tmp_path))
    energy, efficiency = summary["energy"], summary["efficiency"]
    share = energy["measured_plus_minus_j"] / energy["measured_j"]
    for unit in ("token", "sample"):
        amount, bar = efficiency[f"energy_per_{unit}_j"], efficiency[f"energy_per_{unit}_plus_minus_j"]
        assert bar / amount == pytest.approx(share)
    assert re.search(r"energy per token [\d.]+ ± [\d.e-]+ mJ/token", words(shown(run_table(summary))))


def test_a_lost_run_says_what_that_is_and_when_it_was_last_alive(tmp_path: Path, shown: Callable[..., str]):
    began, alive = "2026-01-02T09:00:00+00:00", "2026-01-02T09:00:41+00:00"
    run = edited(scripted_run(tmp_path), status="running", heartbeat=alive, created_at=began)
    said = "(lost: its process ended without saying so, last sign of life 2026-01-02 09:00:41 UTC)"
    assert said in words(shown(run_table(summarize(run))))
    silent = summarize(run) | {"heartbeat": None}
    assert status_text(silent) == "lost: its process ended without saying so"
    later = summarize(run) | {"created_at": "2026-01-02T09:00:38+00:00", "duration_s": 9.5}
    assert status_text(later).endswith("last sign of life 2026-01-02 09:00:47 UTC")  # the last row's


def test_an_interrupted_run_says_what_stopped_it(tmp_path: Path):
    run = scripted_run(tmp_path, status="interrupted")
    assert status_text(summarize(run)) == "interrupted: it was stopped before its end"
    told = edited(run, notes={"ended": "ValueError at step 10"})
    assert status_text(summarize(told)) == "interrupted: ValueError at step 10"


def test_damage_is_part_of_the_status(tmp_path: Path):
    run = damaged(scripted_run(tmp_path))
    assert status_text(summarize(run)) == "finished, damaged"
    (run.path / "run.json").write_text("{")
    assert status_text(summarize(open_run(tmp_path, "scripted"))) == "damaged: its run.json cannot be read"


def test_mfu_has_its_peak_and_where_that_is_from(tmp_path: Path, shown: Callable[..., str]):
    peak = Peak(flops_per_s=8.8e10, dtype="fp32", source="measured: best of square matrix products, at 1024")
    run = scripted_run(tmp_path, Script(model_flops=1e10), counters=cpu_only, peak=peak)
    assert "MFU 14.2 % of 88.0 GFLOP/s fp32, measured" in words(shown(run_table(summarize(run))))


EFFICIENCY = {
    "mfu": 0.33,
    "hfu": 0.434,
    "peak_flops_per_s": 989e12,
    "peak_source": "datasheet",
    "peak_dtype": "bf16",
}


def test_hfu_and_the_roofline_in_words():
    place = {
        "bound": "compute",
        "share_of_attainable": 0.434,
        "intensity_flops_per_byte": 279.0,
        "ridge_flops_per_byte": 206.0,
    }
    assert hfu_text(EFFICIENCY) == "43.4 %, all executed FLOPs counted"
    assert hfu_text({**EFFICIENCY, "hfu": 0.33}) == "unknown"
    assert mfu_text({**EFFICIENCY, "mfu": None}) == "unknown"
    assert roofline_text({"roofline": place}) == (
        "compute-bound, at 43.4 % of its limit (279 FLOP/B; the ridge is at 206)"
    )
    assert roofline_text({"roofline": {**place, "bound": None}}) == "unknown"


def test_phases_of_several_ranks_say_whose_devices_they_are_of(tmp_path: Path, shown: Callable[..., str]):
    of_two = scripted_run(tmp_path, counters=gpu(), name="two", world_size=2)
    assert "energy, rank 0's devices only" in words(shown(run_table(summarize(of_two))))
    of_one = scripted_run(tmp_path, counters=gpu(), name="one")
    assert "devices only" not in shown(run_table(summarize(of_one)))


def test_measured_phases_say_how_each_energy_was_got(tmp_path: Path, shown: Callable[..., str]):
    run = scripted_run(tmp_path, Script(validation_after=(5,)), counters=gpu())
    assert "between changes of the counter" in shown(run_table(summarize(run)))
    estimated = scripted_run(tmp_path, counters=cpu_only, name="cpu")
    assert " how" not in shown(run_table(summarize(estimated)))


# -- notes -------------------------------------------------------------------------------------------------------


def test_a_plain_run_has_few_notes_in_the_words_of_its_rows(tmp_path: Path, shown: Callable[..., str]):
    run = scripted_run(tmp_path, counters=cpu_only, facts=RunFacts(workload="lm", notes=CPU_NOTES))
    summary = summarize(run)
    text = shown(run_table(summary))
    notes = text[text.index("not known") :].splitlines()
    assert len(notes) <= 8
    names = [match[1] for line in notes if (match := re.match(r"  (\S.*?)  ", line))]
    assert names == ["energy of CPUs", "emissions", "MFU", "verdict", "omp wait policy"]
    for never_asked in ("water", "cost", "SCI", "embodied", "phenomenon", "codecarbon"):
        assert never_asked not in "".join(notes)
    assert {"carbon.water_l", "phenomenon", "samples", "gpu"} <= summary["notes"].keys(), (
        "JSON keeps every note"
    )


def test_notes_lead_with_what_can_be_mended_and_explain_nothing_known(tmp_path: Path):
    facts = RunFacts(workload="lm", notes=CPU_NOTES)
    found = grouped_notes(summarize(scripted_run(tmp_path, counters=cpu_only, facts=facts)))
    assert list(found.unknown) == ["energy of CPUs", "emissions", "MFU", "verdict"]
    assert found.remarks == {"omp wait policy": "OMP_WAIT_POLICY was unset"}
    without_tokens = scripted_run(tmp_path, SAMPLES, counters=cpu_only, facts=facts, name="samples")
    assert grouped_notes(summarize(without_tokens)).unknown["tokens"].endswith("Pass tokens= to count them")


def test_one_reason_for_many_rows_is_said_once(tmp_path: Path):
    run = scripted_run(tmp_path, Script(model_flops=None), counters=cpu_only)
    assert "FLOP/s, MFU" in grouped_notes(summarize(run)).unknown


def test_a_measured_processor_needs_no_excuse(tmp_path: Path):
    facts = RunFacts(notes=CPU_NOTES)
    counters = gpu(component="cpu", device="package-0")
    found = grouped_notes(summarize(scripted_run(tmp_path, counters=counters, facts=facts)))
    assert "energy of CPUs" not in found.unknown


def test_damaged_files_and_devices_are_remarks(tmp_path: Path):
    summary = summarize(damaged(scripted_run(tmp_path)))
    assert any(name.startswith("damaged file") for name in grouped_notes(summary).remarks)
    summary["notes"]["energy.components GPU-a aliasing"] = "its steps beat with its counter"
    assert grouped_notes(summary).remarks["GPU-a aliasing"] == "its steps beat with its counter"
    assert "GPU-a aliasing" not in grouped_notes(summary, of_devices=False).remarks


# -- many runs ---------------------------------------------------------------------------------------------------


def test_the_list_has_emissions_once_a_grid_is_known(tmp_path: Path, shown: Callable[..., str]):
    scripted_run(tmp_path)
    runs = scan_runs(tmp_path)
    assert "CO2e" not in shown(overview_table(overview(runs)))
    with_grid = shown(overview_table(overview(runs, CarbonFactors(country="FRA"))))
    assert "CO2e" in with_grid
    assert "mg" in with_grid


def test_the_list_has_verdicts_once_there_are_experiments(tmp_path: Path, shown: Callable[..., str]):
    scripted_run(tmp_path)
    assert "verdict" not in shown(overview_table(overview(scan_runs(tmp_path))))
    experiment_run(tmp_path, two_arms)
    lines = shown(overview_table(overview(scan_runs(tmp_path)))).splitlines()
    assert lines[0].split()[-1] == "verdict"
    assert sorted(line.split()[-1] for line in lines[1:3]) == ["-", "shown"]


@pytest.mark.parametrize(
    ("outcomes", "line"),
    [
        (["shown", "not shown", "shown"], "phenomenon shown: in 2 of 3 seeds, and 2 of 3 are asked for"),
        (["not shown"], "phenomenon can't tell: in 0 of 1 seed, and 2 of 3 are asked for"),
    ],
)
def test_a_sweep_says_the_verdict_over_seeds(
    outcomes: list[str], line: str, tmp_path: Path, shown: Callable[..., str]
):
    runs = [
        experiment_run(
            tmp_path, partial(two_arms, outcome=one, seeds=3, shown_in=2), name=f"s{seed}", seed=seed
        )
        for seed, one in enumerate(outcomes)
    ]
    (together,) = over_seeds([(run.run_id, run.manifest, summarize(run)["phenomenon"]) for run in runs])
    assert shown(over_seeds_row(together)).strip() == line
    smoke = over_seeds_row({**together, "preset": "smoke"}).plain
    assert smoke.endswith("; the smoke preset shows nothing, however many there are")
    assert "asked for" not in smoke


def test_the_list_says_train_loss_and_energy_of_samples(tmp_path: Path, shown: Callable[..., str]):
    scripted_run(tmp_path, SAMPLES, counters=cpu_only)
    text = shown(overview_table(overview(scan_runs(tmp_path))))
    assert "train loss" in text
    assert "mJ/sample" in text


def test_the_list_marks_damaged_runs_and_explains_its_statuses(tmp_path: Path, shown: Callable[..., str]):
    damaged(scripted_run(tmp_path, name="torn"))
    edited(scripted_run(tmp_path, name="gone"), status="running", heartbeat="2026-01-02T09:00:41+00:00")
    text = shown(overview_table(overview(scan_runs(tmp_path))))
    assert "finished, damaged" in text
    assert "1 run has damaged files: see 'joulescale show NAME'" in text
    assert "lost: its process ended without saying so" in text
    assert "interrupted:" not in text


@pytest.mark.parametrize(
    ("ended", "cell", "text"),
    [
        ("KeyError after step 7", "failed: KeyError", "failed: KeyError after step 7"),
        ("KeyboardInterrupt after step 7", "interrupted", "interrupted: KeyboardInterrupt after step 7"),
        ("end of the interpreter after step 7", "interrupted", "interrupted: end of the interpreter after"),
        (None, "interrupted", "interrupted: it was stopped before its end"),
    ],
)
def test_what_raised_failed_in_the_list_as_in_show(
    tmp_path: Path, shown: Callable[..., str], ended: str | None, cell: str, text: str
):
    run = scripted_run(tmp_path, status="interrupted")
    (path,) = run.path.glob("attempt-1/*/process.json")
    known = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    path.write_text(json.dumps(known | {"notes": {"ended": ended} if ended else {}}))
    again = open_run(tmp_path, run.run_id)
    frame = overview([again])
    assert status_cell(frame.row(0, named=True)) == cell
    assert status_text(summarize(again)).startswith(text)
    legend = words(shown(overview_table(frame)))
    assert f"{cell.partition(':')[0]}: " in legend
    assert ("failed: an exception ended it" in legend) == cell.startswith("failed")


def test_points_count_those_of_damaged_runs(tmp_path: Path):
    assert damaged_sentence(make_points()) is None
    some = make_points().with_columns(damaged=pl.col("params") == 12_000)
    assert damaged_sentence(some) == "6 of these 18 points come from runs with damaged files."
    points = scale_points([damaged(scripted_run(tmp_path, Script(budget_after=(5,))))])
    assert points["damaged"].to_list() == [True]


@pytest.mark.parametrize(
    ("kinds", "header"),
    [(["validation"], "val. loss"), (["training"], "train loss"), (["validation", "training"], " loss")],
)
def test_a_column_of_losses_says_which_they_are(kinds: Sequence[str], header: str, shown: Callable[..., str]):
    points = make_points().with_columns(loss_kind=pl.Series([kinds[k % len(kinds)] for k in range(18)]))
    text = shown(points_table(points))
    assert header in text.splitlines()[0]
    assert (" train" in text.splitlines()[1] + text.splitlines()[2]) == (len(kinds) > 1)


def test_what_plus_minus_is_stands_once_under_the_points(shown: Callable[..., str]):
    text = shown(points_table(make_points()))
    assert text.count("± of energy: half its error bar") == 1
    assert text.count("± of val. loss: half its 95 % interval") == 1
    assert "± of val. loss" not in shown(points_table(make_points(), wide=False))


def test_the_kind_of_a_points_loss_follows_from_where_it_is_from(tmp_path: Path):
    branch = scripted_run(tmp_path, Script(budget_after=(5,)), name="branch")
    whole = scripted_run(tmp_path, name="whole", counters=gpu_and_cpu)
    assert scale_points([branch])["loss_kind"].to_list() == ["validation"]
    assert scale_points([whole])["loss_kind"].to_list() == ["training"]
