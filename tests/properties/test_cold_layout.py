"""What goes into Parquet comes out, bit for bit, in any reader."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from twins.cold import Rows, cold_rows, hash_of, labels, number, samples_frame, series_frame

from metricsdb.lifecycle.cold import layout, parts
from metricsdb.lifecycle.cold.catalog import Catalog, select
from metricsdb.lifecycle.cold.manifest import Manifest
from metricsdb.lifecycle.cold.objects import Objects

TIMES = st.integers(-5, 40).map(lambda i: i * 1000) | st.integers(-(2**40), 2**42)
ANY_FLOAT = st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("<d", struct.pack("<Q", b))[0])
DECIMALS = st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 12)).map(lambda d: d[0] / 10 ** d[1])
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0_0000_0000_0002))[0]
FLOATS = st.sampled_from([0.0, -0.0, float("inf"), -float("inf"), float("nan"), STALE, 5e-324, 2.0**53, 1e300])
VALUES = (
    (FLOATS | ANY_FLOAT | DECIMALS).map(number)
    | st.integers(-(2**63), 2**63 - 1).map(lambda v: number(v, 1))
    | st.integers(0, 2**64 - 1).map(lambda v: number(v, 2))
)
NAMES = st.sampled_from(["job", "series", "value", "label_value", "handle", "row", "метка", "__name__"])
LABELS = st.dictionaries(NAMES, st.text(min_size=1, max_size=3), min_size=1, max_size=3).map(lambda d: labels(**d))


def column(name: str) -> str:
    """As native frames name the column of a label."""
    bare = name
    while bare.startswith("label_"):
        bare = bare.removeprefix("label_")
    return f"label_{name}" if bare in ("series", "timestamp", "value", "histogram") else name


def label_of(name: str) -> str:
    return name.removeprefix("label_") if column(name.removeprefix("label_")) == name else name


def stored(rows: Rows, catalog: Catalog) -> None:
    named = {(tuple(sorted((column(n), v) for n, v in series)), at): value for (series, at), value in rows.items()}
    found = sorted({series for series, _ in named})
    at = {series: row for row, series in enumerate(found)}
    samples = samples_frame(sorted((at[series], t, value) for (series, t), value in named.items()))
    made = parts.cut(*parts.ordered(series_frame(found), samples), iter(["a", "b"]).__next__, Manifest())
    parts.store(catalog.objects, [made])
    catalog.publish(lambda state: state.exchange([], [made.part], 0))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.tuples(LABELS, TIMES), VALUES, min_size=1, max_size=60), st.integers(1, 20))
def test_samples_come_back_bit_for_bit(rows: Rows, group: int) -> None:
    catalog, before = Catalog(Objects("memory:///")), layout.group_rows
    layout.group_rows = lambda _: group
    try:
        stored(rows, catalog)
    finally:
        layout.group_rows = before
    found = cold_rows(catalog)
    unnamed = {(tuple(sorted((label_of(n), v) for n, v in series)), at): value for (series, at), value in found.items()}
    assert unnamed == rows
    # Any choice of series reads what all would give of them.
    (part,) = catalog.parts(-(2**63), 2**63 - 1)
    whole = catalog.samples(part)
    some = catalog.series(part)["series"].gather_every(2)
    assert catalog.samples(part, some).equals(whole.filter(pl.col("series").is_in(some.implode())))
    nothing = catalog.samples(part, pl.Series([], dtype=pl.UInt64))
    assert nothing.schema == whole.schema == pl.Schema(layout.SAMPLES)
    assert nothing.is_empty()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TIMES, DECIMALS | FLOATS | ANY_FLOAT), min_size=1, max_size=40, unique_by=lambda x: x[0]))
def test_other_readers_see_the_same_doubles(samples: list[tuple[int, float]]) -> None:
    catalog = Catalog(Objects("memory:///"))
    series = labels(__name__="m", job="x")
    stored({(series, at): number(value) for at, value in samples}, catalog)
    (part,) = catalog.parts(-(2**63), 2**63 - 1)
    parquet = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"cold-{id(catalog)}.parquet"
    try:
        parquet.write_bytes(catalog.objects.get(part.key))
        query = f"""SELECT CASE WHEN number IS NULL THEN value ELSE number / pow(10, scale) END
                    FROM '{parquet}' ORDER BY timestamp"""
        duck = np.array([row[0] for row in duckdb.sql(query).fetchall()])
        other = pl.read_parquet(parquet).select(
            pl.when(pl.col("number").is_null()).then("value").otherwise(pl.col("number") / 10.0 ** pl.col("scale"))
        )
    finally:
        parquet.unlink()
    expected = np.array([value for _, value in sorted(samples)])
    # DuckDB's Python hands out NaN without its payload; everything else is to the bit.
    assert np.array_equal(duck.view(np.int64)[~np.isnan(expected)], expected.view(np.int64)[~np.isnan(expected)])
    assert np.array_equal(np.isnan(duck), np.isnan(expected))
    assert other.to_series().to_numpy().view(np.int64).tolist() == expected.view(np.int64).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=10, unique=True), NAMES, st.text(min_size=1, max_size=3))
def test_selectors_are_asked_of_the_tables_of_series(found: list, name: str, value: str) -> None:
    named = [tuple(sorted((column(n), v) for n, v in series)) for series in found]
    frame = series_frame(named)
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    quoted = quoted if quoted.isprintable() else "x"
    wanted = {
        hash_of(n) for n, s in zip(named, found, strict=True) if dict(s).get(name) == (value if quoted != "x" else "x")
    }
    assert set(select(frame, [f'{{"{name}"="{quoted}"}}'])) == wanted
    assert set(select(frame, [""])) == {hash_of(n) for n in named}
    assert select(frame, ["nothing_of_this_name"]).is_empty()


@st.composite
def record_frames(draw: st.DrawFn, every: int = 60_000) -> pl.DataFrame:
    """Records of some series as a native store hands them out, with any bits in them."""
    rows = []
    for row in range(draw(st.integers(1, 4))):
        for end in sorted(draw(st.sets(st.integers(-50, 50), min_size=1, max_size=12))):
            kept = draw(st.lists(st.tuples(TIMES, ANY_FLOAT), max_size=3))
            counts = draw(st.tuples(*[st.integers(0, 2**64 - 1)] * 3))
            numbers = draw(st.tuples(*[FLOATS | ANY_FLOAT | DECIMALS] * 7))
            first, last = draw(st.tuples(TIMES, TIMES))
            sketch = draw(st.none() | st.binary(max_size=9))
            kind = draw(st.sampled_from(["gauge", "counter", "states"])), draw(st.booleans())
            lists = ([t for t, _ in kept], [v for _, v in kept]) if kept else (None, None)
            rows.append(
                (row, every, end * every, (end - 1) * every, *kind, *counts, *numbers, first, last, sketch, *lists)
            )
    counts = dict.fromkeys(("count", "resets", "unkept"), pl.UInt64)
    floats = dict.fromkeys(("sum", "min", "max", "first", "last", "deviation", "reset_from"), pl.Float64)
    schema = {
        "row": pl.UInt32, "every": pl.Int64, "timestamp": pl.Int64, "start": pl.Int64, "kind": pl.String,
        "states": pl.Boolean, **counts,
        **floats, "first_time": pl.Int64, "last_time": pl.Int64, "sketch": pl.Binary,
        "kept_times": pl.List(pl.Int64), "kept_values": pl.List(pl.Float64),
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def as_bits(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    def word(value: object) -> object:
        if isinstance(value, float):
            return struct.pack("<d", value)
        return [word(one) for one in value] if isinstance(value, list) else value

    return [tuple(word(value) for value in row) for row in frame.rows()]


@settings(max_examples=150, deadline=None)
@given(record_frames())
def test_records_of_rollups_come_back_bit_for_bit(frame: pl.DataFrame) -> None:
    catalog = Catalog(Objects("memory://"))
    series = series_frame([labels(__name__="m", job=str(row)) for row in range(4)])
    ordered = parts.ordered(series, frame)
    made = parts.cut(*ordered, iter(["a", "b"]).__next__, Manifest(), kind="rollups", every_ms=60_000)
    parts.store(catalog.objects, [made])
    catalog.publish(lambda state: state.exchange([], [made.part], 0))
    assert made.part.end_ms == frame["timestamp"].max()
    assert made.part.start_ms == frame["timestamp"].min() - 60_000 + 1
    wanted = frame.drop("every").with_columns(series["series"].gather(frame["row"])).drop("row")
    found = catalog.samples(made.part)
    order = ["series", *sorted(name for name in found.columns if name != "series")]
    by = ["series", "timestamp"]
    assert sorted(found.columns) == sorted(wanted.columns)
    assert as_bits(found.select(order).sort(by)) == as_bits(wanted.select(order).sort(by))
