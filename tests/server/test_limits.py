"""What one request, one sender or all of them may take: each refusal is typed, counted, and says when to come again."""

from __future__ import annotations

import asyncio
import gzip
import threading

import httpx
import pytest
from starlette.requests import ClientDisconnect

import metricsdb as mdb
from metricsdb.config import Config, Limits
from metricsdb.server import create_app, params
from metricsdb.server.gate import BODY_BYTES_PER_SECOND_MIN, SlowBody, _InTime
from metricsdb.server.intake import Held, Intake, NoRoom, TooLarge
from metricsdb.server.state import Counts
from metricsdb.web import Web
from tests.server.remote_write import body
from tests.server.serving import until

FORM = {"content-type": "application/x-www-form-urlencoded"}
MIB = 1 << 20


class Api:
    def __init__(self, web: Web | None = None, limits: Limits | None = None) -> None:
        self.counts = Counts(0)
        self.db = mdb.Database()
        self.app = create_app(
            self.db, config=Config(web=web or Web(), limits=limits or Limits()), counts=self.counts, environ={}
        )

    def client(self, address: str = "10.0.0.1") -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, client=(address, 1)), base_url="http://x")

    def ask(self, method: str, path: str, **arguments) -> httpx.Response:
        async def story() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(story())


def refused(answer: httpx.Response, status: int, kind: str, retry: str | None = None) -> str:
    assert (answer.status_code, answer.json()["errorType"]) == (status, kind)
    assert answer.headers.get("retry-after") == retry
    return answer.json()["error"]


def test_a_long_url_is_refused_with_the_way_round():
    api = Api(Web(header_bytes_max=1000))
    query = "vector(1) + " * 100 + "1"
    assert "POST" in refused(api.ask("GET", "/api/v1/query", params={"query": query}), 414, "bad_data")
    assert api.ask("POST", "/api/v1/query", data={"query": query}).status_code == 200
    assert api.counts.refused == {"url_bytes": 1}


def test_many_or_large_headers_are_refused():
    api = Api(Web(header_bytes_max=1000, headers_max=10))
    assert "10 allowed" in refused(
        api.ask("GET", "/-/ready", headers=[("x", str(n)) for n in range(10)]), 431, "bad_data"
    )
    assert "1000 allowed" in refused(api.ask("GET", "/-/ready", headers={"x": "y" * 1000}), 431, "bad_data")
    assert api.counts.refused == {"headers": 1, "header_bytes": 1}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("query=1" + "&match[]=a" * (params.PARAMETERS_MAX - 1), 200),
        ("query=1" + "&" * (20 * params.PARAMETERS_MAX), 400),
        ("query=1" + "&a" * params.PARAMETERS_MAX, 400),
        ("query=1&a=" + "%41" * 50_000, 200),
        ("query=1&a=" + "%zz" * 50_000, 200),
        ("query=1&a=" + "%ff" * 50_000, 400),
        ("a" * (params.FORM_BYTES_MAX + 1), 400),
    ],
)
def test_a_form_has_an_end(text, status):
    answer = Api().ask("POST", "/api/v1/query", content=text.encode(), headers=FORM)
    assert answer.status_code == status
    assert status == 200 or refused(answer, 400, "bad_data")


def test_forms_of_all_requests_share_their_memory(monkeypatch):
    monkeypatch.setattr("metricsdb.server.app.FORMS_BYTES_MAX", 1000)
    api = Api()
    assert api.ask("POST", "/api/v1/query", content=b"query=1&a=" + b"x" * 400, headers=FORM).status_code == 200
    answer = api.ask("POST", "/api/v1/query", content=b"query=1&a=" + b"x" * 600, headers=FORM)
    refused(answer, 503, "unavailable", "1")
    assert api.ask("POST", "/api/v1/query", content=b"query=1&a=" + b"x" * 400, headers=FORM).status_code == 200


class Trickle(httpx.AsyncByteStream):
    """A body of which the first part is there, and the rest when `go` is set."""

    def __init__(self, first: bytes, go: asyncio.Event, rest: bytes = b"") -> None:
        self.first, self.go, self.rest = first, go, rest

    async def __aiter__(self):
        yield self.first
        await self.go.wait()
        yield self.rest


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


def test_requests_above_the_limit_are_refused_and_the_state_is_still_shown():
    api = Api(Web(requests_max=2))

    async def story():
        async with api.client() as client:
            go = asyncio.Event()
            slow = [
                asyncio.create_task(client.post("/api/v1/import/prometheus", content=Trickle(b"a 1", go, b"\n")))
                for _ in range(2)
            ]
            await settle()
            assert "requests_max" in refused(await client.get("/api/v1/labels"), 503, "unavailable", "1")
            for path in ("/-/ready", "/-/healthy", "/metrics"):
                assert (await client.get(path)).status_code == 200
            go.set()
            assert [(await task).status_code for task in slow] == [204, 204]
            assert (await client.get("/api/v1/labels")).status_code == 200

    asyncio.run(story())
    assert api.counts.refused == {"requests": 1}


