"""The StatsD listener: what comes in is written, what is too much is dropped and counted."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

import pytest

import metricsdb as mdb
from metricsdb.adapters.listen import Statsd, kernel_drops
from metricsdb.config import StatsdListener
from metricsdb.testing import FakeClock

T0 = 1_700_000_000


def values(db: mdb.Database, name: str) -> list[float]:
    return db.select(name, T0 - 1000, T0 + 1000)["value"].to_list()


async def until(condition) -> None:
    """Lets the loop turn until the sockets have given what was sent."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 sockets raise no event of ours
            await asyncio.sleep(0)


def test_datagrams_and_streams_are_written_at_the_next_flush():
    db, clock = mdb.Database(), FakeClock(T0 * 1000)

    async def story() -> None:
        statsd = Statsd(db._native, clock, StatsdListener(udp="127.0.0.1:0", tcp="127.0.0.1:0", labels={"dc": "x"}))
        await statsd.start()
        task = asyncio.create_task(statsd.run())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"temperature:20|g\nhumidity:0.5|g", ("127.0.0.1", statsd.udp_port))
        _, writer = await asyncio.open_connection("127.0.0.1", statsd.tcp_port)
        writer.write(b"pressure:1013|g\n")
        writer.close()
        await until(lambda: len(statsd._queue) == 2)
        await clock.advance(1)
        assert values(db, 'temperature{dc="x"}') == [20]
        statsd.push(b"late:1|g")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())
    assert values(db, "humidity") == [0.5]
    assert values(db, "pressure") == [1013]
    assert values(db, "late") == [1], "what is queued when the listener stops is written, too"


def test_a_full_queue_drops_and_counts():
    db, dropped, reports = mdb.Database(), [], []
    statsd = Statsd(
        db._native,
        FakeClock(T0 * 1000),
        StatsdListener(queue_messages_max=4),
        written=lambda source, report: reports.append((source, report[0])),
        dropped=lambda *what: dropped.append(what),
    )
    for i in range(5):
        statsd._take(b"g%d:1|g" % i, "one sender")
    statsd.flush()
    statsd.flush()
    assert dropped == [("statsd", "queue", 1)] * 3
    assert reports == [("statsd", 2), ("statsd", 0)]


def test_lines_that_are_not_statsd_are_counted_and_hurt_nobody():
    db, reports = mdb.Database(), []
    statsd = Statsd(
        db._native, FakeClock(T0 * 1000), StatsdListener(), written=lambda source, report: reports.append(report)
    )
    statsd.push(b"good:1|g\n\xff\xfe\nnonsense")
    statsd.flush()
    assert values(db, "good") == [1]
    [report] = reports
    assert report[0] == 1
    assert sum(count for _, count, _ in report[4]) == 2


def listener(db: mdb.Database, dropped: dict, **options) -> Statsd:
    def drop(_source: str, reason: str, count: int) -> None:
        dropped[reason] = dropped.get(reason, 0) + count

    return Statsd(db._native, FakeClock(T0 * 1000), StatsdListener(**options), dropped=drop)


def test_a_sender_that_floods_leaves_room_to_the_others():
    db, dropped = mdb.Database(), {}
    statsd = listener(db, dropped, queue_messages_max=100)
    for i in range(1000):
        statsd._take(b"flood:%d|g" % i, "10.0.0.1")
    for name in ("a", "b", "c"):
        statsd._take(name.encode() + b":1|c", f"10.0.0.{ord(name)}")
    assert dropped == {"queue": 950}
    statsd.flush()
    assert values(db, '{__name__=~"a|b|c"}') == [1, 1, 1]
    statsd._take(b"flood:7|g", "10.0.0.1")
    assert dropped == {"queue": 950}, "a flush makes room"


def test_the_queue_is_bounded_in_bytes_too():
    dropped = {}
    statsd = listener(mdb.Database(), dropped, queue_bytes_max=1 << 20)
    for _ in range(100):
        statsd._take(b"x" * 60_000, "10.0.0.1")
    assert sum(map(len, statsd._queue)) <= 1 << 19
    assert dropped == {"queue": 92}


def test_a_tcp_sender_that_is_too_fast_waits_and_loses_nothing():
    db, dropped = mdb.Database(), {}
    statsd = listener(db, dropped, tcp="127.0.0.1:0", queue_messages_max=20)

    async def story() -> None:
        await statsd.start()
        _, writer = await asyncio.open_connection("127.0.0.1", statsd.tcp_port)
        writer.write(b"sent:1|c\n" * 95)
        writer.close()
        for _ in range(9):
            await until(lambda: len(statsd._queue) == 10)
            statsd.flush()
        await until(lambda: len(statsd._queue) == 5)
        statsd.flush()
        statsd.close()

    asyncio.run(story())
    assert values(db, "sent")[-1] == 95
    assert dropped == {}


def test_connections_above_the_limit_are_closed_and_counted():
    dropped = {}
    statsd = listener(mdb.Database(), dropped, tcp="127.0.0.1:0", connections_max=1)

    async def story() -> None:
        await statsd.start()
        _, first = await asyncio.open_connection("127.0.0.1", statsd.tcp_port)
        await until(lambda: statsd._connections)
        reader, second = await asyncio.open_connection("127.0.0.1", statsd.tcp_port)
        assert await reader.read() == b""
        for writer in (first, second):
            writer.close()
        await until(lambda: not statsd._connections)
        statsd.close()

    asyncio.run(story())
    assert dropped == {"connections": 1}


def test_a_line_without_end_ends_its_connection_and_is_said_once(caplog):
    dropped = {}
    statsd = listener(mdb.Database(), dropped, tcp="127.0.0.1:0")

    async def story() -> None:
        await statsd.start()
        for n in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", statsd.tcp_port)
            writer.write(b"x" * 200_000)
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await until(lambda n=n: dropped == {"line": n + 1})
        statsd.close()

    asyncio.run(story())
    assert len(caplog.records) == 1


def test_datagrams_that_the_kernel_drops_are_counted():
    """The socket's buffer is made small, and nobody reads while a thousand datagrams are sent."""
    db, dropped = mdb.Database(), {}
    statsd = listener(db, dropped, udp="127.0.0.1:0")

    async def story() -> int:
        await statsd.start()
        if kernel_drops(statsd._socket) is None:
            pytest.skip("this kernel does not count what a socket drops")
        statsd._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(1000):
                sender.sendto(b"sent:1|c", ("127.0.0.1", statsd.udp_port))
        for _ in range(50):
            await asyncio.sleep(0.001)
        statsd.flush()
        came = int(values(db, "sent")[-1])
        statsd.flush()  # counted once
        statsd.close()
        return came

    came = asyncio.run(story())
    assert dropped["kernel"] > 0
    assert came + dropped["kernel"] == 1000


def test_a_batch_that_is_refused_is_counted(caplog):
    dropped = {}
    statsd = listener(mdb.Database(), dropped, labels={"": "x"})
    for _ in range(3):
        statsd._take(b"a:1|c", "10.0.0.1")
    statsd.flush()
    statsd.flush()
    assert dropped == {"refused": 3}
    assert len(caplog.records) == 1


def test_a_journal_is_written_beside_the_event_loop(tmp_path):
    with mdb.Database(tmp_path / "data") as db:
        statsd = listener(db, {})
        threads = []
        statsd._written = lambda *_: threads.append(threading.current_thread())

        async def story() -> None:
            task = asyncio.create_task(statsd.run())
            statsd.push(b"a:1|c")
            await statsd._clock.advance(1)
            await until(lambda: threads)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        asyncio.run(story())
        assert threads[0] is not threading.main_thread()
