"""Records of rollups in a cold store: what leaves memory, what queries still see, and what lets go of them."""

from __future__ import annotations

import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import metricsdb as mdb
from metricsdb.testing import FakeClock

pytest.importorskip("obstore")

HOUR, DAY = 3_600, 86_400
T0 = 20_600 * DAY
POLICY = "raw 6h -> 10m 4d -> 1h keep 2% with quantiles"
SERIES = '{__name__=~"load|hits_total"}'
RULE = "memory 2d -> cold 30d"


def written(db: mdb.Database, clock: FakeClock, days: int, gone: bool = True) -> None:
    """Days of three series, of which one ends, each followed by what a tick does."""
    rng = np.random.default_rng(7)
    for day in range(days):
        times = T0 + day * DAY + np.arange(0, DAY, 300.0)
        step = pl.Series(times * 1000).cast(pl.Int64).cast(pl.Datetime("ms", "UTC"))
        noise = rng.gamma(2, size=times.size).round(2)
        noise[37] = 90.0
        db.append({"__name__": "load", "host": "a"}, step, noise)
        if day < 2 or not gone:
            db.append({"__name__": "load", "host": "b"}, step, noise * 2)
        db.append({"__name__": "hits_total", "host": "a"}, step, np.cumsum(np.ones(times.size)) + day * times.size)
        clock.move(DAY)
        db.rollups.run()
        db.tick()


class Both:
    """One store that keeps its records in memory, and one that moves them."""

    def __init__(self, days: int, load: str = POLICY) -> None:
        clocks = FakeClock(T0 * 1000), FakeClock(T0 * 1000)
        rollups = {"load": load, "hits_total": "raw 6h -> 10m 4d -> 1h"}
        self.clocks = clocks
        self.whole = mdb.Database(clock=clocks[0], rollups=rollups, evict="never")
        self.cold = mdb.Database(clock=clocks[1], rollups=rollups, cold="memory://", retention=RULE, evict="never")
        for db, clock in zip((self.whole, self.cold), clocks, strict=True):
            written(db, clock, days)
        self.cold.cold.run()
        for clock in clocks:
            clock.move(1_000)  # longer than any query may take: memory lets go
        self.cold.cold.run()

    def same(self, expr: str, start: float, end: float, step: str, **how: str) -> pl.DataFrame:
        frames, remarks = [], []
        for db in (self.whole, self.cold):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                frame = db.query_range(expr, start, end, step, **how)  # type: ignore[arg-type]
            labels = sorted(c for c in frame.columns if c not in ("timestamp", "value"))
            frames.append(frame.select(*labels, "timestamp", "value").sort(*labels, "timestamp"))
            remarks.append(sorted(str(w.message) for w in told))
        bits = [frame["value"].to_numpy().view("uint64").tolist() for frame in frames]
        assert frames[0].equals(frames[1]), (expr, frames)
        assert bits[0] == bits[1]
        assert remarks[0] == remarks[1], expr
        return frames[0]


@pytest.fixture(scope="module")
def both() -> Both:
    return Both(9)


QUERIES = [
    "load",
    "avg_over_time(load[1h])",
    "max_over_time(load[1d])",
    "quantile_over_time(0.9, load[6h])",
    "stddev_over_time(load[1h])",
    "sum by (host) (sum_over_time(load[2h]))",
    "rate(hits_total[1h])",
    "increase(hits_total[1d])",
    "count_over_time(load[3d])",
    "changes(load[6h])",
    "last_over_time(load[7m])",
    "sum(rate(hits_total[37m])) / count(load)",
]


@pytest.mark.parametrize("expr", QUERIES)
def test_answers_over_records_in_the_cold_store_are_those_of_one_memory(both: Both, expr: str) -> None:
    for start, end, step in [
        (T0, T0 + 9 * DAY, "1h"),
        (T0 + 5 * DAY, T0 + 7.5 * DAY, "13m"),
        (T0 + DAY, T0 + DAY, "1h"),
    ]:
        assert both.same(expr, start, end, step).height
    both.same(expr, T0 + DAY, T0 + 8 * DAY, "1h", level="1h")


