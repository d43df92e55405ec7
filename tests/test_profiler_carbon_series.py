"""Carbon intensity over time from CSV, Parquet and a live source: what is read, and what is refused in which words."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_scripted import Script, gpu, scripted_run

from profiler.carbon.factors import CarbonFactors
from profiler.carbon.live import GreatBritain, live_source
from profiler.carbon.series import IntensitySeries, have_spread
from profiler.carbon.series_file import read_series
from profiler.cli.carbon_live import ask_live
from profiler.errors import InvalidValueError, UnknownNameError
from profiler.metrics.summary import summarize
from profiler.store.factors import replace_factors
from profiler.store.runs import open_run

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NOON_S = NOON.timestamp()
HOUR_S = 3600.0


def written(tmp_path: Path, text: str, name: str = "grid.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def rows_of(series: IntensitySeries) -> list[tuple[float, float, float]]:
    """Start and end in hours after noon, and the value."""
    return [((r.start_s - NOON_S) / HOUR_S, (r.end_s - NOON_S) / HOUR_S, r.g_per_kwh) for r in series.rows]


# -- files -------------------------------------------------------------------------------------------------------


def test_a_csv_of_times_and_values(tmp_path: Path):
    text = (
        "time,g_per_kwh\n2026-01-02T12:00:00Z,100\n2026-01-02T14:00:00+01:00,200.5\n2026-01-02T14:00:00Z,0\n"
    )
    series = read_series(written(tmp_path, text))
    assert rows_of(series) == [(0.0, 1.0, 100.0), (1.0, 2.0, 200.5), (2.0, 3.0, 0.0)]
    assert series.source == "grid.csv"
    assert not have_spread(series.rows)


def test_rows_may_be_in_any_order_and_carry_a_spread_and_an_end(tmp_path: Path):
    text = (
        "Time,END,g_per_kwh,low_g_per_kwh,high_g_per_kwh\n"
        "2026-01-02T13:00Z,2026-01-02T15:30Z,200,150,\n"
        "2026-01-02T12:00Z,2026-01-02T12:15Z,100,90,130\n"
    )
    series = read_series(written(tmp_path, text))
    assert rows_of(series) == [(0.0, 0.25, 100.0), (1.0, 3.5, 200.0)]
    assert [(r.low, r.high) for r in series.rows] == [(90.0, 130.0), (150.0, 200.0)]
    assert have_spread(series.rows)


def test_an_empty_cell_and_a_missing_row_are_holes(tmp_path: Path):
    hours = [0, 1, 2, 3, 6, 7]
    lines = [f"{(NOON + timedelta(hours=h)).isoformat()},{'' if h == 1 else 100 + h}" for h in hours]
    series = read_series(written(tmp_path, "time,g_per_kwh\n" + "\n".join(lines) + "\n"))
    assert rows_of(series) == [(0, 1, 100), (2, 3, 102), (3, 4, 103), (6, 7, 106), (7, 8, 107)]
    holes = series.uncovered([(NOON_S, NOON_S + 8 * HOUR_S)])
    assert [((a - NOON_S) / HOUR_S, (b - NOON_S) / HOUR_S) for a, b in holes] == [(1.0, 2.0), (4.0, 6.0)]


EXPORT = (
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
    "Carbon intensity gCO₂eq/kWh (Life cycle),Carbon-free energy percentage (CFE%)\n"
    "2026-01-02 12:00:00,France,France,FR,20.1,30.5,95\n"
    "2026-01-02 13:00:00,France,France,FR,21.1,31.5,95\n"
)


def test_an_export_of_electricity_maps_is_read_as_it_is(tmp_path: Path):
    series = read_series(written(tmp_path, "\ufeff" + EXPORT))
    assert rows_of(series) == [(0.0, 1.0, 30.5), (1.0, 2.0, 31.5)]
    assert series.source == "grid.csv, life cycle"
    direct = "\n".join(",".join(line.split(",")[:5]) for line in EXPORT.splitlines())
    assert read_series(written(tmp_path, direct)).source == "grid.csv, direct"
    older = EXPORT.replace("Carbon intensity", "Carbon Intensity").replace("(Life cycle)", "(LCA)")
    assert read_series(written(tmp_path, older)).source == "grid.csv, lca"


def test_parquet_with_times_in_a_zone_or_as_text(tmp_path: Path):
    times = [NOON, NOON + timedelta(minutes=30)]
    for name, column in (
        ("stamps", pa.array(times, pa.timestamp("us", tz="Europe/Berlin"))),
        ("texts", pa.array([moment.isoformat() for moment in times])),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"timestamp": column, "g_per_kwh": pa.array([100, None], pa.int64())}), path)
        assert rows_of(read_series(path)) == [(0.0, 0.5, 100.0)]


def test_parquet_without_a_zone_or_with_nan_is_refused(tmp_path: Path):
    naive = pa.table({"time": pa.array([NOON.replace(tzinfo=None)] * 2), "g_per_kwh": pa.array([1.0, 2.0])})
    pq.write_table(naive, tmp_path / "naive.parquet")
    with pytest.raises(InvalidValueError, match=r"the time '2026-01-02 12:00:00' has no time zone"):
        read_series(tmp_path / "naive.parquet")
    times = pa.array([NOON, NOON + timedelta(hours=1)])
    pq.write_table(
        pa.table({"time": times, "g_per_kwh": pa.array([1.0, float("nan")])}), tmp_path / "nan.parquet"
    )
    with pytest.raises(InvalidValueError, match="row 2: nan is no carbon intensity of at least 0"):
        read_series(tmp_path / "nan.parquet")


HEAD, FIRST = "time,g_per_kwh\n", "2026-01-02T12:00:00Z,100\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'.*grid.csv' has no rows\. Give it as CSV or Parquet with the columns 'time'"),
        (HEAD, "has no rows"),
        ("when,g_per_kwh\n2026-01-02T12:00:00Z,1\n", "has no column of a time; it has: when, g_per_kwh"),
        (
            "time,carbon\n2026-01-02T12:00:00Z,1\n",
            "has no column of an intensity in g/kWh; it has: time, carbon",
        ),
        (
            HEAD + "2026-01-02T12:00:00,1\n",
            "row 1: the time '2026-01-02T12:00:00' has no time zone, so it is not",
        ),
        (HEAD + FIRST + "noon,1\n", "row 2: 'noon' is no time"),
        (HEAD + FIRST + ",1\n", "row 2: '' is no time"),
        (
            HEAD + FIRST + "2026-01-02T13:00:00Z,-5\n",
            "row 2: '-5' is no carbon intensity of at least 0 gCO2e/kWh",
        ),
        (HEAD + FIRST + "2026-01-02T13:00:00Z,nan\n", "row 2: 'nan' is no carbon intensity"),
        (HEAD + FIRST + "2026-01-02T13:00:00Z,inf\n", "row 2: 'inf' is no carbon intensity"),
        (HEAD + FIRST + "2026-01-02T13:00:00Z,much\n", "Leave the cell empty where it is not known"),
        (HEAD + FIRST + "2026-01-02T13:00:00Z,12000\n", r"12000.0 at .* must be within 0 to 10000 gCO2e/kWh"),
        (HEAD + FIRST, r"for how long its rows hold: it has one row only\. Add a column 'end'"),
        (HEAD + FIRST + FIRST, "has two rows for 2026-01-02 12:00:00 UTC"),
        (HEAD + FIRST + FIRST + "2026-01-02T13:00:00Z,1\n2026-01-02T14:00:00Z,1\n", "has two rows for 2026"),
        (
            EXPORT + "2026-01-02 12:00:00,Spain,Spain,ES,1,2,3\n",
            r"holds several zones \(ES, FR\)\. Keep the rows of",
        ),
        (
            "time,end,g_per_kwh\n2026-01-02T12:00Z,2026-01-02T14:00Z,1\n2026-01-02T13:00Z,2026-01-02T15:00Z,1\n",
            "the intervals at 2026-01-02 12:00:00 UTC and 2026-01-02 13:00:00 UTC overlap",
        ),
    ],
)
def test_a_file_that_says_nothing_clear_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(InvalidValueError, match=message):
        read_series(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("grid.txt", b"", "is neither .csv nor .parquet"),
        ("grid.parquet", b"no parquet", "cannot be read: .*Parquet"),
        ("grid.csv", b"time,g_per_kwh\n\xff\xfe,1\n", "cannot be read: .*utf-8"),
        ("grid.csv", b"time,g_per_kwh\n2026\0,1\n", "grid.csv"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidValueError, match=message):
        read_series(tmp_path / name)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidValueError, match=r"nothing.csv' cannot be read: No such file"):
        read_series(tmp_path / "nothing.csv")
    with pytest.raises(InvalidValueError, match=r"folder.csv' cannot be read: Is a directory"):
        read_series(tmp_path / "folder.csv")


# -- a live source, over a server on loopback --------------------------------------------------------------------

Answer = Callable[[str], tuple[int, bytes]]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], tuple[str, list[str]]]]:
    """Starts a server with an answer; gives its address and the paths that were asked for."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status, body = answer(self.path)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                """Silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def half_hours(path: str, *, measured_until: datetime = NOON + timedelta(days=99)) -> tuple[int, bytes]:
    """As the API answers: the half hours that contain the asked-for instants and all between."""
    first, last = (datetime.fromisoformat(part) for part in path.removeprefix("/intensity/").split("/"))
    at = first.replace(minute=30 if first.minute >= 30 else 0)
    data = []
    while at < last:
        value = 100 + at.hour
        measured = value if at < measured_until else None
        intensity = {"forecast": value + 1000, "actual": measured, "index": "moderate"}
        end = at + timedelta(minutes=30)
        data.append({"from": f"{at:%Y-%m-%dT%H:%MZ}", "to": f"{end:%Y-%m-%dT%H:%MZ}", "intensity": intensity})
        at = end
    return 200, json.dumps({"data": data}).encode()


