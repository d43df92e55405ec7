"""Parts are written whole or not at all, and what is damaged is never read as something else."""

from __future__ import annotations

import errno
import random
from collections.abc import Mapping
from pathlib import Path
from typing import get_type_hints

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profiler.errors import StoredDataError
from profiler.records import SCHEMA_VERSION, SCHEMAS, Mark, Reading, Step
from profiler.store import part_check
from profiler.store.files import write_whole
from profiler.store.parts import merge_parts, part_name, part_numbers, read_part, write_part

whole = st.integers(-(2**63), 2**63 - 1)
number = st.floats(allow_nan=False)
maybe = st.none() | number
_VALUES = {
    int: whole,
    float: number,
    int | None: st.none() | whole,
    float | None: maybe,
    Mapping[str, float]: st.dictionaries(st.text(max_size=5), number, max_size=3),
}
steps = st.builds(Step, **{name: _VALUES[hint] for name, hint in get_type_hints(Step).items()})
readings = st.builds(
    Reading,
    **{name: _VALUES[hint] for name, hint in get_type_hints(Reading).items() if hint in _VALUES}
    | {
        "component": st.sampled_from(["gpu", "cpu"]),
        "device": st.text(max_size=10),
        "source": st.sampled_from(["counter", "estimated"]),
    },
)
marks = st.builds(
    Mark, rank=whole, kind=st.text(max_size=5), start_s=number, end_s=maybe, note=st.text(max_size=9)
)


def _steps(count: int = 30) -> list[Step]:
    return [
        Step(
            rank=0,
            step=i,
            start_s=i * 0.1,
            duration_s=0.1,
            tokens=7 * i,
            loss=3.0 - i / 100,
            metrics={"a": i / 2},
        )
        for i in range(count)
    ]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / part_name("steps", 0)
    write_part(path, "steps", _steps())
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.one_of(*(st.lists(kind, min_size=1, max_size=8) for kind in (steps, readings, marks))))
def test_rows_come_back_as_they_went(tmp_path: Path, rows: list):
    table = {Step: "steps", Reading: "readings", Mark: "marks"}[type(rows[0])]
    path = tmp_path / "part.parquet"
    write_part(path, table, rows)
    frame = read_part(path, table)
    assert frame.schema == SCHEMAS[table]
    back = frame.to_dicts()
    for row in back:
        if "metrics" in row:
            row["metrics"] = {pair["name"]: pair["value"] for pair in row["metrics"]}
    if table == "readings":  # device by device
        devices = list(dict.fromkeys(row.device for row in rows))
        rows = sorted(rows, key=lambda row: devices.index(row.device))
    assert back == [{name: getattr(row, name) for name in frame.columns} for row in rows]


def test_a_loss_that_is_not_a_number_stays_one(tmp_path: Path):
    write_part(
        tmp_path / "p", "steps", [Step(rank=0, step=1, start_s=0.0, duration_s=1.0, loss=float("nan"))]
    )
    assert read_part(tmp_path / "p", "steps")["loss"].is_nan().to_list() == [True]


def test_no_flipped_byte_is_silent(part: Path):
    whole_file, true = part.read_bytes(), read_part(part, "steps")
    rng = random.Random(0)
    told = 0
    for _ in range(800):
        data = bytearray(whole_file)
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        part.write_bytes(data)
        try:
            assert read_part(part, "steps").equals(true)
        except StoredDataError:
            told += 1
    assert told > 700


def test_a_flipped_column_name_is_damage_not_a_missing_column(part: Path):
    """Without the seal this read as a column of nulls: page checksums leave the footer out."""
    data = part.read_bytes()
    at = data.rindex(b"tokens")
    part.write_bytes(data[:at] + b"tokenz" + data[at + 6 :])
    with pytest.raises(
        StoredDataError, match=r"cannot be read .its checksum does not match.; its rows are missing"
    ):
        read_part(part, "steps")


def test_every_truncation_is_damage(part: Path):
    data = part.read_bytes()
    for length in [*range(0, len(data), 37), len(data) - 1]:
        part.write_bytes(data[:length])
        with pytest.raises(StoredDataError, match="cannot be read"):
            read_part(part, "steps")


def test_parts_are_plain_parquet_to_other_readers(part: Path):
    assert pl.read_parquet(part)["tokens"].to_list() == [7 * i for i in range(30)]
    assert pq.read_table(part).num_rows == 30


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"no parquet at all", b"\x00" * 4096, b"PAR1\xff\xff\xff\xffPAR1"]
)
def test_what_is_no_parquet_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "steps-000000.parquet"
    path.write_bytes(content)
    with pytest.raises(
        StoredDataError, match=r"The part .*steps-000000.parquet cannot be read .*; its rows are missing"
    ):
        read_part(path, "steps")


def test_a_missing_part_is_named(tmp_path: Path):
    with pytest.raises(StoredDataError, match=r"cannot be read .*No such file"):
        read_part(tmp_path / "gone.parquet", "steps")


def test_foreign_parquet_is_left_out(tmp_path: Path):
    pl.DataFrame({"step": [1]}).write_parquet(tmp_path / "p")
    with pytest.raises(
        StoredDataError, match="is a Parquet file, but none that joulescale wrote; it is left out"
    ):
        read_part(tmp_path / "p", "steps")


