"""Emissions, water, embodied carbon, cost: factors that are checked when given, and applied when a run is read."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_scripted import (
    FakeClock,
    Script,
    ScriptedCpu,
    cpu_only,
    gpu,
    gpu_and_cpu,
    nothing,
    scripted_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.carbon.factors import CarbonFactors, countries
from profiler.carbon.series import IntensitySeries, Interval
from profiler.errors import InvalidValueError, StoredDataError, UnknownNameError, UsageError
from profiler.measure.sensors.base import EnergyCounter
from profiler.measure.sensors.scripted import ScriptedEnergy
from profiler.measure.session import RunFacts
from profiler.metrics.carbon import Use, carbon, run_factors
from profiler.metrics.devices import device_curves, fit_windows
from profiler.metrics.intensity import joules_by_interval
from profiler.metrics.points import scale_points
from profiler.metrics.summary import summarize
from profiler.report.terminal import run_table
from profiler.store.factors import read_factors
from profiler.store.manifest import write_json
from profiler.store.run import StoredRun
from profiler.store.runs import open_run

RUN_S = 0.5 + 10 * 0.8
SWITCH_S = 4.0
"""The GPU draws 100 W until then and 300 W after, on the run's clock."""

YEAR_S = 365.25 * 86_400.0


def hungry_later(clock: FakeClock) -> Sequence[EnergyCounter]:
    """The fake clock begins at 3 s, and the run with it."""
    trace = [(3.0 + SWITCH_S, 100.0), (1.0, 300.0)]
    return [
        ScriptedEnergy(trace, clock=clock, update_period_s=None, device="GPU-a", relative_uncertainty=0.1)
    ]


def h100(clock: FakeClock) -> Sequence[EnergyCounter]:
    class H100(ScriptedEnergy):
        @property
        def meter(self) -> Any:
            return replace(super().meter, name="NVIDIA H100 80GB HBM3")

    return [H100([(1.0, 700.0)], clock=clock, device=f"GPU-{number}") for number in (0, 1)]


def start_of(run: StoredRun) -> float:
    """Unix seconds at second 0 of the run's clock."""
    return float(run.processes[0].facts.clock["wall_unix_s"])


def series_of(
    *rows: tuple[float, float, float], spread: float = 0.0, missing: str | None = None
) -> IntensitySeries:
    """From `(start, end, g/kWh)`, with low and high that many g away."""
    intervals = tuple(Interval(start, end, g, g - spread, g + spread) for start, end, g in rows)
    return IntensitySeries(rows=intervals, source="a series", missing=missing)


def only(
    factors: CarbonFactors, energy_j: float | None, bar: float | None = None, **use: Any
) -> dict[str, Any]:
    return carbon(factors, Use(energy_j=energy_j, plus_minus_j=bar, **use))[0]


# -- one number for the grid -------------------------------------------------------------------------------------


def test_emissions_by_hand():
    found = only(CarbonFactors(intensity_g_per_kwh=500.0, pue=1.2), 3.6e6, 0.36e6)
    assert found["facility_energy_kwh"] == pytest.approx(1.2)
    assert found["emissions_g"] == pytest.approx(600.0)
    assert (found["emissions_low_g"], found["emissions_high_g"]) == (
        pytest.approx(540.0),
        pytest.approx(660.0),
    )
    assert found["carbon_intensity_source"] == "given"
    assert found["emissions_interval"] == "of energy only"
    assert found["pue_source"] == "given"


@pytest.mark.parametrize("energy_j", [0.0, 1.0, 1e9])
@pytest.mark.parametrize("bar", [0.0, 0.5, 2e9])
@pytest.mark.parametrize("intensity", [0.0, 30.0])
def test_low_central_and_high_are_in_order(energy_j: float, bar: float, intensity: float):
    found = only(CarbonFactors(intensity_g_per_kwh=intensity), energy_j, bar)
    assert 0.0 <= found["emissions_low_g"] <= found["emissions_g"] <= found["emissions_high_g"]


