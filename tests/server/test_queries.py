"""What runs over HTTP: statistics, bodies that stream, the list, kill, classes, clients that go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

import metricsdb as mdb
from metricsdb.server import create_app
from metricsdb.testing import FakeClock, load
from tests.server.conftest import T0
from tests.server.test_read import ok, refused

# Far longer than any test.
SLOW = "max_over_time(quantile_over_time(0.9, http_requests_total[10m])[4000s:1ms])"
ACTIVE = "/api/v1/status/active_queries"


def fill(database: mdb.Database) -> mdb.Database:
    load(database, "15s", 'http_requests_total{service="api"} 0+15x40', start_ms=(T0 - 600) * 1000)
    return database


@asynccontextmanager
async def client(db: mdb.Database) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(db))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http


async def until(db: mdb.Database, count: int) -> None:
    """Until so many queries are on the list."""
    while db.queries().height != count:  # noqa: ASYNC110
        await asyncio.sleep(0)


# --- statistics -----------------------------------------------------------------------------------


def stats_of(call: Callable[..., httpx.Response], path: str, **parameters: object) -> dict[str, Any]:
    return ok(call("GET", f"/api/v1/{path}", params=parameters))["stats"]


def test_statistics_have_the_shape_of_prometheus(call):
    stats = stats_of(call, "query", query="http_requests_total", time=T0, stats="all")
    assert list(stats) == ["timings", "samples"]
    assert list(stats["timings"]) == [
        "evalTotalTime", "resultSortTime", "queryPreparationTime", "innerEvalTime", "execQueueTime", "execTotalTime",
    ]  # fmt: skip
    assert all(seconds >= 0 for seconds in stats["timings"].values())
    assert stats["samples"] == {
        "totalQueryableSamplesPerStep": [[T0, 3]], "totalQueryableSamples": 3, "peakSamples": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("expr", "per_step"),
    [
        ('http_requests_total{code="500"}', [1, 1, 1]),
        ("sum(rate(http_requests_total[1m]))", [12, 12, 12]),
        ('max_over_time(http_requests_total{code="500"}[60s:5s])', [12, 12, 12]),
        ("http_requests_total @ 1700000000", [3, 3, 3]),
        ("count_over_time(temperature[1h])", [37, 39, 41]),
        ("1 + 1", [0, 0, 0]),
    ],
)
def test_samples_are_counted_in_every_window_they_stand_in(call, expr, per_step):
    parameters = {"query": expr, "start": T0 - 60, "end": T0, "step": 30}
    samples = stats_of(call, "query_range", stats="all", **parameters)["samples"]
    assert [n for _, n in samples["totalQueryableSamplesPerStep"]] == per_step
    assert [t for t, _ in samples["totalQueryableSamplesPerStep"]] == [T0 - 60, T0 - 30, T0]
    assert samples["totalQueryableSamples"] == sum(per_step)
    brief = stats_of(call, "query_range", stats="1", **parameters)["samples"]
    assert brief == {k: v for k, v in samples.items() if k != "totalQueryableSamplesPerStep"}


def test_statistics_come_when_asked_for_and_change_nothing_else(call):
    parameters = {"query": "sum(rate(http_requests_total[5m]))", "time": T0}
    plain = ok(call("GET", "/api/v1/query", params=parameters))
    asked = ok(call("GET", "/api/v1/query", params={**parameters, "stats": "all"}))
    assert "stats" not in plain
    del asked["stats"]
    assert asked == plain


def test_lookback_delta_is_how_old_a_sample_may_be(call):
    late = {"query": "temperature", "time": T0 + 20}
    assert len(ok(call("GET", "/api/v1/query", params={**late, "lookback_delta": "30s"}))["result"]) == 1
    assert ok(call("GET", "/api/v1/query", params={**late, "lookback_delta": "10s"}))["result"] == []
    refused(call("GET", "/api/v1/query", params={**late, "lookback_delta": "0"}), 400, "bad_data", "lookback_delta")


# --- bodies that stream ---------------------------------------------------------------------------


async def pieces(app: Any, query: str, receive: Any = None, took: Any = None) -> tuple[dict, list[bytes]]:
    """Status, headers and the pieces of a body, as an ASGI server gets them."""
    start: dict[str, Any] = {}
    body: list[bytes] = []
    asked = asyncio.Event()

    async def default_receive() -> dict[str, Any]:
        if not asked.is_set():
            asked.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            body.append(message["body"])
            if took is not None:
                await took()

    path, _, query_string = query.partition("?")
    scope = {
        "type": "http", "method": "GET", "path": path, "query_string": query_string.encode(), "headers": [],
        "client": ("10.0.0.7", 4242), "server": ("test", 80), "scheme": "http", "root_path": "",
    }  # fmt: skip
    await app(scope, receive or default_receive, send)
    return start, body


LARGE = f"/api/v1/query_range?query=http_requests_total%2Btime()&start={T0 - 600}&end={T0}&step=0.06&limit=2&stats=all"


def test_a_large_answer_comes_in_pieces_that_are_the_whole(db):
    start, body = asyncio.run(pieces(create_app(db), LARGE))
    headers = dict(start["headers"])
    assert (start["status"], headers[b"content-type"]) == (200, b"application/json")
    assert b"content-length" not in headers
    assert len(body) > 3
    assert max(map(len, body)) < 600_000  # the last one has the statistics
    answer = json.loads(b"".join(body))
    assert answer["warnings"] == ["results truncated due to limit"]
    assert len(answer["data"]["stats"]["samples"]["totalQueryableSamplesPerStep"]) == 10_001
    expected = db.query_range("http_requests_total + time()", T0 - 600, T0, 0.06)
    found = [float(v) for row in answer["data"]["result"] for _, v in row["values"]]
    assert found == expected["value"].to_list()[: len(found)]
    assert db.queries().is_empty()


def test_a_small_answer_has_a_length(call):
    assert int(call("GET", "/api/v1/query", params={"query": "1"}).headers["content-length"]) > 0


def test_an_answer_that_nobody_takes_ends_with_its_timeout(db):
    async def story() -> None:
        stuck = asyncio.Event()
        with pytest.raises(TimeoutError):
            await pieces(create_app(db), LARGE + "&timeout=2s", took=stuck.wait)

    asyncio.run(story())
    assert db.queries().is_empty()


def test_an_answer_on_its_way_is_on_the_list_and_can_be_killed(db):
    async def story() -> None:
        async def took() -> None:
            if not killed:
                row = db.queries().row(0, named=True)
                assert (row["state"], row["source"]) == ("writing", "http 10.0.0.7:4242")
                killed.append(db.kill(row["id"]))

        killed: list[bool] = []
        with pytest.raises(mdb.QueryKilled):
            await pieces(create_app(db), LARGE, took=took)
        assert killed == [True]

    asyncio.run(story())
    assert db.queries().is_empty()


# --- clients that go away -------------------------------------------------------------------------


@pytest.mark.parametrize("query", [f"/api/v1/query?query={SLOW}", LARGE], ids=["evaluating", "writing"])
def test_a_client_that_goes_away_ends_its_query(db, query):
    async def story() -> None:
        sent, gone = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not sent.is_set():
                sent.set()
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def took() -> None:
            taken.append(1)
            gone.set()
            await asyncio.sleep(0.01)

        taken: list[int] = []
        task = asyncio.create_task(pieces(create_app(db), query, receive, took))
        if "query_range" not in query:
            await until(db, 1)
        gone.set() if "query_range" not in query else None
        _, body = await task
        assert len(body) <= 3
        await until(db, 0)

    asyncio.run(story())


# --- the list, kill, classes ----------------------------------------------------------------------


def test_a_query_is_seen_and_killed_over_http(db):
    async def story() -> None:
        async with client(db) as http:
            slow = asyncio.create_task(http.get("/api/v1/query", params={"query": SLOW, "priority": "batch"}))
            await until(db, 1)
            (row,) = ok(await http.get(ACTIVE))
            assert (row["class"], row["query"], row["state"]) == ("batch", SLOW, "running")
            assert row["source"].startswith("http")
            assert {"seconds", "samples", "bytes", "bytesPeak"} <= set(row)
            assert ok(await http.delete(f"{ACTIVE}/{row['id']}")) == {"killed": row["id"]}
            refused(await slow, 499, "canceled", "killed")
            refused(await http.post(f"{ACTIVE}/{row['id']}"), 404, "not_found", str(row["id"]))
            assert ok(await http.get(ACTIVE)) == []

    asyncio.run(story())


def test_more_than_may_wait_are_told_when_to_come_again():
    db = fill(mdb.Database(clock=FakeClock(T0 * 1000), query_concurrency=1, queries_waiting_max=0))

    async def story() -> None:
        async with client(db) as http:
            slow = asyncio.create_task(http.get("/api/v1/query", params={"query": SLOW}))
            await until(db, 1)
            answer = await http.get("/api/v1/query", params={"query": "1"})
            refused(answer, 503, "unavailable", "too many queries", "query_concurrency")
            assert answer.headers["retry-after"] == "1"
            alert = await http.get("/api/v1/query", params={"query": "1", "priority": "alert"})
            assert alert.status_code == 200
            by_header = await http.get(
                "/api/v1/query", params={"query": "1"}, headers={"X-MetricsDB-Priority": "alert"}
            )
            assert by_header.status_code == 200
            assert (await http.get("/-/ready")).status_code == 200
            db.kill(db.queries()["id"][0])
            await slow

    asyncio.run(story())


def test_a_class_that_is_none_is_bad_data(call):
    refused(call("GET", "/api/v1/query", params={"query": "1", "priority": "first"}), 400, "bad_data", "priority")