def _rewrite(path: Path, frame: pl.DataFrame, version: str = "1") -> None:
    arrow = frame.to_arrow().replace_schema_metadata({b"joulescale_schema_version": version.encode()})
    pq.write_table(arrow, path)


def test_a_newer_schema_is_refused(part: Path):
    _rewrite(part, read_part(part, "steps"), version=str(SCHEMA_VERSION + 1))
    with pytest.raises(
        StoredDataError,
        match=rf"has schema {SCHEMA_VERSION + 1}, this version reads up to {SCHEMA_VERSION}. Upgrade",
    ):
        read_part(part, "steps")


def test_a_version_that_is_no_number_is_damage(part: Path):
    _rewrite(part, read_part(part, "steps"), version="one")
    with pytest.raises(StoredDataError, match="cannot be read"):
        read_part(part, "steps")


def test_a_column_that_an_older_version_lacked_is_null_and_a_later_one_is_left_out(part: Path):
    true = read_part(part, "steps")
    _rewrite(part, true.drop("loss").with_columns(pl.lit(1).alias("later")))
    frame = read_part(part, "steps")
    assert frame.schema == SCHEMAS["steps"]
    assert frame["loss"].null_count() == len(frame)
    assert frame["tokens"].equals(true["tokens"])


def test_a_column_of_the_wrong_type_is_damage(part: Path):
    _rewrite(part, read_part(part, "steps").with_columns(pl.lit("many").alias("tokens")))
    with pytest.raises(StoredDataError, match="has a column of the wrong type"):
        read_part(part, "steps")


def test_a_full_disk_leaves_neither_part_nor_temporary(tmp_path: Path):
    def fill(temporary: Path) -> None:
        temporary.write_bytes(b"half of i")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device"):
        write_whole(tmp_path / "steps-000000.parquet", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_older_file(part: Path):
    before = part.read_bytes()

    def fill(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(part, fill)
    assert part.read_bytes() == before


def test_a_folder_that_takes_no_files_is_an_os_error(tmp_path: Path):
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="Not a directory"):
        write_part(tmp_path / "file" / "steps-000000.parquet", "steps", _steps(1))


def test_arrow_and_polars_agree_that_nothing_is_dictionary_or_view_typed(part: Path):
    """The oldest Arrow types, so that any reader of Parquet's last ten years can open a part."""
    assert not any(
        pa.types.is_string_view(f.type) or pa.types.is_dictionary(f.type) for f in pq.read_schema(part)
    )


def test_thousandths_come_back_bit_for_bit(tmp_path: Path):
    """Whole millijoules, what is none, and what is unknown, in one column."""
    energies = [0.001, 123456.789, 1 / 3, None, 0.0, 2.0**60, -0.5, 1e-9, 4503599627370.497]
    rows = [Reading(time_s=0.0, component="gpu", device="d", source="counter", energy_j=e) for e in energies]
    write_part(tmp_path / "p", "readings", rows)
    assert read_part(tmp_path / "p", "readings")["energy_j"].to_list() == energies
    stored = pq.read_table(tmp_path / "p")
    assert stored["energy_mj"].to_pylist()[:3] == [1, 123456789, None]


def test_some_columns_are_read_alone(part: Path):
    whole = read_part(part, "steps")
    assert read_part(part, "steps", ["loss", "step"]).equals(whole.select("loss", "step"))
    assert read_part(part, "steps", []).width == 0


def test_merged_parts_have_the_rows_of_all_in_their_order(tmp_path: Path):
    parts = []
    for number in range(3):
        parts.append(tmp_path / part_name("steps", number))
        write_part(parts[-1], "steps", _steps()[10 * number : 10 * (number + 1)])
    merged = tmp_path / part_name("steps", 0, 2)
    merge_parts(merged, parts)
    assert merged.name == "steps-000000-000002.parquet"
    assert part_numbers(merged.name, "steps") == (0, 2)
    assert read_part(merged, "steps").equals(pl.concat([read_part(path, "steps") for path in parts]))


@pytest.mark.parametrize(
    "name", ["steps-1.parquet", "stepsy-000001.parquet", "steps-000001.parquet.bak", "x"]
)
def test_other_names_are_no_parts(name: str):
    assert part_numbers(name, "steps") is None
    assert part_numbers("readings-000001.parquet", "steps") is None


def test_too_many_rows_are_refused_by_the_footer(part: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(part_check, "MAX_ROWS", 29)
    with pytest.raises(
        StoredDataError, match=r"says that it has 30 rows, more than any part of ours can have \(29\)"
    ):
        read_part(part, "steps")


def test_a_column_that_only_an_extension_reads_is_refused(tmp_path: Path):
    schema = pa.schema(
        [pa.field("step", pa.list_(pa.int64()))], metadata={b"joulescale_schema_version": b"3"}
    )
    pq.write_table(pa.table([[[1]]], schema=schema), tmp_path / "p")
    with pytest.raises(StoredDataError, match="its column 'step' is of a type that none of ours has: list"):
        read_part(tmp_path / "p", "steps")