def test_without_a_country_emissions_are_unknown(tmp_path: Path):
    summary = summarize(scripted_run(tmp_path))
    assert summary["carbon"]["emissions_g"] is None
    why = "no country is assumed: give --country or --carbon-intensity"
    for key in ("emissions_g", "carbon_intensity_g_per_kwh", "carbon_intensity_kind", "emissions_interval"):
        assert summary["notes"][f"carbon.{key}"] == why


def test_a_countrys_grid_is_an_average_and_named_with_its_year():
    found = only(CarbonFactors(country="FRA"), 3.6e6)
    assert found["emissions_g"] == found["carbon_intensity_g_per_kwh"] > 0.0
    assert found["carbon_intensity_source"].startswith("France, average of 20")
    assert found["carbon_intensity_kind"] == "average"
    assert found["emissions_low_g"] is None
    assert countries()["DEU"] == "Germany"


@pytest.mark.parametrize("kind", ["average", "marginal"])
def test_the_kind_of_a_given_intensity_is_what_the_user_says(kind: Any):
    found = only(CarbonFactors(intensity_g_per_kwh=1.0, intensity_kind=kind), 1.0)
    assert found["carbon_intensity_kind"] == kind


def test_a_kind_that_nobody_said_is_unknown():
    found, notes = carbon(CarbonFactors(intensity_g_per_kwh=1.0), Use(energy_j=1.0))
    assert found["carbon_intensity_kind"] is None
    assert notes["carbon.carbon_intensity_kind"] == "nobody said: give --intensity-kind average or marginal"


# -- a series ----------------------------------------------------------------------------------------------------


def test_each_interval_of_a_series_meets_its_own_energy(tmp_path: Path):
    run = scripted_run(tmp_path, counters=hungry_later)
    at = start_of(run)
    series = series_of((at - 60.0, at + SWITCH_S, 50.0), (at + SWITCH_S, at + 60.0, 400.0), spread=10.0)
    found = summarize(run, CarbonFactors(series=series, intensity_kind="marginal", pue=1.5))["carbon"]
    early_j, late_j = 100.0 * SWITCH_S, 300.0 * (RUN_S - SWITCH_S)
    grams = 1.5 * (early_j * 50.0 + late_j * 400.0) / 3.6e6
    assert found["emissions_g"] == pytest.approx(grams, rel=1e-4)  # wall clock anchors are floats of 2e-7 s
    by_means = 1.5 * (early_j + late_j) * (50.0 * SWITCH_S + 400.0 * (RUN_S - SWITCH_S)) / RUN_S / 3.6e6
    assert abs(found["emissions_g"] - by_means) > 0.2 * grams, "mean power x mean intensity is another number"
    assert found["carbon_intensity_g_per_kwh"] == pytest.approx(
        (early_j * 50.0 + late_j * 400.0) / (early_j + late_j), rel=1e-4
    )
    assert found["carbon_intensity_source"] == "a series: 2 intervals, weighted by the energy in each"
    assert found["carbon_intensity_kind"] == "marginal"


def test_low_and_high_take_the_spread_and_the_error_bar_together(tmp_path: Path):
    run = scripted_run(tmp_path, counters=hungry_later)
    at = start_of(run)
    summary = summarize(run, CarbonFactors(series=series_of((at - 9.0, at + 99.0, 100.0), spread=20.0)))
    energy, found = summary["energy"], summary["carbon"]
    low_j = energy["measured_j"] - energy["measured_plus_minus_j"]
    high_j = energy["measured_j"] + energy["measured_plus_minus_j"]
    assert found["emissions_low_g"] == pytest.approx(low_j * 80.0 / 3.6e6)
    assert found["emissions_high_g"] == pytest.approx(high_j * 120.0 / 3.6e6)
    assert found["emissions_interval"] == "of energy and intensity"


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return scripted_run(tmp_path_factory.mktemp("series"), counters=hungry_later)


