"""Ranks side by side: who waits for whom, each batch once, each device once, notes of all ranks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fixtures_ranks import made_rank, of_attempt
from fixtures_scripted import gpu, scripted_run

from profiler.metrics.components import energy_summary
from profiler.metrics.devices import clock_shift, device_curves, fit_windows, total
from profiler.metrics.efficiency import step_totals
from profiler.metrics.ranks import beside_each_other, merged_notes
from profiler.metrics.straggling import judge_straggler
from profiler.metrics.summary import summarize
from profiler.records import SCHEMAS
from profiler.report.many_series import collapsed
from profiler.report.ranks import MOST_ROWS, rank_rows, slowest_text
from profiler.report.terminal import run_table
from profiler.report.terminal import show as show_table
from profiler.report.timelines import downsample
from profiler.store.manifest import Manifest
from profiler.store.process import StoredProcess
from profiler.store.run import StoredRun

DDP = "DDPStrategy"
STEPS = 40


def run_of(processes: Sequence[StoredProcess]) -> StoredRun:
    run = StoredRun(Path("/made/run"), Manifest(run_id="run", status="finished", world_size=len(processes)))
    run.__dict__["processes"] = tuple(processes)
    return run


def ddp(*forward_s: float, **facts: Any) -> list[StoredProcess]:
    """Ranks under DDP: whoever is ready first waits in backward for the last."""
    last_s = max(forward_s)
    return [
        made_rank(rank, [{"forward": s, "backward": 0.1 + last_s - s}] * STEPS, strategy=DDP, **facts)
        for rank, s in enumerate(forward_s)
    ]


def test_of_ranks_that_are_alike_none_is_the_slowest():
    found = beside_each_other(run_of(ddp(0.1, 0.1, 0.1)))
    assert [row["slowest_in"] for row in found["ranks"]] == [0.0, 0.0, 0.0]
    assert found["straggler"] is None


def test_who_is_ready_first_waits_for_the_last():
    found = beside_each_other(run_of(ddp(0.1, 0.3, 0.2, 0.1)))
    assert [row["wait_s"] for row in found["ranks"]] == pytest.approx([0.2, 0.0, 0.1, 0.2])
    assert [row["wait_share"] for row in found["ranks"]] == pytest.approx([0.5, 0.0, 0.25, 0.5])
    assert [row["slowest_in"] for row in found["ranks"]] == [0.0, 1.0, 0.0, 0.0]
    assert [row["step_s_p50"] for row in found["ranks"]] == pytest.approx([0.4] * 4), "steps are alike"
    late = found["straggler"]
    assert (late["rank"], late["phase"], late["slowest_in"]) == (1, "forward", 1.0)
    assert late["others_wait_share"] == pytest.approx(0.5 / 1.2)
    assert (late["phase_s"], late["phase_s_others"]) == pytest.approx((0.3, 0.4 / 3))


def test_where_parameters_are_gathered_in_forward_a_longer_forward_says_nothing():
    processes = [
        made_rank(r, [{"forward": 0.1 + r, "backward": 0.5}] * STEPS, strategy="FSDPStrategy") for r in (0, 1)
    ]
    assert [row["wait_s"] for row in beside_each_other(run_of(processes))["ranks"]] == [0.0, 0.0]
    processes = [
        made_rank(r, [{"data": 0.1 * r, "forward": 0.3 - 0.1 * r}] * STEPS, strategy="FSDPStrategy")
        for r in (0, 1)
    ]
    late = beside_each_other(run_of(processes))["straggler"]
    assert (late["rank"], late["phase"]) == (1, "data")


def test_nobody_waits_longer_than_the_phases_in_which_ranks_wait():
    processes = [made_rank(r, [{"data": 1.0 * r, "backward": 0.1}] * STEPS, strategy=DDP) for r in (0, 1)]
    assert beside_each_other(run_of(processes))["ranks"][0]["wait_s"] == pytest.approx(0.1)


def test_ranks_that_are_slow_by_turns_have_no_straggler():
    turns = [{"forward": 0.1}, {"forward": 0.2}]
    processes = [made_rank(r, (turns[r:] + turns[:r]) * STEPS, strategy=DDP) for r in (0, 1)]
    assert beside_each_other(run_of(processes))["straggler"] is None


def test_one_rank_waits_for_nobody_and_untimed_phases_are_not_known():
    (alone,) = ddp(0.1)
    assert beside_each_other(run_of([alone]))["ranks"][0]["wait_s"] is None
    found = beside_each_other(run_of([made_rank(r, []) for r in (0, 1)]))
    assert [row["wait_s"] for row in found["ranks"]] == [None, None]
    assert found["straggler"] is None


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [1, 2, 3, 0]])
def test_any_order_of_ranks_gives_the_same(order: list[int]):
    processes = ddp(0.1, 0.3, 0.2, 0.1)
    found = beside_each_other(run_of([processes[i] for i in order]))
    assert found["straggler"]["rank"] == 1
    assert {row["rank"]: row["wait_s"] for row in found["ranks"]}[0] == pytest.approx(0.2)


def test_the_verdict_names_the_straggler_with_its_host_and_phase():
    run = run_of(ddp(0.1, 0.3, 0.1, 0.1, host="node-a"))

    class Case:
        summary = beside_each_other(run)

    finding = judge_straggler(Case())  # type: ignore[arg-type]
    assert finding
    assert finding.says == (
        "Straggler: the other ranks waited at least 50% of their step time for rank 1 on node-a, the slowest in 100% "
        "of the steps: the forward pass takes it 300 ms, them 100 ms."
    )
    Case.summary = {"straggler": {**Case.summary["straggler"], "others_wait_share": 0.05}}
    assert judge_straggler(Case()) is None  # type: ignore[arg-type]


# -- each batch, each device, each note once ---------------------------------------------------------------------


def test_ranks_that_share_a_model_are_given_the_same_batches():
    steps = [{"forward": 0.1}] * 10
    tensor_parallel = [made_rank(r, steps, replica=r // 2) for r in range(4)]
    assert step_totals(tensor_parallel).samples == 2 * 10 * 4
    data_parallel = [made_rank(r, steps) for r in range(4)]
    assert step_totals(data_parallel).samples == 4 * 10 * 4
    assert step_totals([made_rank(0, steps[:3], replica=0), made_rank(1, steps, replica=0)]).samples == 10 * 4


def counting(watts: float, until_s: float, start_s: float = 0.0) -> pl.DataFrame:
    times = [start_s + 0.1 * i for i in range(round((until_s - start_s) / 0.1) + 1)]
    rows = [
        {"time_s": t, "component": "gpu", "device": "GPU-a", "source": "counter", "energy_j": watts * t}
        for t in times
    ]
    return pl.DataFrame(rows, schema=SCHEMAS["readings"])


METER = {
    "component": "gpu",
    "device": "GPU-a",
    "name": "H100",
    "source": "counter",
    "update_period_s": 0.1,
    "relative_uncertainty": 0.05,
    "uncertainty_source": "made",
    "power_max_w": 700.0,
    "joules_per_cpu_s": None,
}


def reader(rank: int, seconds: float, *, start_s: float = 0.0, **facts: Any) -> StoredProcess:
    return made_rank(
        rank,
        [{"forward": 0.5}] * round(seconds / 0.5),
        start_s=start_s,
        readings=counting(100.0, start_s + seconds, start_s),
        meters=(METER,),
        **facts,
    )


def whole_j(processes: Sequence[StoredProcess]) -> float:
    found = total(device_curves(processes), fit_windows, estimated=False)
    assert found
    return found.energy_j


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_gpu_that_several_ranks_read_counts_once(order: list[int]):
    ranks = [reader(rank, 10.0, host=f"container-{rank}") for rank in order]
    assert whole_j(ranks) == pytest.approx(1000.0)


def test_of_readers_one_that_was_killed_early_is_not_taken():
    assert whole_j([reader(0, 2.0), reader(1, 10.0)]) == pytest.approx(1000.0)


def test_readers_one_after_the_other_both_count():
    assert whole_j([reader(0, 2.0), reader(1, 10.0, start_s=3.0)]) == pytest.approx(1200.0)
    assert whole_j([reader(0, 2.0), of_attempt(reader(1, 10.0), 2)]) == pytest.approx(1200.0)


def test_ranks_that_share_a_gpu_are_no_foreign_processes_on_it():
    mark = {"rank": 0, "kind": "co_tenants", "start_s": 1.0, "note": '{"device": "GPU-a", "processes": 2}'}
    marks = pl.DataFrame([mark], schema=SCHEMAS["marks"])
    ranks = [reader(0, 10.0), reader(1, 10.0)]
    seeing = replace(ranks[0], tables=replace(ranks[0].tables, marks=marks))
    (alone,) = energy_summary([seeing], device_curves([seeing]))[0]["components"]
    assert alone["co_tenants"] == 2
    (shared,) = energy_summary([seeing, ranks[1]], device_curves([seeing, ranks[1]]))[0]["components"]
    assert shared["co_tenants"] == 1


def test_a_package_is_its_nodes_own_however_its_containers_are_called():
    package = {**METER, "component": "cpu", "device": "package-0"}

    def on(rank: int, boot_id: str | None, host: str) -> StoredProcess:
        readings = counting(100.0, 10.0).with_columns(component=pl.lit("cpu"), device=pl.lit("package-0"))
        steps = [{"forward": 0.5}] * 20
        return made_rank(rank, steps, readings=readings, meters=(package,), boot_id=boot_id, host=host)

    assert whole_j([on(0, "one", "pod-a"), on(1, "one", "pod-b")]) == pytest.approx(1000.0)
    assert whole_j([on(0, "one", "same-name"), on(1, "two", "same-name")]) == pytest.approx(2000.0)
    assert whole_j([on(0, None, "a"), on(1, None, "b")]) == pytest.approx(2000.0)


def test_a_node_without_any_sensor_is_a_hole_in_the_sum():
    blind = made_rank(1, [{"forward": 0.5}] * 20, host="node-b", boot_id="two")
    processes = [reader(0, 10.0), blind]
    energy, notes = energy_summary(processes, device_curves(processes))
    assert energy["measured_j"] is None
    assert energy["measured_at_least_j"] > 900.0
    assert notes["energy.measured_j"] == (
        "no sensor could be read on node-b, only elsewhere, and a sum with a hole is no sum"
    )


def test_clocks_of_two_machines_are_set_by_the_steps_that_both_made():
    here = reader(0, 10.0, boot_id="one", clock={"wall_unix_s": 1000.0, "monotonic_s": 5.0})
    wrong_by_an_hour = {"wall_unix_s": 4600.0, "monotonic_s": 77.0}
    there = reader(1, 10.0, start_s=2.5, boot_id="two", clock=wrong_by_an_hour)
    assert clock_shift(here, there) == pytest.approx(2.5)
    on_the_same_kernel = reader(1, 10.0, boot_id="one", clock=wrong_by_an_hour)
    assert clock_shift(here, on_the_same_kernel) == pytest.approx(5.0 - 77.0)
    without_steps = made_rank(1, [], boot_id="two", clock=wrong_by_an_hour)
    assert clock_shift(here, without_steps) == pytest.approx(1000.0 - 4600.0)


def test_what_all_ranks_say_is_said_once_and_other_words_have_their_ranks():
    ranks = [made_rank(r, [], notes={"cpu": "no RAPL.", "gpu 1": f"GPU {r // 2} is old."}) for r in range(4)]
    assert merged_notes(ranks) == {
        "cpu": "no RAPL.",
        "gpu 1": "ranks 0-1: GPU 0 is old; ranks 2-3: GPU 1 is old",
    }


def test_what_each_rank_says_of_its_own_gpu_is_said_once():
    notes = [{"gpu 1": f"NVML gives no activity of GPU-{r}a1b-00{r}. It stays null"} for r in range(3)]
    ranks = [made_rank(r, [], notes=said) for r, said in enumerate([*notes, {"gpu 1": "no GPU-x at all"}])]
    assert merged_notes(ranks) == {
        "gpu 1": "ranks 0-2: NVML gives no activity of its GPU. It stays null; rank 3: no GPU-x at all"
    }


# -- shown -------------------------------------------------------------------------------------------------------


def test_many_ranks_are_one_row_a_host():
    ranks = [
        {
            "rank": rank,
            "host": f"node-{rank // 8}",
            "status": "lost" if rank == 9 else "finished",
            "steps": 100 - rank,
            "step_s_p50": 0.1 * (1 + rank % 8),
            "step_s_p95": 0.2,
            "wait_share": 0.5 if rank % 2 else None,
            "slowest_in": 0.01 * rank,
        }
        for rank in range(64)
    ]
    rows = rank_rows({"world_size": 64, "ranks": ranks})
    assert [(row.who, row.host) for row in rows] == [(f"{8 * n}-{8 * n + 7}", f"node-{n}") for n in range(8)]
    assert rows[1].status == "7 finished, 1 lost"
    assert (rows[1].steps, rows[1].step_s_p50, rows[1].wait_share) == (85, pytest.approx(0.45), 0.5)
    assert rows[1].slowest_in == pytest.approx(0.15)
    few = rank_rows({"world_size": MOST_ROWS, "ranks": ranks[:MOST_ROWS]})
    assert [row.who for row in few] == [str(rank) for rank in range(MOST_ROWS)]
    assert rank_rows({"world_size": 1, "ranks": ranks[:1]}) == []


def test_show_has_a_table_of_ranks_for_several_and_none_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for rank in (0, 1):
        run = scripted_run(tmp_path, counters=gpu(device=f"GPU-{rank}"), rank=rank, world_size=2, name="two")
    summary = summarize(run)
    assert [row["rank"] for row in summary["ranks"]] == [0, 1]
    show_table(run_table(summary))
    text = capsys.readouterr().out
    assert "slowest in" in text
    assert "waited: for slower ranks, at least, as a share of step time" in text
    late = {"rank": 1, "host": "b", "slowest_in": 0.9, "phase": "data", "phase_s": 0.3, "phase_s_others": 0.1}
    assert slowest_text({"straggler": late}) == (
        "rank 1 on b is the slowest in 90.0 % of the steps: data takes it 300 ms, the others 100 ms"
    )
    show_table(run_table(summarize(scripted_run(tmp_path, name="one"))))
    assert "slowest in" not in capsys.readouterr().out


def test_lines_of_many_ranks_are_their_mean_in_a_band():
    times = pl.DataFrame({"time_s": [0.5, 1.5, 2.5]})
    lines = [
        times.with_columns(
            series=pl.lit(f"Loss, rank {rank}"), source=pl.lit("counter"), value=pl.lit(float(rank))
        )
        for rank in range(10)
    ]
    other = times.with_columns(series=pl.lit("CPU"), source=pl.lit("estimated"), value=pl.lit(7.0))
    drawn = downsample(pl.concat([*lines, other]).select("series", "source", "time_s", "value"))
    found = collapsed(drawn)
    assert found.columns == drawn.columns
    assert found.filter(series="CPU").equals(drawn.filter(series="CPU").sort("time_s"))
    mean = found.filter(series="Loss, mean of 10")
    assert mean["time_s"].to_list() == pytest.approx([0.5, 1.5, 2.5])
    assert mean.select("value", "low", "high").unique().row(0) == (4.5, 0.0, 9.0)
    few = drawn.filter(pl.col("series") != "CPU").filter(pl.col("value") < 8)
    assert collapsed(few).equals(few)
