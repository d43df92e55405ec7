"""F19: files that would hang a reader or fill its memory: refused at once, and the rest of the run is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fault_rows.made_run import made_run
from fault_rows.row import Fault, Outcome
from profiler.records import SCHEMA_VERSION
from profiler.store.columns import ARROW_SCHEMAS
from profiler.store.wal import Journal

MOST_MS = 100.0
MOST_GROWN_MB = 100.0
_METADATA = {b"joulescale_schema_version": str(SCHEMA_VERSION).encode()}

_READER = """
import json, sys, time
from pathlib import Path
from profiler.store.runs import scan_runs
def look(folder):
    damaged, rows = [], 0
    for run in scan_runs(folder):
        damaged += run.damaged + (("manifest",) if run.status == "damaged" else ())
        rows += sum(len(p.steps) for p in run.processes)
    return damaged, rows
def fastest_ms(folder):  # of three looks: the machine may be busy with something else
    times_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        found = look(Path(folder))
        times_s.append(time.perf_counter() - start_s)
    return 1e3 * min(times_s), found
def most_mb():  # not getrusage, which counts what the parent had when it started this process
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
well_ms, _ = fastest_ms(sys.argv[1])
for folder in sys.argv[2:]:
    before_mb = most_mb()
    ms, (damaged, rows) = fastest_ms(folder)
    grown_mb = most_mb() - before_mb
    print(json.dumps([max(ms - well_ms, 0.0), grown_mb, len(damaged), rows]), flush=True)
"""


def refuse(trials: int, folder: Path) -> Outcome:
    """Put each bomb into a run of its own, and read them all, one after the other, in one process."""
    chosen = [_BOMBS[number % len(_BOMBS)] for number in range(trials)]
    made_run(folder / "well", "made")
    folders = [folder / f"{number}-{bomb.__name__.strip('_')}" for number, bomb in enumerate(chosen)]
    for own, bomb in zip(folders, chosen, strict=True):
        bomb(next(made_run(own, "made").glob("attempt-1/*")))
    words = [sys.executable, "-c", _READER, str(folder / "well"), *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=600)
    looks = [json.loads(line) for line in done.stdout.splitlines()]
    failures = [
        f"{own.name}: {ms:.0f} ms, {grown:.0f} MB, {damaged} named, {rows} rows"
        for own, (ms, grown, damaged, rows) in zip(folders, looks, strict=True)
        if ms > MOST_MS or grown > MOST_GROWN_MB or not damaged or (rows < 100 and "json" not in own.name)
    ]
    worst = f"{max(look[0] for look in looks):.0f} ms more than without it; {max(look[1] for look in looks):.0f} MB"
    return Outcome(trials=trials, passed=trials - len(failures), worst=worst, failures=tuple(failures))


def _rows(folder: Path) -> None:
    """A hundred million rows in a few kilobytes."""
    column = pa.array([0] * 1_000_000, pa.int64())
    schema = pa.schema([("step", pa.int64())], metadata=_METADATA)
    with pq.ParquetWriter(folder / "steps-000900.parquet", schema, compression="zstd") as file:
        for _ in range(100):
            file.write_table(pa.table([column], schema=schema))


def _lying_rows(folder: Path) -> None:
    """Forty million values in the pages, ten in the footer: its numbers are written over in place."""
    path, count = folder / "steps-000900.parquet", 40_000_000
    schema = pa.schema([("step", pa.int64())], metadata=_METADATA)
    column = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(bytes(8 * count))])
    pq.write_table(
        pa.table([column], schema=schema),
        path,
        compression="zstd",
        row_group_size=count,
        data_page_size=2**31 - 1,
    )
    data = path.read_bytes()
    assert _varint(2 * count) in data
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    lie = bytes([20 | 128, 128, 128, 0])
    path.write_bytes(data[:footer] + data[footer:].replace(_varint(2 * count), lie))
    assert pq.read_metadata(path).num_rows == 10


def _texts(folder: Path) -> None:
    """Two million rows of one text of a megabyte, which is stored once."""
    count = 2_000_000
    text = pa.DictionaryArray.from_arrays(
        pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(bytes(4 * count))]),
        pa.array(["x" * 2**20]),
    )
    schema = pa.schema([("kind", text.type)], metadata=_METADATA)
    pq.write_table(pa.table([text], schema=schema), folder / "marks-000900.parquet", compression="zstd")


def _large_pages(folder: Path) -> None:
    """A page that says that it has two gigabytes when it is decompressed."""
    path = folder / "steps-000900.parquet"
    values = pa.Array.from_buffers(pa.int64(), 2**25, [None, pa.py_buffer(bytes(2**28))])
    schema = pa.schema([("step", pa.int64())], metadata=_METADATA)
    pq.write_table(
        pa.table([values], schema=schema),
        path,
        compression="zstd",
        use_dictionary=False,
        data_page_size=2**30,
    )
    data = path.read_bytes()
    start = data.index(b"\x15", 4)
    size_at = data.index(_varint(2 * 2**28)[:2], start)
    path.write_bytes(data[:size_at] + _varint(2 * (2**31 - 1)) + data[size_at + len(_varint(2 * 2**28)) :])


def _compressed_frame(folder: Path) -> None:
    """A frame whose record batch says that it is to be decompressed to half a gigabyte."""
    journal = Journal(folder / "wal-000900.open")
    columns = [pa.nulls(2**26, field.type) for field in ARROW_SCHEMAS["marks"]]
    columns[2] = pa.Array.from_buffers(pa.float64(), 2**26, [None, pa.py_buffer(bytes(2**29))])
    batch = pa.record_batch(columns, schema=ARROW_SCHEMAS["marks"])
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    reader.read_next_message()
    frame = reader.read_next_message().serialize()
    journal._write([b"m" + bytes(frame)])


def _endless(folder: Path) -> None:
    """A part that is a link to a device without an end."""
    (folder / "steps-000900.parquet").symlink_to("/dev/zero")


def _pipe(folder: Path) -> None:
    """A part and a journal that are pipes, into which nobody writes."""
    os.mkfifo(folder / "steps-000900.parquet")
    os.mkfifo(folder / "wal-000900.open")


def _folders(folder: Path) -> None:
    """Folders where files should be."""
    (folder / "steps-000900.parquet").mkdir()
    (folder / "wal-000900.open").mkdir()


def _empty(folder: Path) -> None:
    """A part of zero bytes, and one of a terabyte of nothing."""
    (folder / "steps-000900.parquet").touch()
    with (folder / "marks-000900.parquet").open("wb") as file:
        file.truncate(2**40)


def _json_large(folder: Path) -> None:
    """A manifest of a gigabyte."""
    with (folder / "process.json").open("wb") as file:
        file.truncate(2**30)


def _json_deep(folder: Path) -> None:
    """A manifest that is nested ten million deep."""
    (folder.parents[1] / "run.json").write_bytes(b"[" * 10_000_000)


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


_BOMBS: tuple[Callable[[Path], None], ...] = (
    _texts, _compressed_frame, _endless, _pipe, _folders, _empty, _json_large, _json_deep,
    _rows, _large_pages, _lying_rows,
)  # fmt: skip

ROWS = (
    Fault(
        id="F19",
        fault="decompression bombs, lying footers, pipes, devices, huge and deep manifests",
        pass_line=f"refused in < {MOST_MS:g} ms and < {MOST_GROWN_MB:g} MB, named, the rest is read",
        run=refuse,
        trials=len(_BOMBS),
        quick=6,
    ),
)