def test_a_constant_series_is_a_constant_intensity(one_run: StoredRun):
    at = start_of(one_run)
    rows = [(at + second, at + second + 1.0, 123.0) for second in range(-2, 12)]
    by_series = summarize(one_run, CarbonFactors(series=series_of(*rows), pue=1.3))["carbon"]
    by_number = summarize(one_run, CarbonFactors(intensity_g_per_kwh=123.0, pue=1.3))["carbon"]
    for key in ("emissions_g", "emissions_low_g", "emissions_high_g", "carbon_intensity_g_per_kwh"):
        assert by_series[key] == pytest.approx(by_number[key], rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(1.0, 2000.0), min_size=1, max_size=6),
    cuts=st.lists(st.floats(-1.0, 10.0), max_size=6),
)
def test_cutting_intervals_changes_nothing_and_they_add_up_to_the_run(
    one_run: StoredRun, values: list[float], cuts: list[float]
):
    at, width = start_of(one_run), 12.0 / len(values)
    edges = [at - 1.0 + width * number for number in range(len(values) + 1)]
    whole = [(*ends, g) for ends, g in zip(itertools.pairwise(edges), values, strict=True)]
    finer = sorted({*edges, *(at + cut for cut in cuts if edges[0] < at + cut < edges[-1])})
    pieces = [
        (start, end, next(g for first, last, g in whole if first <= start < last))
        for start, end in itertools.pairwise(finer)
    ]
    grams = [
        summarize(one_run, CarbonFactors(series=series_of(*rows)))["carbon"]["emissions_g"]
        for rows in (whole, pieces)
    ]
    assert grams[0] == pytest.approx(grams[1], rel=1e-6, abs=1e-9)
    curves = device_curves(one_run.processes)
    joules = joules_by_interval(series_of(*pieces).rows, curves, fit_windows)
    run_j = summarize(one_run)["energy"]["measured_j"]
    assert float(np.sum(joules)) == pytest.approx(run_j, rel=1e-9)


@pytest.mark.parametrize(
    ("rows", "span"),
    [
        ([(-60.0, 5.0)], "5.0 to 8.5"),
        ([(1.0, 60.0)], "0.0 to 1.0"),
        ([(-60.0, 3.0), (4.0, 60.0)], "3.0 to 4.0"),
        ([(100.0, 200.0)], "0.0 to 8.5"),
        ([], "0.0 to 8.5"),
    ],
)
def test_a_series_that_does_not_cover_the_run_is_never_extended(
    one_run: StoredRun, rows: list[tuple[float, float]], span: str
):
    at = start_of(one_run)
    series = series_of(*((at + start, at + end, 100.0) for start, end in rows))
    holes = series.uncovered([(at, at + RUN_S)])
    assert [f"{start - at:.1f} to {end - at:.1f}" for start, end in holes] == [span]
    summary = summarize(one_run, CarbonFactors(series=series))
    assert summary["carbon"]["emissions_g"] is None
    why = summary["notes"]["carbon.emissions_g"]
    assert why.startswith("the carbon series a series does not cover 20")
    assert why.endswith("and no intensity is made up. Give a series that does, with --carbon-series")


def test_a_run_without_energy_has_no_intensity_from_a_series(tmp_path: Path):
    run = scripted_run(tmp_path, counters=nothing)
    summary = summarize(run, CarbonFactors(series=series_of((0.0, 4e9, 5.0))))
    assert summary["carbon"]["carbon_intensity_g_per_kwh"] is None
    assert (
        "nothing is known of when the run used energy"
        in summary["notes"]["carbon.carbon_intensity_g_per_kwh"]
    )


def test_measured_emissions_leave_the_estimate_out(tmp_path: Path):
    run = scripted_run(tmp_path, counters=gpu_and_cpu)
    at = start_of(run)
    found = summarize(run, CarbonFactors(series=series_of((at - 9.0, at + 99.0, 360.0))))["carbon"]
    assert found["emissions_g"] == pytest.approx(200.0 * RUN_S * 1e-4, rel=1e-6)


def test_points_meet_the_intensity_of_their_own_windows(tmp_path: Path):
    run = scripted_run(tmp_path, Script(steps=10, budget_after=[5, 10]), counters=gpu())
    at = start_of(run)
    dirty_later = series_of((at - 9.0, at + 4.5, 0.0), (at + 4.5, at + 99.0, 360.0))
    points = scale_points([run], CarbonFactors(series=dirty_later))
    assert points["emissions_g"].to_list() == pytest.approx([0.0, 200.0 * 4.0 * 1e-4], abs=1e-6)


