"""Long and wide frames against the same answer as Prometheus' JSON, which is written by other code."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb._native import StopSwitch

FIRST, LAST, STEP = 1_000, 1_100, 10

label_sets = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "Zone", "value", "long_label"]),
        st.sampled_from(["x", "y", "", "more than twelve bytes of text", 'q"uo\\te', "line\nbreak", "é"]),
        max_size=4,
    ),
    min_size=1, max_size=8,
)  # fmt: skip
times = st.lists(st.integers(FIRST, LAST), min_size=1, max_size=12)


def filled(sets: list[dict[str, str]], of: list[list[int]]) -> mdb.Database:
    db = mdb.Database(lookback="10s")
    for i, (labels, at) in enumerate(zip(sets, of, strict=False)):
        db.append({"__name__": f"m{i % 2}", **labels}, at, np.arange(len(at)) + i / 8)
    return db


def json_rows(db: mdb.Database, expr: str) -> list[tuple[dict[str, str], dict[int, float]]]:
    times = (FIRST * 1000, LAST * 1000, STEP * 1000, 10_000, 60_000)
    first, rest = db._native.api_query(expr, *times, 0, "", "query", "test", StopSwitch())
    result = json.loads(first + b"".join(rest or ()))["data"]["result"]
    return [(r["metric"], {int(t): float(v) for t, v in r["values"]}) for r in result]


def written(labels: dict[str, str]) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    pairs = [f"{n}={quoted(v)}" for n, v in sorted(labels.items()) if n != "__name__"]
    return labels.get("__name__", "") + "{" + ", ".join(pairs) + "}"


@given(sets=label_sets, of=st.lists(times, min_size=8, max_size=8), expr=st.sampled_from(['{__name__=~"m."}', "-m0"]))
@settings(max_examples=150, deadline=None)
def test_long_and_wide_frames_say_what_the_json_says(sets, of, expr):
    db = filled(sets, of)
    try:
        expected = json_rows(db, expr)
    except mdb.ExecutionError:
        return  # two series become one
    long = db.query_range(expr, FIRST, LAST, STEP)
    found: dict[str, dict[int, float]] = {}
    for row in long.iter_rows(named=True):
        at, value = int(row.pop("timestamp").timestamp()), row.pop("value")
        labels = {("value" if n == "label_value" else n): v for n, v in row.items() if v is not None}
        found.setdefault(written(labels), {})[at] = value
    assert found == {written(labels): samples for labels, samples in expected}

    wide = db.query_range(expr, FIRST, LAST, STEP, wide=True)
    assert wide.columns == ["timestamp", *(written(labels) for labels, _ in expected)]
    assert [int(t.timestamp()) for t in wide["timestamp"]] == sorted({t for _, s in expected for t in s})
    for labels, samples in expected:
        column = zip(wide["timestamp"], wide[written(labels)], strict=True)
        assert {int(t.timestamp()): v for t, v in column if v is not None} == samples


def test_a_wide_frame_of_raw_samples_has_a_row_for_every_time():
    db = mdb.Database()
    db.append({"__name__": "m", "a": "1"}, [1.0, 2.5, 4.0], [1, 2, 3])
    db.append({"__name__": "m", "a": "2"}, [2.0, 4.0], [7, 8])
    wide = db.query("m[10s]", time=5, wide=True)
    assert wide["timestamp"].dt.epoch("ms").to_list() == [1000, 2000, 2500, 4000]
    assert wide['m{a="1"}'].to_list() == [1, None, 2, 3]
    assert wide['m{a="2"}'].to_list() == [None, 7, None, 8]


def test_a_nan_is_a_value_and_no_sample_is_null():
    db = mdb.Database(lookback="1s")
    db.append({"__name__": "m"}, [10.0, 12.0], [float("nan"), 1.0])
    db.append({"__name__": "n"}, [11.0], [5.0])
    wide = db.query_range('{__name__=~"m|n"}', 10, 12, 1, wide=True)
    assert wide["m{}"].is_nan().to_list() == [True, None, False]
    assert wide["n{}"].to_list() == [None, 5.0, None]


def test_wide_answers_without_labels_or_rows():
    db = mdb.Database()
    assert db.query("1 + 1", wide=True)["{}"].to_list() == [2.0]
    empty = db.query("nothing", wide=True)
    assert (empty.columns, empty.height) == (["timestamp"], 0)
    db.append({"__name__": "timestamp", "odd name": "v", "__kind": "x"}, [1.0], [1.0])
    db.append({"__name__": "odd.metric"}, [1.0], [1.0])
    assert set(db.query('{__name__=~".+"}', time=1, wide=True).columns) == {
        "timestamp", 'timestamp{__kind="x", "odd name"="v"}', '{"odd.metric"}',
    }  # fmt: skip


def test_too_wide_a_frame_is_refused_with_the_remedy():
    db = mdb.Database(max_samples=100_000)
    refs = db.register(pl.DataFrame({"i": [str(i) for i in range(10_001)]}).with_columns(__name__=pl.lit("m")))
    db.append_batch(refs, 1.0, np.ones(len(refs)))
    with pytest.raises(mdb.QueryLimit, match=r"10001 needed, 10000 allowed; aggregate.*topk.*wide=False"):
        db.query("m", time=1, wide=True)
    assert db.query("m", time=1).height == 10_001
    # Every series has a time of its own: few samples, but a cell for each series and time.
    some = refs[:400]
    db.append_batch(some, np.arange(len(some)) + 100.0, np.ones(len(some)))
    with pytest.raises(mdb.QueryLimit, match="159201 needed, 100000 allowed"):
        db.query("m[400s]", time=500, wide=True)


def test_label_columns_are_strings_in_order_with_nulls():
    db = mdb.Database()
    for i in range(40_000):
        if i < 3 or i >= 39_990:
            db.append({"__name__": "m", "i": f"{i:05}", **({"rare": "here"} if i == 39_995 else {})}, [1.0], [i])
    frame = db.query("m", time=1)
    assert frame.schema == {
        "__name__": pl.String, "i": pl.String, "rare": pl.String,
        "timestamp": pl.Datetime("ms", "UTC"), "value": pl.Float64,
    }  # fmt: skip
    assert frame["i"].str.to_integer().to_list() == frame["value"].to_list()
    assert frame.filter(pl.col("rare") == "here")["value"].to_list() == [39_995.0]
    assert frame["rare"].null_count() == frame.height - 1


def test_more_series_than_one_block_of_labels():
    db = mdb.Database()
    count = 40_000
    labels = pl.DataFrame({"i": np.arange(count)}).select(
        pl.lit("m").alias("__name__"),
        pl.col("i").cast(pl.String).str.zfill(6),
        pl.when(pl.col("i") % 3 > 0).then((pl.col("i") % 7).cast(pl.String)).alias("mod"),
    )
    db.append_batch(db.register(labels), 1.0, np.arange(count, dtype=float))
    frame = db.query("m", time=1)
    assert frame.select("__name__", "i", "mod").equals(labels)
    assert frame["value"].to_list() == list(range(count))


@pytest.mark.parametrize("method", ["m4", "minmax", "lttb", "minmax_lttb"])
def test_points_leave_of_each_series_what_the_expressions_choose(method):
    db = mdb.Database()
    rng = np.random.default_rng(2)
    for name in "ab":
        db.append({"__name__": "m", "host": name}, np.arange(1_000, 2_000), rng.normal(size=1_000))
    whole = db.query_range("m", 1_000, 1_999, 1)
    thin = db.query_range("m", 1_000, 1_999, 1, points=40, method=method)
    mask = getattr(pl.col("value").metricsdb, method)("timestamp", 40)
    assert thin.equals(whole.filter(mask.over("host")))
    assert 0 < thin.height <= 80
    assert db.query_range("m", 1_000, 1_999, 1, points=5_000, method=method).equals(whole)


def test_points_that_mean_nothing_are_refused():
    db = mdb.Database()
    for wrong in ({"points": 0}, {"points": 3}, {"points": 40, "wide": True}, {"points": 40, "method": "mean"}):
        with pytest.raises(mdb.ConfigError, match="points|method"):
            db.query_range("m", 1_000, 1_100, 1, **wrong)
