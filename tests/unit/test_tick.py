"""Upkeep: what is due is done, within its budget, and the answers stay the same."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from polars.testing import assert_frame_equal

import metricsdb as mdb
from metricsdb.config import parse
from metricsdb.lifecycle.tick import Background
from metricsdb.testing import FakeClock

STEP_MS = 15_000
SAMPLES = 6_000


def filled(clock: FakeClock, series: int = 6, **options) -> mdb.Database:
    db = mdb.Database(clock=clock, **options)
    refs = db.register([{"__name__": "m", "i": str(i)} for i in range(series)])
    rng = np.random.default_rng(7)
    steps = np.arange(SAMPLES) * STEP_MS
    for i, ref in enumerate(refs):
        values = np.cumsum(rng.poisson(5 * (i + 1), SAMPLES)).astype(float) / (10 if i % 2 else 1)
        db.append_batch(np.full(SAMPLES, ref), steps.astype("datetime64[ms]"), values)
    return db


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(SAMPLES * STEP_MS)


def test_old_chunks_are_reencoded_and_say_the_same(clock):
    db = filled(clock)
    before = db.select("m", 0, SAMPLES * STEP_MS / 1000).sort("series", "timestamp")
    done = db.tick()
    assert done.finished
    assert done.samples >= 6 * 3584
    assert done.bytes_after < done.bytes_before
    assert_frame_equal(before, db.select("m", 0, SAMPLES * STEP_MS / 1000).sort("series", "timestamp"))
    db._native.check()
    clock.move(60)
    assert db.tick().samples == 0, "nothing is done twice"


def test_young_chunks_are_left_alone(clock):
    db = filled(clock, dense_after="60d")
    assert db.tick().samples == 0
    assert db.reencode().samples > 0, "unless asked"


def test_a_share_of_zero_is_off(clock):
    assert filled(clock, idle_cpu=0).tick().samples == 0


class Busy(FakeClock):
    """A clock on which each look takes 40 ms."""

    def monotonic(self) -> float:
        self.move(0.04)
        return super().monotonic()


def test_a_tick_ends_with_its_budget_and_the_next_goes_on():
    db = filled(Busy(SAMPLES * STEP_MS), series=300, idle_cpu=0.01)
    ticks = [db.tick() for _ in range(40)]
    assert not ticks[0].finished
    assert sum(t.samples for t in ticks) >= 300 * 3584
    assert any(t.finished for t in ticks)


def test_the_thread_ticks_until_it_is_stopped():
    ticked = threading.Event()
    background = Background(ticked.set, 0.001)
    assert ticked.wait(10)
    background.stop()
    ticked.clear()
    assert not ticked.wait(0.05)
    db = mdb.Database()
    db.start("1h")
    db.start("2h")
    db.stop()
    db.stop()
    db.start("1h")
    db.close()
    assert db._background == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"idle_cpu": 1.5}, "between 0"), ({"idle_cpu": -0.1}, "between 0"), ({"dense_after": "-2h"}, "dense_after")],
)
def test_wrong_options_are_refused_in_words(options, message):
    with pytest.raises(mdb.ConfigError, match=message):
        mdb.Database(**options)
    with pytest.raises(mdb.ConfigError, match="every"):
        mdb.Database().start(0)


def test_the_configuration_file_sets_it():
    upkeep = parse(b"upkeep: {dense_after: 30m, idle_cpu: 0.25}").upkeep
    assert (upkeep.dense_after.ms, upkeep.idle_cpu) == (1_800_000, 0.25)
    with pytest.raises(mdb.ConfigError, match="idle_cpu"):
        parse(b"upkeep: {idle_cpu: 2}")