def test_buckets_of_several_days_are_whole_where_a_query_looks_at_some_hours() -> None:
    both = Both(19, "raw 12h -> 5h 15d -> 35h")
    widths = {part.every_ms for part in both.cold.cold.catalog.state.parts}
    assert {18_000_000, 126_000_000} <= widths
    for begin in range(2, 17, 3):
        start = T0 + begin * DAY + 7 * HOUR
        both.same("avg_over_time(load[5h])", start, start + 11 * HOUR, "1h")
        both.same("load", start, start + HOUR, "10m")
        both.same("max_over_time(load[35h])", start, start + 4 * DAY, "7h")


def test_records_leave_memory_and_stand_in_the_cold_store(both: Both) -> None:
    parts = both.cold.cold.parts()
    assert set(parts["kind"]) == {"rollups"}
    widths = {part.every_ms for part in both.cold.cold.catalog.state.parts}
    assert widths == {600_000, 3_600_000}
    ends = parts["end"].max()
    # Whole days that are two days old.
    assert ends == datetime.fromtimestamp(T0 + 7 * DAY, UTC)
    memory = both.cold._native.records_span()
    assert memory is not None
    assert memory[0] >= (T0 + 7 * DAY) * 1000
    assert both.cold._native.stats()["series"] == 2  # the one that ended has nothing left in memory
    hosts = both.cold.series("load", start=T0, end=T0 + 9 * DAY)["host"].to_list()
    assert sorted(hosts) == ["a", "b"]


def test_records_states_and_survivors_are_read_from_there(both: Both) -> None:
    for ask in (
        lambda db: db.rollups.records("load", "1h"),
        lambda db: db.rollups.records("load", "10m", T0, T0 + 9 * DAY),
        lambda db: db.rollups.kept("load"),
        lambda db: db.scan("hits_total", level="1h").collect(),
    ):
        frames = [ask(db) for db in (both.whole, both.cold)]
        labels = sorted(frames[0].columns)
        frames = [frame.select(labels).sort("host", "timestamp") for frame in frames]
        assert frames[0].height > 0
        assert frames[0].equals(frames[1])


def test_a_query_reads_no_more_than_what_it_asks_for(both: Both) -> None:
    plan = both.cold.explain('avg_over_time(load{host="a"}[1h])', T0 + DAY, T0 + 2 * DAY, "1h", analyze=True)
    held = sum(part.bytes + part.series_bytes for part in both.cold.cold.catalog.state.parts)
    assert plan.totals["cold_bytes"] < held
    fresh = mdb.Database(clock=both.clocks[1], cold=both.cold.cold.catalog.objects._store)
    plan = fresh.explain('avg_over_time(load{host="a"}[1h])', T0 + DAY, T0 + 2 * DAY, "1h", analyze=True)
    assert 0 < plan.totals["cold_bytes"] < held / 2
    told = fresh.estimate("load", T0, T0 + DAY, "1h")
    assert told.cold_bytes == 0 or told.cold_bytes < held


def small(days: int = 5, where: object = "memory://") -> tuple[mdb.Database, FakeClock]:
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, rollups={SERIES: "raw 6h -> 10m -> 1h"}, cold=where, retention=RULE, evict="never")
    written(db, clock, days)
    db.cold.run()
    clock.move(1_000)
    db.cold.run()
    return db, clock


def counted(db: mdb.Database, end: float, window: str, selector: str = "load") -> dict[str, float]:
    frame = db.query(f"count_over_time({selector}[{window}])", end)
    return dict(zip(frame["host"], frame["value"], strict=True)) if frame.height else {}


