"""Samples of old series: the same everywhere, scaled where that can be, and never a wrong number without a word."""

from __future__ import annotations

import math
import warnings

import numpy as np
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb.errors import ColdStoreError, ConfigError
from metricsdb.lifecycle.retention import RetentionRule
from metricsdb.lifecycle.sampling import COLUMNS, Keep, choose, kept_hours, share
from metricsdb.testing.clock import FakeClock

DAY = 86_400
NOW = 1_700_006_400 // DAY * DAY
JOBS = {"a": 40, "b": 7, "c": 1}
WHEN = NOW - 6 * DAY + 7200


def value(job, i, t):
    return 100 + i + 10 * math.sin(t / 5000 + i) + len(job)


def filled(keep, cold="memory://", **options):
    clock = FakeClock(NOW * 1000)
    db = mdb.Database(cold=cold, clock=clock, retention=f"memory 1d -> cold 3d -> {keep} 20d", **options)
    write(db, range(NOW - 8 * DAY, NOW, 1800))
    return db, clock


def write(db, times, jobs=JOBS):
    for job, count in jobs.items():
        for i in range(count):
            labels = {"job": job, "i": str(i)}
            db.append({"__name__": "m", **labels}, np.array(times), np.array([value(job, i, t) for t in times]))


def aged(db, clock):
    for _ in range(3):
        db.cold.run()
        clock.move(130)
    return db


def ask(db, expr, at=WHEN):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = db.query(expr, at)
    labels = [name for name in frame.columns if name not in ("timestamp", "value")]
    return {row[:-2]: row[-1] for row in frame.select(*labels, "timestamp", "value").rows()}, [
        str(w.message) for w in caught if "sample is left" in str(w.message)
    ]


def left(db, at=WHEN):
    """Series that are there, as (job, i)."""
    return {(s.labels["job"], int(s.labels["i"])) for s in db.raw("m", at - 1800, at)}


# --- the line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "memory 2d -> cold 90d -> 1 in 10 by job 400d",
        "memory 2d -> cold 90d -> 1 in 10",
        "memory 2d -> cold 90d -> 1 in 10 by job, env",
        "memory 2d -> cold 90d -> top 1 in 10 by job 400d",
        "memory 2d -> cold 90d -> 1 in 4 hours 400d",
    ],
)
def test_a_line_is_read_and_written(line):
    rule = RetentionRule.of("", line)
    assert str(rule) == line
    assert rule.whole_ms == 90 * DAY * 1000
    assert rule.kept_ms == (400 * DAY * 1000 if line.endswith("400d") else None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("memory 2d -> 1 in 10 400d", "behind a cold part"),
        ("memory 2d -> cold 90d -> 1 in 1 400d", "two or more"),
        ("memory 2d -> cold 90d -> 1 in 10 bananas 400d", "is not known"),
        ("memory 2d -> cold 90d -> top 1 in 10 hours 400d", "is not known"),
        ("memory 2d -> cold 90d -> 1 in 2 100d -> 1 in 10 400d", "write it once"),
        ("memory 2d -> cold -> 1 in 10 400d", "give it an age"),
        ("memory 2d -> cold 90d -> 1 in 10 by job 80d", "let them rise"),
    ],
)
def test_a_line_that_cannot_be_says_why(line, said):
    with pytest.raises(ConfigError, match=said):
        RetentionRule.of("", line)


# --- what is chosen -----------------------------------------------------------------------------


def table(count, **labels):
    return pl.DataFrame({"series": pl.Series(range(count), dtype=pl.UInt64), **labels})


def test_of_each_group_so_many_stay_and_each_is_counted():
    jobs = ["a"] * 25 + ["b"] * 3 + [None]
    series = table(29, __name__=["m"] * 29, job=jobs, i=[str(i) for i in range(29)])
    chosen = choose(series, Keep(10, "series", ("job",))).join(series, on="series")
    counts = {row[0]: row[1:] for row in chosen.group_by("job").agg(
        pl.len(), pl.col("sampled_of").first(), pl.col("sampled_kept").first()).rows()}  # fmt: skip
    assert counts == {"a": (3, 25, 3), "b": (1, 3, 1), None: (1, 1, 1)}