# -- water, cost, embodied, SCI ----------------------------------------------------------------------------------


def test_water_is_of_the_computers_and_cost_of_the_facility():
    factors = CarbonFactors(pue=1.5, wue_l_per_kwh=1.8, price_per_kwh=0.3, currency="EUR")
    found = only(factors, 2 * 3.6e6)
    assert found["water_l"] == pytest.approx(2 * 1.8)
    assert found["water_source"] == "WUE 1.8 L/kWh, given: at the site, not for making the electricity"
    assert found["cost"] == pytest.approx(2 * 1.5 * 0.3)
    assert (found["cost_currency"], found["cost_source"]) == ("EUR", "0.3 EUR/kWh of the facility, given")


def test_what_follows_from_no_energy_is_unknown_and_says_so():
    factors = CarbonFactors(wue_l_per_kwh=1.8, price_per_kwh=0.3, currency="EUR")
    found, notes = carbon(factors, Use(energy_j=None))
    assert found["water_l"] is None
    assert found["cost"] is None
    assert notes["carbon.water_l"] == notes["carbon.cost"] == "the energy that it follows from is not known"


def test_embodied_carbon_is_a_share_of_each_gpus_life_and_never_times_pue(tmp_path: Path):
    run = scripted_run(tmp_path, counters=h100)
    found = summarize(run, CarbonFactors(lifetime_years=5.0, pue=2.0))["carbon"]
    assert found["embodied_g"] == pytest.approx(2 * 164_000.0 * RUN_S / (5.0 * YEAR_S))
    assert found["embodied_source"].startswith("NVIDIA HGX H100 Product Carbon Footprint Summary")
    assert found["embodied_source"].endswith("2 x time / 5 years")
    given = summarize(run, CarbonFactors(lifetime_years=5.0, embodied_g=1000.0))["carbon"]
    assert given["embodied_g"] == pytest.approx(2 * 1000.0 * RUN_S / (5.0 * YEAR_S))
    assert given["embodied_source"] == "1 kg a GPU, given; 2 x time / 5 years"


def test_a_host_without_a_gpu_is_one_device(tmp_path: Path):
    run = scripted_run(tmp_path, counters=cpu_only)
    found = summarize(run, CarbonFactors(lifetime_years=4.0, embodied_g=1.3e6))["carbon"]
    assert found["embodied_g"] == pytest.approx(1.3e6 * RUN_S / (4.0 * YEAR_S))


@pytest.mark.parametrize(
    ("counters", "factors", "why"),
    [
        (h100, CarbonFactors(), "a run's share of its devices needs their lifetime: give --lifetime-years"),
        (
            gpu(),
            CarbonFactors(lifetime_years=5.0),
            "no published footprint of scripted sensor is packaged: give",
        ),
        (cpu_only, CarbonFactors(lifetime_years=5.0), "no published footprint of the host"),
        (nothing, CarbonFactors(lifetime_years=5.0, embodied_g=1.0), "no device of the run is known"),
    ],
)
def test_an_unknown_embodied_share_says_why(tmp_path: Path, counters: Any, factors: CarbonFactors, why: str):
    summary = summarize(scripted_run(tmp_path, counters=counters), factors)
    assert summary["carbon"]["embodied_g"] is None
    assert why in summary["notes"]["carbon.embodied_g"]
    assert summary["carbon"]["sci"] == {"g_per_token": None, "g_per_sample": None, "g_per_run": None}


def test_a_slice_of_a_gpu_has_no_known_share_of_it(tmp_path: Path):
    run = scripted_run(tmp_path, counters=h100)
    process = run.processes[0]
    sliced = tuple({**meter, "scope": "parent_of_mig"} for meter in process.facts.meters)
    write_json(process.folder / "process.json", replace(process.facts, meters=sliced))
    summary = summarize(open_run(tmp_path, run.run_id), CarbonFactors(lifetime_years=5.0))
    assert summary["carbon"]["embodied_g"] is None


