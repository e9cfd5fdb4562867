"""Charts: as few samples as the pixels need, and none that changes the picture."""

from __future__ import annotations

import io
import itertools
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb import charts

T0 = 1_700_000_000


def database(count: int = 5_000) -> mdb.Database:
    db = mdb.Database()
    for job, code in itertools.product(("api", "db"), ("200", "500")):
        values = np.sin(np.arange(count) / 50) * len(job) + int(code)
        db.append({"__name__": "m", "env": "prod", "job": job, "code": code}, T0 + np.arange(count) * 15, values)
    return db


def drawn(chart) -> pl.DataFrame:
    data = chart.data.to_dict()
    assert data["format"]["type"] == "csv"
    return pl.read_csv(io.StringIO(data["values"]), schema_overrides={"series": pl.String}, try_parse_dates=True)


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10_000), st.integers(-5, 5)), min_size=1, max_size=300),
    columns=st.integers(1, 50),
)
@settings(max_examples=150, deadline=None)
def test_every_pixel_column_keeps_its_first_last_least_and_most(rows, columns):
    once = {(s, t): v for s, t, v in rows}
    frame = pl.DataFrame(
        [(str(s), t, float(v)) for (s, t), v in once.items()], orient="row",
        schema={"series": pl.String, "timestamp": pl.Datetime("ms", "UTC"), "value": pl.Float64},
    )  # fmt: skip
    thin = charts.thin(frame, columns)
    first, last = min(t for _, t in once), max(t for _, t in once)

    def of(rows):
        cells: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for series, at, value in rows:
            cells.setdefault((series, (at - first) * columns // (last - first + 1)), []).append((at, value))
        return {
            key: (min(c)[0], dict(c)[min(c)[0]], max(c)[0], dict(c)[max(c)[0]], min(v for _, v in c),
                  max(v for _, v in c))
            for key, c in cells.items()
        }, max(len(c) for c in cells.values())  # fmt: skip

    kept, most = of(thin.with_columns(pl.col("timestamp").dt.epoch("ms")).rows())
    assert kept == of((str(s), t, float(v)) for (s, t), v in once.items())[0]
    assert most <= 4
    assert thin.equals(thin.sort("series", "timestamp"))


@given(
    series=st.lists(
        st.tuples(*[st.sampled_from(["x", "y", None])] * 4), min_size=1, max_size=12, unique=True
    ).map(lambda rows: pl.DataFrame(rows, schema=dict.fromkeys("abcd", pl.String), orient="row"))
)  # fmt: skip
def test_the_legend_tells_series_apart_by_few_labels(series):
    chosen = charts.distinguishing(series)
    assert series.height == 1 or series.n_unique(chosen) == series.height
    for label in chosen:
        assert series[label].n_unique() > 1


def test_lines_are_thinned_and_named_by_what_tells_them_apart():
    db = database()
    frame = db.query_range("m", T0, T0 + 5_000 * 15, "15s")
    chart = mdb.plot(frame, width=100, title="all of m")
    spec = chart.to_dict()
    assert spec["mark"]["type"] == "line"
    assert spec["title"] == "all of m"
    assert set(spec["encoding"]["color"]["title"].split(", ")) == {"job", "code"}
    rows = drawn(chart)
    assert rows["series"].n_unique() == 4
    assert 4 * 100 < rows.height <= 4 * 400
    assert rows["value"].max() == frame["value"].max()


def test_a_wide_frame_is_drawn_like_a_long_one():
    db = database(200)
    args = ("sum by (job) (m)", T0, T0 + 200 * 15, "15s")
    long, wide = drawn(mdb.plot(db.query_range(*args))), drawn(mdb.plot(db.query_range(*args, wide=True)))
    assert long.drop("series").sort("timestamp", "value").equals(wide.drop("series").sort("timestamp", "value"))
    assert wide["series"].unique().sort().to_list() == ['{job="api"}', '{job="db"}']


def test_a_line_is_broken_where_samples_are_missing_and_nowhere_else():
    db = mdb.Database()
    at = np.r_[np.arange(0, 3_000, 10), np.arange(6_000, 9_000, 10)]
    db.append({"__name__": "m"}, T0 + at, np.sin(at))
    rows = drawn(mdb.plot(db.select("m", T0, T0 + 9_000), width=50)).sort("timestamp")
    (gap,) = rows.with_row_index().filter(pl.col("value").is_null())["index"].to_list()
    before, after = rows["timestamp"][gap - 1], rows["timestamp"][gap + 1]
    assert (before.timestamp() - T0, after.timestamp() - T0) == (2_990, 6_000)


def test_one_series_needs_no_legend_and_one_time_gives_bars():
    db = database(200)
    assert "color" not in mdb.plot(db.query_range("sum(m)", T0, T0 + 600, 15)).to_dict()["encoding"]
    bars = mdb.plot(db.query("m", T0 + 600)).to_dict()
    assert bars["mark"]["type"] == "bar"


@pytest.mark.parametrize(
    ("unit", "top", "label"),
    [("bytes", 3.5 * 2**30, "GiB"), ("seconds", 0.004, "ms"), ("seconds", 7_000.0, "h"), ("ratio", 0.9, "%")],
)
def test_the_axis_has_round_numbers_of_the_unit(unit, top, label):
    db = mdb.Database()
    db.append({"__name__": "m"}, T0 + np.arange(10) * 15, np.linspace(0, top, 10))
    axis = mdb.plot(db.query_range("m", T0, T0 + 135, 15), unit=unit).to_dict()["encoding"]["y"]["axis"]
    assert label in axis["labelExpr"]
    assert len(axis.get("values", range(5))) in range(3, 10)


def test_constant_and_zero_lines_have_an_axis():
    db = mdb.Database()
    for value in (0.0, -5.0, 1e300):
        db.append({"__name__": "m"}, [T0, T0 + 15], [value, value])
        for unit in ("number", "bytes", "seconds", "ratio"):
            mdb.plot(db.query_range("m", T0, T0 + 15, 15), unit=unit).to_dict()


def test_what_cannot_be_drawn_is_refused_with_the_remedy(monkeypatch):
    db = database(10)
    frame = db.query_range("m", T0, T0 + 100, 15)
    for wrong, options, message in [
        (frame, {"series_max": 3}, r"4 series.*topk\(10"),
        (frame, {"unit": "apples"}, "use number, bytes"),
        (frame, {"width": 0}, "no room"),
        (frame.head(0), {}, "widen the time range"),
        (db.query("nothing", wide=True), {}, "widen the time range|no number"),
        (frame.drop("timestamp"), {}, "no column 'timestamp'"),
        (db.query('"text"'), {}, "only numbers"),
    ]:
        with pytest.raises(mdb.ConfigError, match=message):
            mdb.plot(wrong, **options)
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(mdb.ConfigError, match="pip install altair"):
        mdb.plot(frame)
