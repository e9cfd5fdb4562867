"""Records are what the model says, whatever comes late, in whatever chain; windows of whole buckets as of samples."""

from __future__ import annotations

import math
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.testing import FakeClock
from tests.twins.rollups import buckets, over

WIDTHS = [60, 300, 1800]
LINE = "1m -> 5m -> 30m"
VALUES = st.integers(0, 40).map(float) | st.floats(-1e6, 1e6, width=32) | st.integers(0, 10**6).map(lambda n: n / 100)
TIMES = st.integers(1, 20_000)
BATCHES = st.lists(st.lists(st.tuples(TIMES, VALUES), min_size=1, max_size=80), min_size=1, max_size=5)


def near(found: float, wanted: float, digits: float = 1e-9) -> bool:
    return math.isclose(found, wanted, rel_tol=digits, abs_tol=digits)


def rolled(batches, *, raw: str = "", kind: str = "counter", keep: str = "") -> tuple[mdb.Database, dict[int, float]]:
    """A database that got the batches one after the other, with a pass after each, and the samples that it took."""
    clock = FakeClock(0)
    db = mdb.Database(clock=clock)
    db.rollups.set("m", f"{raw} -> {LINE}{keep}" if raw else LINE + keep, kind=kind)
    samples: dict[int, float] = {}
    for batch in batches:
        for time, value in batch:
            if db.append({"__name__": "m"}, [float(time)], [value]).accepted:
                samples[time] = value
            else:
                # Only of a time of which no sample is kept any more.
                assert raw
                assert time <= clock.now_ms() / 1000 - 3600
        clock.move(max(max(t for t, _ in batch) + 1 - clock.now_ms() / 1000, 0))
        db.rollups.run()
    return db, samples


@settings(max_examples=150, deadline=None)
@given(BATCHES, st.sampled_from(WIDTHS))
def test_records_are_those_of_the_model(batches, width):
    db, samples = rolled(batches)
    wanted = buckets(samples.items(), width)
    found = db.rollups.records("m", width).with_columns(pl.col(pl.Datetime).dt.timestamp("ms") // 1000)
    assert found["timestamp"].to_list() == [b.end for b in wanted]
    for row, bucket in zip(found.iter_rows(named=True), wanted, strict=True):
        assert (row["count"], row["resets"]) == (bucket.count, bucket.resets)
        assert (row["first_time"], row["first"]) == bucket.first
        assert (row["last_time"], row["last"]) == bucket.last
        assert (row["min"], row["max"], row["start"]) == (bucket.min, bucket.max, bucket.end - width)
        assert near(row["sum"], bucket.sum, 1e-12 * max(1, bucket.count) * 1e3)
        assert near(row["increase"], bucket.increase)
        assert math.isclose(row["stddev"], bucket.stddev, rel_tol=1e-5, abs_tol=1e-4)
    db._native.check()


FUNCTIONS = ["min_over_time", "max_over_time", "count_over_time", "first_over_time", "last_over_time", "resets"]
SUMS = ["sum_over_time", "avg_over_time", "rate", "increase", "delta"]


@settings(max_examples=120, deadline=None)
@given(BATCHES, st.sampled_from(WIDTHS), st.integers(1, 6), st.sampled_from(FUNCTIONS + SUMS))
def test_windows_of_whole_buckets_are_as_of_samples(batches, width, buckets_wide, function):
    """No sample that is older than an hour is left, nor a record of minutes that is older than two."""
    plain = mdb.Database()
    db, taken = rolled(batches, raw="raw 1h")
    plain.append({"__name__": "m"}, [float(t) for t in taken], list(taken.values()))
    window, end = width * buckets_wide, (max(taken) // width + 1) * width
    expr = f"{function}(m[{window}s])"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mdb.QueryWarning)
        start = width
        wanted = plain.query_range(expr, start, end, width)
        found = db.query_range(expr, start, end, width)
    if width != WIDTHS[0]:
        # Finer records stand for them: these buckets are whole, too.
        assert width % WIDTHS[0] == 0
    assert found["timestamp"].to_list() == wanted["timestamp"].to_list()
    for a, b in zip(found["value"], wanted["value"], strict=True):
        assert a == b if function in FUNCTIONS else near(a, b), (a, b)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=100, max_size=600), st.integers(0, 200))