def test_sci_is_operation_and_embodied_by_token_sample_and_run(tmp_path: Path):
    run = scripted_run(tmp_path, counters=h100)
    factors = CarbonFactors(lifetime_years=5.0, intensity_g_per_kwh=100.0, pue=1.2)
    found = summarize(run, factors)["carbon"]
    total = found["emissions_g"] + found["embodied_g"]
    assert found["sci"] == pytest.approx(
        {"g_per_token": total / 10_000, "g_per_sample": total / 80, "g_per_run": total}
    )
    no_tokens = summarize(scripted_run(tmp_path, Script(tokens=None), counters=h100, name="other"), factors)
    assert no_tokens["carbon"]["sci"]["g_per_token"] is None
    assert no_tokens["carbon"]["sci"]["g_per_sample"] is not None
    assert no_tokens["notes"]["carbon.sci.g_per_token"] == no_tokens["notes"]["tokens"]


def test_every_null_of_a_full_summary_has_a_reason(tmp_path: Path):
    for name, counters in (("gpu", gpu()), ("cpu", cpu_only), ("none", nothing)):
        for steps in (0, 3):
            run = scripted_run(tmp_path, Script(steps=steps), counters=counters, name=f"{name}{steps}")
            for factors in (
                None,
                CarbonFactors(country="FRA", embodied_g=1.0, lifetime_years=1.0, wue_l_per_kwh=0.0),
            ):
                summary = summarize(run, factors)
                found = {**summary["carbon"], **{f"sci.{k}": v for k, v in summary["carbon"]["sci"].items()}}
                for key, value in found.items():
                    assert value is not None or summary["notes"][f"carbon.{key}"] != "not recorded", key


def test_the_terminal_shows_what_is_known_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from profiler.report.terminal import show

    run = scripted_run(tmp_path, counters=h100)
    factors = CarbonFactors(
        country="FRA", lifetime_years=5.0, wue_l_per_kwh=1.8, price_per_kwh=0.3, currency="EUR", pue=1.2
    )
    show(run_table(summarize(run, factors)))
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "by the error bar of energy only",
        "g/kWh (average; France, average of 20",
        "embodied carbon 17.7 mg (NVIDIA HGX H100",
        "SCI ",
        "water at the site 5.95 mL; WUE 1.8 L/kWh",
        "EUR; 0.3 EUR/kWh of the facility, given",
    ):
        assert words in shown
    show(run_table(summarize(run)))
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("SCI ", "water at the site", "embodied carbon ", "emissions ~"):
        assert words not in shown


# -- what is stored and what is asked ----------------------------------------------------------------------------


def test_stored_factors_are_used_unless_others_are_asked_for():
    stored = CarbonFactors(country="FRA", pue=1.5, price_per_kwh=0.2, currency="EUR", lifetime_years=4.0)
    assert CarbonFactors().otherwise(stored) == stored
    assert CarbonFactors(country="DEU").otherwise(stored) == replace(stored, country="DEU")
    assert CarbonFactors(pue=1.1).otherwise(stored) == replace(stored, pue=1.1)
    by_number = CarbonFactors(intensity_g_per_kwh=80.0).otherwise(stored)
    assert by_number == replace(stored, country=None, intensity_g_per_kwh=80.0)
    dollars = CarbonFactors(price_per_kwh=0.1, currency="USD").otherwise(stored)
    assert (dollars.price_per_kwh, dollars.currency) == (0.1, "USD")
    marginal = CarbonFactors(intensity_g_per_kwh=9.0, intensity_kind="marginal")
    assert CarbonFactors(intensity_g_per_kwh=80.0).otherwise(marginal).intensity_kind is None


def test_what_is_given_for_a_run_is_stored_with_it(tmp_path: Path):
    given = {"country": "FRA", "pue": 1.2, "embodied_g": 5.0, "lifetime_years": 2.0}
    run = scripted_run(tmp_path, facts=RunFacts(carbon=given))
    assert run.manifest.carbon == given
    assert run_factors(run, None) == (CarbonFactors(**given), {})
    assert summarize(run)["carbon"]["emissions_g"] > 0.0