# --- bodies of writes ---


def test_bodies_of_all_writes_share_their_memory_and_a_newcomer_finds_room():
    api = Api(Web(write_bytes_max=8 * MIB), Limits(body_bytes_max=4 * MIB))

    async def story():
        async with api.client("10.0.0.1") as greedy, api.client("10.0.0.2") as other:
            go = asyncio.Event()
            part = b"#" * (3 * MIB) + b"\n"
            path = "/api/v1/import/prometheus"
            slow = [asyncio.create_task(greedy.post(path, content=Trickle(part, go, b"a 1\n"))) for _ in range(2)]
            await settle()
            assert sum(task.done() for task in slow) == 1, "one sender gets half"
            message = "other bodies take the memory"
            answer = await greedy.post("/api/v1/write", content=bytes(2 * MIB))
            assert message in refused(answer, 503, "unavailable", "1")
            first = next(task for task in slow if task.done())
            assert message in refused(first.result(), 503, "unavailable", "1")
            assert (await other.post(path, content=b"b 1\n" + b"#" * MIB)).status_code == 204
            go.set()
            assert sorted([(await task).status_code for task in slow]) == [204, 503]
            assert (await greedy.post(path, content=part + b"c 1\n")).status_code == 204, "all is given back"

    asyncio.run(story())
    assert api.counts.refused == {"write_bytes": 2}
    assert api.db.query('{__name__=~"a|b|c"}').height == 3


def test_a_bomb_is_refused_before_it_is_unpacked():
    api = Api(Web(write_bytes_max=4 * MIB), Limits(body_bytes_max=MIB))
    bomb = gzip.compress(bytes(100 * MIB))
    assert len(bomb) < MIB
    answer = api.ask("POST", "/api/v1/import/prometheus", content=bomb, headers={"content-encoding": "gzip"})
    assert "1048576 bytes" in refused(answer, 413, "bad_data")
    assert api.counts.refused == {"body_bytes": 1}


def test_what_is_unpacked_takes_room_too():
    api = Api(Web(write_bytes_max=2 * MIB), Limits(body_bytes_max=MIB))
    text = b"#" * (MIB - 100) + b"\na 1\n"
    packed = gzip.compress(text)

    async def story():
        async with api.client() as one:
            go = asyncio.Event()
            path = "/api/v1/import/prometheus"
            held = asyncio.create_task(one.post(path, content=Trickle(b"#" * 1000, go, b"\n")))
            await settle()
            answer = await one.post(path, content=packed, headers={"content-encoding": "gzip"})
            refused(answer, 503, "unavailable", "1")
            go.set()
            await held
            assert (await one.post(path, content=packed, headers={"content-encoding": "gzip"})).status_code == 204

    asyncio.run(story())


def test_an_announced_size_is_refused_before_the_body_is_sent_but_takes_no_room():
    intake = Intake(1000, 400, 1)
    one, other = Held(intake, "one"), Held(intake, "other")
    one.expect(400)
    with pytest.raises(TooLarge):
        one.expect(401)
    assert intake.room.free == 1000
    with other:
        other.grow(350)
        with pytest.raises(NoRoom):
            one.expect(350)
        one.expect(320)
    assert intake.room.free == 1000


def test_a_source_has_its_turns_and_another_does_not_wait_for_it():
    """Two of a source are worked on at once; whoever has few requests is never behind who has many."""
    intake, order = Intake(1000, 400, 2), []

    async def one(source: str, name: str) -> None:
        await intake.enter(source)
        order.append(name)
        await asyncio.sleep(0)
        intake.leave(source)

    async def story():
        many = [asyncio.create_task(one("many", f"m{n}")) for n in range(20)]
        few = [asyncio.create_task(one("few", f"f{n}")) for n in range(2)]
        cancelled = many[5]
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(*many, *few, return_exceptions=True)

    asyncio.run(story())
    assert order[:4] == ["m0", "m1", "f0", "f1"]
    assert order[4:] == [f"m{n}" for n in range(2, 20) if n != 5]
    assert intake._running == intake._waiting == {}


def test_a_turn_that_came_with_a_cancellation_goes_to_the_next():
    intake, done = Intake(1000, 400, 1), []

    async def one(name: str) -> None:
        await intake.enter("s")
        done.append(name)
        intake.leave("s")

    async def story():
        await intake.enter("s")
        tasks = [asyncio.create_task(one(name)) for name in "ab"]
        await asyncio.sleep(0)
        intake.leave("s")
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(story())
    assert done == ["b"]
    assert intake._running == {}


