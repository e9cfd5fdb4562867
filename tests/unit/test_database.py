"""The public face: what each call takes, gives and refuses."""

from __future__ import annotations

import inspect
import signal
import time
import warnings

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import metricsdb as mdb
from metricsdb.testing import FakeClock

T0 = 1_700_000_000


@pytest.fixture
def db() -> mdb.Database:
    database = mdb.Database(clock=FakeClock(T0 * 1000))
    for code, factor in (("200", 10), ("500", 1)):
        database.append(
            {"__name__": "http_requests_total", "service": "api", "code": code},
            np.arange(T0 - 600, T0 + 1, 15),
            np.arange(41.0) * factor,
        )
    return database


def test_a_query_gives_labels_time_and_value(db: mdb.Database) -> None:
    frame = db.query("sum by (code) (rate(http_requests_total[5m]))")
    assert frame.schema == {"code": pl.String, "timestamp": pl.Datetime("ms", "UTC"), "value": pl.Float64}
    assert dict(zip(frame["code"], frame["value"], strict=True)) == pytest.approx({"200": 10 / 15, "500": 1 / 15})


def test_a_range_query_can_be_wide(db: mdb.Database) -> None:
    long = db.query_range("http_requests_total", T0 - 60, T0, "15s")
    assert long.height == 10
    wide = db.query_range("http_requests_total", "-1m", "now", 15, wide=True)
    assert wide.columns == [
        "timestamp",
        'http_requests_total{code="200", service="api"}',
        'http_requests_total{code="500", service="api"}',
    ]
    assert wide.height == 5


def test_scalars_strings_and_raw_ranges_are_frames_too(db: mdb.Database) -> None:
    assert db.query("1 + 1")["value"].to_list() == [2.0]
    assert db.query('"text"')["value"].to_list() == ["text"]
    assert db.query('http_requests_total{code="200"}[1m]').height == 4
    assert db.query("nothing_here").height == 0


def test_annotations_are_python_warnings(db: mdb.Database) -> None:
    db.append({"__name__": "temperature"}, [T0 - 30, T0], [1.0, 2.0])
    with pytest.warns(mdb.QueryInfo, match="might not be a counter"):
        db.query("rate(temperature[5m])")
    with pytest.warns(mdb.QueryWarning, match="quantile value should be between 0 and 1"):
        db.query("quantile(2, temperature)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        db.query("temperature")


def test_select_and_scan_give_the_same_raw_samples(db: mdb.Database) -> None:
    selected = db.select('http_requests_total{code="200"}', "-1m", "now")
    assert selected.columns == ["series", "__name__", "code", "service", "timestamp", "value"]
    scanned = (
        db.scan("http_requests_total")
        .filter(
            pl.col("code") == "200", pl.col("timestamp") >= pl.lit(T0 - 60).mul(1000).cast(pl.Datetime("ms", "UTC"))
        )
        .collect()
    )
    assert scanned.sort("timestamp").equals(selected.sort("timestamp"))
    assert db.scan("http_requests_total").select(pl.len()).collect().item() == 82
    assert db.scan("http_requests_total").head(3).collect().height == 3


def test_raw_samples_are_numpy_arrays_of_their_kind(db: mdb.Database) -> None:
    db.append({"__name__": "exact"}, [T0], [2**62 + 1])
    (row,) = db.raw("exact", T0, T0)
    assert row.labels == {"__name__": "exact"}
    assert row.values.dtype == np.int64
    assert row.values.tolist() == [2**62 + 1]
    assert row.timestamps.tolist() == [T0 * 1000]
    assert db.raw('http_requests_total{code="200"}', T0, T0)[0].values.dtype == np.float64


def test_series_and_labels_can_be_listed(db: mdb.Database) -> None:
    assert db.series("http_requests_total").height == 2
    assert db.series('{code="500"}', '{code="200"}', start="-1m").height == 2
    assert db.series("http_requests_total", start=0, end=1).height == 0
    assert db.label_names() == ["__name__", "code", "service"]
    assert db.label_values("code") == ["200", "500"]
    assert db.label_values("code", 'http_requests_total{code!="200"}') == ["500"]
    assert db.label_values("code", end=1) == []


def test_any_arrow_frame_can_be_written() -> None:
    db = mdb.Database()
    table = pa.table(
        {"host": ["a", "b"], "timestamp": pa.array([1000, 2000], pa.timestamp("ms")), "value": pa.array([1, 2])}
    )
    assert db.write(table, name="m").accepted == 2
    assert db.write(pl.DataFrame({"__name__": ["m"], "at": [3.0], "v": [0.5]}), value="v", timestamp="at").accepted == 1
    assert db.raw('m{host="b"}', 0, 10)[0].values.tolist() == [2]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"timestamp": [1.0], "__name__": ["m"]}), "no column 'value'"),
        (pl.DataFrame({"timestamp": [1.0], "value": [1.0]}), "no metric name"),
        (pl.DataFrame({"timestamp": [1.0], "value": ["x"], "__name__": ["m"]}), "must be numbers"),
        (pl.DataFrame({"timestamp": [1.0], "value": [1.0], "__name__": ["m"], "tags": [["a"]]}), "tags: List"),
        ([1, 2], "is no frame"),
    ],
)
def test_a_wrong_frame_is_refused_with_the_remedy(frame: object, message: str) -> None:
    db = mdb.Database()
    with pytest.raises(mdb.WriteError, match=message):
        db.write(frame)
    assert db.series().height == 0