def test_the_choice_hangs_on_labels_alone_and_outlives_churn():
    series = table(60, __name__=["m"] * 60, i=[str(i) for i in range(60)])
    keep = Keep(6)
    whole = set(choose(series, keep)["series"])
    assert set(choose(series.sample(fraction=1, shuffle=True, seed=7), keep)["series"]) == whole
    # Whose neighbours went stays.
    fewer = series.filter(pl.col("series").is_in(sorted(whole)) | (pl.col("series") % 2 == 0))
    assert set(choose(fewer, keep)["series"]) <= whole


def test_buckets_and_metrics_of_one_target_stay_together():
    rows = [(n, str(i), le) for n in ("x_bucket", "y_bucket") for i in range(20) for le in ("1", "+Inf")]
    series = table(80, __name__=[r[0] for r in rows], i=[r[1] for r in rows], le=[r[2] for r in rows])
    chosen = choose(series, Keep(4)).join(series, on="series")
    assert chosen.height == 20
    assert chosen["i"].n_unique() == 5
    assert chosen["sampled_of"].to_list() == [20] * 20
    assert chosen["sampled_kept"].to_list() == [5] * 20


def test_what_comes_late_goes_by_what_was_chosen():
    series = table(40, __name__=["m"] * 40, i=[str(i) for i in range(40)])
    known = choose(series.head(20), Keep(5))
    again = choose(series.head(25), Keep(5), known)
    assert again["series"].sort().to_list() == known["series"].sort().to_list()


def test_the_most_read_stay():
    series = table(30, __name__=["m"] * 30, i=[str(i) for i in range(30)])
    used = pl.Series([3 if i in (4, 17, 29) else 0 for i in range(30)], dtype=pl.UInt32)
    chosen = choose(series, Keep(10, "top"), used=used)
    assert chosen["series"].sort().to_list() == [4, 17, 29]
    assert chosen["sampled_of"].null_count() == 3


def test_each_hour_of_the_day_stays_on_some_day():
    times = pl.DataFrame({"t": [h * 3_600_000 for h in range(24 * 8)]})
    kept = times.filter(kept_hours(Keep(4, "hours"), pl.col("t")))["t"] // 3_600_000
    assert len(kept) == 48
    assert set(kept % 24) == set(range(24))
    assert share(table(8).drop("series"), Keep(4, "hours")) == 0.25


# --- carried out --------------------------------------------------------------------------------


def test_sums_counts_and_means_are_scaled_and_say_by_how_much():
    db, clock = filled("1 in 5 by job")
    aged(db, clock)
    kept = left(db)
    assert {job: sum(j == job for j, _ in kept) for job in JOBS} == {"a": 8, "b": 2, "c": 1}
    weight = {"a": 40 / 8, "b": 7 / 2, "c": 1}
    values = {job: [value(job, i, WHEN) for j, i in sorted(kept) if j == job] for job in JOBS}
    sums, said = ask(db, "sum by (job) (m)")
    for job, of in values.items():
        assert sums[(job,)] == pytest.approx(weight[job] * sum(of), rel=1e-12)
    # The variance of a stratum of which n of N were drawn without replacement.
    worst = max(
        math.sqrt(JOBS[job] ** 2 * (1 - len(of) / JOBS[job]) * np.var(of, ddof=1) / len(of)) / (weight[job] * sum(of))
        for job, of in values.items() if len(of) > 1
    )  # fmt: skip
    assert len(said) == 1
    assert "of m only" in said[0]
    assert "(1 in 5 by job): scaled, a series stands for up to 5" in said[0]
    error = float(said[0].split("standard error up to ")[1].split("%")[0])
    assert error == pytest.approx(100 * worst, rel=0.01)
    counts, said = ask(db, "count by (job) (m)")
    assert counts == {(job,): n for job, n in JOBS.items()}
    assert "error up to 0%" in said[0]
    means, _ = ask(db, "avg by (job) (m)")
    assert means[("a",)] == pytest.approx(np.mean(values["a"]), rel=1e-12)
    # Over several strata each counts for what it stands for.
    mean, _ = ask(db, "avg(m)")
    assert mean[()] == pytest.approx(sum(weight[j] * sum(of) for j, of in values.items()) / 48, rel=1e-12)


