"""Scraping against targets that behave, and targets that do not."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import math
import struct
import threading

import httpx
import pytest

import metricsdb as mdb
from metricsdb import config
from metricsdb.adapters.scrape import Scraper, Target, targets
from metricsdb.testing import FakeClock

T0 = 1_700_000_000


def target(**changes) -> Target:
    return Target("http://host:9100/metrics", {"job": "node", "instance": "host:9100"}, 15_000, 5.0, **changes)


def scrape(db: mdb.Database, chosen: Target, *replies, step_s: int = 15):
    """One scrape after another, each with the next reply (a response, or an exception)."""
    clock, left = FakeClock(T0 * 1000), list(replies)

    def answer(request: httpx.Request) -> httpx.Response:
        reply = left.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def story():
        scraper = Scraper(db._native, clock, transport=httpx.MockTransport(answer))
        results = [await scraper.scrape(chosen, (T0 + i * step_s) * 1000) for i in range(len(replies))]
        await scraper.close()
        return results

    return asyncio.run(story())


def raw(db: mdb.Database, selector: str) -> list[float]:
    found = db.raw(selector, T0 - 10, T0 + 1000)
    return [v for series in found for v in series.values]


def is_stale(value: float) -> bool:
    return struct.pack("<d", value) == struct.pack("<Q", 0x7FF0000000000002)


def test_a_good_scrape_stores_samples_with_the_targets_labels():
    db = mdb.Database()
    [result] = scrape(db, target(), httpx.Response(200, text='a 1\nb{x="y"} 2\n'))
    assert (result.error, result.samples, result.rejected) == (None, 2, [])
    assert raw(db, 'a{job="node",instance="host:9100"}') == [1]
    assert raw(db, 'b{job="node",x="y"}') == [2]
    assert raw(db, 'up{job="node",instance="host:9100"}') == [1]
    assert raw(db, "scrape_samples_scraped") == [2]
    assert len(raw(db, "scrape_duration_seconds")) == 1


def test_protobuf_is_asked_for_first_and_taken():
    asked = []
    counter = b"\x09" + struct.pack("<d", 5.0) + b"\x1a\x02\x08\x07"
    metric = b"\x1a" + bytes([len(counter)]) + counter
    family = b"\x0a\x06a_runs\x18\x00\x22" + bytes([len(metric)]) + metric
    kind = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
    reply = httpx.Response(200, content=bytes([len(family)]) + family, headers={"content-type": kind})
    db = mdb.Database(clock=FakeClock(T0 * 1000))

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["accept"])
        return reply

    async def story() -> None:
        scraper = Scraper(db._native, FakeClock(T0 * 1000), transport=httpx.MockTransport(answer))
        assert (await scraper.scrape(target(), T0 * 1000)).error is None
        await scraper.close()

    asyncio.run(story())
    assert asked[0].startswith("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily")
    assert raw(db, 'a_runs{job="node"}') == [5]
    assert db.query("start_timestamp(a_runs)", T0)["value"].to_list() == [7.0]


def test_a_series_that_vanishes_ends_with_a_marker_and_the_others_go_on():
    db = mdb.Database()
    _, second = scrape(db, target(), httpx.Response(200, text="a 1\nb 2\n"), httpx.Response(200, text="a 3\n"))
    assert raw(db, "a") == [1, 3]
    two, marker = raw(db, "b")
    assert two == 2
    assert is_stale(marker)
    assert second.samples == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (httpx.Response(500, text="a 9\n"), "HTTP status 500"),
        (httpx.ConnectError("refused"), "refused"),
        (httpx.ReadTimeout("slow"), "slow"),
        (httpx.Response(200, text="a{ 1\n", headers={"content-type": "application/openmetrics-text"}), ""),
    ],
)
def test_a_failed_scrape_ends_all_series_and_says_why(reply, words):
    db = mdb.Database()
    _, failed = scrape(db, target(), httpx.Response(200, text="a 1\n"), reply)
    assert failed.error is not None
    assert words in failed.error
    assert raw(db, "up") == [1, 0]
    one, marker = raw(db, "a")
    assert one == 1
    assert is_stale(marker)


def test_a_target_that_never_ends_is_given_up():
    db = mdb.Database()

    async def story():
        async def hang(request: httpx.Request) -> httpx.Response:
            await asyncio.Event().wait()
            raise AssertionError

        scraper = Scraper(db._native, FakeClock(T0 * 1000), transport=httpx.MockTransport(hang))
        chosen = target()
        chosen.timeout_s = 0.05
        result = await scraper.scrape(chosen, T0 * 1000)
        await scraper.close()
        return result

    assert asyncio.run(story()).error == "no answer within 0.05 s"
    assert raw(db, "up") == [0]


def test_a_body_over_the_limit_is_refused():
    db = mdb.Database()
    [result] = scrape(db, target(body_bytes_max=10), httpx.Response(200, text="a 1\n" * 10))
    assert "larger than 10 bytes" in (result.error or "")
    assert raw(db, "a") == []


def test_the_senders_labels_give_way_or_are_honoured():
    db = mdb.Database()
    scrape(db, target(), httpx.Response(200, text='a{job="own"} 1\n'))
    assert raw(db, 'a{job="node",exported_job="own"}') == [1]
    db = mdb.Database()
    scrape(db, target(honor_labels=True), httpx.Response(200, text='a{job="own"} 1\n'))
    assert raw(db, 'a{job="own"}') == [1]


def test_a_malformed_line_is_counted_and_its_neighbours_are_stored():
    db = mdb.Database()
    [result] = scrape(db, target(), httpx.Response(200, text="a 1\nb{ 2\nc 3\n"))
    assert result.error is None
    assert [(reason, count) for reason, count, _ in result.rejected] == [("malformed", 1)]
    assert raw(db, "a") == [1]
    assert raw(db, "c") == [3]


def test_jobs_become_targets_with_prometheus_labels():
    parsed = config.parse(b"scrape: [{job_name: j, targets: ['a:1', 'b:2'], scrape_interval: 10s, labels: {team: x}}]")
    first, second = targets(parsed.scrape)
    assert first.url == "http://a:1/metrics"
    assert first.labels == {"job": "j", "instance": "a:1", "team": "x"}
    assert (first.interval_ms, first.timeout_s) == (10_000, 10.0)
    assert second.labels["instance"] == "b:2"


def test_targets_are_asked_at_even_times_for_ever():
    db, clock, seen = mdb.Database(), FakeClock(T0 * 1000 + 123), []

    async def story() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, text="a 1\n"))
        scraper = Scraper(db._native, clock, transport=transport)
        task = asyncio.create_task(scraper.run([target()], lambda result: seen.append(result.at_ms)))
        for _ in range(4):
            await clock.advance(15)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await scraper.close()

    asyncio.run(story())
    assert len(seen) == 4
    assert {b - a for a, b in itertools.pairwise(seen)} == {15_000}
    assert not math.isnan(raw(db, "a")[0])


# --- what a target may not do ---


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "identity, gzip", "x"])
def test_a_body_that_is_packed_otherwise_or_twice_is_refused(encoding):
    reply = httpx.Response(200, headers={"content-encoding": encoding}, stream=httpx.ByteStream(b"a 1\n"))
    [result] = scrape(mdb.Database(), target(), reply)
    assert "gzip and identity are taken" in result.error


def test_a_bomb_is_given_up_at_the_limit():
    bomb = gzip.compress(bytes(50 << 20))
    reply = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(bomb))
    [result] = scrape(mdb.Database(), target(body_bytes_max=1 << 20), reply)
    assert "larger than 1048576 bytes" in result.error


def test_bodies_of_all_targets_share_their_memory(monkeypatch):
    monkeypatch.setattr("metricsdb.adapters.scrape.BODIES_BYTES_MAX", 1 << 20)
    db, text = mdb.Database(), b"#" * 600_000 + b"\na 1\n"
    large, small = scrape(db, target(), httpx.Response(200, content=text), httpx.Response(200, content=b"a 1\n"))
    assert "bodies of other scrapes" in large.error
    assert small.error is None, "what was taken is given back"


def test_large_bodies_and_journals_are_written_beside_the_event_loop(tmp_path):
    def threads_of(db: mdb.Database, text: bytes) -> set[bool]:
        found = set()

        async def story() -> None:
            reply = httpx.MockTransport(lambda _: httpx.Response(200, content=text))
            scraper = Scraper(
                db._native,
                FakeClock(T0 * 1000),
                written=lambda *_: found.add(threading.current_thread() is threading.main_thread()),
                transport=reply,
            )
            assert (await scraper.scrape(target(), T0 * 1000)).error is None
            await scraper.close()

        asyncio.run(story())
        return found

    assert threads_of(mdb.Database(), b"a 1\n") == {True}
    assert threads_of(mdb.Database(), b"#" * 300_000 + b"\na 1\n") == {False}
    with mdb.Database(tmp_path / "data") as db:
        assert threads_of(db, b"a 1\n") == {False}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("basic_auth: {username: me, password_file: secret}", "Basic bWU6aHVudGVyMg=="),
        ("authorization: {credentials_file: secret}", "Bearer hunter2"),
        ("authorization: {type: Token, credentials_file: secret}", "Token hunter2"),
    ],
)
def test_credentials_are_read_from_their_file_at_each_scrape(tmp_path, text, expected):
    (tmp_path / "x.yml").write_text(f"scrape: [{{job_name: a, targets: ['h:1'], {text}}}]")
    chosen, asked = config.load(tmp_path / "x.yml"), []
    assert "hunter2" not in config.dump(chosen)
    [one] = targets(chosen.scrape)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("authorization"))
        return httpx.Response(200, text="a 1\n")

    async def story() -> list[str | None]:
        scraper = Scraper(mdb.Database()._native, FakeClock(T0 * 1000), transport=httpx.MockTransport(answer))
        missing = await scraper.scrape(one, T0 * 1000)
        (tmp_path / "secret").write_text("hunter2\n")
        found = await scraper.scrape(one, T0 * 1000 + 1)
        (tmp_path / "secret").write_text("two\nlines")
        split = await scraper.scrape(one, T0 * 1000 + 2)
        await scraper.close()
        return [missing.error, found.error, split.error]

    missing, found, split = asyncio.run(story())
    assert asked == [expected]
    assert found is None
    assert "secret cannot be read" in missing
    assert "one line of ASCII" in split


def test_credentials_do_not_follow_a_redirect_to_another_host(tmp_path):
    (tmp_path / "secret").write_text("hunter2")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("authorization")))
        if request.url.host == "host":
            return httpx.Response(302, headers={"location": "http://elsewhere/metrics"})
        return httpx.Response(200, text="a 1\n")

    async def story() -> None:
        scraper = Scraper(mdb.Database()._native, FakeClock(T0 * 1000), transport=httpx.MockTransport(answer))
        secret = config.Authorization(str(tmp_path / "secret"))
        await scraper.scrape(target(authorization=secret), T0 * 1000)
        await scraper.close()

    asyncio.run(story())
    assert seen == [("host", "Bearer hunter2"), ("elsewhere", None)]