def test_writes_that_wait_for_threads_leave_some_to_other_senders(monkeypatch):
    """Four threads: a sender with ten large writes gets two, the rest wait in its own line."""
    api = Api(limits=Limits(query_concurrency=4))
    go, running = threading.Event(), []
    large = body([({"__name__": "m", "n": str(n)}, [(0, 1.5)]) for n in range(10)])
    monkeypatch.setattr("metricsdb.server.write.INLINE_BYTES_MAX", 0)

    class Slow:
        journal = staticmethod(lambda: None)

        @staticmethod
        def write_remote(raw: bytes):
            running.append(raw)
            assert go.wait(20)
            return (1, 0, 0, 0, [])

    write = next(route.endpoint._app for route in api.app.routes if route.path == "/api/v1/write")
    write._native, write._inline_bytes_max = Slow, 0

    async def story():
        async with api.client("10.0.0.1") as greedy, api.client("10.0.0.2") as other:
            many = [asyncio.create_task(greedy.post("/api/v1/write", content=large)) for _ in range(10)]
            await until(lambda: len(running) >= 2)
            await settle()
            assert len(running) == 2
            one = asyncio.create_task(other.post("/api/v1/write", content=large))
            await until(lambda: len(running) >= 3)
            go.set()
            assert {(await task).status_code for task in [*many, one]} == {204}

    asyncio.run(story())


# --- pace ---


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its time is that of the next timer whenever nothing else is to be done: waiting takes none."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready:
            due = min((timer.when() for timer in self._scheduled if not timer.cancelled()), default=0.0)
            self.now = max(self.now, due)
        super()._run_once()


def bodies(size: int, every_s: float, count: int):
    """A `receive` of a body in pieces."""
    left = iter(range(count - 1, -1, -1))

    async def receive():
        await asyncio.sleep(every_s)
        return {"type": "http.request", "body": bytes(size), "more_body": next(left) > 0}

    return receive


@pytest.mark.parametrize(
    ("size", "every_s", "count", "whole"),
    [
        (BODY_BYTES_PER_SECOND_MIN, 1, 1000, True),
        (BODY_BYTES_PER_SECOND_MIN // 2, 1, 50, True),  # ends before 30 s and the time of its bytes are over
        (BODY_BYTES_PER_SECOND_MIN // 2, 1, 70, False),
        (1, 1, 29, True),
        (1, 1, 32, False),
        (1, 29, 1, True),
        (1, 31, 1, False),
        (BODY_BYTES_PER_SECOND_MIN * 60, 30.5, 2, False),
        (BODY_BYTES_PER_SECOND_MIN * 60, 29.5, 3, True),
    ],
)
def test_a_body_has_its_timeout_and_the_time_that_its_bytes_may_take(size, every_s, count, whole):
    async def story() -> bool:
        receive = _InTime(bodies(size, every_s, count), 30)
        try:
            while (await receive())["more_body"]:
                pass
        except SlowBody:
            return False
        receive._receive = bodies(0, 1e6, 1)
        await receive()  # waiting for a disconnect takes as long as it takes
        return True

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        assert runner.run(story()) == whole


def test_a_slow_body_is_answered_once():
    api = Api()

    async def story():
        async with api.client() as client:
            answer = await client.post("/api/v1/write", content=Trickle(b"x", asyncio.Event()))
            assert "1 bytes of the body came in 30 s" in refused(answer, 408, "timeout")
            assert answer.headers["connection"] == "close"

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story())
    assert api.counts.requests["/api/v1/write", 408] == 1


def test_a_body_that_breaks_off_gives_its_memory_back():
    intake = Intake(1000, 400, 1)
    messages = iter([{"type": "http.request", "body": b"x" * 100, "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    async def story():
        with Held(intake, "s") as held, pytest.raises(ClientDisconnect):
            await held.read(receive)

    asyncio.run(story())
    assert intake.room.free == 1000


# --- faults of ours ---


def test_a_fault_of_ours_is_typed_logged_once_and_shows_nothing(monkeypatch, caplog):
    api = Api()
    monkeypatch.setattr(
        "metricsdb.server.params.Form.limit", lambda *_: (_ for _ in ()).throw(RuntimeError("inner words"))
    )
    answer = api.ask("GET", "/api/v1/labels")
    assert "inner words" not in refused(answer, 500, "internal")
    assert len(caplog.records) == 1
    assert "inner words" in caplog.text


def test_refusals_are_in_the_metrics():
    api = Api(Web(headers_max=10))
    api.ask("GET", "/-/ready", headers=[("x", "y")] * 20)
    assert 'metricsdb_http_refused_total{reason="headers"} 1' in api.ask("GET", "/metrics").text.splitlines()


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_what_is_not_there_is_typed_too(method):
    answer = Api().ask(method, "/nowhere")
    refused(answer, 404, "not_found")
    answer = Api().ask("PATCH", "/api/v1/query")
    refused(answer, 405, "bad_data")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
