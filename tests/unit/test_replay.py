"""A database whose directory is still being read: writes are taken, and everything else waits."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

import metricsdb as mdb
from metricsdb.clock import SystemClock
from metricsdb.durability import Replay
from metricsdb.errors import ConfigError, StorageError
from metricsdb.server import create_app
from metricsdb.server.state import Counts
from tests.server.remote_write import body


class Directory:
    """What a native database says of its journal; each step of the replay waits to be let go."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.left = 3
        self.error: str | None = None
        self.fault: BaseException | None = None

    def journal(self):
        return None, {"replaying": 1, "replay_left_bytes": self.left * 1_000_000}

    def replay(self) -> bool:
        self.go.acquire()
        if self.error is not None:
            raise StorageError(self.error)
        if self.fault is not None:
            raise self.fault
        self.left -= 1
        return self.left == 0

    def recovery(self):
        counts = dict.fromkeys(("series", "samples", "frames", "segments", "checkpoint_bytes", "journal_bytes"), 7)
        return counts, [[], [], []], []


@pytest.fixture
def directory():
    found = Directory()
    yield found
    found.go.release(10)


@pytest.fixture
def db(directory):
    with mdb.Database() as found:
        found._replay = Replay(directory, SystemClock(), 0.0)
        yield found
        directory.go.release(10)


def test_a_query_waits_and_a_write_does_not(db, directory):
    answers = []
    reader = threading.Thread(target=lambda: answers.append(db.query("m", 2).height))
    reader.start()
    db.append({"__name__": "m"}, 1, 1.0)
    assert db.ingest(b"n 1\n", "prometheus", time=1).accepted == 1
    assert (answers, db.tick().finished) == ([], False)
    assert "3 MB are left" in db._hindrance()
    assert db.stats().height > 0
    directory.go.release(3)
    reader.join()
    assert (answers, db._hindrance(), db.recovery.series) == ([1], None, 7)


def test_a_directory_that_cannot_be_read_is_said_to_all_who_wait(db, directory):
    directory.error = "journal-0000000001: input/output error"
    directory.go.release()
    with pytest.raises(StorageError, match="input/output"):
        db.query("m")
    assert "input/output" in db._hindrance()
    db.append({"__name__": "m"}, 1, 1.0)
    with pytest.raises(StorageError, match="input/output"):
        _ = db.recovery


@pytest.mark.parametrize("fault", [MemoryError(), BaseException("a panic")])
def test_a_replay_that_breaks_off_gives_no_part_for_all_of_it(db, directory, fault):
    directory.fault = fault
    directory.go.release()
    with pytest.raises(StorageError, match="not read to its end"):
        db.query("m")
    assert "open it again" in db._hindrance()


def test_who_closes_ends_it(db, directory):
    closing = threading.Thread(target=db.close)
    closing.start()
    directory.go.release()
    closing.join()
    assert directory.left == 2
    with pytest.raises(ConfigError, match="closed before its journal was replayed"):
        db.query("m")


def test_the_server_takes_writes_and_says_that_it_is_not_ready(db, directory):
    counts = Counts(0)
    app = create_app(db, counts=counts, environ={})

    async def story() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            ready = await client.get("/-/ready")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
            assert "3 MB are left" in ready.text
            refused = await client.get("/api/v1/query", params={"query": "m"})
            assert (refused.status_code, refused.json()["errorType"]) == (503, "unavailable")
            assert refused.headers["retry-after"] == "1"
            sent = await client.post("/api/v1/write", content=body([({"__name__": "m"}, [(1000, 1.0)])]))
            assert sent.status_code == 204
            imported = await client.post("/api/v1/import/prometheus", content=b"n 1\n")
            assert imported.status_code == 204
            assert [(await client.get(path)).status_code for path in ("/-/healthy", "/metrics")] == [200, 200]
            directory.go.release(3)
            await asyncio.to_thread(db._replay.wait)
            assert (await client.get("/-/ready")).status_code == 200
            assert (await client.get("/api/v1/query", params={"query": "m", "time": "1"})).json()["status"] == "success"

    asyncio.run(story())
    assert counts.refused == {"replay": 1}


def test_alerts_are_installed_while_the_directory_is_still_read(db, directory):
    done: list[object] = []

    def install() -> None:
        done.append(db.alerts.install("ALERT Missing WHEN nothing_of_this_name > 2; RECORD r = sum(m) BACKFILL 10m"))
        done.append(db.alerts.install("ALERT Missing WHEN m > 2"))
        db.alerts.remove("Missing")
        with pytest.raises(ConfigError, match="no value can make"):
            db.alerts.install("ALERT Never WHEN m > 5 and m < 3")
        done.append(db.alerts.lint("ALERT Always WHEN 3"))

    installer = threading.Thread(target=install)
    installer.start()
    installer.join(30)
    assert not installer.is_alive(), "it waits for the directory"
    first, second, lints = done
    assert (first.added, first.lints, second.replaced) == (("Missing", "r"), (), ("Missing",))
    assert [lint.check for lint in lints] == ["always_fires"]
    db.append({"__name__": "m"}, "-5m", 7.0)
    directory.go.release(3)
    assert db.query("m", "-5m")["value"].to_list() == [7.0]
    assert db.query("count_over_time(r[1h])").is_empty()
    db.tick()
    assert db.query("count_over_time(r[1h])")["value"][0] >= 4, "what was to be filled is"
    assert [lint.check for lint in db.alerts.lint("ALERT Missing WHEN nothing_of_this_name > 2")] == ["unknown_metric"]
