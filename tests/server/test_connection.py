"""Clients on a real socket that are slow, endless, too many or malformed: each ends with its type, and is counted."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack, suppress

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metricsdb.config import Config, Limits
from metricsdb.server import connection
from metricsdb.times import Duration
from metricsdb.web import Web
from tests.server.serving import error_of, read_answer, run, served, until

# Long enough for a busy machine to send what a test sends, where an answer is expected.
SOON = Duration("300ms")
READY = b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n"


def post(length: object, path: str = "/api/v1/import/prometheus") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_head_that_does_not_end_is_ended():
    async def story():
        async with served(Web(header_timeout=SOON)) as on:
            status, headers, body = await on.talk(b"GET /-/ready HT")
            assert (status, headers["connection"]) == (408, "close")
            assert error_of(body)[0] == "timeout"
            assert "header_timeout" in error_of(body)[1]
            assert on.counts.refused == {"head_time": 1}

    run(story())


def test_a_head_that_drips_is_ended_all_the_same():
    async def story():
        async with served(Web(header_timeout=SOON)) as on:
            reader, writer = await on.connect()

            async def drip() -> None:
                for byte in b"GET /-/ready HTTP/1.1\r\nX: " + b"x" * 10_000:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.005)

            dripping = asyncio.create_task(drip())
            assert (await read_answer(reader))[0] == 408
            dripping.cancel()

    run(story())


def test_a_connection_that_says_nothing_is_closed_without_a_word():
    async def story():
        async with served(Web(header_timeout=SOON)) as on:
            assert (await on.talk())[0] == 0
            assert on.counts.refused == {}

    run(story())


def test_blank_lines_between_requests_hold_no_connection():
    async def story():
        async with served(Web(header_timeout=SOON)) as on:
            reader, writer = await on.connect()
            writer.write(READY)
            assert (await read_answer(reader))[0] == 200
            writer.write(b"\r\n")
            assert (await read_answer(reader))[0] == 408

    run(story())


@pytest.mark.parametrize("rest", [b"a" * 100, b"x: y\r\n" * 20], ids=["URL", "fields"])
def test_a_head_without_end_is_cut_at_its_limit(rest):
    async def story():
        async with served(Web(header_bytes_max=1000)) as on:
            reader, writer = await on.connect()
            start = b"GET /" if rest[0] == rest[1] else b"GET / HTTP/1.1\r\n"
            writer.write((start + rest * 10)[:1000])
            await asyncio.sleep(0.01)
            writer.write(rest)
            status, _, body = await read_answer(reader)
            assert (status, error_of(body)[0]) == (431, "bad_data")
            assert on.counts.refused == {"header_bytes": 1}

    run(story())


def test_a_single_endless_header_and_endless_trailers_take_no_memory():
    async def story(start: bytes):
        async with served(Web(header_bytes_max=100_000)) as on:
            reader, writer = await on.connect()
            writer.write(start)
            sent = 0
            try:
                for _ in range(1000):
                    writer.write(b"x" * 10_000)
                    sent += 10_000
                    await writer.drain()
                    await asyncio.sleep(0)
            except ConnectionError:
                pass
            assert sent < 5_000_000
            assert on.counts.refused == {"header_bytes": 1}
            assert not any(c for c in on.server.server_state.connections if not c.transport.is_closing())
            del reader

    chunked = b"POST /api/v1/import/prometheus HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    run(story(b"GET / HTTP/1.1\r\nX: "))
    run(story(chunked + b"3\r\na 1\r\n0\r\nTrailer: "))
    run(story(chunked + b"3;extension="))


def test_trailers_are_read_and_forgotten():
    async def story():
        async with served() as on:
            status, _, _ = await on.talk(
                b"POST /api/v1/import/prometheus HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"4\r\na 1\n\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
            )
            assert status == 204

    run(story())


def test_a_body_that_does_not_end_is_ended():
    async def story():
        async with served(Web(body_timeout=SOON)) as on:
            for path in ("/api/v1/import/prometheus", "/api/v1/write"):
                status, headers, body = await on.talk(post(1000, path), b"a 1\n")
                assert (status, headers["connection"]) == (408, "close")
                assert "body_timeout" in error_of(body)[1]
            form = post(1000, "/api/v1/query")[:-2] + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
            assert (await on.talk(form, b"query=up"))[0] == 408
            assert on.counts.refused == {"body_time": 3}
            assert on.counts.requests["/api/v1/write", 408] == 1

    run(story())


def test_a_client_that_goes_away_in_its_body_is_no_fault(caplog):
    async def story():
        async with served() as on:
            for path in ("/api/v1/import/prometheus", "/api/v1/write"):
                _, writer = await on.connect()
                writer.write(post(1000, path) + b"a 1\n")
                await writer.drain()
                await asyncio.sleep(0.01)
                writer.close()
                await until(lambda path=path: on.counts.requests[path, 499] == 1)

    run(story())
    assert caplog.text == ""


def test_what_follows_a_refusal_is_read_for_a_while_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(connection, "DRAIN_S", 0.05)

    async def story():
        async with served(config=Config(limits=Limits(body_bytes_max=10))) as on:
            reader, writer = await on.connect()
            writer.write(post(20, "/api/v1/write"))
            assert (await read_answer(reader))[0] == 413
            writer.write(b"x" * 20 + READY)
            assert (await read_answer(reader))[0] == 200, "the rest of the body was passed over"
            writer.write(post(20, "/api/v1/write"))
            assert (await read_answer(reader))[0] == 413
            assert (await read_answer(reader))[0] == 0
            assert on.counts.refused == {"body_bytes": 2, "drain_time": 1}

    run(story())


async def large(scope, receive, send):
    """An answer of 40 MB: in one piece, or streamed."""
    if scope["type"] == "lifespan":
        while (kind := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{kind}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    pieces = 160 if scope["path"] == "/streamed" else 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for n in range(pieces):
        await send({"type": "http.response.body", "body": bytes(40_000_000 // pieces), "more_body": n < pieces - 1})


@pytest.mark.parametrize("path", ["/whole", "/streamed"])
def test_an_answer_that_nobody_takes_is_given_up(path):
    async def story():
        async with served(Web(answer_timeout=SOON), app=large) as on:
            with socket.create_connection(("127.0.0.1", on.server.port)) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await until(lambda: on.counts.refused == {"answer_time": 1})
                await until(lambda: not on.server.server_state.connections)

    run(story())


@pytest.mark.parametrize("path", ["/whole", "/streamed"])
def test_an_answer_that_is_taken_slowly_arrives_whole(path):
    async def story():
        async with served(Web(answer_timeout=Duration("500ms")), app=large) as on:
            reader, writer = await on.connect(limit=1 << 16)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            size = 0
            while piece := await reader.read(1 << 20):
                size += len(piece)
                await asyncio.sleep(0.003)  # a second for all of it
            assert size > 40_000_000
            assert on.counts.refused == {}

    run(story())


def test_connections_above_the_limit_are_told_and_health_is_answered():
    async def story():
        async with served(Web(connections_max=2)) as on:
            held = [await on.connect() for _ in range(2)]
            for _, writer in held:
                writer.write(b"GET")
            await until(lambda: len(on.server.server_state.connections) == 2)
            status, headers, body = await on.talk(b"GET /api/v1/labels HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            assert "connections_max" in error_of(body)[1]
            assert (await on.talk(READY))[0] == 200
            assert on.counts.refused == {"connections": 1}
            for _, writer in held:
                writer.close()
            await until(lambda: not on.server.server_state.connections)
            assert (await on.talk(b"GET /api/v1/labels HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200

    run(story())


def test_far_above_the_limit_connections_end_at_once(monkeypatch):
    monkeypatch.setattr(connection, "OVER_MAX", 0)

    async def story():
        async with served(Web(connections_max=1)) as on:
            _, writer = await on.connect()
            await until(lambda: on.server.server_state.connections)
            assert (await on.talk())[0] == 0
            assert on.counts.refused == {"connections": 1}
            writer.close()

    run(story())


def test_requests_piled_up_in_one_connection_are_bounded():
    async def story():
        async with served() as on:
            reader, writer = await on.connect()
            writer.write(READY * 200)
            statuses = []
            while status := (await read_answer(reader))[0]:
                statuses.append(status)
            assert len(statuses) <= 1 + connection.PIPELINED_MAX
            assert on.counts.refused == {"pipelined": 1}
            reader, writer = await on.connect()
            writer.write(READY * 10)
            assert [(await read_answer(reader))[0] for _ in range(10)] == [200] * 10
            writer.close()

    run(story())


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x80 HTTP/1.1\r\n\r\n",
        b"POST /api/v1/write HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/v1/write HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /api/v1/write HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_http_is_answered_with_the_apis_error(raw):
    async def story():
        async with served() as on:
            status, headers, body = await on.talk(raw)
            assert 400 <= status < 500
            assert headers["content-type"] == "application/json"
            assert error_of(body)[0] in ("bad_data", "not_found")

    run(story())


PIECES = (
    READY, b"\r\n", b"POST /api/v1/write HTTP/1.1\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"5\r\nabcde\r\n", b"0\r\n", b"Expect: 100-continue\r\n", b"\x00",
    b"GET /%ff%0a HTTP/1.0\r\n", b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"\r\n\r\n",
    b"Authorization: Basic !\r\n", b"GET //x:99999/ HTTP/1.1\r\n", b"ffffffffffffffffff\r\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def always_on():
    """One server for many examples; it runs while `run` does."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        web = Web(header_timeout=Duration("5s"), body_timeout=Duration("5s"))
        on = runner.run(stack.enter_async_context(served(web)))
        on.counts.found = found = []
        runner.get_loop().set_exception_handler(lambda _, context: found.append(context))
        yield on, runner
        runner.run(stack.aclose())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=12))
def test_no_bytes_bring_a_connection_down(always_on, pieces):
    """Parts of requests and noise in any order and any cut: answers or an end, never an exception."""
    on, runner = always_on

    async def story():
        reader, writer = await on.connect()
        with suppress(ConnectionError, RuntimeError):  # closed at the other end
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            writer.write_eof()
            async with asyncio.timeout(10):
                while await reader.read(65536):
                    pass
        writer.close()
        assert (await on.talk(READY))[0] == 200

    runner.run(story())
    on.clients.clear()
    assert not any(status == 500 for _, status in on.counts.requests)
    assert on.counts.found == []