@pytest.mark.parametrize(
    "expr", ["max(m)", "m", "stddev(m)", "quantile(0.5, m)", "topk(1, m)", "sum_over_time(m[2h])",
             "sum(m * on(job, i) m)", "count(count by (job) (m * on(job, i) m))"],
)  # fmt: skip
def test_what_cannot_be_scaled_says_that_it_is_a_sample(expr):
    db, clock = filled("1 in 5 by job")
    _, said = ask(aged(db, clock), expr)
    assert said
    assert all("nothing is scaled" in one for one in said)


def test_what_is_younger_is_whole_and_windows_over_the_edge_are_not_scaled():
    db, clock = filled("1 in 5 by job")
    young = NOW - 2 * DAY
    before = ask(db, "sum by (job) (m)", young)
    aged(db, clock)
    assert ask(db, "sum by (job) (m)", young) == before
    edge = NOW - 3 * DAY + 3600
    _, said = ask(db, "sum(max_over_time(m[2h]))", edge)
    assert len(said) == 1
    assert "windows that reach over its end are not scaled" in said[0]


def test_groups_by_a_label_of_any_name_are_scaled():
    db = aged(*filled("1 in 5 by hours"))
    values, said = ask(db, "count(m)")
    assert values == {(): sum(JOBS.values())}
    assert "1 in 5 by hours): scaled" in said[0]


