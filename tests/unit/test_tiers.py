"""Queries that read cold storage: what they fetch, what they keep, and what they say when it is away."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb._native import Read
from metricsdb.lifecycle.cold import fetch
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.manifest import Part
from metricsdb.testing import FakeClock
from tests.tiers import ALL, move, mover_of

pytest.importorskip("obstore")

DAY = 86_400_000
T0 = 1_750_000_000_000 - 1_750_000_000_000 % DAY


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def filled(days: int = 3, services: int = 20, step_ms: int = 300_000, **options: object) -> mdb.Database:
    """A counter a service, and one gauge."""
    db = mdb.Database(**options)  # type: ignore[arg-type]
    times = np.arange(T0, T0 + days * DAY, step_ms)
    for i in range(services):
        labels = {"__name__": "requests_total", "service": f"s{i:03}", "zone": "ab"[i % 2]}
        db.append(labels, times.view("datetime64[ms]"), np.arange(len(times)) * (i + 1))
    db.append({"__name__": "up"}, times.view("datetime64[ms]"), np.ones(len(times)))
    return db


class Counted:
    """A catalog that notes what was fetched of it, and can be away."""

    def __init__(self, catalog: Catalog) -> None:
        self.inner, self.fetched, self.away = catalog, [], False
        self.gate: threading.Event | None = None

    @property
    def bytes_read(self) -> int:
        return self.inner.bytes_read

    def parts(self, start_ms: int, end_ms: int) -> list[Part]:
        return self.inner.parts(start_ms, end_ms)

    def series(self, part: Part) -> pl.DataFrame:
        return self.inner.series(part)

    def samples(self, part: Part, series: pl.Series | None = None, *times: int) -> pl.DataFrame:
        if self.away:
            raise mdb.ColdStoreError("test", "cannot be reached", "wait")
        if self.gate is not None:
            self.gate.wait(10)
        self.fetched.append((part.key, None if series is None else len(series)))
        return self.inner.samples(part, series, *times)

    def cost(self, part: Part, series: pl.Series) -> tuple[int, int]:
        return self.inner.cost(part, series)

    def refresh(self) -> object:
        return self.inner.refresh()


def tiered(days: int = 3, cold: int = 2, **options: object) -> tuple[mdb.Database, Counted]:
    """Of so many days the first ones are cold, a part a day."""
    db = filled(days, **options)
    mover = mover_of(db)
    for day in range(cold):
        move(db, mover, T0 + day * DAY, T0 + (day + 1) * DAY - 1)
    counted = Counted(mover.catalog)
    db._tiers.catalogs = (counted,)
    return db, counted


def test_all_ways_of_asking_answer_as_one_memory_does():
    whole, (db, _) = filled(), tiered()
    noon, end = at(T0 + DAY + DAY // 2), at(T0 + 3 * DAY - 1)
    start = at(T0)
    for expr in ("requests_total", "sum by (zone) (rate(requests_total[1h]))", "up offset 1d", "count(up)"):
        assert db.query(expr, noon).sort(pl.all()).equals(whole.query(expr, noon).sort(pl.all()))
        found, wanted = (d.query_range(expr, start, end, "2h").sort(pl.all()) for d in (db, whole))
        assert found.equals(wanted)
    selector = 'requests_total{service=~"s00[12]"}'
    drop = lambda frame: frame.drop("series").sort("service", "timestamp")  # noqa: E731
    assert drop(db.select(selector, start, end)).equals(drop(whole.select(selector, start, end)))
    for one, other in zip(db.raw(selector, start, end), whole.raw(selector, start, end), strict=True):
        assert one.labels == other.labels
        assert one.values.dtype == other.values.dtype == np.int64
        assert (one.timestamps == other.timestamps).all()
        assert (one.values == other.values).all()
    scanned = db.scan(selector).filter(pl.col("timestamp") < noon).collect()
    assert drop(scanned).equals(drop(whole.scan(selector).filter(pl.col("timestamp") < noon).collect()))
    assert db.label_names() == whole.label_names()
    assert db.label_values("service", start=start, end=at(T0 + DAY)) == whole.label_values("service")
    assert db.series(ALL).height == db.series(ALL, end=at(T0 + 1000)).height == 21
    plan = db.explain("sum(requests_total)", noon, analyze=True)
    assert plan.totals["samples"] == 20


def test_what_lies_in_memory_alone_fetches_nothing():
    db, counted = tiered()
    db.query("sum(rate(requests_total[1h]))", at(T0 + 3 * DAY - 1))
    db.query_range("up", at(T0 + 2 * DAY + 3_600_000), at(T0 + 3 * DAY), "1m")
    db.label_names(start=at(T0 + 2 * DAY))
    db.query("1 + time()", at(T0))
    assert counted.fetched == []
    assert db.explain("up", at(T0 + 3 * DAY - 1), analyze=True).totals["cold_bytes"] == 0


def test_series_are_fetched_once_and_those_of_the_query_alone():
    db, counted = tiered()
    for _ in range(3):
        db.query('requests_total{service="s003"}', at(T0 + 1000 * 60))
    assert [n for _, n in counted.fetched] == [1]
    db.query('requests_total{service=~"s00[34]"}', at(T0 + 1000 * 60))
    assert [n for _, n in counted.fetched] == [1, 1]
    plan = db.explain("count(requests_total)", at(T0 + 1000 * 60), analyze=True)
    assert plan.totals["cold_bytes"] > 0
    assert "read from cold storage" in plan.text


def test_a_plan_tells_what_would_be_fetched_and_fetches_nothing():
    db, counted = tiered()
    expr, times = 'sum(rate(requests_total{service=~"s00[34]"}[1h]))', (at(T0), at(T0 + 3 * DAY - 1), "1h")
    bound = db.estimate(expr, *times)
    # Two days of two series; a row group here is all of a day's 21.
    assert (bound.cold_parts, bound.cold_series, bound.cold_samples) == (2, 2, 2 * 21 * 288)
    assert counted.fetched == []
    plan = db.explain(f"EXPLAIN {expr}", *times)
    assert plan.totals["estimated_cold_bytes"] == bound.cold_bytes
    assert f"From cold storage {bound.cold_bytes:,} bytes of 2 parts: 2 series, at most 12,096 samples" in plan.text
    before = counted.bytes_read
    analyzed = db.explain(f"EXPLAIN ANALYZE {expr}", *times)
    assert analyzed.totals["cold_bytes"] == bound.cold_bytes == counted.bytes_read - before
    # What is kept by now costs nothing, nor does what lies in memory.
    assert db.estimate(expr, *times).cold_parts == 0
    assert db.explain("up", at(T0 + 3 * DAY - 1)).totals["estimated_cold_bytes"] == 0
    assert mdb.Database().estimate("up").cold_bytes == 0
    assert db.estimate("requests_total", *times).cold_series == 18
    assert db.estimate("nothing", *times).cold_parts == 0


def test_a_plan_of_a_store_that_is_away_says_so():
    class Away:
        bytes_read = 0

        def parts(self, start_ms: int, end_ms: int) -> list[Part]:
            raise mdb.ColdStoreError("test", "cannot be reached", "wait")

    db = mdb.Database()
    db._tiers.catalogs = (Away(),)
    with pytest.raises(mdb.ColdStoreError):
        db.estimate("up", at(T0))
    with pytest.raises(mdb.ParseError):
        db.estimate("up{", at(T0))


def test_what_is_sure_to_be_too_much_is_refused_before_it_is_fetched():
    db, counted = tiered()
    parts = counted.inner.state.parts
    db._tiers._limit = sum(part.bytes for part in parts) // fetch.SURE - 100
    worst = max(parts, key=lambda part: part.bytes)
    with pytest.raises(mdb.QueryLimit, match=f"of 21 series in {worst.key}; ask for fewer series or less time, or"):
        db.query_range(ALL, at(T0), at(T0 + 3 * DAY - 1), "1h")
    assert counted.fetched == []


def test_parts_are_brought_back_in_pieces_of_few_series(monkeypatch):
    monkeypatch.setattr(fetch, "PIECE_SAMPLES", 500)
    whole, (db, counted) = filled(), tiered()
    db._tiers.catalogs = (counted.inner,)
    assert len(list(db._tiers.pieces("requests_total", T0, T0 + DAY - 1))) == 20
    view = db.recall("requests_total", at(T0), at(T0 + 3 * DAY))
    for one, other in zip(
        view.raw(ALL, 0, at(T0 + 3 * DAY)), whole.raw("requests_total", 0, at(T0 + 3 * DAY)), strict=True
    ):
        assert one.labels == other.labels
        assert (one.timestamps == other.timestamps).all()
        assert (one.values == other.values).all()


def test_names_are_known_from_the_tables_of_series():
    db, counted = tiered()
    assert len(db.label_values("service")) == 20
    assert counted.fetched == []
    # A part that is cut by the range may have series without a sample in it.
    assert db.label_values("service", start=at(T0), end=at(T0 + 1000)) == [f"s{i:03}" for i in range(20)]
    assert len(counted.fetched) == 1


def test_who_asks_at_once_waits_for_one_fetch():
    db, counted = tiered()
    counted.gate = threading.Event()
    found: list[int] = []
    ask = lambda: found.append(db.query("requests_total", at(T0 + 60_000)).height)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    counted.gate.set()
    for thread in threads:
        thread.join()
    assert found == [20] * 4
    assert len(counted.fetched) == 1


def test_the_cache_keeps_what_was_used_last_and_a_query_that_needs_more_is_refused():
    db, counted = tiered(4, 3)
    queries = [at(T0 + day * DAY + 60_000) for day in range(3)]
    db.query("requests_total", queries[0])
    one = next(iter(db._tiers._shadows.values())).bytes
    db._tiers._limit = int(2.5 * one)
    for time in (*queries, queries[2], queries[1]):
        db.query("requests_total", time)
    assert len(counted.fetched) == 3
    db.query("requests_total", queries[0])
    assert len(counted.fetched) == 4
    with pytest.raises(mdb.QueryLimit, match="cold data at once"):
        db.query_range("requests_total", queries[0], queries[2], "1h")


def test_a_store_that_is_away_is_an_error_or_a_partial_answer():
    db, counted = tiered()
    counted.away = True
    with pytest.raises(mdb.ColdStoreError, match="cannot be reached"):
        db.query("up", at(T0 + 60_000))
    with pytest.warns(mdb.QueryWarning, match="answer is partial"):
        found = db.query_range("up", at(T0 + 2 * DAY - 600_000), at(T0 + 2 * DAY + 600_000), "5m", partial=True)
    assert found["timestamp"].min() == at(T0 + 2 * DAY)
    assert db.query("up", at(T0 + 3 * DAY - 1)).height == 1
    counted.away = False
    with_cold = db.query_range("up", at(T0 + 2 * DAY - 600_000), at(T0 + 2 * DAY + 600_000), "5m")
    assert with_cold["timestamp"].min() == at(T0 + 2 * DAY - 600_000)


def test_alerts_look_at_cold_samples_and_fail_alone_where_these_are_away():
    db, counted = tiered()
    now = T0 + 2 * DAY + 3_600_000
    db.alerts.install("ALERT old WHEN up offset 1d >= 1; ALERT new WHEN up >= 1")
    counted.away = True
    db.alerts.tick(now)
    health = dict(db.alerts.list().select("name", "health").iter_rows())
    assert health == {"old": "err", "new": "ok"}
    counted.away = False
    db.alerts.tick(now + 60_000)
    assert set(db.alerts.list()["health"]) == {"ok"}
    tested = db.alerts.backtest("ALERT old WHEN up offset 1d >= 1", at(now - 600_000), at(now))
    assert tested.transitions.height > 0


def test_late_samples_in_memory_stand_before_cold_ones_and_younger_parts_before_older():
    db = mdb.Database()
    mover = mover_of(db)
    for value in (1.0, 2.0, 3.0):
        db.append({"__name__": "x"}, [at(T0), at(T0 + 1000 + int(value))], [value, value])
        if value < 3:
            move(db, mover, T0, T0 + DAY)
    assert db.query("x[1m]", at(T0 + 2000))["value"].to_list() == [3.0, 1.0, 2.0, 3.0]


def test_subscriptions_see_cold_samples():
    db, _ = tiered()
    stream = db.subscribe("sum(requests_total)", step="1h", start=at(T0))
    found = stream.poll(at(T0 + 3 * DAY))
    wanted = filled().query_range("sum(requests_total)", at(T0), at(T0 + 3 * DAY), "1h")
    assert found.equals(wanted)


def test_a_read_says_what_it_takes():
    frame = pl.DataFrame({"__name__": ["a", "a", "b"], "label_value": ["1", None, "2"]})
    taken = lambda selector: Read(selector, 0, 1).matches(frame)["matches"].to_list()  # noqa: E731
    assert taken("a") == [True, True, False]
    assert taken('{__name__=~".+", value=""}') == [False, True, False]
    assert taken('{__name__=~".+", value!="1"}') == [False, True, True]
    assert taken('{__name__=~"a|b", value=~".+"}') == [True, False, True]
    with pytest.raises(mdb.ParseError):
        Read("a{", 0, 1)


def test_a_selective_query_reads_little():
    days, services = 10, 400
    db = mdb.Database()
    mover = mover_of(db)
    rng = np.random.default_rng(1)
    times = np.arange(T0, T0 + days * DAY, 60_000).view("datetime64[ms]")
    refs = db.register([{"__name__": "load", "service": f"s{i:05}"} for i in range(services)])
    for part in np.array_split(times, days):
        ids = np.repeat(refs, len(part))
        db.append_batch(ids, np.tile(part, services), np.round(rng.normal(50, 9, len(ids)), 2))
    for day in range(days):
        move(db, mover, T0 + day * DAY, T0 + (day + 1) * DAY - 1)
    stored = sum(part.bytes + part.series_bytes for part in mover.catalog.state.parts)
    mover.catalog.objects.bytes_read = 0
    db._tiers.catalogs = (Catalog(mover.catalog.objects),)
    found = db.query_range('load{service="s00123"}', at(T0), at(T0 + days * DAY - 1), "1h")
    assert found.height == days * 24
    # A row group of 131,072 rows of the 576,000 of a day is the least that is read of it.
    assert mover.catalog.objects.bytes_read < 0.3 * stored


def test_parts_that_another_process_replaced_are_looked_up_again():
    db, counted = tiered()
    catalog = counted.inner
    reader = mdb.Database()
    reader._tiers.catalogs = (Catalog(catalog.objects),)
    assert reader.label_values("service") == [f"s{i:03}" for i in range(20)]
    old = reader._tiers.catalogs[0].parts(T0, T0 + DAY - 1)
    mover = mover_of(db, catalog.objects._store)
    mover.delete(['{service="s000"}'], T0, T0 + 60_000)
    mover.compact()
    catalog.objects.delete([part.key for part in old])
    assert reader.query("requests_total", at(T0 + 30_000)).height == 19


def test_a_fetch_that_takes_too_long_ends_and_the_next_goes_on():
    clock = FakeClock(T0 + 4 * DAY)
    db, counted = tiered(4, 3, clock=clock, query_timeout="10s")
    inner = counted.inner.samples

    def slow(*arguments: object) -> pl.DataFrame:
        clock.move(8)
        return inner(*arguments)

    counted.inner.samples = slow  # type: ignore[method-assign]
    for fetched in (2, 3):
        with pytest.raises(mdb.QueryTimeout, match="ask again") if fetched == 2 else nullcontext():
            db.query_range("up", at(T0), at(T0 + 3 * DAY), "1d")
        assert len(counted.fetched) == fetched


def test_what_cannot_be_read_is_said_as_by_memory_alone():
    db, counted = tiered()
    for ask in (
        lambda: db.query("sum(", at(T0)),
        lambda: db.select("up{", at(T0), at(T0 + 1)),
        lambda: db.series("up{"),
    ):
        with pytest.raises(mdb.ParseError):
            ask()
    assert counted.fetched == []


def test_a_list_of_parts_that_does_not_come_is_a_store_that_is_away(monkeypatch):
    db, counted = tiered()

    def away(start_ms: int, end_ms: int) -> list[Part]:
        raise mdb.ColdStoreError("test", "cannot be reached", "wait")

    monkeypatch.setattr(counted, "parts", away)
    with pytest.raises(mdb.ColdStoreError, match="cannot be reached"):
        db.query("up", at(T0 + 60_000))
    with pytest.warns(mdb.QueryWarning, match="answer is partial"):
        found = db.query_range("up", at(T0), at(T0 + 3 * DAY - 1), "1h", partial=True)
    assert found["timestamp"].min() >= at(T0 + 2 * DAY)


def test_selections_are_kept_up_to_a_limit(monkeypatch):
    db, counted = tiered()
    asked = []
    inner = counted.series
    monkeypatch.setattr(counted, "series", lambda part: asked.append(part) or inner(part))
    tiers = db._tiers
    for expr in ("up", 'requests_total{zone="a"}', "up"):
        db.query(expr, at(T0 + 3_600_000))
    assert len(tiers._matched) == 2
    monkeypatch.setattr(fetch, "MATCHED_MAX", 70)
    db.query('requests_total{zone="b"}', at(T0 + 3_600_000))
    assert len(tiers._matched) <= 1
    assert db.query("up", at(T0 + 3_600_000)).height == 1


def test_what_a_query_is_at_is_not_evicted_though_others_were_asked_later(monkeypatch):
    db, counted = tiered()
    db.query("requests_total", at(T0 + 3_600_000))
    tiers = db._tiers
    (old,) = tiers._shadows
    fits = tiers._fits

    def later(found) -> None:
        fits(found)
        tiers._shadows.move_to_end(old)  # as another thread does meanwhile

    monkeypatch.setattr(tiers, "_fits", later)
    monkeypatch.setattr(tiers, "_limit", int(tiers._shadows[old].bytes * 1.5))
    assert db.query("requests_total", at(T0 + DAY + 7_200_000)).height == 20
    assert old not in tiers._shadows
    fetched = len(counted.fetched)
    monkeypatch.setattr(tiers, "_fits", fits)
    assert db.query("requests_total", at(T0 + DAY + 7_200_000)).height == 20
    assert len(counted.fetched) == fetched
