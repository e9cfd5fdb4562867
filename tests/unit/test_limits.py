"""Limits on series: what a full one does with new series, what stays, churn, and what makes the series many."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb import config
from metricsdb.testing import FakeClock

T0 = 1_700_000_000


def pods(numbers: range, metric: str = "m", value: float = 1.0) -> pl.DataFrame:
    rows = [{"__name__": metric, "pod": f"p{i}", "timestamp": T0, "value": value} for i in numbers]
    return pl.DataFrame(rows)


def live(db: mdb.Database) -> set[str]:
    return set(db.series("{__name__!=''}").get_column("pod").fill_null("").to_list())


def total(db: mdb.Database, metric: str, at: float) -> float:
    return db.query(f"sum({metric})", at)["value"].item()


def test_a_full_limit_refuses_new_series_and_writes_to_the_others():
    db = mdb.Database(limits=[mdb.Limit(max_series=3, by="metric", name="per metric")])
    assert db.write(pods(range(3))).series_created == 3
    report = db.write(pods(range(5), value=2.0))
    assert (report.accepted, report.series_created) == (3, 0)
    refused = report.rejected["cardinality_limit"]
    assert refused.count == 2
    assert "per metric" in refused.example
    assert "3 series" in refused.example
    assert live(db) == {"p0", "p1", "p2"}
    assert db.write(pods(range(1), "other")).accepted == 1, "another metric has a count of its own"
    report = db.append({"__name__": "m", "pod": "new"}, T0, 1.0)
    assert (report.accepted, report.rejected["cardinality_limit"].count) == (0, 1)
    with pytest.raises(mdb.CardinalityLimit, match=r'limit "per metric": 3 series, 3 allowed: m\{pod="new"\}'):
        db.register([{"__name__": "m", "pod": "new"}])
    assert issubclass(mdb.CardinalityLimit, mdb.WriteError)
    db._native.check()


def test_a_text_body_says_which_limit_was_met():
    db = mdb.Database(limits=[mdb.Limit(max_series=1)])
    report = db.ingest(b'a{x="1"} 1\na{x="2"} 1\n', "prometheus", time=T0)
    assert (report.accepted, report.rejected["cardinality_limit"].count) == (1, 1)
    assert 'limit "series": 1 series, 1 allowed: a{x="2"}' in report.rejected["cardinality_limit"].example
    assert db.limits.list()["rejected"].to_list() == [1]


def test_a_dropped_label_sends_samples_to_the_series_without_it():
    db = mdb.Database(limits=[mdb.Limit(max_series=2, at_limit="drop_label", label="pod")])
    db.write(pods(range(4)))
    assert live(db) == {"p0", "p1", ""}
    assert db.limits.list().select("series", "dropped", "folded").rows() == [(3, 2, 0)]


def test_sums_are_exact_over_batches_and_ways_in():
    db = mdb.Database(limits=[mdb.Limit(max_series=2, by="metric", at_limit="overflow", label="pod")])
    for step in range(4):
        at = T0 + 15 * step
        text = "\n".join(f'm{{pod="p{i}"}} {i + step / 10}' for i in range(6))
        db.ingest(text.encode(), "prometheus", time=at)
        db.append({"__name__": "m", "pod": "p6"}, at, 6 + step / 10)
        db.write(pods(range(7, 9)).with_columns(timestamp=pl.lit(at), value=pl.lit(7.5)))
        expected = sum(i + step / 10 for i in range(7)) + 2 * 7.5
        assert total(db, "m", at) == pytest.approx(expected, rel=1e-15)
    assert live(db) == {"p0", "p1", "__overflow__"}
    assert dict(db.stats().iter_rows())["folded_series"] == 7
    # A series that sends twice, or another value for a time, is not counted twice.
    before = total(db, "m", T0 + 45)
    db.append({"__name__": "m", "pod": "p6"}, [T0 + 45, T0 + 45], [6.3, 16.3])
    assert total(db, "m", T0 + 45) == pytest.approx(before + 10, rel=1e-15)
    db._native.check()


def test_a_folded_series_that_ends_leaves_the_sum():
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, limits=[mdb.Limit(max_series=1, at_limit="overflow", label="pod")])
    db.tick()
    for pod, value in (("a", 1), ("b", 2), ("c", 4), ("d", 8)):
        db.append({"__name__": "m", "pod": pod}, T0, value)
    stale = np.array([0x7FF0000000000002], dtype=np.uint64).view(np.float64)
    db.append({"__name__": "m", "pod": "b"}, [T0 + 15], stale)
    for step in range(1, 30):
        clock.move(15)
        for pod, value in (("a", 1), ("d", 8)):
            db.append({"__name__": "m", "pod": pod}, T0 + 15 * step, value)
        db.tick()
        # The marker ends b at once, and c ends when its sample would be too old for a query.
        assert total(db, "m", T0 + 15 * step) == (1 + 4 + 8 if step < 20 else 1 + 8)
    clock.move(3600)
    db.tick()
    clock.move(3600)
    db.tick()
    assert dict(db.stats().iter_rows())["folded_series"] == 0


def test_a_folded_series_that_is_silent_ends_before_the_next_tick():
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, limits=[mdb.Limit(max_series=1, at_limit="overflow", label="pod")])
    db.tick()
    last = 0
    for at, pods_now in ((0, {"p0": 0.0, "p1": 1.0}), (299, {}), (300, {"p2": 0.0})):
        clock.move(at - last)
        last = at
        db.tick()
        for pod, value in pods_now.items():
            db.append({"__name__": "m", "pod": pod}, T0 + at, value)
    assert [total(db, "m", T0 + at) for at in (0, 299, 300)] == [1.0, 1.0, 0.0]


def test_a_native_histogram_of_a_folded_series_is_refused_and_said():
    db = mdb.Database(limits=[mdb.Limit(max_series=1, at_limit="overflow", label="pod")])
    db.append({"__name__": "m", "pod": "a"}, T0, 1)
    one = mdb.Histogram(schema=0, count=1, sum=1.0, zero_threshold=0.0, zero_count=1)
    report = db.append_histograms({"__name__": "m", "pod": "b"}, [T0], one)
    assert (report.accepted, report.rejected["cardinality_limit"].count) == (0, 1)


def test_churn_names_the_label_within_ten_seconds_and_holds_back_its_series_alone():
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, limits=[mdb.Limit(max_new=100, at_limit="overflow", name="churn")])
    db.tick()

    def deploy(second: int) -> None:
        rows = [
            {"__name__": "hits", "job": "web", "path": f"/{i % 4}", "user": f"u{second}-{i}", "value": 1.0,
             "timestamp": T0 + second}
            for i in range(50)
        ]  # fmt: skip
        assert db.write(pl.DataFrame(rows)).accepted == 50

    for second in range(10):
        deploy(second)
        clock.move(1)
        db.tick()
    row = db.limits.churning().row(0, named=True)
    assert (row["name"], row["metric"], row["labels"], row["new_series"]) == ("churn", "hits", ["user"], 450)
    assert row["since"].timestamp() - T0 <= 10
    assert db.stats().filter(pl.col("name") == "series")["value"].item() == 100 + 4
    assert total(db, "hits", T0 + 9) == 500
    assert db.append({"__name__": "hits", "job": "web", "path": "/new", "user": "u0-0"}, T0, 1).series_created == 1
    assert db.append({"__name__": "other", "user": "u99-0"}, T0, 1).series_created == 1
    clock.move(20)
    db.tick()
    assert db.limits.churning().is_empty()
    assert db.append({"__name__": "hits", "job": "web", "path": "/0", "user": "later"}, T0 + 30, 1).series_created == 1


def test_limits_are_set_replaced_listed_and_removed():
    db = mdb.Database()
    assert db.limits.list().is_empty()
    db.limits.set(mdb.Limit(max_series=10, by=["job", "pod"], selector='{env="prod"}'), mdb.Limit(max_series=5))
    db.limits.set(mdb.Limit(max_series=7))
    names = ['series by job, pod of {env="prod"}', "series"]
    assert db.limits.list().select("name", "max_series").rows() == [(names[0], 10), (names[1], 7)]
    db.write(pods(range(20)))
    assert db.limits.list()["series"].to_list() == [0, 7]
    db.limits.remove("series")
    assert db.write(pods(range(20))).series_created == 13
    with pytest.raises(mdb.ConfigError, match=r"none is called 'series'; there are: 'series by job, pod"):
        db.limits.remove("series")
    db.close()
    assert db.limits.list()["series"].to_list() == [0], "they outlive close()"


def test_removing_a_limit_brings_folded_series_back():
    db = mdb.Database(limits=[mdb.Limit(max_series=1, at_limit="overflow", label="pod")])
    db.write(pods(range(4)))
    db.limits.remove("series")
    db.write(pods(range(4)).with_columns(timestamp=pl.lit(T0 + 15)))
    assert live(db) == {"p0", "p1", "p2", "p3", "__overflow__"}
    assert total(db, "m", T0) == total(db, "m", T0 + 15) == 4


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (mdb.Limit(), "give either max_series or max_new"),
        (mdb.Limit(max_series=1, max_new=10), "give either max_series or max_new"),
        (mdb.Limit(max_series=-1), "max_series is -1; give a whole number"),
        (mdb.Limit(max_series=True), "give a whole number"),
        (mdb.Limit(max_series=1, at_limit="overflow"), "needs a label"),
        (mdb.Limit(max_series=1, at_limit="drop_label", label="__name__"), "cannot be __name__"),
        (mdb.Limit(max_series=1, label="pod"), "mean nothing with at_limit reject"),
        (mdb.Limit(max_series=1, at_limit="fold"), "give reject, drop_label or overflow"),  # type: ignore[arg-type]
        (mdb.Limit(max_new=5), "give 10 or more"),
        (mdb.Limit(max_new=50, by="metric"), "counts metric by metric"),
        (mdb.Limit(max_new=50, window="10ms"), "give a second or more"),
        (mdb.Limit(max_new=50, window="soon"), "window"),
    ],
)
def test_a_wrong_limit_is_refused_by_its_name_and_changes_nothing(limit, message):
    db = mdb.Database(limits=[mdb.Limit(max_series=9, name="good")])
    with pytest.raises(mdb.ConfigError, match=message):
        db.limits.set(mdb.Limit(max_series=1, name="fine"), limit)
    assert db.limits.list()["name"].to_list() == ["good"]


def test_a_selector_that_cannot_be_read_names_its_limit():
    db = mdb.Database()
    with pytest.raises(mdb.ParseError, match=r'limit "bad": selector .*job='):
        db.limits.set(mdb.Limit(max_series=1), mdb.Limit(max_series=1, selector='{job="', name="bad"))
    with pytest.raises(mdb.ConfigError, match="two limits are called 'series'"):
        db.limits.set(mdb.Limit(max_series=1), mdb.Limit(max_series=2))
    assert db.limits.list().is_empty()


def test_the_configuration_has_limits():
    chosen = config.parse(b"""