def test_hours_leave_all_series_and_scale_nothing():
    db, clock = filled("1 in 4 hours")
    aged(db, clock)
    day = WHEN // DAY
    hours = [h for h in range(24) if (day * 24 + h + day) % 4 == 0]
    times = {t for s in db.raw("m", day * DAY, day * DAY + DAY - 1) for t in s.timestamps.tolist()}
    assert {t // 3_600_000 % 24 for t in times} == set(hours)
    total, said = ask(db, "sum(m)", day * DAY + hours[0] * 3600)
    every = sum(value(job, i, day * DAY + hours[0] * 3600) for job, n in JOBS.items() for i in range(n))
    assert total[()] == pytest.approx(every, rel=1e-12)
    assert "1 in 4 hours" in said[0]
    assert "nothing is scaled" in said[0]


def test_the_most_read_are_those_of_installed_statements_and_are_not_scaled():
    db, clock = filled("top 1 in 10 by job")
    db.alerts.load('ALERT hot WHEN m{job="a", i=~"1|3|12|39"} > 1e9')
    aged(db, clock)
    assert {i for job, i in left(db) if job == "a"} == {1, 3, 12, 39}
    _, said = ask(db, "sum(m)")
    assert "top 1 in 10 by job" in said[0]
    assert "nothing is scaled" in said[0]


def test_runs_again_change_nothing_and_late_samples_go_by_the_first_choice():
    db, clock = filled("1 in 5 by job")
    aged(db, clock)
    kept, parts = left(db), db.cold.parts()["key"].to_list()
    assert db.cold.run().sampled == 0
    assert db.cold.parts()["key"].to_list() == parts
    write(db, [WHEN + 60], {"a": 12})
    aged(db, clock)
    assert left(db, WHEN + 60) <= kept
    assert ask(db, "count by (job) (m)")[0][("a",)] == 40
    log = db.retention.log("sampled")
    assert set(log["rule"]) == {"everything"}
    assert log["samples"].sum() >= 5 * 48 * 37


def test_what_is_brought_back_of_a_sample_says_so(tmp_path):
    db = aged(*filled("1 in 5 by job"))
    with pytest.warns(mdb.QueryWarning, match=r"of old samples of m .*1 in 5 by job"):
        assert db.recall("m", WHEN - 1800, WHEN).query("count(m)", WHEN)["value"][0] == len(left(db))
    with pytest.warns(mdb.QueryWarning, match="1 in 5 by job"):
        db.export_incident(tmp_path / "incident.zip", "m", WHEN - 1800, WHEN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        db.recall("m", NOW - 7200, NOW)


def test_pins_hold_and_nothing_is_scaled_beside_them():
    db, clock = filled("1 in 5 by job")
    db.pin("incident", 'm{job="a"}', WHEN - 1800, WHEN)
    aged(db, clock)
    assert {i for job, i in left(db) if job == "a"} == set(range(40))
    _, said = ask(db, "sum(m)")
    assert "pinned series stand beside it" in said[0]
    assert "nothing is scaled" in said[0]


def test_a_store_that_fails_at_any_step_loses_nothing():
    whole, clock = filled("1 in 5 by job")
    aged(whole, clock)
    wanted = ask(whole, "sum by (job, i) (m)")[0]
    for step in range(0, 60, 7):
        db, clock = filled("1 in 5 by job")
        source = db.cold._sources[0]
        db.cold.mover.move(source.memory, source.moving(NOW * 1000))
        clock.move(130)
        db.cold.mover.drop(source.memory)
        objects, calls = db.cold.catalog.objects, 0

        def failing(real, limit=step, objects=objects):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls > limit:
                    raise objects.error("the line is cut", "wait")
                return real(*args, **kwargs)

            return call

        for name in ("put", "get", "create", "delete"):
            setattr(objects, name, failing(getattr(objects, name)))
        try:
            db.cold.run()
        except ColdStoreError:
            # Each day is whole, or a whole sample, whatever happened.
            for name in ("put", "get", "create", "delete"):
                delattr(objects, name)
            for day in range(4, 9):
                count = len(left(db, NOW - day * DAY + 7200))
                assert count in (48, 11)
        aged(db, clock)
        assert ask(db, "sum by (job, i) (m)")[0] == wanted
        assert len(objects_of(db)) == len(db.cold.catalog.state.keys())


def objects_of(db):
    return {one.key for folder in ("samples/", "series/") for one in db.cold.catalog.objects.list(folder)}


def test_readers_without_us_find_the_weights(tmp_path):
    db, clock = filled("1 in 5 by job", tmp_path)
    aged(db, clock)
    part = min(db.cold.catalog.state.parts, key=lambda p: p.start_ms)
    series = pl.read_parquet(tmp_path / part.series_key)
    assert set(COLUMNS) <= set(series.columns)
    assert [(d.selector, d.keep) for d in part.sampled] == [("", "1 in 5 by job")]
    weight = (pl.col("sampled_of") / pl.col("sampled_kept")).fill_null(1.0)
    assert series.group_by("job").agg(weight.sum()).sort("job")["sampled_of"].to_list() == [40, 7, 1]


# --- ahead --------------------------------------------------------------------------------------


def test_simulate_and_impact_know_samples():
    db, clock = filled("1 in 5 by job")
    ahead = db.retention.simulate(days=12).filter(pl.col("tier") == "cold")
    each, kept = 48 * sum(JOBS.values()), 48 * 11
    # Two whole days behind memory's one, and a sample of those up to the twentieth.
    assert ahead["samples"][-1] == pytest.approx(2 * each + 17 * kept, rel=0.05)
    aged(db, clock)
    db.alerts.load("ALERT old WHEN avg_over_time(m[10d]) > 1")
    found = db.retention.impact().filter(pl.col("name") == "old")
    assert found["effect"].to_list() == ["sample"]
    assert "1 in 5 by job" in found["detail"][0]
