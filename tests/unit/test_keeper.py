"""What the threads of a directory do while its disk fails, works again, and has a checkpoint due."""

from __future__ import annotations

import logging
import threading

import pytest

from metricsdb.clock import SystemClock
from metricsdb.durability import Home, Keeper, Replay, durability, forked, recovery, release
from metricsdb.errors import ConfigError, ForkedError, NotDurable
from metricsdb.lifecycle.tick import Background, Upkeep
from metricsdb.testing import FakeClock


class Disk:
    """A journal on a disk that fails when it is told to."""

    def __init__(self) -> None:
        self.failing: str | None = None
        self.waiting = 0
        self.needs = self.due = self.replaying = False
        self.broken: str | None = None
        self.calls: list[str] = []
        self.open = True

    def journal(self):
        sizes = {"waiting_bytes": self.waiting, "replay_bytes": 1, "checkpoint_bytes": 2}
        sizes |= {"replaying": self.replaying, "replay_left_bytes": 5_000_000}
        return (self.failing, {**sizes, "needs_checkpoint": self.needs}) if self.open else None

    def recovery(self) -> None:
        return None

    def replay(self) -> bool:
        return True

    def checkpoint_due(self) -> bool:
        return self.due

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if self.broken is not None:
            raise NotDurable(self.broken)

    def sync(self) -> None:
        self._do("sync")

    def checkpoint(self) -> None:
        self._do("checkpoint")

    def close(self) -> None:
        self._do("close")

    def disown(self) -> None:
        self.calls.append("disown")


def home(tmp_path, mode: str = "batch") -> Home:
    # The threads of such an interval never come to act by themselves.
    return Home(tmp_path, mode, 86_400_000)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def keeper(disk, tmp_path):
    keeper = Keeper(disk, home(tmp_path))
    yield keeper
    keeper.stop()


def test_a_disk_that_fails_is_tried_again_and_said_once_and_so_is_its_recovery(disk, keeper, caplog):
    keeper.sync()
    assert disk.calls == [], "mode batch has nothing to sync while the disk works"
    disk.failing = disk.broken = "no space"
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            keeper.sync()
        assert [r.levelname for r in caplog.records] == ["ERROR"]
        disk.broken = "EIO"
        keeper.sync()
        assert len(caplog.records) == 2, "another failure is news"
        disk.broken = None
        keeper.sync()
        keeper.sync()
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR", "WARNING"]
    assert "works again" in caplog.records[-1].message
    assert disk.calls == ["sync"] * 6


def test_a_checkpoint_is_written_where_it_is_due_or_frames_were_given_up(disk, keeper):
    keeper.checkpoint()
    assert disk.calls == []
    disk.due = True
    keeper.checkpoint()
    disk.needs = True
    keeper.sync()
    assert disk.calls == ["checkpoint"] * 2
    disk.replaying = True
    keeper.sync()
    assert disk.calls == ["checkpoint"] * 2, "it would wait, and hold up syncs"


def test_the_mode_interval_syncs_what_waits(disk, tmp_path):
    keeper = Keeper(disk, home(tmp_path, "interval"))
    keeper.sync()
    disk.waiting = 10
    keeper.sync()
    disk.open = False
    keeper.sync()
    keeper.stop()
    assert disk.calls == ["sync"], "neither without bytes that wait nor after the end"


def test_frames_that_were_given_up_are_said_until_a_checkpoint_stands(disk, tmp_path):
    assert durability(disk, home(tmp_path)).failing is None
    disk.needs = True
    assert "given up" in durability(disk, home(tmp_path)).failing
    disk.failing = "no space"
    assert durability(disk, home(tmp_path)).failing == "no space"
    assert recovery(disk, 1.0) is None


def test_what_nobody_closed_and_cannot_be_made_durable_is_said(disk, keeper, tmp_path, caplog):
    release(Replay(disk, SystemClock(), 0.0), keeper, disk, home(tmp_path))
    assert caplog.records == []
    disk.broken = "no space"
    release(Replay(disk, SystemClock(), 0.0), keeper, disk, home(tmp_path))
    assert "some of it is not durable: no space" in caplog.text
    assert disk.calls == ["close", "close"]


@pytest.mark.parametrize("place", ["in memory", "directory"])
def test_a_forked_child_is_told_whose_database_it_is(disk, tmp_path, place):
    gone = forked(disk, None if place == "in memory" else home(tmp_path))
    assert disk.calls == ["disown"]
    with pytest.raises(ForkedError, match="memory" if place == "in memory" else str(tmp_path)):
        gone.write_remote(b"")


def test_upkeep_of_a_negative_age_is_refused():
    with pytest.raises(ConfigError, match="dense_after"):
        Upkeep(FakeClock(0), -1, 0.1, None)


def test_a_thread_goes_on_after_an_error(caplog):
    class Owner:
        def __init__(self) -> None:
            self.ticks = threading.Semaphore(0)

        def tick(self) -> None:
            self.ticks.release()
            raise NotDurable("no space")

    owner = Owner()
    background = Background(owner.tick, 0.001)
    for _ in range(3):
        assert owner.ticks.acquire(timeout=20)
    background.stop()
    assert "no space" in caplog.text


def test_a_thread_may_stop_itself():
    class Ender:
        def tick(self) -> None:
            self.background.stop()

    owner = Ender()
    owner.background = Background(owner.tick, 0.01)
    owner.background._thread.join(20)
    assert not owner.background._thread.is_alive()
