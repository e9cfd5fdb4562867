"""Native histograms through the public face: in as objects, out as a struct column, bit for bit."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.testing import FakeClock

T0 = 1_700_000_000
LATENCY = {"__name__": "latency", "job": "api"}
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0_0000_0000_0002))[0]


def counted(buckets: list[int], **fields: object) -> mdb.Histogram:
    spans = [(-2, len(buckets))]
    given = {"schema": 3, "positive_spans": spans, "positive_buckets": buckets, "count": sum(buckets), "sum": 1.5}
    return mdb.Histogram(**given | fields)


def key(histogram: mdb.Histogram) -> tuple:
    """Comparable bit for bit: floats as their bytes."""

    def bits(value: object) -> object:
        if isinstance(value, float):
            return struct.pack("<d", value)
        return tuple(bits(v) for v in value) if isinstance(value, tuple | list) else value

    return tuple(bits(getattr(histogram, f.name)) for f in dataclasses.fields(histogram))


def read(db: mdb.Database, selector: str = "latency") -> list[tuple[int, tuple]]:
    frame = db.histograms(selector, np.datetime64(-(2**50), "ms"), np.datetime64(2**50, "ms"))
    times = frame["timestamp"].dt.timestamp("ms").to_list()
    return [(t, key(mdb.Histogram(**h))) for t, h in zip(times, frame["histogram"], strict=True)]


@pytest.fixture
def db() -> mdb.Database:
    return mdb.Database(clock=FakeClock(T0 * 1000))


def test_a_histogram_comes_back_as_it_went_in(db: mdb.Database) -> None:
    h = counted([1, 2, 2**63], zero_count=4, count=2**63 + 7, zero_threshold=1e-9, reset_hint="gauge")
    report = db.append_histograms(LATENCY, T0, h)
    assert (report.accepted, report.series_created) == (1, 1)
    frame = db.histograms("latency", T0, T0)
    assert frame.columns == ["__name__", "job", "timestamp", "histogram"]
    pair = pl.List(pl.List(pl.Int64))
    assert frame.schema["histogram"] == pl.Struct(
        {
            "schema": pl.Int32, "count": pl.UInt64, "sum": pl.Float64, "zero_threshold": pl.Float64,
            "zero_count": pl.UInt64, "positive_spans": pair, "positive_buckets": pl.List(pl.UInt64),
            "negative_spans": pair, "negative_buckets": pl.List(pl.UInt64), "custom_values": pl.List(pl.Float64),
            "reset_hint": pl.String,
        }
    )  # fmt: skip
    assert mdb.Histogram(**frame["histogram"][0]) == h
    assert frame["histogram"].struct.field("positive_buckets").list.sum().to_list() == [2**63 + 3]


def test_no_histograms_are_an_empty_frame_of_the_same_types(db: mdb.Database) -> None:
    db.append_histograms(LATENCY, T0, counted([1]))
    full, empty = db.histograms("latency", T0, T0), db.histograms("latency", T0 + 1, T0 + 2)
    assert empty.height == 0
    assert empty.schema["histogram"] == full.schema["histogram"]
    assert db.histograms("nothing", 0, T0).columns == ["timestamp", "histogram"]


def test_numpy_buckets_are_taken_and_floats_make_the_float_flavour(db: mdb.Database) -> None:
    whole = counted(np.array([1, 2, 3], dtype=np.uint32), count=np.int64(6))
    assert whole.positive_buckets == (1, 2, 3)
    assert isinstance(whole.count, int)
    mixed = counted([1, 2], count=3.25)
    assert mixed.positive_buckets == (1.0, 2.0)
    assert all(isinstance(n, float) for n in (mixed.count, mixed.zero_count, *mixed.positive_buckets))
    db.append_histograms(LATENCY, [T0, T0 + 15], [whole, mixed])
    counts = db.histograms("latency", T0, T0 + 15)["histogram"].struct.field("count")
    assert (counts.dtype, counts.to_list()) == (pl.Float64, [6.0, 3.25])


def test_custom_buckets_and_both_sides(db: mdb.Database) -> None:
    custom = mdb.Histogram(
        schema=-53, count=6, sum=3.0, positive_spans=[(0, 3)], positive_buckets=[1, 2, 3], custom_values=[0.1, 0.5]
    )
    sides = mdb.Histogram(
        schema=0, count=10, sum=-1.0, zero_count=1, zero_threshold=0.001,
        positive_spans=[(0, 1), (2, 1)], positive_buckets=[2, 3], negative_spans=[(1, 1)], negative_buckets=[4],
    )  # fmt: skip
    db.append_histograms(LATENCY, [T0, T0 + 1], [custom, sides])
    assert [mdb.Histogram(**h) for h in db.histograms("latency", T0, T0 + 1)["histogram"]] == [custom, sides]


def test_late_ones_find_their_place_and_the_last_of_two_stays(db: mdb.Database) -> None:
    rows = [counted([i, i]) for i in range(600)]
    order = np.random.default_rng(5).permutation(600)
    first = db.append_histograms(LATENCY, T0 + order, [rows[i] for i in order])
    assert (first.accepted, first.duplicates) == (600, 0)
    again = db.append_histograms(LATENCY, [T0 + 7, T0 + 7], [counted([70]), counted([77])])
    assert (again.accepted, again.duplicates, again.series_created) == (2, 2, 0)
    rows[7] = counted([77])
    assert read(db) == [((T0 + i) * 1000, key(h)) for i, h in enumerate(rows)]
    stats = dict(db.stats().iter_rows())
    assert (stats["histogram_samples"], stats["samples"], stats["last_ms"]) == (600, 0, (T0 + 599) * 1000)
    assert stats["histogram_chunks"] > 0
    memory = {part: (size, items) for part, size, items, _ in db.memory().iter_rows()}
    assert memory["histograms: sealed"][1] + memory["histograms: open"][1] == 600
    db._native.check()


def test_a_series_with_histograms_alone_is_found_and_queried(db: mdb.Database) -> None:
    db.append_histograms(LATENCY, T0, counted([1]))
    assert db.series("latency", start=T0, end=T0)["job"].to_list() == ["api"]
    assert db.label_values("job", start=T0, end=T0) == ["api"]
    assert db.series("latency", start=T0 + 1, end=T0 + 2).height == 0
    assert db.query("latency").height == 1
    assert db.select("latency", T0, T0).height == 0
    # A number at the same time stays beside it; a query takes the histogram.
    db.append(LATENCY, T0, 1.5)
    assert db.query("latency")["value"].to_list() == [None]
    assert db.query("count_over_time(latency[1m])")["value"].to_list() == [2.0]
    assert db.histograms("latency", T0, T0).height == 1


def test_a_label_called_histogram_keeps_out_of_the_way(db: mdb.Database) -> None:
    db.append_histograms({"__name__": "m", "histogram": "a", "count": "b"}, T0, counted([1]))
    assert db.histograms("m", T0, T0).columns == ["__name__", "count", "label_histogram", "timestamp", "histogram"]


def test_a_stale_histogram_is_kept(db: mdb.Database) -> None:
    stale = mdb.Histogram(schema=0, count=0, sum=STALE)
    db.append_histograms(LATENCY, T0, stale)
    assert read(db) == [(T0 * 1000, key(stale))]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 7}, r'histogram 1 of series "latency.*the buckets hold 3 observations'),
        ({"schema": 9}, "no such schema"),
        ({"positive_spans": [(0, 2)]}, "stand for 2"),
        ({"positive_spans": [(0, 1), (-1, 0)]}, "overlaps"),
        ({"zero_threshold": -1.0}, "zero bucket's width"),
        ({"custom_values": [1.0]}, "exponential schema has none"),
        ({"reset_hint": "maybe"}, "give unknown, reset, not_reset or gauge"),
        ({"positive_buckets": [-3.0], "count": 3}, "a count is negative"),
    ],
)
def test_a_wrong_histogram_is_named_and_none_is_written(db: mdb.Database, fields: dict, message: str) -> None:
    wrong = counted([3], **fields)
    with pytest.raises(mdb.WriteError, match=message):
        db.append_histograms(LATENCY, [T0, T0 + 1], [counted([3]), wrong])
    assert db.histograms("latency", T0, T0 + 1).height == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": -3}, "histogram count -3 is not an integer from 0"),
        ({"positive_buckets": [2**64]}, "histogram positive_buckets"),
        ({"positive_spans": [(0, 1, 2)]}, r"give pairs \(offset, length\)"),
        ({"positive_spans": [(0.5, 1)]}, "histogram positive_spans 0.5 is not an integer"),
        ({"schema": 2**40}, "histogram schema"),
        ({"sum": "much"}, "histogram sum 'much' is no number"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_when_the_object_is_made(fields: dict, message: str) -> None:
    with pytest.raises(mdb.WriteError, match=message):
        counted([3], **fields)


def test_other_objects_lengths_and_labels_are_refused(db: mdb.Database) -> None:
    with pytest.raises(mdb.WriteError, match="histogram 0 is a dict; give metricsdb.Histogram"):
        db.append_histograms(LATENCY, T0, [{"schema": 0}])
    with pytest.raises(mdb.WriteError, match="2 timestamps but 1 histograms"):
        db.append_histograms(LATENCY, [T0, T0 + 1], counted([1]))
    with pytest.raises(mdb.WriteError):
        db.append_histograms({}, T0, counted([1]))
    with pytest.raises(mdb.WriteError):
        db.append_histograms({"a": 1}, T0, counted([1]))


COUNTS = st.lists(st.integers(0, 9) | st.integers(0, 2**56), min_size=0, max_size=12)
ANY_FLOAT = st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("<d", struct.pack("<Q", b))[0])
FLOAT_COUNT = st.floats(0, 1e300) | st.sampled_from([0.0, 5e-324, float("inf")])


@st.composite
def histograms(draw: st.DrawFn) -> mdb.Histogram:
    def spans(buckets: list) -> list[tuple[int, int]]:
        if not buckets:
            return []
        cut = draw(st.integers(0, len(buckets)))
        first = (draw(st.integers(-50, 50)), cut)
        return [first, (draw(st.integers(0, 5)), len(buckets) - cut)]

    above, below, zero = draw(COUNTS), draw(COUNTS), draw(st.integers(0, 100))
    count, total = sum(above) + sum(below) + zero, draw(ANY_FLOAT)
    if draw(st.booleans()):
        above, below = [draw(FLOAT_COUNT) for _ in above], [draw(FLOAT_COUNT) for _ in below]
        count, zero = draw(FLOAT_COUNT), draw(FLOAT_COUNT)
    return mdb.Histogram(
        schema=draw(st.integers(-4, 8)),
        count=count,
        sum=total,
        zero_threshold=draw(st.sampled_from([0.0, 1e-6])),
        zero_count=zero,
        positive_spans=spans(above),
        positive_buckets=above,
        negative_spans=spans(below),
        negative_buckets=below,
        reset_hint=draw(st.sampled_from(["unknown", "reset", "not_reset", "gauge"])),
    )


def as_float_flavour(histogram: mdb.Histogram) -> mdb.Histogram:
    return dataclasses.replace(histogram, count=float(histogram.count))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(histograms(), min_size=1, max_size=6),
    st.lists(
        st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), min_size=1, max_size=50), min_size=1, max_size=4
    ),
)
def test_any_histograms_come_back_bit_for_bit_in_any_order(pool: list, calls: list) -> None:
    db, model = mdb.Database(), {}
    for call in calls:
        rows = [pool[i % len(pool)] for _, i in call]
        times = np.array([t * 1000 for t, _ in call]).view("datetime64[ms]")
        assert db.append_histograms(LATENCY, times, rows).accepted == len(call)
        model |= {t * 1000: h for (t, _), h in zip(call, rows, strict=True)}
    if any(isinstance(h.count, float) for h in model.values()):
        model = {t: as_float_flavour(h) for t, h in model.items()}
    assert read(db) == [(t, key(h)) for t, h in sorted(model.items())]


def latency(count: int, **fields: object) -> mdb.Histogram:
    spans = [(0, 2)]
    buckets = [count // 2, count - count // 2]
    given = {"schema": 0, "positive_spans": spans, "positive_buckets": buckets, "count": count, "sum": 1.5 * count}
    return mdb.Histogram(**given | fields)


def test_a_histogram_that_was_appended_is_queried(db: mdb.Database) -> None:
    for i in range(10):
        db.append_histograms(LATENCY, T0 - 60 * (9 - i), latency(10 * i))
    frame = db.query("latency")
    assert frame.columns == ["__name__", "job", "timestamp", "value", "histogram"]
    assert frame["value"].to_list() == [None]
    assert frame["histogram"][0]["count"] == 90.0
    assert db.query("histogram_count(rate(latency[5m]))")["value"][0] == pytest.approx(10 / 60)
    assert db.query("histogram_quantile(0.5, sum by (job) (latency))")["value"][0] == pytest.approx(1.0)
    assert db.query("histogram_avg(latency)")["value"].to_list() == [1.5]
    steps = db.query_range("latency * 2", T0 - 120, T0, 60)
    assert [h["count"] for h in steps["histogram"]] == [140.0, 160.0, 180.0]
    assert db.query_range("histogram_count(latency)", T0 - 120, T0, 60, wide=True).shape == (3, 2)


def test_the_newest_sample_of_a_series_wins_be_it_a_number_or_a_histogram(db: mdb.Database) -> None:
    db.append_histograms(LATENCY, T0 - 60, latency(4))
    db.append(LATENCY, T0 - 30, 7.0)
    assert db.query("latency")["value"].to_list() == [7.0]
    assert db.query("latency", T0 - 40)["histogram"][0]["count"] == 4.0
    mixed = db.query("latency[2m]")
    assert mixed["value"].to_list() == [None, 7.0]
    assert [None if h is None else h["count"] for h in mixed["histogram"]] == [4.0, None]
    wide = db.query("latency[2m]", wide=True)
    assert wide.row(-1)[1] == 7.0
    db.append_histograms(LATENCY, T0 - 10, latency(0, sum=STALE))
    assert db.query("latency").is_empty()


def test_an_answer_of_numbers_has_no_histogram_column(db: mdb.Database) -> None:
    db.append_histograms(LATENCY, T0, latency(4))
    assert "histogram" not in db.query("histogram_count(latency)").columns
    with pytest.warns(mdb.QueryInfo, match="ignored histogram in max aggregation"):
        assert db.query("max(latency)").is_empty()
