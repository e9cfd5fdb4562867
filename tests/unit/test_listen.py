"""The StatsD listener: what comes in is written, what is too much is dropped and counted."""

from __future__ import annotations

import asyncio
import socket

import metricsdb as mdb
from metricsdb.adapters.listen import Statsd
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