def test_great_britain_covers_the_span_that_was_asked_for(serve: Any):
    url, asked = serve(half_hours)
    start_s, end_s = NOON_S + 10 * 60.0, NOON_S + 75 * 60.0
    series = GreatBritain(url).over(start_s, end_s)
    assert asked == ["/intensity/2026-01-02T12:01Z/2026-01-02T13:30Z"]
    assert series.uncovered([(start_s, end_s)]) == []
    assert [row.g_per_kwh for row in series.rows] == [112.0, 112.0, 113.0]
    assert series.source == f"Great Britain, half-hourly, {url}"
    assert series.missing is None


def test_where_nothing_is_measured_yet_the_forecast_is_taken_and_said(serve: Any):
    url, _ = serve(lambda path: half_hours(path, measured_until=NOON + timedelta(minutes=30)))
    series = GreatBritain(url).over(NOON_S, NOON_S + HOUR_S)
    assert [row.g_per_kwh for row in series.rows] == [112.0, 1112.0]
    assert series.source.endswith("with forecasts where nothing is measured yet")


def test_a_long_run_is_asked_for_in_parts_of_less_than_14_days(serve: Any):
    url, asked = serve(half_hours)
    span = (NOON_S, NOON_S + 30 * 86_400.0)
    series = GreatBritain(url).over(*span)
    assert len(asked) == 3
    assert series.uncovered([span]) == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, b"{}"), "did not answer: .*Internal Server Error"),
        ((404, b""), "did not answer: .*Not Found"),
        ((200, b"<html>"), "answered something else than expected: Expecting value"),
        ((200, b"{}"), "answered something else than expected: 'data'"),
        ((200, b'{"data": [{"from": 3}]}'), "answered something else than expected"),
        ((200, b"[1]"), "answered something else than expected"),
        (
            (200, b'{"data": [{"from": "2026-01-02T12:00Z", "to": "2026-01-02T12:30Z", "intensity": {"actual": -9, '
             b'"forecast": 1}}]}'),
            "answered something else than expected: .*-9.0 .*is no carbon intensity",
        ),
        (
            (200, b'{"data": [{"from": "2026-01-02T12:00Z", "to": "2026-01-02T12:30Z", "intensity": {"actual": null, '
             b'"forecast": null}}]}'),
            "answered something else than expected",
        ),
    ],
)  # fmt: skip
def test_a_source_that_answers_badly_gives_no_rows_and_says_why(
    serve: Any, answer: tuple[int, bytes], why: str
):
    url, _ = serve(lambda path: answer)
    series = GreatBritain(url).over(NOON_S, NOON_S + 60.0)
    assert series.rows == ()
    with pytest.raises(AssertionError, match=f"{url} {why}"):
        raise AssertionError(series.missing)