series_limits:
  - {max_series: 1000000}
  - {max_series: 10000, by: metric, at_limit: overflow, label: pod}
  - {max_series: 500, by: [job, instance], selector: '{env="dev"}'}
  - {max_new: 1000, window: 10s, at_limit: drop_label}
""")
    db = mdb.Database(limits=chosen.series_limits)
    names = ["series", "series by __name__", 'series by job, instance of {env="dev"}', "new series"]
    assert db.limits.list()["name"].to_list() == names
    assert config.parse(config.dump(chosen).encode()) == chosen
    with pytest.raises(mdb.ConfigError, match=r"series limit 'series': at_limit overflow needs a label"):
        config.parse(b"series_limits: [{max_series: 1, at_limit: overflow}]")
    with pytest.raises(mdb.ConfigError, match="two series limits are called 'series'"):
        config.parse(b"series_limits: [{max_series: 1}, {max_series: 2}]")


def test_a_directory_opens_with_what_was_let_in_and_counts_it(tmp_path):
    limit = mdb.Limit(max_series=2, at_limit="overflow", label="pod")
    with mdb.Database(tmp_path, limits=[limit], duplicates="sum") as db:
        for step in range(3):
            db.write(pods(range(5), value=0.5 + step).with_columns(timestamp=pl.lit(T0 + 15 * step)))
        before = db.select("m", 0, T0 + 100).drop("series").sort("pod", "timestamp")
        assert total(db, "m", T0 + 30) == 12.5
    with mdb.Database(tmp_path, limits=[limit], duplicates="sum") as db:
        assert before.equals(db.select("m", 0, T0 + 100).drop("series").sort("pod", "timestamp"))
        assert db.limits.list()["series"].to_list() == [3]
        # Once each folded series has sent again, sums are exact again.
        db.write(pods(range(5)).with_columns(timestamp=pl.lit(T0 + 45)))
        assert total(db, "m", T0 + 45) == 5
        assert live(db) == {"p0", "p1", "__overflow__"}
        db._native.check()


def test_cardinality_says_what_is_many_and_which_label_makes_it():
    db = mdb.Database()
    rows = [
        {"__name__": "hits", "job": "web", "instance": f"i{i % 2}", "user": f"u{i // 2}", "value": 1.0, "timestamp": T0}
        for i in range(400)
    ]
    db.write(pl.DataFrame(rows))
    db.append({"__name__": "up", "job": "web", "instance": "i0"}, T0, 1)
    metric = db.cardinality("metric").row(0, named=True)
    assert (metric["metric"], metric["series"], metric["label"], metric["series_without"]) == ("hits", 400, "user", 2)
    assert metric["share"] == pytest.approx(400 / 401)
    assert metric["ever"] == pytest.approx(400, rel=0.15)
    assert metric["recent"] == pytest.approx(400, rel=0.15)
    label = db.cardinality("label", limit=1).row(0, named=True)
    assert (label["label"], label["values"], label["series"]) == ("user", 200, 400)
    value = db.cardinality(by="value", limit=1).row(0)
    assert value == ("job", "web", 401, 1.0)
    by_source = db.cardinality("source")
    assert by_source.columns == ["job", "instance", "series", "share", "metrics"]
    assert by_source.drop("share").rows() == [("web", "i0", 201, 2), ("web", "i1", 200, 1)]
    assert db.cardinality(["job"]).rows() == [("web", 401, 1.0, 2)]
    with pytest.raises(mdb.ConfigError, match="use metric, label, value, source"):
        db.cardinality("pod")  # type: ignore[arg-type]
    with pytest.raises(mdb.ConfigError, match="must be positive"):
        db.cardinality(limit=0)
