"""The cache of range queries from outside: it is used, it is off where it is told so, and writes show at once.

That what it serves equals what is evaluated is tested between random writes in rust/query/tests/cache.rs.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import metricsdb as mdb

T0 = 1_700_000_000
EXPR = "sum by (g) (m)"


def database(**options: int) -> mdb.Database:
    db = mdb.Database(**options)
    for g in "ab":
        db.append({"__name__": "m", "g": g}, [T0 + 15 * i for i in range(100)], [i % 7 + 0.1 for i in range(100)])
    return db


def ask(db: mdb.Database, end: int = T0 + 1200, *, cache: bool = True) -> pl.DataFrame:
    return db.query_range(EXPR, end - 900, end, "15s", cache=cache)


def uses(db: mdb.Database) -> tuple[int, int, int]:
    counts = dict(db.stats().iter_rows())
    return counts["cache_whole"], counts["cache_partly"], counts["cache_missed"]


def test_a_window_that_moves_on_is_evaluated_at_its_new_steps():
    db = database()
    assert uses(db) == (0, 0, 0)
    for k in range(4):
        assert_frame_equal(ask(db, T0 + 1200 + 15 * k), ask(db, T0 + 1200 + 15 * k, cache=False))
    assert_frame_equal(ask(db, T0 + 1245), ask(db, T0 + 1245, cache=False))
    assert uses(db) == (1, 3, 1)
    kept = {part: (size, items) for part, size, items, _ in db.memory().iter_rows()}["kept answers"]
    counts = dict(db.stats().iter_rows())
    assert kept == (counts["cache_bytes"], counts["cache_answers"])
    assert kept[0] > 0
    assert kept[1] == 1


def policy(db: mdb.Database) -> None:
    db.precision.set("m", "decimals(0)")
    db.precision.apply("m")


def statsd(db: mdb.Database) -> None:
    db.ingest(b"m:7|g|#g:a", "statsd", time=T0 + 600)


def histogram(db: mdb.Database) -> None:
    sample = mdb.Histogram(schema=0, count=1, sum=2.5, positive_spans=[(1, 1)], positive_buckets=[1])
    db.append_histograms({"__name__": "m", "g": "c"}, T0 + 600, sample)


@pytest.mark.parametrize(
    "change",
    [
        lambda db: db.append({"__name__": "m", "g": "a"}, T0 + 600, 1000.0),
        lambda db: db.append({"__name__": "m", "g": "new"}, T0 + 600, 1000.0),
        lambda db: db.append_batch(db.register([{"__name__": "m", "g": "a"}]), T0 + 600, [1000.0]),
        lambda db: db.ingest(b'm{g="a"} 1000 1700000600000\n', "prometheus"),
        lambda db: db.append({"__name__": "m", "g": "a"}, T0 + 600, float("nan")),
        histogram,
        statsd,
        policy,
    ],
)
def test_what_is_written_shows_at_once(change: Callable[[mdb.Database], object]):
    db = database()
    before = ask(db)
    change(db)
    after = ask(db)
    assert_frame_equal(after, ask(db, cache=False))
    assert not after.equals(before)


def test_without_memory_nothing_is_kept():
    db = database(cache_memory=0)
    for _ in range(2):
        ask(db)
    assert uses(db) == (0, 0, 0)
    with pytest.raises(mdb.ConfigError, match="cache_memory"):
        mdb.Database(cache_memory=-1)