def test_a_deletion_hides_records_at_once_and_the_buckets_that_it_cuts() -> None:
    db, clock = small()
    assert counted(db, T0 + DAY, "1d") == {"a": 288, "b": 288}
    done = db.delete('load{host="a"}', start=T0 + 6 * HOUR + 60, end=T0 + 7 * HOUR)
    assert done.cold_parts >= 2
    hours = db.rollups.records('load{host="a"}', "1h", T0, T0 + DAY)
    assert T0 + 7 * HOUR not in hours["timestamp"].dt.epoch("s").to_list()
    left = counted(db, T0 + DAY, "1d")
    assert left == {"a": 288 - 12, "b": 288}
    clock.move(20)
    db.cold.run()
    assert counted(db, T0 + DAY, "1d") == left
    assert not any(part.tombstones for part in db.cold.catalog.state.parts)
    db.delete("load", end=T0 + 2 * DAY)
    db.cold.run()
    assert counted(db, T0 + DAY, "1d") == {}


def test_a_deletion_without_a_begin_outlives_the_rules_of_old_parts() -> None:
    db, clock = small()
    clock.move(27 * DAY - 1_000 - 5 * DAY + HOUR)
    db.delete('load{host="a"}', end=T0 + DAY + 12 * HOUR)
    gone = counted(db, T0 + 2 * DAY, "2d")
    mover = db.cold.mover
    mover.expire([mdb.lifecycle.cold.move.Rule("", (T0 + DAY + HOUR) * 1000)])
    assert counted(db, T0 + 2 * DAY, "2d")["a"] <= gone["a"]
    assert all(dead.start_ms != -(2**63) or dead.by_rule for p in mover.catalog.state.parts for dead in p.tombstones)


def test_rules_and_levels_let_go_of_cold_records() -> None:
    db, clock = small()
    db.rollups.set(SERIES, "raw 6h -> 10m 3d -> 1h")
    clock.move(DAY)
    db.cold.run()
    widths = {(p.every_ms, p.day) for p in db.cold.catalog.state.parts}
    assert (600_000, "2026-05-27") not in widths
    assert (3_600_000, "2026-05-27") in widths
    assert counted(db, T0 + DAY, "1d")["a"] == 288
    clock.move(40 * DAY)
    db.cold.run()
    assert db.cold.catalog.state.parts == ()


