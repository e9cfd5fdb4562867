"""One memory limit: who is refused when, what leaves, and that nothing is lost without a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import httpx
import numpy as np
import pytest

import metricsdb as mdb
from metricsdb import config
from metricsdb.server import create_app
from metricsdb.sizes import size_bytes, size_text
from metricsdb.testing import FakeClock
from tests.server.remote_write import body

T0 = 1_700_000_000
STEPS = ["batch_queries", "queries", "new_series", "low_samples", "samples"]
# Half the pods are of a batch job whose samples may be refused before others.
LOW = [{"selector": '{class="batch"}', "keep": "400d", "importance": "low"}, {"selector": "", "keep": "400d"}]


def stats(db: mdb.Database) -> dict[str, int]:
    return dict(db.stats().iter_rows())


def steps(db: mdb.Database) -> dict[str, tuple[int, int]]:
    """By step: bytes from which on it is refused, and how many were."""
    return db._native.memory_steps()


def small(limit: str = "8MiB", **options: object) -> tuple[mdb.Database, mdb.database.Refs]:
    db = mdb.Database(clock=FakeClock(T0 * 1000), memory_limit=limit, **options)
    return db, db.register([{"__name__": "m", "i": str(i)} for i in range(200)])


def with_low(**options: object) -> tuple[mdb.Database, mdb.database.Refs, mdb.database.Refs]:
    """A database whose series of class batch are of low importance: and references of others, and of these."""
    db, refs = small(evict="never", retention=LOW, **options)
    return db, refs, db.register([{"__name__": "b", "i": str(i), "class": "batch"} for i in range(200)])


class Writer:
    """Values that no codec makes small, a second a step, and a count of what was accepted."""

    def __init__(self, db: mdb.Database, refs: mdb.database.Refs, from_s: int = T0) -> None:
        self.db, self.refs, self.at = db, refs, from_s
        self.rng = np.random.default_rng(7)
        self.accepted = 0

    def write(self, seconds: int = 10) -> mdb.WriteReport:
        times = np.repeat(np.arange(self.at, self.at + seconds) * 1000, len(self.refs)).astype("datetime64[ms]")
        ids = np.tile(self.refs, seconds)
        report = self.db.append_batch(ids, times, self.rng.random(len(ids)))
        assert report.accepted + report.rejected_total == len(ids)
        self.at += seconds
        self.accepted += report.accepted
        return report

    def fill(self, until: Callable[[int], bool]) -> None:
        while not until(self.db._native.measure()):
            self.write()


def refused(work: Callable[[], object], error: type[mdb.MetricsDBError]) -> bool:
    try:
        work()
    except error as refusal:
        return "memory limit" in str(refusal) and refusal.retry_after > 0
    return False


def test_the_steps_are_refused_in_their_order_and_alerts_last():
    db, refs, low = with_low()
    writer = Writer(db, refs)
    known, new = {"__name__": "m", "i": "7"}, iter(range(10))
    seen: list[list[str]] = []
    counted = dict.fromkeys([*STEPS, "bodies", "alert_queries"], 0)
    for step in [*STEPS, None]:
        if step != "samples" and step is not None:
            threshold = steps(db)[step][0]
            writer.fill(lambda held, threshold=threshold: held >= threshold)
        elif step == "samples":
            with pytest.raises(mdb.MemoryLimit):
                writer.fill(lambda _: False)
            counted["samples"] += 2000
        tried = {
            "batch_queries": refused(lambda: db.query("sum(m)", priority="batch"), mdb.QueryRejected),
            "queries": refused(lambda: db.query("sum(m)"), mdb.QueryRejected),
            "new_series": refused(lambda: db.register([{"__name__": "n", "n": str(next(new))}]), mdb.MemoryLimit),
            "low_samples": refused(lambda: db.append_batch(low[:1], "-5m", [1.0]), mdb.MemoryLimit),
            "samples": refused(lambda: db.append(known, "-5m", 1), mdb.MemoryLimit) if step != "samples" else True,
            "alert_queries": refused(lambda: db.query("sum(m)", priority="alert"), mdb.QueryRejected),
        }
        for name, was in tried.items():
            counted[name] += was and (name, step) != ("samples", "samples")
        seen.append([name for name, was in tried.items() if was])
    assert seen[:5] == [STEPS[:n] for n in range(1, 6)]
    assert "alert_queries" not in seen[5]
    assert {name: count for name, (_, count) in steps(db).items()} == counted
    assert stats(db)["samples"] == writer.accepted + 2, "one of each kind was taken, until none was"


def test_without_a_limit_nothing_is_refused_and_nothing_leaves():
    db = mdb.Database(clock=FakeClock(T0 * 1000))
    writer = Writer(db, db.register([{"__name__": "m", "i": str(i)} for i in range(100)]), T0 - 90_000)
    for _ in range(20):
        writer.write(100)
    assert not db.tick().evicted_samples
    assert stats(db)["samples"] == writer.accepted == 200_000
    assert stats(db)["memory_limit_bytes"] == 0


def test_a_refused_series_leaves_nothing_and_its_neighbours_are_taken():
    db, refs = small(evict="never")
    Writer(db, refs).fill(lambda held: held >= steps(db)["new_series"][0])
    before = stats(db)
    text = b"".join(b'm{i="%d"} 5 %d\nx_%d 1\n' % (i, (T0 - 50) * 1000, i) for i in range(100))
    report = db.ingest(text, format="prometheus")
    assert (report.accepted, report.series_created) == (100, 0)
    assert report.rejected["memory_limit"].count == 100
    assert "new series are refused" in report.rejected["memory_limit"].example
    after = stats(db)
    assert (after["symbols"], after["series"]) == (before["symbols"], before["series"])
    assert after["refused_new_series"] == 100


def folding(limits: list[mdb.Limit]) -> tuple[mdb.Database, Writer]:
    db, refs = small(evict="never", limits=limits)
    return db, Writer(db, refs)


def pods(numbers: range, value: int) -> bytes:
    return b"".join(b'f{pod="%d"} %d %d\n' % (i, value, (T0 - 50 + value) * 1000) for i in numbers)


def test_a_series_that_is_folded_already_is_taken_while_new_ones_are_refused():
    db, writer = folding([mdb.Limit(selector="f", max_series=1, at_limit="overflow", label="pod")])
    assert db.ingest(pods(range(10), 1), format="prometheus").accepted == 10
    writer.fill(lambda held: held >= steps(db)["new_series"][0])
    before = stats(db)
    report = db.ingest(pods(range(15), 2), format="prometheus")
    assert (report.accepted, report.rejected["memory_limit"].count) == (10, 5), "sums go on; none is added to them"
    assert db.query("sum(f)", T0 - 48, priority="alert")["value"].item() == 20
    after = stats(db)
    for name in ("symbols", "series", "folded_series"):
        assert after[name] == before[name]
    assert after["refused_new_series"] == 5
    assert db.limits.list()["series"].to_list() == [2], "what was refused is not counted"
    db._native.check()


def test_samples_of_folded_series_are_refused_where_all_samples_are():
    db, writer = folding([mdb.Limit(selector="f", max_series=1, at_limit="overflow", label="pod")])
    db.ingest(pods(range(5), 1), format="prometheus")
    refs = db.register([{"__name__": "f", "pod": str(i)} for i in range(1, 5)])
    with pytest.raises(mdb.MemoryLimit):
        writer.fill(lambda _: False)
    before = stats(db)["refused_samples"]
    with pytest.raises(mdb.MemoryLimit, match="try again"):
        db.append_batch(refs, T0 - 40, [7.0] * 4)
    assert stats(db)["refused_samples"] == before + 4
    assert db.query("sum(f)", T0 - 39, priority="alert")["value"].item() == 5, "a sum of what was accepted"


def test_alerts_see_their_series_while_those_of_low_importance_are_refused():
    db, refs, low = with_low(idle_cpu=0)
    db.alerts.install("ALERT TooMuch WHEN max(m) > 2")
    writer = Writer(db, refs)
    writer.fill(lambda held: held >= steps(db)["low_samples"][0])
    both = [*refs[:5], *low[:5]]
    report = db.append_batch(both, writer.at, [3.0] * 10)
    assert report.accepted == report.rejected["memory_limit"].count == 5
    assert "samples of low importance are refused; try again in 5 s" in report.rejected["memory_limit"].example
    db._clock.move(writer.at + 60 - T0)
    db.tick()
    assert db.alerts.active()["state"].to_list() == ["firing"]
    assert db.query("count(b)", writer.at, priority="alert").is_empty()
    assert stats(db)["refused_low_samples"] == 5
    assert 'metricsdb_memory_refused_total{step="low_samples"} 5' in served(db, "GET", "/metrics").text
    db.retention.use("400d")
    assert db.append_batch(both, writer.at, [4.0] * 10).accepted == 10, "without classes all are alike"
    db._native.check()


def test_what_was_refused_comes_in_again_once_there_is_room_and_nothing_else_is_missing(tmp_path):
    db, refs, low = with_low(path=tmp_path / "db", durability="batch", idle_cpu=0)
    writer, sent = Writer(db, refs), 0
    writer.fill(lambda held: held >= steps(db)["low_samples"][0])
    for i in range(20):
        assert refused(lambda at=writer.at + i: db.append_batch(low, at, [1.0] * len(low)), mdb.MemoryLimit)
        sent += len(low)
    assert stats(db)["refused_low_samples"] == sent
    accepted = writer.accepted
    db.delete("m", T0, (T0 + writer.at) // 2)
    db.tick()
    gone = accepted - stats(db)["samples"]
    assert gone > 0
    assert db.append_batch(low, writer.at, [1.0] * len(low)).accepted == len(low), "there is room"
    db.close()
    again = mdb.Database(tmp_path / "db", memory_limit="8MiB", retention=LOW, clock=FakeClock(T0 * 1000))
    assert stats(again)["samples"] == accepted - gone + len(low)
    Writer(again, again.register([{"__name__": "m", "i": str(i)} for i in range(200)]), writer.at).fill(
        lambda held: held >= steps(again)["low_samples"][0]
    )
    with pytest.raises(mdb.MemoryLimit, match="low importance"):
        again.append({"__name__": "b", "i": "3", "class": "batch"}, writer.at + 30, 1)
    again.close()


def test_over_http_a_body_says_which_part_of_it_is_to_come_again():
    db, refs, _ = with_low()
    Writer(db, refs).fill(lambda held: held >= steps(db)["low_samples"][0])
    normal = ({"__name__": "m", "i": "3"}, [((T0 - 9) * 1000, 1.0)])
    low = ({"__name__": "b", "i": "3", "class": "batch"}, [((T0 - 9) * 1000, 1.0)])
    partly = served(db, "POST", "/api/v1/write", content=body([normal, low]))
    assert (partly.status_code, partly.headers["retry-after"]) == (429, "5")
    assert partly.text.startswith("1 samples stored, refused: memory_limit: 1")
    assert "samples of low importance are refused" in partly.text
    nothing = served(db, "POST", "/api/v1/write", content=body([low]))
    assert (nothing.status_code, nothing.headers["retry-after"]) == (503, "5")
    assert "samples of low importance are refused" in nothing.text
    text = served(db, "POST", "/api/v1/import/prometheus", content=b'b{i="4",class="batch"} 1\nm{i="4"} 1\n')
    assert text.status_code == 429
    statsd = db.ingest(b"b:1|g|#i:5,class:batch\n", format="statsd")
    assert statsd.rejected["memory_limit"].count == 1
    assert stats(db)["refused_low_samples"] == 4


def test_nothing_accepted_is_lost_where_nothing_may_leave():
    db, refs = small(evict="never")
    writer, raised = Writer(db, refs), 0
    for _ in range(900):
        try:
            writer.write()
        except mdb.MemoryLimit:
            raised += 1
        db.tick()
    assert raised > 0
    found = db.query("sum(count_over_time(m[30d]))", writer.at, priority="alert")
    assert found["value"][0] == stats(db)["samples"] == writer.accepted
    assert db._native.measure() <= 1.05 * size_bytes("8MiB")
    db._native.check()


def test_the_oldest_leave_first_and_the_newest_stay(caplog):
    db, refs = small(evict_keep="10m", dense_after="60d")
    writer, ticks = Writer(db, refs, T0 - 40_000), []
    with caplog.at_level(logging.WARNING, logger="metricsdb.memory"):
        while writer.at < T0:
            writer.write(100)
            ticks.append(db.tick())
    left = [series for i in range(0, 200, 10) for series in db.raw(f'm{{i="{i}"}}', 0, T0 + 1)]
    evicted = stats(db)["evicted_samples"]
    assert evicted == sum(t.evicted_samples for t in ticks) > 0
    assert stats(db)["samples"] + evicted == writer.accepted
    assert len(left) == 20
    for series in left:
        times = series.timestamps // 1000
        assert times[-1] == T0 - 1
        assert (np.diff(times) == 1).all(), "what is left has no hole"
        assert times[0] <= T0 - 600
    assert db._native.measure() <= steps(db)["samples"][0]
    assert sum(count for _, count in steps(db).values()) == 0, "nobody was refused"
    assert "oldest samples left" in caplog.text
    assert stats(db)["evictions"] == len(caplog.records)


def test_kept_answers_go_before_samples():
    db, refs = small(evict="never")
    writer = Writer(db, refs)
    writer.write(100)
    db.query_range("m", T0, T0 + 40, "1s")
    assert stats(db)["memory_kept_bytes"] > 0
    db.tick()
    assert stats(db)["memory_kept_bytes"] > 0
    writer.fill(lambda held: held >= stats(db)["memory_soft_bytes"] * 1.01)
    db.tick()
    assert stats(db)["memory_kept_bytes"] == 0
    assert stats(db)["dropped_answers_bytes"] > 0


def test_what_is_younger_than_is_kept_is_refused_not_dropped():
    db, refs = small(evict_keep="1h")
    writer = Writer(db, refs, T0 - 3000)

    def go_on() -> None:
        while True:
            writer.write()
            db.tick()

    with pytest.raises(mdb.MemoryLimit):
        go_on()
    assert stats(db)["evicted_samples"] == 0


def test_a_query_is_ended_when_all_together_hold_too_much():
    db, refs = small("16MiB", evict="never", memory_soft=0.5)
    writer = Writer(db, refs)
    writer.fill(lambda held: held >= steps(db)["queries"][0] - 200_000)
    with pytest.raises(mdb.QueryRejected, match="class query"):
        db.query_range("m + 1", T0, T0 + 1000, "1s", cache=False)
    assert len(db.query("sum(m)", T0)) == 1, "what it held is free again"
    assert stats(db)["memory_queries_bytes"] == 0


def test_one_query_holds_a_quarter_of_the_limit_at_most():
    db, refs = small("64MiB")
    Writer(db, refs).write(2000)
    with pytest.raises(mdb.QueryLimit, match="16777216 allowed"):
        db.query_range("m + 1", T0, T0 + 20_000, "1s")


def test_samples_leave_by_age():
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, retention="1h")
    writer = Writer(db, db.register([{"__name__": "m", "i": str(i)} for i in range(20)]), T0 - 12_000)
    writer.write(12_000)
    db.tick()
    gone = stats(db)["expired_samples"]
    assert gone > 0
    left = db.raw("m", 0, T0)
    assert sum(len(s.timestamps) for s in left) + gone == writer.accepted
    assert all(s.timestamps[0] == (T0 - 3600) * 1000 for s in left)
    clock.move(3600)
    db.tick()
    assert stats(db)["expired_samples"] > gone


def served(db: mdb.Database, method: str, path: str, **arguments: object) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=create_app(db))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(once())


def test_over_http_refusals_say_when_to_come_again():
    db, refs = small(evict="never")
    Writer(db, refs).fill(lambda held: held >= steps(db)["new_series"][0])
    query = {"query": "sum(m)", "time": str(T0)}
    answer = served(db, "GET", "/api/v1/query", params=query)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["status"] == "error"
    assert answer.json()["errorType"] == "unavailable"
    assert "memory limit" in answer.json()["error"]
    alert = served(db, "GET", "/api/v1/query", params=query, headers={"X-MetricsDB-Priority": "alert"})
    assert alert.status_code == 200
    known, new = ({"__name__": "m", "i": "3"}, [((T0 - 9) * 1000, 1.0)]), ({"__name__": "n"}, [(T0 * 1000, 1.0)])
    partly = served(db, "POST", "/api/v1/write", content=body([known, new]))
    assert (partly.status_code, partly.headers["retry-after"]) == (429, "5")
    assert partly.text.startswith("1 samples stored, refused: memory_limit: 1")
    nothing = served(db, "POST", "/api/v1/write", content=body([new]))
    assert (nothing.status_code, nothing.headers["retry-after"]) == (503, "5")
    text = served(db, "POST", "/api/v1/import/prometheus", content=b"n 1\n")
    assert (text.status_code, text.headers["retry-after"]) == (503, "5")
    metrics = served(db, "GET", "/metrics").text
    assert 'metricsdb_memory_refused_total{step="new_series"} 3' in metrics
    assert 'metricsdb_memory_refused_total{step="queries"} 1' in metrics
    assert f"metricsdb_memory_limit_bytes {8 << 20}" in metrics
    assert 'metricsdb_memory_held_bytes{holder="stored"}' in metrics


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_limit": "4 apples"}, "memory_limit '4 apples' is not a size; write it as '4GiB'"),
        ({"memory_limit": -1}, "memory_limit -1 is not a size"),
        ({"memory_limit": "1MiB"}, "memory_limit '1MiB' is below 4MiB"),
        ({"memory_limit": "1GiB", "memory_soft": 1.5}, "memory_soft 1.5"),
        ({"memory_limit": "1GiB", "evict": "youngest"}, "evict 'youngest' is not known; give oldest or never"),
        ({"memory_limit": "1GiB", "evict_keep": -1}, "evict_keep must not be negative"),
        ({"retention": "soon"}, "retention 'soon' is not a duration"),
        ({"retention": 0}, "retention 0 must be longer than zero"),
    ],
)
def test_wrong_options_are_refused_by_name(options, words):
    with pytest.raises(mdb.ConfigError, match=words.replace("(", r"\(")):
        mdb.Database(**options)


def test_the_file_says_it_too():
    chosen = config.parse(b"memory: {limit: 4GiB, soft: 0.8, evict: never, evict_keep: 5m}\nretention: 15d\n")
    assert chosen.memory.limit == config.Size("4GiB")
    assert "limit: 4GiB" in config.dump(chosen)
    for text, words in [
        (b"memory: {limit: much}", "memory.limit: 'much'|memory.limit"),
        (b"memory: {soft: 2}", "`soft` is 2"),
        (b"memory: {evict: youngest}", "memory.evict"),
        (b"retention: 0s", "longer than zero"),
    ]:
        with pytest.raises(mdb.ConfigError, match=words):
            config.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512Mi", 512 << 20), ("1.5GB", 1_500_000_000), ("10k", 10_000), ("7", 7), ("7 B", 7), (9, 9)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert size_bytes(text) == size
    assert size_bytes(size_text(size)) == size
