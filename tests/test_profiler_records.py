"""The schemas follow from the records, and say nothing that they do not."""

from __future__ import annotations

from dataclasses import fields

import polars as pl

from profiler.measure.sensors.base import GaugeReading
from profiler.records import SCHEMAS, Mark, Reading, Step, table_of


def test_every_field_is_a_column_in_order():
    for table, record in (("steps", Step), ("readings", Reading)):
        assert SCHEMAS[table].names() == list(record._fields)
    assert SCHEMAS["marks"].names() == [f.name for f in fields(Mark)]


def test_a_gauge_has_the_columns_of_a_reading_in_order():
    """The sampler makes one of the other by place."""
    assert Reading._fields[5:] == (*GaugeReading._fields[:-1], "took_s")


def test_counters_are_64_bits_wide():
    types = {kind for schema in SCHEMAS.values() for kind in schema.values()}
    assert types <= {
        pl.Int64(),
        pl.Float64(),
        pl.String(),
        pl.List(pl.Struct({"name": pl.String, "value": pl.Float64})),
    }


def test_what_is_unknown_is_none_by_default():
    step = Step(rank=0, step=1, start_s=0.0, duration_s=1.0)
    given = {"rank", "step", "start_s", "duration_s", "metrics"}
    assert all(getattr(step, name) is None for name in Step._fields if name not in given)
    reading = Reading(time_s=0.0, component="gpu", device="d", source="counter")
    assert reading.energy_j is None
    assert reading.utilization is None


def test_table_of_each_record():
    assert table_of(Step(rank=0, step=1, start_s=0.0, duration_s=1.0)) == "steps"
    assert table_of(Reading(time_s=0.0, component="gpu", device="d", source="counter")) == "readings"
    assert table_of(Mark(rank=0, kind="fit", start_s=0.0)) == "marks"