def test_a_series_is_stored_whole_so_that_a_copied_run_says_the_same(tmp_path: Path):
    series = series_of((0.0, 2e9, 50.0), (2e9, 4e9, 70.0), spread=3.0)
    run = scripted_run(tmp_path / "here", facts=RunFacts(carbon=CarbonFactors(series=series, pue=1.1)))
    (tmp_path / "there").mkdir()
    run.path.rename(tmp_path / "there" / run.run_id)
    moved = open_run(tmp_path / "there", run.run_id)
    assert run_factors(moved, None) == (CarbonFactors(series=series, pue=1.1), {})
    assert summarize(moved)["carbon"]["emissions_g"] > 0.0
    assert run_factors(moved, CarbonFactors(country="DEU"))[0] == CarbonFactors(country="DEU", pue=1.1)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text("{"), "its checksum differs"),
        (lambda path: path.write_text(path.read_text().replace("50.0", "49.0")), "its checksum differs"),
    ],
)
def test_a_damaged_series_leaves_emissions_unknown_and_the_rest_shown(tmp_path: Path, damage: Any, why: str):
    facts = RunFacts(carbon={"series": series_of((0.0, 4e9, 50.0))})
    run = scripted_run(tmp_path, facts=facts)
    damage(next(run.path.glob("carbon-series-*.json")))
    summary = summarize(run)
    assert summary["carbon"]["emissions_g"] is None
    assert why in summary["notes"]["carbon factors"]
    assert summary["energy"]["measured_j"] > 0.0


@pytest.mark.parametrize(
    "content", [b"{", b'{"rows": [[1]]}', b'{"rows": [[1e300, 1e301, 5, 5, -5]], "source": ""}']
)
def test_a_series_with_a_right_checksum_and_wrong_rows_is_refused(tmp_path: Path, content: bytes):
    name = f"carbon-series-{hashlib.sha256(content).hexdigest()[:12]}.json"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoredDataError, match=f"{name} cannot be read|is no stored carbon series"):
        read_factors(tmp_path, {"series": name})


@pytest.mark.parametrize(
    "stored",
    [
        {"pue": 0.1},
        {"country": "Atlantis"},
        {"country": ["FRA"]},
        {"pue": "1.2"},
        {"nonsense": 1},
        {"series": "../../etc/passwd"},
        {"series": 3},
    ],
)
def test_stored_factors_that_cannot_be_used_count_as_not_given(tmp_path: Path, stored: dict[str, Any]):
    run = scripted_run(tmp_path)
    write_json(run.path / "run.json", replace(run.manifest, carbon=stored))
    summary = summarize(open_run(tmp_path, run.run_id))
    assert summary["notes"]["carbon factors"]
    assert summary["carbon"]["pue"] == 1.0
    assert json.dumps(summary, allow_nan=False)


def test_older_runs_with_nulls_among_their_factors_are_read(tmp_path: Path):
    run = scripted_run(tmp_path)
    stored = {"country": "FRA", "intensity_g_per_kwh": None, "pue": 1.5}
    write_json(run.path / "run.json", replace(run.manifest, carbon=stored))
    assert run_factors(open_run(tmp_path, run.run_id), None)[0] == CarbonFactors(country="FRA", pue=1.5)