def test_a_source_that_hangs_or_is_gone_gives_no_rows_and_says_why(serve: Any):
    def hang(path: str) -> tuple[int, bytes]:
        time.sleep(0.5)
        return 200, b"{}"

    url, _ = serve(hang)
    assert "did not answer: " in str(GreatBritain(url, timeout_s=0.05).over(NOON_S, NOON_S + 60.0).missing)
    gone = GreatBritain("http://127.0.0.1:9", timeout_s=1.0).over(NOON_S, NOON_S + 60.0)
    assert gone.missing == "http://127.0.0.1:9 did not answer: [Errno 111] Connection refused"


def test_an_unknown_live_source_is_refused():
    with pytest.raises(
        UnknownNameError, match=r"There is no live source of carbon intensity named 'us'\. Known: gb"
    ):
        live_source("us")


def test_a_run_is_given_the_intensity_of_its_own_time_and_keeps_it(tmp_path: Path, serve: Any):
    run = scripted_run(tmp_path, counters=gpu())
    url, asked = serve(lambda path: half_hours(path, measured_until=NOON - timedelta(days=3650)))
    factors = ask_live(GreatBritain(url), CarbonFactors(pue=1.5), run)
    assert len(asked) == 1
    assert factors.intensity_kind == "average"
    replace_factors(run.path, factors)
    summary = summarize(open_run(tmp_path, run.run_id))
    assert len(asked) == 1, "what was asked once is stored"
    found = summary["carbon"]
    assert found["carbon_intensity_source"].startswith(f"Great Britain, half-hourly, {url}, with forecasts")
    assert found["emissions_g"] == pytest.approx(
        summary["energy"]["measured_j"] / 3.6e6 * 1.5 * found["carbon_intensity_g_per_kwh"]
    )
    assert 1100.0 <= found["carbon_intensity_g_per_kwh"] < 1124.0


def test_a_live_source_that_failed_leaves_emissions_unknown_with_its_reason(tmp_path: Path, serve: Any):
    run = scripted_run(tmp_path, counters=gpu())
    url, _ = serve(lambda path: (503, b""))
    summary = summarize(run, ask_live(GreatBritain(url), CarbonFactors(country="FRA"), run))
    assert summary["carbon"]["emissions_g"] is None
    assert summary["notes"]["carbon.emissions_g"] == f"{url} did not answer: Service Unavailable"


def test_a_run_of_which_nothing_was_recorded_is_asked_for_nowhere(tmp_path: Path, serve: Any):
    run = scripted_run(tmp_path, Script(steps=0, fit_mark=False), counters=lambda clock: [])
    url, asked = serve(half_hours)
    series = ask_live(GreatBritain(url), CarbonFactors(), run).series
    assert asked == []
    assert series is not None
    assert series.missing == "nothing was recorded of the fit"
