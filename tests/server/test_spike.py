"""A sender that goes mad beside one that goes on as before: the one is told to wait, the other never notices."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from metricsdb.config import Config, Limits
from metricsdb.server.intake import Intake
from metricsdb.server.state import Counts
from metricsdb.server.write import RemoteWrite
from metricsdb.web import Web
from tests.server.remote_write import body
from tests.server.serving import Served, read_answer, run, served

MIB = 1 << 20
STEADY, CONNECTIONS = 40, 60


def post(content: bytes) -> bytes:
    return f"POST /api/v1/write HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def steady(on: Served) -> list[int]:
    """One connection from an address of its own, a small body after the other."""
    reader, writer = await on.connect(local_addr=("127.0.0.2", 0))
    found = []
    for n in range(STEADY):
        writer.write(post(body([({"__name__": "steady"}, [(n, float(n))])])))
        found.append((await read_answer(reader))[0])
    return found


async def mad(on: Served, number: int, stop: asyncio.Event) -> list[tuple[int, str | None]]:
    """Large bodies of new series, of which the last part never comes before the next turn of the loop."""
    series = [({"__name__": "mad", "n": f"{number}-{n}", "pad": "x" * 500}, [(1, 1.0)]) for n in range(300)]
    raw = post(body(series))
    head, tail = raw[:-10], raw[-10:]
    found = []
    reader, writer = await on.connect()
    while not stop.is_set():
        writer.write(head)
        await asyncio.sleep(0.01)
        writer.write(tail)
        status, headers, _ = await read_answer(reader)
        found.append((status, headers.get("retry-after")))
        if not status:
            reader, writer = await on.connect()
    return found


def test_a_flood_of_one_sender_is_told_to_wait_and_the_other_is_not():
    web, limits = Web(write_bytes_max=MIB // 4), Limits(body_bytes_max=MIB // 8)

    async def story() -> None:
        async with served(web, config=Config(web=web, limits=limits)) as on:
            stop = asyncio.Event()
            flood = [asyncio.create_task(mad(on, n, stop)) for n in range(CONNECTIONS)]
            assert await steady(on) == [204] * STEADY
            stop.set()
            answers = [answer for task in flood for answer in await task]
            assert set(answers) <= {(204, None), (503, "1")}
            assert (503, "1") in answers, "what is too much is refused, with a time to come again"
            assert (204, None) in answers
            assert on.counts.refused == {"write_bytes": answers.count((503, "1"))}
            intake = next(r.endpoint._app._intake for r in on.server._app.routes if r.path == "/api/v1/write")
            assert (intake.room.free, intake._running, intake._waiting) == (MIB // 4, {}, {}), "all is given back"
            assert await steady(on) == [204] * STEADY
            stored = {n for n in range(CONNECTIONS) if not on.db.query(f'mad{{n="{n}-299"}}', 1).is_empty()}
            assert len(stored) > 0
            assert on.db.query("count_over_time(steady[1m])", 1)["value"].item() > 0

    run(story())


class SlowStore:
    """Makes series of a body that says so, and takes until it is told to end."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.threads: list[str] = []

    def journal(self) -> None:
        return None

    def write_remote(self, body: bytes):
        self.threads.append(threading.current_thread().name)
        new = body == b"new"
        if new:
            self.entered.release()
            assert self.go_on.wait(20), "nobody came to end it: the event loop is held"
        return 1, 0, 0, int(new), []


async def sent(write: RemoteWrite, address: str, content: bytes) -> int:
    """One body of a sender through the endpoint: the status."""
    answers = []

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "headers": [(b"content-length", b"%d" % len(content))], "client": (address, 1)}
    await write(scope, receive, send)
    return answers[0]["status"]


def test_a_store_that_takes_long_for_new_series_of_one_sender_holds_up_no_other():
    store = SlowStore()

    async def story() -> None:
        with ThreadPoolExecutor(4, thread_name_prefix="call") as executor:
            write = RemoteWrite(store, Counts(0), Intake(MIB, MIB, 2), executor)
            assert [await sent(write, "10.0.0.1", b"known") for _ in range(2)] == [204, 204]
            mad = [asyncio.create_task(sent(write, "10.0.0.2", b"new")) for _ in range(20)]
            for _ in range(2):
                await asyncio.to_thread(store.entered.acquire)
            # Both turns of the mad one are in the store, its others wait; a steady sender and a newcomer do not.
            assert [await sent(write, "10.0.0.1", b"known") for _ in range(50)] == [204] * 50
            assert [await sent(write, "10.0.0.3", b"known") for _ in range(2)] == [204, 204]
            assert not any(task.done() for task in mad)
            store.go_on.set()
            assert await asyncio.gather(*mad) == [204] * 20

    run(story())


def test_a_sender_is_handed_to_a_thread_until_its_series_are_known_and_again_when_it_makes_some(monkeypatch):
    monkeypatch.setattr("metricsdb.server.write.STEADY_SOURCES_MAX", 8)
    store = SlowStore()
    store.go_on.set()

    async def story() -> None:
        with ThreadPoolExecutor(4, thread_name_prefix="call") as executor:
            write = RemoteWrite(store, Counts(0), Intake(MIB, MIB, 2), executor)
            for content in (b"known", b"known", b"new", b"known", b"known"):
                assert await sent(write, "10.0.0.1", content) == 204
            here = [not name.startswith("call") for name in store.threads]
            # New series of a sender that was steady until now come as a surprise, once.
            assert here == [False, True, True, False, True]
            for n in range(10):
                await sent(write, f"host-{n}", b"known")
            assert len(write._steady) <= 8

    run(story())