# -- what cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("France", r"Use its code: FRA\."),
        ("germany", r"Use its code: DEU\."),
        ("fra", r"Write it in capitals: FRA\."),
        ("FR", r"Codes have three letters: FRA, FRO, perhaps\."),
        ("XQ", r"Use an ISO 3166 alpha-3 code such as FRA, DEU or USA, or give --carbon-intensity\."),
        ("Atlantis", r"There is no country's grid named 'Atlantis'\..*ISO 3166"),
        ("", r"ISO 3166"),
    ],
)
def test_an_unknown_country_is_refused_with_a_hint(code: str, hint: str):
    with pytest.raises(UnknownNameError, match=hint):
        CarbonFactors(country=code)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *(
            (
                {"pue": value},
                "The PUE .* is not within 1 to 10: a facility uses at least what its computers do",
            )
            for value in (0.9, 0.0, -1.0, 10.0, NAN, "1.2", True)
        ),
        *(
            ({"intensity_g_per_kwh": value}, "The carbon intensity .* is not within 0 to 10000 gCO2e/kWh")
            for value in (-1.0, 1e4, NAN, INF)
        ),
        *(
            ({"wue_l_per_kwh": v}, "The WUE .* is not within 0 to 1000 litres a kWh")
            for v in (-0.1, NAN, 1e3)
        ),
        *(({"embodied_g": v}, "The embodied carbon .* g is not within 0 to 1e12") for v in (-1.0, NAN, INF)),
        *(
            ({"lifetime_years": v}, "The lifetime of .* years is not within 0.01 to 100")
            for v in (0.0, -4.0, NAN)
        ),
        *(({"price_per_kwh": v, "currency": "EUR"}, "The price .* a kWh is not within") for v in (-0.1, NAN)),
        ({"price_per_kwh": 0.3}, "--price is given without --currency, so a cost would say nothing"),
        ({"currency": "EUR"}, "--currency is given without --price"),
        ({"price_per_kwh": 0.3, "currency": ""}, "The currency '' is no label of 1 to 8 characters"),
        ({"price_per_kwh": 0.3, "currency": "a\nb"}, "is no label of 1 to 8 characters, such as EUR"),
        ({"intensity_kind": "average"}, "says what a given intensity is, and none is given"),
        ({"country": "FRA", "intensity_kind": "marginal"}, "Packaged national intensities are averages"),
        (
            {"intensity_g_per_kwh": 5.0, "intensity_kind": "mean"},
            "There is no kind of intensity named 'mean'",
        ),
        (
            {"intensity_g_per_kwh": 5.0, "series": series_of()},
            "are both given, so it is not clear which counts",
        ),
        ({"series": "grid.csv"}, "The carbon series 'grid.csv' is not read yet. Give what .*read_series"),
        ({"cuntry": "FRA"}, "There is no carbon factor named 'cuntry'. Did you mean 'country'?"),
    ],
)
def test_a_factor_that_cannot_be_used_is_refused_where_it_is_given(given: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        RunFacts(carbon=given)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(0.0, 9.0, -1.0)],
            "-1.0 at 1970-01-01 00:00:00 UTC is no carbon intensity: it must be within 0 to 10000",
        ),
        ([(0.0, 9.0, NAN)], "nan .* at 1970-01-01 00:00:00 UTC is no carbon intensity"),
        ([(0.0, 9.0, 1e4)], "10000.0 .*at .* is no carbon intensity"),
        ([(9.0, 9.0, 1.0)], "the interval at 1970-01-01 00:00:09 UTC ends before it begins"),
        ([(0.0, 9.0, 1.0), (8.0, 20.0, 1.0)], "overlap, so it is not clear which counts"),
    ],
)
def test_a_series_of_nonsense_is_refused(rows: list[tuple[float, float, float]], message: str):
    with pytest.raises(InvalidValueError, match=message):
        series_of(*rows)


def test_a_spread_on_the_wrong_side_is_refused():
    with pytest.raises(InvalidValueError, match=r"5.0 \(low 6.0, high 7.0\) at .* with low <= value <= high"):
        IntensitySeries(rows=(Interval(0.0, 1.0, 5.0, 6.0, 7.0),), source="a series")


def test_a_cpu_that_is_estimated_keeps_its_mark_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from profiler.report.terminal import show

    run = scripted_run(tmp_path, counters=lambda clock: [ScriptedCpu(clock)])
    show(
        run_table(
            summarize(run, CarbonFactors(country="FRA", wue_l_per_kwh=1.0, price_per_kwh=1.0, currency="EUR"))
        )
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "emissions ~ " in shown
    assert "water at the site ~ " in shown
    assert "cost ~ " in shown


def test_kilograms_are_not_taken_for_grams():
    with pytest.raises(
        InvalidValueError, match=r"less than any grid's\. If it is in kg/kWh, multiply it by 1000"
    ):
        CarbonFactors(intensity_g_per_kwh=0.056)
    assert CarbonFactors(intensity_g_per_kwh=0.0).intensity_g_per_kwh == 0.0