def test_no_sample_that_strays_vanishes_unreported(values, spike_at):
    """Each that lies above the threshold is kept, or counted in its bucket."""
    values = [v / 1e6 for v in values]
    values[spike_at % len(values)] = 1e9
    db, samples = rolled([[(15 * (i + 1), v) for i, v in enumerate(values)]], kind="gauge", keep=" keep 1% above 5")
    kept = db.rollups.kept("m")
    reported = int(db.rollups.records("m", 60)["unkept"].sum())
    last = max(samples) // 60 * 60
    spike = 15 * (spike_at % len(values) + 1)
    if spike <= last:
        times = (kept["timestamp"].dt.timestamp("ms") // 1000).to_list() if kept.height else []
        assert spike in times or reported > 0


def test_a_window_that_cuts_buckets_says_so():
    db, samples = rolled([[(15 * (i + 1), float(i % 50)) for i in range(1200)]], raw="raw 1h", kind="gauge")
    with pytest.warns(mdb.QueryInfo, match="only rollups of 1m are left here"):
        found = db.query("max_over_time(m[10m])", time=7217.0)
    true = max(v for _, v in over(samples.items(), 6617, 7217))
    assert abs(found["value"][0] - true) <= 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = db.query("max_over_time(m[10m])", time=7200.0)
    assert whole["value"][0] == max(v for _, v in over(samples.items(), 6600, 7200))


# Answered by records even where all samples are there: the answer must be the same to the last bit.
SAME = ["min_over_time", "max_over_time", "count_over_time", "first_over_time", "last_over_time", "present_over_time"]
SAME += ["resets", "delta", "increase", "rate"]
DENSE = st.lists(st.integers(1, 3), min_size=300, max_size=2500)
MANTISSAS = st.sampled_from([0.0, -0.0, 0.1, 1.0, 3.3, -7.25, 1e300, math.nan, 5e-324])


@settings(max_examples=60, deadline=None)
@given(
    DENSE,
    st.sampled_from(WIDTHS),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(SAME),
    st.booleans(),
    st.data(),
)
def test_records_say_the_same_bit_by_bit_while_samples_are_there(gaps, width, wide, every, function, counter, data):
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    times = np.cumsum(np.array(gaps, dtype=float))
    if counter:
        values = np.cumsum(rng.gamma(1, 3, len(times)))
        for reset in rng.integers(0, len(times), data.draw(st.integers(0, 5))):
            values[reset:] -= values[reset]
    else:
        values = rng.normal(size=len(times)).round(data.draw(st.integers(0, 12)))
        for odd in data.draw(st.lists(MANTISSAS, max_size=30)):
            values[rng.integers(0, len(values))] = odd
    plain, clock = mdb.Database(), FakeClock(int(times[-1]) * 1000)
    db = mdb.Database(clock=clock)
    db.rollups.set("m", LINE, kind="counter" if counter else "gauge")
    late = rng.integers(0, len(times), 3)
    on_time = np.setdiff1d(np.arange(len(times)), late)
    for target in (plain, db):
        target.append({"__name__": "m"}, times[on_time], values[on_time])
    db.rollups.run()
    for target in (plain, db):
        target.append({"__name__": "m"}, times[late], values[late])
        target.reencode()
    if data.draw(st.booleans()):
        db.rollups.run()
    expr = f"{function}(m[{width * wide}s])"
    grid = (width, float(times[-1]) // width * width, width * every)
    if grid[0] > grid[1]:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, wanted = (d.query_range(expr, *grid, cache=False) for d in (db, plain))
    assert found["timestamp"].to_list() == wanted["timestamp"].to_list()
    bits = [f["value"].to_numpy().view(np.uint64).tolist() for f in (found, wanted)]
    assert bits[0] == bits[1]


STATES = st.lists(
    st.tuples(st.integers(1, 200), st.sampled_from([0.0, 1.0, 2.0, 0.5, -3.0]) | st.integers(0, 30).map(float)),
    min_size=1,
    max_size=300,
)


@settings(max_examples=40, deadline=None)
@given(STATES, st.sampled_from(WIDTHS), st.booleans())
def test_states_are_how_often_and_how_long_each_value_was_seen(steps, width, quantiles):
    times = np.cumsum([gap for gap, _ in steps])
    batch = [(int(t), v) for t, (_, v) in zip(times, steps, strict=True)]
    words = " with quantiles and states" if quantiles else " with states"
    late = batch[len(batch) // 3 :: 7]
    batches = [part for part in ([s for s in batch if s not in late], late) if part]
    db, samples = rolled(batches, kind="gauge", keep=words)
    wanted: dict[tuple[int, float], list[float]] = {}
    ordered = sorted(samples.items())
    # A first sample at the very end of its bucket waits for the next one.
    levels = db.rollups.levels().filter(pl.col("level") == {60: "1m", 300: "5m", 1800: "30m"}[width])
    made = levels["end"].dt.timestamp("ms").max() // 1000 if levels.height else 0
    for i, (time, value) in enumerate(ordered):
        end = -(-time // width) * width
        until = ordered[i + 1][0] if i + 1 < len(ordered) else end
        entry = wanted.setdefault((end, value), [0, 0.0])
        entry[0] += 1
        entry[1] += min(until, end) - time
    full = {end for end, _ in wanted if sum(e == end for e, _ in wanted) > 16}
    # What a wider bucket comes of must have states.
    for finer in WIDTHS[: WIDTHS.index(width)]:
        values = {(-(-t // finer) * finer, v) for t, v in ordered}
        full |= {-(-end // width) * width for end, _ in values if sum(e == end for e, _ in values) > 16}
    found = db.rollups.states("m", width).with_columns(pl.col("timestamp").dt.timestamp("ms") // 1000)
    rows = {(r["timestamp"], r["value"]): [r["count"], r["seconds"]] for r in found.iter_rows(named=True)}
    assert rows == {key: entry for key, entry in wanted.items() if key[0] <= made and key[0] not in full}
    db._native.check()


def test_states_survive_and_say_quantiles(tmp_path):
    clock = FakeClock(7200_000)
    line = "raw 10m -> 1m 30m -> 10m with states"
    with mdb.Database(tmp_path, clock=clock, durability="batch", rollups={"up": line}) as db:
        times = np.arange(15.0, 7200.0, 15.0)
        db.append({"__name__": "up"}, times, (times % 600 < 450).astype(float))
        db.rollups.run()
        before = db.rollups.states("up", "10m")
        db.checkpoint()
    with mdb.Database(tmp_path, clock=clock, durability="batch", rollups={"up": line}) as db:
        assert db.rollups.states("up", "10m").equals(before)
        assert before.filter(pl.col("value") == 0.0)["seconds"].unique().to_list() == [150.0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = db.query("quantile_over_time(0.5, up[10m])", time=3600.0)
        assert found["value"].to_list() == [pytest.approx(1.0, rel=0.01)]
        assert db.rollups.list()["policy"].to_list() == ["raw 10m -> 1m 30m -> 10m with states"]
