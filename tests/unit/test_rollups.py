"""Rollup policies: how they are written, when they run, what is left, and what a preview says before."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import metricsdb as mdb
from metricsdb.lifecycle.rollups import RollupEstimate, RollupLevel, RollupPolicy
from metricsdb.testing import FakeClock

T0 = 1_780_000_200  # a multiple of ten minutes
HOUR = 240
RNG = np.random.default_rng(3)


def filled(hours: int = 24, **options: object) -> tuple[mdb.Database, FakeClock]:
    """A counter and a gauge, a sample every 15 s, and a clock that stands at the last."""
    clock = FakeClock((T0 + hours * 3600) * 1000)
    db = mdb.Database(clock=clock, **options)  # type: ignore[arg-type]
    times = T0 + 15.0 * np.arange(1, hours * HOUR + 1)
    db.append({"__name__": "requests_total"}, times, np.cumsum(RNG.poisson(4, len(times))).astype(float))
    db.append(
        {"__name__": "temperature"}, times, np.round(20 + np.sin(times / 900) + RNG.normal(0, 0.1, len(times)), 2)
    )
    return db, clock


def test_a_line_says_what_stays_how_long():
    policy = RollupPolicy.parse("m", "raw 6h -> 1m for 7d, 10m 90d -> 1h keep 1% above 4")
    assert policy.raw_ms == 6 * 3_600_000
    assert policy.levels == (
        RollupLevel(60_000, 7 * 86_400_000),
        RollupLevel(600_000, 90 * 86_400_000),
        RollupLevel(3_600_000, None),
    )
    assert policy.anomalies is not None
    assert (policy.anomalies.share, policy.anomalies.threshold) == (0.01, 4.0)
    assert str(policy) == "raw 6h -> 1m 7d -> 10m 90d -> 1h keep 1% above 4"
    assert RollupPolicy.parse("m", str(policy)) == policy
    assert str(RollupPolicy.parse("m", "none")) == "none"
    assert str(RollupPolicy.parse("m", "1m keep 2% with quantiles")) == "1m keep 2% above 5 with quantiles"
    both = RollupPolicy.parse("m", "1m with states and quantiles")
    assert (both.quantiles, both.states, str(both)) == (True, True, "1m with quantiles and states")
    assert RollupPolicy.parse("m", "1m with states").native[-1] == (False, True, None)
    every = RollupPolicy.parse("m", "1m with 160 Buckets, states and quantiles")
    assert str(every) == "1m with quantiles and states and 160 buckets"
    assert RollupPolicy.parse("m", str(every)) == every
    assert every.native[-1] == (True, True, 160)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1m forever", "'1m forever' is no level"),
        ("raw 6h", "has no level"),
        ("1m -> raw 6h", "raw samples come first"),
        ("1m -> 90s", "90s|1m30s must be a second at least and a multiple"),
        ("1m -> 1m", "multiple of the level before"),
        ("10ms", "a second at least"),
        ("raw 30s -> 1m", "raw samples stay for 30s, less than two buckets of 1m"),
        ("1m 10m -> 1h", "records of 1m stay for 10m, less than two buckets of 1h"),
        ("raw 6h -> 1m 3h -> 10m", "records of 1m must stay longer than raw samples"),
        ("1m keep 0%", "share must be above 0"),
        ("1m with 0 buckets", "a record with 0 buckets can't be; give 1 or more, such as 160"),
        ("1m with many buckets", "'1m with many buckets' is no level"),
    ],
)
def test_a_line_that_cannot_be_done_is_refused(line, why):
    db = mdb.Database()
    with pytest.raises(mdb.ConfigError, match=why):
        db.rollups.set("m", line)
    assert db.rollups.policies == ()


def test_a_selector_that_cannot_be_read_is_named():
    db = mdb.Database(rollups={"m": "1m"})
    with pytest.raises(mdb.ConfigError, match="selector 'x{'"):
        db.rollups.set("x{", "1m")
    with pytest.raises(mdb.ConfigError, match="no policy has the selector 'y'; those that have one: 'm'"):
        db.rollups.remove("y")
    assert db.rollups.list().rows() == [("m", "1m", None)]
    db.rollups.remove("m")
    assert db.rollups.list().is_empty()


def test_ticks_roll_and_let_samples_go():
    db, clock = filled(rollups={'{__name__=~".+"}': "raw 6h -> 1m 12h -> 10m"}, idle_cpu=0)
    tick = db.tick()
    assert tick.rolled.series == 2
    assert tick.rolled.raw_samples > 2 * 17 * HOUR
    levels = db.rollups.levels()
    assert levels["level"].to_list() == ["1m", "10m"]
    # The last bucket waits for late samples.
    assert levels["records"].to_list()[1] == 2 * (24 * 6 - 1)
    assert db.tick().rolled.series == 0
    # Two hours later there are buckets enough again.
    times = clock.now_ms() / 1000 + 15.0 * np.arange(1, 2 * HOUR + 1)
    db.append({"__name__": "temperature"}, times, np.full(len(times), 21.0))
    clock.move(2 * 3600 + 60)
    assert db.tick().rolled.series == 1
    assert db.rollups.done.series == 3
    db._native.check()


def test_the_first_selector_that_takes_a_series_governs_it():
    db, _ = filled(rollups={"temperature": "none", '{__name__=~".+"}': "1m"})
    db.rollups.run()
    assert db.rollups.levels()["series"].to_list() == [1]


def test_records_go_on_into_the_present():
    db, _ = filled(hours=2, rollups={"temperature": "1m"})
    before = db.rollups.records("temperature", "10m")
    db.rollups.run()
    after = db.scan("temperature", level="10m").collect()
    assert before.height == 12
    assert_frame_equal(before, after, rel_tol=1e-4)


def test_a_bucket_is_a_window():
    db, _ = filled(hours=3)
    records = db.rollups.records("requests_total", "10m")
    for at in (3, 9):
        row = records.row(at, named=True)
        time = row["timestamp"].timestamp()
        assert db.query("max_over_time(requests_total[10m])", time=time)["value"][0] == row["max"]
        assert db.query("count_over_time(requests_total[10m])", time=time)["value"][0] == row["count"] == 40


@pytest.mark.parametrize("checkpoint", [False, True])
def test_records_survive_a_restart(tmp_path, checkpoint):
    clock = FakeClock((T0 + 24 * 3600) * 1000)
    lines = {'{__name__=~".+"}': "raw 6h -> 1m -> 10m keep 1%"}
    expr, grid = "sum_over_time(m[1h])", (T0 + 3600, T0 + 24 * 3600, 3600)
    with mdb.Database(tmp_path, clock=clock, rollups=lines) as db:
        times = T0 + 15.0 * np.arange(1, 24 * HOUR + 1)
        values = RNG.normal(0, 1, len(times)).round(2)
        values[700] = 99
        db.append({"__name__": "m"}, times, values)
        assert db.rollups.run().raw_samples > 0
        before = (db.query_range(expr, *grid), db.rollups.kept("m"), db.rollups.levels())
        assert 99.0 in before[1]["value"].to_list()
        if checkpoint:
            db.checkpoint()
    with mdb.Database(tmp_path, clock=clock, rollups=lines) as db:
        after = (db.query_range(expr, *grid), db.rollups.kept("m"), db.rollups.levels())
        db._native.check()
    for a, b in zip(before[:2], after[:2], strict=True):
        assert_frame_equal(a, b)
    assert before[2]["records"].to_list() == after[2]["records"].to_list()


def test_a_sample_too_late_for_its_bucket_is_refused_with_the_reason():
    db, _ = filled(rollups={"temperature": "raw 6h -> 1m"})
    db.rollups.run()
    report = db.append({"__name__": "temperature"}, [T0 + 100.0], [5.0])
    assert report.rejected["out_of_retention"].count == 1
    assert "only rollups are left" in report.rejected["out_of_retention"].example


def test_a_preview_compares_with_the_samples_and_changes_nothing():
    db, _ = filled()
    preview = db.rollups.preview("1m -> 10m", "temperature")
    assert preview.sizes["level"].to_list() == ["raw", "1m", "10m"]
    whole = preview.errors.filter(pl.col("windows") == "whole buckets")
    exact = whole.filter(pl.col("function").is_in(["min", "max", "count", "last"]))
    assert exact["worst_error"].max() == 0.0
    assert whole["missing"].sum() == 0
    assert preview.errors.filter(pl.col("windows") == "any")["worst_error"].max() > 0
    assert db.rollups.levels().is_empty()
    both = db.rollups.preview("10m", '{__name__=~".+"}')
    assert both.errors["points"].max() == 2 * preview.errors.filter(pl.col("level") == "10m")["points"].max()
    counter = db.rollups.preview("1m", "requests_total")
    assert set(counter.errors["function"]) >= {"rate", "increase"}
    assert counter.errors.filter(pl.col("windows") == "whole buckets")["worst_error"].max() < 1e-9
    with pytest.raises(mdb.ConfigError, match="has no sample in this range"):
        db.rollups.preview("1m", "nothing")


def test_retention_lets_samples_of_rolled_series_become_records_first():
    db, clock = filled(rollups={"temperature": "1m"}, retention="2h")
    db.rollups.run()
    clock.move(120)
    db.tick()
    left = db.raw("temperature", T0, "now")
    assert len(left[0].timestamps) < 3 * HOUR
    assert int(db.rollups.records("temperature", "1m")["count"].sum()) == 24 * HOUR
    # Series without a policy lose them for good.
    assert db.query("count_over_time(requests_total[24h])")["value"][0] < 3 * HOUR


def test_quantiles_of_gauges_are_within_one_percent(tmp_path):
    expr, grid = "quantile_over_time(0.99, temperature[2h])", (T0 + 7200, T0 + 16 * 3600, 3600)
    plain, _ = filled()
    wanted = plain.query_range(expr, *grid)
    db, _ = filled(rollups={"temperature": "raw 6h -> 1m 10h -> 10m with quantiles"})
    db.write(plain.select("temperature", T0, T0 + 86_400).select("__name__", "timestamp", "value"))
    db.rollups.run()
    found = db.query_range(expr, *grid)
    assert found.height == wanted.height == 15
    apart = (found["value"] - wanted["value"]).abs() / wanted["value"].abs()
    assert apart.max() < 0.0101


def test_raw_samples_are_those_that_were_written():
    db, _ = filled(rollups={"temperature": "raw 6h -> 1m keep 1%"})
    before = db.select("temperature", T0, T0 + 86_400)
    db.append({"__name__": "temperature"}, [T0 + 7000.0], [90.0])
    db.rollups.run()
    after = db.scan("temperature").collect()
    assert after.height < before.height / 3
    assert 90.0 in after["value"].to_list()
    known = set(zip(before["timestamp"], before["value"], strict=True))
    assert {row for row in zip(after["timestamp"], after["value"], strict=True) if row[1] != 90.0} <= known


def test_a_long_pass_holds_up_no_tick():
    db, _ = filled(rollups={'{__name__=~".+"}': "1m"})
    seen = []

    def beside(share: float, _: object) -> None:
        thread = threading.Thread(target=lambda: seen.append(db.tick().rolled.series), daemon=True)
        thread.start()
        thread.join(20)

    db.rollups.run(progress=beside)
    assert seen == [0]


def test_a_count_of_series_whose_samples_are_gone_says_so():
    db, _ = filled(rollups={"temperature": "raw 6h -> 1m"})
    db.rollups.run()
    with pytest.warns(mdb.QueryInfo, match="only rollups of 1m"):
        assert db.query("count(temperature)", time=T0 + 7207)["value"].to_list() == [1.0]


def test_a_pass_can_be_watched_and_slowed():
    db, _ = filled(rollups={'{__name__=~".+"}': "1m"})
    seen: list[float] = []
    done = db.rollups.run(samples_per_second=1e9, progress=lambda share, _: seen.append(share))
    assert done.samples >= 2 * 24 * HOUR - 8
    assert seen[-1] == 1.0
    assert db.rollups.run().samples == 0


def test_a_preview_is_drawn_with_every_level_and_function():
    pytest.importorskip("altair")
    db, _ = filled(6)
    preview = db.rollups.preview("1m -> 10m", "temperature")
    drawn = preview.plot().to_dict()
    assert drawn["vconcat"][0]["title"] == preview.policy == "1m -> 10m"
    texts = [drawn["datasets"][part["data"]["name"]] for part in drawn["vconcat"]]
    above, below = (pl.read_csv(text.encode()) for text in texts)
    assert above["level"].to_list() == ["raw", "1m", "10m"]
    assert below.height == 2 * preview.errors.height
    assert below["drawn"].min() > 0


def test_an_estimate_says_what_a_pass_would_do_and_changes_nothing():
    db, _ = filled(12)
    assert db.rollups.estimate() == RollupEstimate(0, 0, 0, 0, 0.0, 0)
    db.rollups.set('{__name__=~".+"}', "1m -> 10m")
    estimate = db.rollups.estimate()
    assert db.rollups.levels().is_empty()
    assert (estimate.series, estimate.samples, estimate.tried) == (2, 2 * 12 * HOUR, 2 * 12 * HOUR)
    done = db.rollups.run()
    held = int(db.memory().filter(pl.col("part") == "rollups")["bytes"][0])
    # All was tried: what was told is what it came to, but for the table of the series.
    assert (done.samples, done.records) == (estimate.samples, estimate.records)
    assert estimate.bytes <= held <= estimate.bytes + 10_000
    assert db.rollups.estimate().series == 0


def test_an_estimate_of_many_samples_tries_some(monkeypatch):
    monkeypatch.setattr("metricsdb.lifecycle.rollups.TRIED_SAMPLES", 10_000)
    db, _ = filled(1)
    times = T0 + 15.0 * np.arange(1, HOUR + 1)
    for i in range(400):
        db.append({"__name__": "m", "i": str(i)}, times, np.round(RNG.normal(size=HOUR), 2))
    db.rollups.set("m", "1m")
    estimate = db.rollups.estimate()
    assert estimate.tried < estimate.samples / 5
    done = db.rollups.run()
    assert (done.series, done.samples) == (estimate.series, estimate.samples) == (400, 400 * HOUR)
    assert estimate.records == pytest.approx(done.records, rel=0.05)
    held = int(db.memory().filter(pl.col("part") == "rollups")["bytes"][0])
    assert estimate.bytes == pytest.approx(held, rel=0.2)


def test_a_query_may_choose_the_level_that_answers():
    db, _ = filled(24)
    db.rollups.set("temperature", "1m -> 10m")
    db.rollups.run()
    expr, grid = "max_over_time(temperature[1h])", (T0 + 7200, T0 + 12 * 3600, "1h")
    whole = db.query_range(expr, *grid)
    # Extremes of whole buckets are those of the samples; sums within rounding.
    assert_frame_equal(db.query_range(expr, *grid, level="10m"), whole)
    mean = "avg_over_time(temperature[1h])"
    assert_frame_equal(db.query_range(mean, *grid, level="10m"), db.query_range(mean, *grid))
    with pytest.warns(mdb.QueryInfo, match="rollups of 10m"):
        points = db.query("count_over_time(temperature[35m])", T0 + 7300, level=600)
    assert points["value"][0] == pytest.approx(140, rel=0.2)
    # Behind the last bucket samples are there as ever, and so are series without records.
    db.append({"__name__": "temperature"}, db.now_ms() / 1000 + 15, 33.5)
    late = {"time": T0 + 24 * 3600 + 310, "level": "10m"}
    assert db.query("temperature", **late)["value"].to_list() == [33.5]
    counted = "increase(requests_total[1h])"
    assert_frame_equal(db.query_range(counted, *grid, level="1m"), db.query_range(counted, *grid))


def test_a_level_that_is_not_there_is_refused_with_those_that_are():
    db, _ = filled(6)
    with pytest.raises(mdb.ConfigError, match="level '10m': no series has records of this width; there are none"):
        db.query("temperature", level="10m")
    db.rollups.set("temperature", "1m -> 10m")
    db.rollups.run()
    with pytest.raises(mdb.ConfigError, match="levels that there are: 1m, 10m"):
        db.query_range("temperature", T0, T0 + 3600, 60, level="1h")
    with pytest.raises(mdb.ConfigError, match="level"):
        db.explain("temperature", level="ten minutes")


def test_a_plan_says_which_level_was_asked_for():
    db, _ = filled(6)
    db.rollups.set("temperature", "1m -> 10m")
    db.rollups.run()
    expr, times = "sum_over_time(temperature[1h])", (T0 + 3600, T0 + 3 * 3600, "1h")
    plan = db.explain(expr, *times, analyze=True, level="10m")
    assert plan.level == "10m"
    assert "From records of 10m where a series has some." in plan.text
    assert plan.totals["samples"] < db.explain(expr, *times, analyze=True).totals["samples"] / 10
    assert db.explain(expr, *times).level is None


def test_series_of_few_whole_numbers_are_states_until_a_policy_says_otherwise():
    db, _ = filled(hours=3, rollups={'{__name__=~".+"}': "1m"})
    times = T0 + 15.0 * np.arange(1, 3 * HOUR + 1)
    up = np.ones(len(times))
    up[100:130] = 0
    db.append({"__name__": "up", "job": "a"}, times, up)
    db.rollups.run()
    assert sorted(db.rollups.kinds('{__name__=~".+"}').select("__name__", "kind").rows()) == [
        ("requests_total", "counter"),
        ("temperature", "gauge"),
        ("up", "states"),
    ]
    states = db.rollups.states("up", "1m")
    down = states.filter(pl.col("value") == 0.0)
    assert down["count"].sum() == 30
    assert db.rollups.states("temperature", "1m").is_empty()
    other = mdb.Database()
    other.append({"__name__": "up"}, times, up)
    other.rollups.set("up", "1m", kind="gauge")
    other.rollups.run()
    assert other.rollups.kinds("up")["kind"].to_list() == ["gauge"]
    assert other.rollups.states("up", "1m").is_empty()
    with pytest.raises(mdb.ConfigError, match="counter, gauge or states"):
        other.rollups.set("up", "1m", kind="boolean")  # type: ignore[arg-type]


def test_records_of_native_histograms_have_no_values():
    db = mdb.Database(clock=FakeClock(4_000_000))
    db.rollups.set("h", "1m with 4 buckets")
    places = [i % 8 if i < 120 else 0 for i in range(240)]
    rows = [
        mdb.Histogram(3, 1, 2.0, positive_spans=[(place, 1)], positive_buckets=[1], reset_hint="gauge")
        for place in places
    ]
    db.append_histograms({"__name__": "h"}, [15.0 * i for i in range(1, 241)], rows)
    db.rollups.run()
    assert db.rollups.kinds("h")["kind"].to_list() == ["histogram"]
    records = db.rollups.records("h", "1m", 0, 3600)
    # Four samples, four buckets; those of two minutes have eight.
    assert records["quantile_error"].null_count() == records.height == 60
    assert records["sum"].null_count() == records.height
    db.rollups.set("h", "1m -> 2m with 4 buckets")
    db.rollups.run()
    errors = db.rollups.records("h", "2m", 0, 3600)["quantile_error"].to_list()
    assert errors == [pytest.approx(2**0.5 - 1)] * 15 + [None] * 15


@pytest.mark.parametrize("written", ["journal", "checkpoint"])
def test_directories_from_before_kinds_and_caps_open_and_go_on(written, tmp_path):
    # Written by the version before: four hours of four series, rolled up with states of one of them.
    shutil.copytree(Path(__file__).parents[1] / "data" / "rollups_0_1" / written, tmp_path / "db")
    clock = FakeClock((T0 + 4 * 3600) * 1000)
    every = {'{__name__=~".+"}': "raw 1h -> 1m -> 10m keep 1% with quantiles and 160 buckets"}
    lines = {"up": "raw 1h -> 1m -> 10m with states", **every}

    def kinds(db: mdb.Database) -> dict[str, str]:
        return dict(db.rollups.kinds('{__name__=~".+"}').select("__name__", "kind").rows())

    with mdb.Database(tmp_path / "db", clock=clock, idle_cpu=0, rollups=lines) as db:
        before = {"requests_total": "counter", "temperature": "gauge", "up": "gauge", "h": "histogram"}
        assert kinds(db) == before
        down = db.rollups.states("up", "10m").filter(pl.col("value") == 0.0)
        assert down["count"].sum() == 30
        assert db.rollups.levels()["records"].sum() > 4 * 24
        records = db.rollups.records("h", "10m")
        assert records["count"].sum() == 100
        assert records["quantile_error"].null_count() == records.height
        times = T0 + 4 * 3600 + 15.0 * np.arange(1, HOUR + 1)
        db.append({"__name__": "up"}, times, np.arange(HOUR) % 2.0)
        clock.move(3600)
        db.rollups.set("up", lines["up"], kind="states")
        db.rollups.run()
        assert kinds(db) == {**before, "up": "states"}
        states = db.rollups.states("up", "10m")
        if written == "checkpoint":
            db.checkpoint()
    with mdb.Database(tmp_path / "db", clock=clock, idle_cpu=0) as db:
        assert kinds(db) == {**before, "up": "states"}
        assert_frame_equal(db.rollups.states("up", "10m"), states)
        db._native.check()