def test_wrong_columns_are_refused_and_change_nothing(db: mdb.Database) -> None:
    before = db.stats()
    refs = db.register([{"__name__": "http_requests_total", "service": "api", "code": "200"}])
    with pytest.raises(mdb.WriteError, match="differ in length"):
        db.append_batch(refs, [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(mdb.WriteError, match="timestamps but"):
        db.append({"__name__": "m"}, [1.0, 2.0], [1.0])
    with pytest.raises(mdb.WriteError, match="dtype <U1"):
        db.append({"__name__": "http_requests_total", "service": "api", "code": "200"}, [1.0], ["x"])
    report = db.append_batch(np.array([2**40], dtype=np.uint64), [1.0], [1.0])
    assert report.rejected["unknown_series"].count == 1
    assert db.stats().equals(before)


def test_query_errors_say_where_and_what(db: mdb.Database) -> None:
    with pytest.raises(mdb.ParseError, match="unknown function") as caught:
        db.query("sum(rat(x[5m]))")
    assert (caught.value.line, caught.value.column) == (1, 5)
    assert "rate" in (caught.value.remedy or "")
    with pytest.raises(mdb.ExecutionError, match=r"many-to-many|duplicate series|many matches"):
        db.query("http_requests_total + on (service) http_requests_total")
    with pytest.raises(mdb.ConfigError, match="step"):
        db.query_range("http_requests_total", 0, 1, "0s")
    limited = mdb.Database(max_samples=10)
    limited.append({"__name__": "m"}, np.arange(100.0), np.arange(100.0))
    with pytest.raises(mdb.QueryLimit, match="10 allowed"):
        limited.query("sum_over_time(m[10m])", time=99)


def test_a_query_that_runs_too_long_times_out() -> None:
    db = mdb.Database(query_timeout=0.05, max_samples=2**62)
    db.append({"__name__": "m"}, np.arange(20_000.0), np.arange(20_000.0))
    with pytest.raises(mdb.QueryTimeout, match="50 ms"):
        db.query("sum_over_time(quantile_over_time(0.5, m[1h])[5h:10ms])", time=20_000)


def test_ctrl_c_stops_a_query_and_the_database_goes_on() -> None:
    db = mdb.Database()
    db.append({"__name__": "m"}, np.arange(20_000.0), np.arange(20_000.0))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before, begun = signal.signal(signal.SIGALRM, interrupt), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            db.query("sum_over_time(quantile_over_time(0.5, m[5h])[5h:5ms])", time=20_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # On its own it goes on for a minute and more, and the interrupt would be raised behind it.
    assert time.monotonic() - begun < 20
    assert db.query("count_over_time(m[1h])", time=19_999)["value"].to_list() == [3600.0]


def test_memory_and_stats_account_for_what_is_there(db: mdb.Database) -> None:
    stats = dict(db.stats().iter_rows())
    assert stats["series"] == 2
    assert stats["samples"] == 82
    assert db.memory()["bytes"].sum() > 0
    assert db.memory()["part"].is_unique().all()


def test_a_closed_database_is_empty(db: mdb.Database) -> None:
    with db:
        pass
    assert dict(db.stats().iter_rows())["series"] == 0


@pytest.mark.parametrize(
    "options",
    [{"duplicates": "newest"}, {"lookback": "0s"}, {"query_timeout": -1}, {"max_samples": 0}, {"lookback": "soon"}],
)
def test_a_wrong_option_is_named(options: dict) -> None:
    with pytest.raises(mdb.ConfigError, match=r"|".join(map(str, options.values())) + "|longer than zero"):
        mdb.Database(**options)


def test_every_export_has_a_docstring() -> None:
    for name in set(mdb.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(mdb, name)), name


def test_nulls_and_times_out_of_bounds_are_refused_not_guessed() -> None:
    db = mdb.Database()
    times = pl.Series([1_000, None], dtype=pl.Datetime("ms"))
    with pytest.raises(mdb.ConfigError, match="1 nulls"):
        db.write(pl.DataFrame({"timestamp": times, "value": [1.0, 2.0], "__name__": ["m", "m"]}))
    with pytest.raises(mdb.WriteError, match="1 nulls"):
        db.append({"__name__": "m"}, [1.0, 2.0], pl.Series([1, None]))
    with pytest.raises(mdb.ConfigError, match="look like milliseconds"):
        db.append({"__name__": "m"}, np.array([np.iinfo(np.int64).min]), [1.0])
    with pytest.raises(mdb.WriteError, match="refs have dtype float64"):
        db.append_batch(np.array([1.5]), [1.0], [1.0])
    with pytest.raises(mdb.WriteError, match="refs have dtype int64"):
        db.append_batch(np.array([-1]), [1.0], [1.0])
    assert db.series().height == 0


def test_wrong_types_are_refused_in_words() -> None:
    db = mdb.Database()
    with pytest.raises(mdb.WriteError, match=r"code=200.*must be text"):
        db.append({"__name__": "m", "code": 200}, [1.0], [1.0])
    with pytest.raises(mdb.WriteError, match="body is str"):
        db.ingest("m 1", "prometheus")
    with pytest.raises(mdb.WriteError, match=r"format.*use prometheus"):
        db.ingest(b"m 1", "csv")


def test_a_mixed_list_of_times_is_taken() -> None:
    db = mdb.Database(clock=FakeClock(T0 * 1000))
    assert db.append({"__name__": "m"}, [5, "now"], [1.0, 2.0]).series_created == 1
    assert db.append({"__name__": "m"}, ["now", 5], [1.0, 2.0]).series_created == 0


def test_times_before_1970_are_ordinary() -> None:
    db = mdb.Database()
    db.append({"__name__": "m"}, [-5.0], [1.0])
    assert dict(db.stats().iter_rows())["first_ms"] == -5_000


def test_staleness_markers_are_no_samples_of_a_frame() -> None:
    db = mdb.Database()
    stale = np.array([0x7FF0000000000002], dtype=np.uint64).view(np.float64)
    db.append({"__name__": "m"}, [1.0, 2.0, 3.0], np.array([1.0, stale[0], float("nan")]))
    assert db.select("m", 0, 10)["value"].to_list()[0] == 1.0
    assert db.select("m", 0, 10).height == 2
    assert db.scan("m").collect().height == 2
    assert len(db.raw("m", 0, 10)[0].values) == 3


def test_labels_that_look_like_columns_or_quotes_stay_apart() -> None:
    db = mdb.Database()
    db.append({"__name__": "m", "value": "a", "label_value": "b"}, [1.0], [1.0])
    assert db.select("m", 0, 10).columns == [
        "series", "__name__", "label_label_value", "label_value", "timestamp", "value",
    ]  # fmt: skip
    db.append({"__name__": "q", "a": 'x", b="y'}, [1.0], [1.0])
    db.append({"__name__": "q", "a": "x", "b": "y"}, [1.0], [1.0])
    assert db.query("q", time=1, wide=True).width == 3


def test_statsd_counters_add_up_apart_for_each_set_of_added_labels() -> None:
    db = mdb.Database()
    for host, count in (("a", 2), ("b", 5), ("a", 1)):
        assert db.ingest(b"hits:%d|c" % count, "statsd", time=count, labels={"host": host}).accepted == 1
    most = {row.labels["host"]: row.values.max() for row in db.raw('hits{host!=""}', 0, 10)}
    assert most == {"a": 3.0, "b": 5.0}
