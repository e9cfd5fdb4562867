"""A real full disk: a small tmpfs that is filled and emptied."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from metricsdb import Database, NotDurable
from metricsdb.adapters.scrape import Scraper, Target
from metricsdb.clock import SystemClock
from metricsdb.server import create_app
from metricsdb.testing import FakeClock


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if made.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not permitted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(path: Path, leave: int) -> Path:
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(max(0, filler.stat().st_size - leave))
    return filler


def test_a_full_disk_is_said_and_made_up_for_when_there_is_room(small_disk):
    db = Database(small_disk / "db", durability="batch")
    db.append({"__name__": "before"}, 1, 1)
    filler = fill(small_disk, 40_000)
    stored, refused = 0, 0
    for step in range(2, 3000):
        try:
            db.append({"__name__": "m", "step": str(step)}, step, step / 7)
            stored += 1
        except NotDurable:
            refused += 1
            if refused >= 20:
                break
    assert stored > 10
    assert refused == 20
    # It goes on in memory, and says so.
    assert "No space left" in (db.durability.failing or "")
    assert dict(db.stats().iter_rows())["journal_failing"] == 1
    assert db.series("m").height == stored + refused
    filler.unlink()
    # By itself: nobody writes.
    until = time.monotonic() + 20
    while db.durability.failing is not None and time.monotonic() < until:
        time.sleep(0.05)
    assert db.durability.failing is None
    db.append({"__name__": "after"}, 1, 1)
    db.close()
    with Database(small_disk / "db") as again:
        assert again.recovery is not None
        assert not again.recovery.damaged
        # Also what was refused the promise.
        assert again.series("m").height == stored + refused
        assert again.series("before").height == again.series("after").height == 1


def test_interval_mode_answers_and_says_that_it_fails(small_disk):
    db = Database(small_disk / "db", durability="interval", sync_interval="20ms")
    filler = fill(small_disk, 0)
    for step in range(200):
        db.append({"__name__": "m"}, step, step)
    assert db.durability.failing is not None
    filler.unlink()
    db.sync()
    assert db.durability.failing is None
    db.close()
    with Database(small_disk / "db") as again:
        assert len(again.raw("m", 0, 1000)[0].timestamps) == 200


def test_a_sender_is_told_to_come_back_and_a_scrape_goes_on(small_disk):
    db = Database(small_disk / "db", durability="batch")
    filler = fill(small_disk, 0)

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(db)), base_url="http://x") as client:
            return await client.post("/api/v1/import/prometheus", content=b"sent 1\n")

    async def scrape() -> None:
        page = httpx.MockTransport(lambda _: httpx.Response(200, text="scraped 1\n"))
        scraper = Scraper(db._native, SystemClock(), transport=page)
        result = await scraper.scrape(Target("http://target/metrics", {"job": "x"}, 1000, 1.0), db.now_ms())
        await scraper.close()
        assert result.error is None

    answer = asyncio.run(post())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "not durable" in answer.text
    asyncio.run(scrape())
    assert db.query("sent + on() scraped")["value"].to_list() == [2]
    filler.unlink()
    assert asyncio.run(post()).status_code == 204
    db.close()


def test_a_disk_tier_that_is_full_takes_nothing_and_later_all(small_disk):
    pytest.importorskip("obstore")
    clock = FakeClock(10 * 86_400_000)
    db = Database(clock=clock, disk=small_disk / "tier", retention="memory 1d -> disk 30d", idle_cpu=0.0)
    values = np.random.default_rng(1).random(50_000)  # some 400 kB
    db.append({"__name__": "m"}, np.arange(50_000) * 10.0 + 86_400, values)
    filler = fill(small_disk, 60_000)
    for _ in range(3):
        db.tick()
        clock.move(61)
    assert db.disk.counts["disk_failures"] == 3
    assert db._native.stats()["samples"] > 40_000  # some were smaller than the room that there was
    (row,) = db.raw("m", 0, 10 * 86_400)
    assert row.values.tolist() == values.tolist()
    filler.unlink()
    for _ in range(3):
        db.tick()
        clock.move(121)
    assert db.disk.counts["disk_moved_samples"] > 49_000
    assert db._native.stats()["samples"] < 1_000
    (row,) = db.raw("m", 0, 10 * 86_400)
    assert row.values.tolist() == values.tolist()
    assert not list((small_disk / "tier" / "tmp").iterdir())
