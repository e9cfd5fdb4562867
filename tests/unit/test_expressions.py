"""The kernels as Polars expressions, beside slow models, in every context that Polars has."""

from __future__ import annotations

import itertools
import math
import statistics
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

import metricsdb as mdb

START = 1_700_000_100_000
EVERY = 60_000


def frame(rows: int = 500, seed: int = 1) -> pl.DataFrame:
    """Two series of irregular times, with nulls, a NaN and resets, sorted by series and time."""
    rng = np.random.default_rng(seed)
    parts = []
    for name in ("a", "b"):
        times = START + np.cumsum(rng.integers(1, 40_000, rows))
        values = np.cumsum(rng.integers(0, 9, rows)).astype(float)
        values[rows // 2 :] -= values[rows // 2]
        part = pl.DataFrame({"series": [name] * rows, "timestamp": times.view("datetime64[ms]"), "value": values})
        parts.append(part)
    whole = pl.concat(parts).with_row_index()
    return whole.with_columns(pl.when(pl.col("index") % 37 != 5).then("value").alias("value")).drop("index")


def rollup_model(part: pl.DataFrame, every: int, offset: int = 0) -> list[dict]:
    buckets: dict[int, list[tuple[int, float]]] = {}
    for at, value in zip(part["timestamp"].dt.epoch("ms"), part["value"], strict=True):
        if value is not None:
            buckets.setdefault(-(-(at - offset) // every) * every + offset, []).append((at, value))
    rows = []
    for end, samples in sorted(buckets.items()):
        values = [v for _, v in samples]
        resets = sum(a for a, b in itertools.pairwise(values) if b < a)
        rows.append({
            "time": end, "count": len(values), "sum": math.fsum(values), "min": min(values), "max": max(values),
            "first": values[0], "last": values[-1], "first_time": samples[0][0], "last_time": samples[-1][0],
            "stddev": round(statistics.pstdev(values), 9), "increase": values[-1] - values[0] + resets,
        })  # fmt: skip
    return rows


def as_model(structs: pl.Series) -> list[dict]:
    unnested = structs.struct.unnest()
    times = [c for c in unnested.columns if c.endswith("time")]
    assert all(unnested[c].dtype == pl.Datetime("ms", "UTC") for c in times)
    return unnested.with_columns(pl.col(times).dt.epoch("ms"), pl.col("stddev").round(9)).to_dicts()


@pytest.mark.parametrize("offset", [0, 7_000])
def test_rollup_is_what_a_slow_model_makes_of_each_bucket(offset):
    for part in frame().partition_by("series"):
        got = part.select(pl.col("value").metricsdb.rollup("timestamp", "1m", f"{offset}ms")).to_series()
        assert as_model(got) == rollup_model(part, EVERY, offset)


def test_rollup_in_a_group_and_lazily():
    rolled = pl.col("value").metricsdb.rollup("timestamp", 60)
    eager = frame().group_by("series", maintain_order=True).agg(rolled)
    lazy = frame().lazy().group_by("series", maintain_order=True).agg(rolled)
    assert lazy.collect_schema() == eager.schema
    assert_frame_equal(lazy.collect(), eager)
    for part, structs in zip(frame().partition_by("series"), eager["value"], strict=True):
        assert as_model(structs) == rollup_model(part, EVERY)


def test_rollup_leaves_staleness_markers_out_and_counts_other_nan():
    stale = np.array([0x7FF0_0000_0000_0002], "<u8").view("<f8")[0]
    times = np.array([START, START + 1, START + 2], "<i8")
    part = pl.DataFrame({"timestamp": times, "value": np.array([1.0, stale, math.nan])})
    record = part.select(pl.col("value").metricsdb.rollup("timestamp", "1h")).to_series().struct.unnest()
    assert record["count"].to_list() == [2]
    assert record["min"].to_list() == [1.0]


def test_times_may_be_of_any_unit_and_zone():
    part = frame().filter(pl.col("series") == "a")
    rolled = pl.col("value").metricsdb.rollup("timestamp", "1m")
    expected = part.select(rolled)
    for column in (
        pl.col("timestamp").cast(pl.Datetime("us")),
        pl.col("timestamp").cast(pl.Datetime("ns", "UTC")),
        pl.col("timestamp").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
        pl.col("timestamp").dt.epoch("ms"),
    ):
        assert_frame_equal(part.with_columns(column).select(rolled), expected)


def test_anomalies_deviations_and_the_points_kept_are_one_story():
    rng = np.random.default_rng(3)
    values = rng.normal(size=3000)
    values[[500, 1500, 2500]] += [30, -30, 12]
    part = pl.DataFrame({"value": values})
    value = pl.col("value").metricsdb
    got = part.select(
        value.deviations().alias("deviation"),
        value.anomalies(threshold=6).alias("hot"),
        value.keep(10, threshold=6, fill=False).alias("kept"),
        value.keep(7, threshold=6, neighbours=1, fill=False).alias("seven"),
        value.keep(60).alias("filled"),
    )
    assert got["hot"].arg_true().to_list() == [500, 1500, 2500]
    assert_series_equal(got["hot"], got["deviation"] > 6, check_names=False)
    assert_series_equal(got["kept"], got["hot"], check_names=False)
    assert got["seven"].sum() == 7
    assert got["seven"].gather([500, 1500, 2500]).all()
    assert got["filled"].sum() == 60
    # Over groups each stands alone.
    doubled = pl.concat([part.with_columns(g=pl.lit(g)) for g in "xy"])
    over = doubled.select(value.keep(60).over("g"))["value"]
    assert_series_equal(over, pl.concat([got["filled"]] * 2), check_names=False)


def test_null_and_nan_are_never_anomalies_nor_kept():
    part = pl.DataFrame({"value": [1.0, None, math.nan, 2.0, 1.0] * 50})
    got = part.select(
        pl.col("value").metricsdb.anomalies().alias("hot"), pl.col("value").metricsdb.keep(1000).alias("kept")
    )
    assert got["hot"].sum() == 0
    assert_series_equal(got["kept"], part["value"].is_not_nan().fill_null(False), check_names=False)


@pytest.mark.parametrize("method", ["m4", "minmax", "lttb", "minmax_lttb"])
def test_decimation_masks_rows_of_each_series(method):
    whole = frame()
    mask = getattr(pl.col("value").metricsdb, method)("timestamp", 80)
    thin = whole.filter(mask.over("series"))
    for part, full in zip(thin.partition_by("series"), whole.partition_by("series"), strict=True):
        assert 40 <= part.height <= 80
        assert part["value"].null_count() == 0
        assert_frame_equal(full.filter(mask), part)
        if method in ("m4", "minmax"):
            assert (part["value"].min(), part["value"].max()) == (full["value"].min(), full["value"].max())


def test_rate_is_promql_s():
    whole = frame().drop_nulls()
    db = mdb.Database()
    rated = whole.with_columns(rate=pl.col("value").metricsdb.rate("timestamp", "5m").over("series"))
    for name in ("a", "b"):
        part = rated.filter(pl.col("series") == name)
        [ref] = db.register([{"__name__": "x_total", "series": name}])
        refs = np.full(part.height, ref, np.uint64)
        db.append_batch(refs, part["timestamp"].to_numpy(), part["value"].to_numpy())
        for row in part.gather([0, 1, 17, 250, 251, 260, 400, 480]).iter_rows(named=True):
            at: datetime = row["timestamp"]
            answer = db.query(f'rate(x_total{{series="{name}"}}[5m])', at.replace(tzinfo=UTC))
            expected = answer["value"][0] if answer.height else None
            assert row["rate"] == expected


def test_sketches_are_within_one_percent_and_merge():
    rng = np.random.default_rng(5)
    values = np.exp(rng.normal(3, 2, 20_000))
    part = pl.DataFrame({"g": rng.integers(0, 50, 20_000), "value": values})
    sketches = part.group_by("g").agg(pl.col("value").metricsdb.sketch().alias("s"))
    assert sketches.schema["s"] == pl.Binary
    merged = sketches.select(pl.col("s").metricsdb.merge_sketches())
    assert merged.height == 1
    for q in (0.5, 0.9, 0.99, 0.999):
        exact = np.quantile(values, q)
        got = merged.select(pl.col("s").metricsdb.sketch_quantile(q)).item()
        assert abs(got - exact) <= 0.01 * exact
        assert part.select(pl.col("value").metricsdb.quantile_sketch(q)).item() == got
    small = part.select(pl.col("value").metricsdb.sketch(bytes_max=40)).item()
    assert len(small) <= 40


def test_quantiles_row_by_row_and_of_nothing():
    part = pl.DataFrame({"value": [None, math.nan]}, schema={"value": pl.Float64})
    empty = part.select(pl.col("value").metricsdb.sketch())
    both = pl.concat([empty, pl.DataFrame({"value": [None]}, schema={"value": pl.Binary})])
    assert both.select(pl.col("value").metricsdb.sketch_quantile(0.5)).to_series().to_list() == [None, None]


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        (pl.col("value").metricsdb.anomalies(window=60), "window"),
        (pl.col("value").metricsdb.anomalies(threshold=0), "threshold"),
        (pl.col("value").metricsdb.keep(-1), "negative"),
        (pl.col("value").metricsdb.m4("timestamp", 3), "points"),
        (pl.col("value").metricsdb.rate(pl.col("timestamp").reverse(), "1m"), "timestamps go back"),
        (pl.col("value").metricsdb.rollup(pl.lit(None, pl.Int64), "1m"), "timestamp"),
        (pl.lit(b"nonsense").metricsdb.sketch_quantile(0.5), "sketch"),
    ],
)
def test_wrong_options_are_named(expression, said):
    with pytest.raises(pl.exceptions.ComputeError, match=said):
        frame().filter(pl.col("series") == "a").select(expression)


def test_lengths_of_nothing_are_refused_before_anything_runs():
    for build in (
        lambda e: e.rollup("timestamp", "0s"),
        lambda e: e.rate("timestamp", 0),
    ):
        with pytest.raises(mdb.ConfigError, match="longer than zero"):
            build(pl.col("value").metricsdb)


def test_empty_frames_give_empty_answers():
    none = frame().clear()
    value = pl.col("value").metricsdb
    assert none.select(value.rollup("timestamp", "1m")).height == 0
    assert none.select(value.keep(10), rate=value.rate("timestamp", "1m"), m4=value.m4("timestamp", 10)).height == 0