def test_a_store_that_is_away_is_told_or_flagged() -> None:
    db, _ = small()
    objects = db.cold.catalog.objects
    fresh = mdb.Database(cold=objects._store, clock=db._clock)
    assert fresh.cold.catalog.state.parts
    real = fresh.cold.catalog.objects.ranges

    def away(key: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        raise fresh.cold.catalog.objects.error("away", "wait")

    fresh.cold.catalog.objects.ranges = away  # type: ignore[method-assign]
    with pytest.raises(mdb.ColdStoreError):
        fresh.query("count_over_time(load[1d])", T0 + DAY)
    with pytest.warns(mdb.QueryWarning, match="partial"):
        fresh.query("count_over_time(load[1d])", T0 + DAY, partial=True)
    fresh.cold.catalog.objects.ranges = real  # type: ignore[method-assign]
    assert counted(fresh, T0 + DAY, "1d")["a"] == 288


def test_recall_pins_and_incidents_bring_records(tmp_path: Path) -> None:
    db, clock = small()
    start, end = T0 + 6 * HOUR, T0 + 4.5 * DAY
    wanted = counted(db, T0 + DAY, "12h")
    assert wanted["a"] == 144
    view = db.recall("load", start, end)
    assert counted(view, T0 + DAY, "12h") == wanted
    with pytest.raises(mdb.ReadOnlyError):
        view._native.restore_records(pl.DataFrame(), 1, pl.DataFrame())
    db.export_incident(tmp_path / "one", "load", start, end)
    assert counted(mdb.open_incident(tmp_path / "one"), T0 + DAY, "12h") == wanted
    db.pin("held", "load", start, end)
    assert counted(db, T0 + DAY, "12h") == wanted
    clock.move(60 * DAY)
    db.cold.run()
    assert {part.pinned for part in db.cold.catalog.state.parts} == {"held"}
    assert counted(db, T0 + DAY, "12h") == wanted
    db.unpin("held")
    assert counted(db, T0 + DAY, "12h") == {}


def test_explain_simulate_and_impact_know_of_records() -> None:
    db, _ = small()
    why = db.retention.explain("load")["why"].to_list()
    assert all("rolled up by raw 6h" in text and "move on" in text for text in why)
    cold = db.retention.simulate(days=10).filter(tier="cold")
    assert cold["samples"].sum() == 0
    held = sum(part.bytes for part in db.cold.catalog.state.parts)
    assert cold["bytes"][0] == pytest.approx(held, rel=0.01)
    assert cold["bytes"][-1] > 1.5 * held
    db.alerts.install("RECORD daily = sum(avg_over_time(load[4d]))")
    told = db.retention.impact()
    assert told["effect"].to_list() == ["precision"]
    assert "cold store" in told["detail"][0]


def test_a_series_whose_policy_makes_no_records_is_not_said_to_go_cold_as_records() -> None:
    rollups = {"load": "none", "hits_total": "raw 6h -> 10m 4d -> 1h"}
    db = mdb.Database(clock=FakeClock(T0 * 1000), rollups=rollups, cold="memory://", retention=RULE)
    for name in rollups:
        db.append({"__name__": name}, [float(T0)], [1.0])
    found = db.retention.explain(SERIES)
    why = dict(zip(found["__name__"], found["why"], strict=True))
    assert "rolled up by" not in why["load"]
    assert "rolled up by raw 6h" in why["hits_total"]


def test_small_parts_of_records_become_one() -> None:
    db, clock = small()
    catalog, mover = db.cold.catalog, db.cold.mover
    part = next(p for p in catalog.state.parts if p.every_ms == 600_000 and p.samples > 100)
    rows = catalog.samples(part)
    other = rows.filter(pl.col("timestamp") < part.start_ms + 6 * HOUR * 1000).with_columns(pl.lit(7.5).alias("sum"))
    series = catalog.series(part)
    placed = other.join(series.select("series").with_row_index("row"), on="series", how="left").drop("series")
    frame = placed.with_columns(pl.lit(600_000, pl.Int64).alias("every")).sort("row", "timestamp")
    ids = series.select("series")
    from metricsdb.lifecycle.cold.memory import export_of

    mover.add(export_of(ids, series.drop("series"), frame))
    before = db.rollups.records("load", "10m", T0, T0 + 3 * DAY)
    assert 7.5 in before["sum"]
    assert mover.compact() >= 2
    assert db.rollups.records("load", "10m", T0, T0 + 3 * DAY).equals(before)
    clock.move(20)
    assert mover.sweep() >= 2


def test_duckdb_and_polars_read_records(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    db, _ = small(where=tmp_path)
    wanted = db.rollups.records("load", "1h", T0, T0 + 2.5 * DAY).sort("host", "timestamp")
    wanted = wanted.filter(pl.col("timestamp").dt.epoch("s") <= T0 + 2 * DAY)
    page = (Path(__file__).parents[3] / "docs" / "formats" / "cold.md").read_text()
    sql = page.split("```sql\n")[2].split("```")[0].replace("/backup/metrics", str(tmp_path))
    found = duckdb.sql(sql).pl()
    found = found.filter(pl.col("timestamp").dt.epoch("s") <= T0 + 2 * DAY)
    assert found["count"].to_list() == wanted["count"].to_list()
    assert found["max"].to_list() == wanted["max"].to_list()
    assert found["stddev"].to_list() == pytest.approx(wanted["stddev"].to_list())
    lazy = pl.scan_parquet(f"{tmp_path}/rollups/every=3600000/*/*.parquet", hive_partitioning=True)
    assert lazy.filter(pl.col("metric") == "load").select(pl.col("count").sum()).collect().item() > 0
