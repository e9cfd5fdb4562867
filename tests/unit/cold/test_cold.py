"""The cold tier over the native store: what goes there comes back to the bit, and the database knows it no more."""

from __future__ import annotations

import struct
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

import metricsdb as mdb
from metricsdb.cold import Cold, Source, Upkeep
from metricsdb.lifecycle.cold import move as moving
from metricsdb.lifecycle.cold.fetch import part_frames
from metricsdb.lifecycle.cold.memory import NativeMemory
from metricsdb.lifecycle.cold.move import Rule
from metricsdb.testing import FakeClock

HOUR, DAY = 3_600_000, 86_400_000
NOON = 20_600 * DAY + 12 * HOUR


def stamps(*hours: float) -> np.ndarray:
    return np.array([NOON + round(h * HOUR) for h in hours], dtype=np.int64).view("datetime64[ms]")


def double(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


@pytest.fixture
def db() -> mdb.Database:
    db = mdb.Database(clock=FakeClock(NOON + 30 * DAY))
    odd = [
        1.25,
        -0.0,
        double(0x7FF0_0000_0000_0002),
        double(0x7FF8_0000_0000_0001),
        double(0xFFF8_DEAD_BEEF_0001),
        5e-324,
    ]
    db.append({"__name__": "m", "value": "label", "handle": "h"}, stamps(0, 1, 2, 3, 4, 5), odd)
    db.append({"__name__": "i"}, stamps(0, 1), np.array([2**63 - 1, -(2**63)], dtype=np.int64))
    db.append({"__name__": "u"}, stamps(0, 1), np.array([2**64 - 1, 2**53 + 1], dtype=np.uint64))
    whole = mdb.Histogram(3, 10, 2.0, positive_spans=[(0, 2)], positive_buckets=[4, 6])
    broken = mdb.Histogram(3, 10.5, -0.0, positive_spans=[(0, 2)], positive_buckets=[4.5, 6])
    db.append_histograms({"__name__": "h"}, stamps(0, 1), [whole, broken])
    body = "# TYPE c counter\nc_total 17 1780012800\nc_created 1779990000 1780012800\n# EOF\n"
    db.ingest(body.encode(), "openmetrics")
    return db


def everything(db: mdb.Database) -> list[object]:
    series, labels, samples, histograms = db._native.export("", -(2**60), 2**60)
    names = pl.concat([labels, series.select("series")], how="horizontal").with_row_index("row")
    values = samples.with_columns(bits=pl.Series(samples["value"].to_numpy().view(np.int64))).drop("value")
    found = []
    for frame in (values, histograms.with_columns(pl.col("sum").cast(pl.Float64))):
        joined = frame.join(names, on="row", how="left").drop("row")
        columns = sorted(joined.columns)
        found.append(sorted(map(str, joined.select(columns).rows())))
    return found


def cold_of(db: mdb.Database, where: object = "memory:///", **rules: list[Rule]) -> Cold:
    return Cold(
        where,
        [Source(NativeMemory(lambda: db._native), lambda _now: rules.get("moving", []))],
        owner="me",
        clock=db._clock,
        expiring=lambda _now: rules.get("expiring", []),
        time=lambda t: db._range(t, None)[0],
    )


def test_all_that_a_store_may_hold_goes_and_comes_back_to_the_bit(db: mdb.Database) -> None:
    before = everything(db)
    cold = cold_of(db)
    done = cold.move("", "2026-12-01T00:00Z")
    assert done.samples == 13
    assert everything(db) == [[], []]
    assert db._native.stats()["series"] == 0 or db.series().height == 0
    back = mdb.Database()
    for part in cold.catalog.parts(-(2**60), 2**60):
        back._native.restore(*part_frames(cold.catalog.series(part), cold.catalog.samples(part)))
    assert everything(back) == before


def test_rules_move_and_let_go(db: mdb.Database) -> None:
    moving, expiring = [Rule('{__name__="m"}', None), Rule("", NOON + 20 * DAY)], [Rule("", NOON - DAY)]
    cold = cold_of(db, moving=moving, expiring=expiring)
    done = cold.run(samples_per_second=1e9, progress=lambda share, moved: None)
    assert isinstance(done, Upkeep)
    assert (done.moved.samples, done.expired, done.swept) == (7, 0, 0)
    assert {p.kind for p in cold.catalog.state.parts} == {"samples", "histograms"}
    expiring[0] = Rule("", NOON + 3 * DAY)
    assert cold.run().expired == 3
    assert cold.parts().is_empty()
    # Rules that let go of all that is cold have nothing to do with memory.
    assert db.raw("m", stamps(0)[0], stamps(9)[0])


def test_an_empty_memory_has_nothing_to_move() -> None:
    db = mdb.Database()
    assert NativeMemory(lambda: db._native).span_ms() is None
    assert cold_of(db).move("", "2030-01-01T00:00Z").samples == 0


@pytest.mark.parametrize("most", [1, 5, 70])
def test_slices_move_the_same_as_whole_buckets(most: int, db: mdb.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(50):
        db.append({"__name__": "many", "i": str(i)}, stamps(0, 0.25, 1, 2, 2.5), [1.5, i, 3.0, 4.0, 5.0])
    whole, memory = everything(db), NativeMemory(lambda: db._native)
    counts = memory.samples([Rule("", None)], 0, NOON, NOON + 2 * HOUR - 1)
    halves = [memory.export([Rule("", None)], 0, NOON, NOON + 2 * HOUR - 1, half) for half in ((0, 128), (128, 256))]
    moved = [half.samples.height + half.histograms.height for half in halves]
    assert moved == [sum(counts[:128]), sum(counts[128:])]
    assert memory.samples([Rule("m", None), Rule("", None)], 1, NOON, NOON + 2 * HOUR - 1) != counts
    monkeypatch.setattr(moving, "PART_SAMPLES", most)
    cold = cold_of(db)
    assert cold.move("", "2026-12-01T00:00Z").samples == 263
    assert max(part.samples for part in cold.catalog.state.parts) < most + 3
    assert everything(db) == [[], []]
    back = mdb.Database()
    for part in cold.catalog.parts(-(2**60), 2**60):
        back._native.restore(*part_frames(cold.catalog.series(part), cold.catalog.samples(part)))
    assert everything(back) == whole


def test_what_is_cold_is_listed(db: mdb.Database, tmp_path: Path) -> None:
    cold = cold_of(db, tmp_path)
    cold.move("m", "2026-12-01T00:00Z")
    parts = cold.parts()
    assert parts.columns == [
        "key", "kind", "pinned", "start", "end", "series", "samples", "bytes", "series_bytes", "deletions",
    ]  # fmt: skip
    assert parts["samples"].to_list() == [2, 2, 2]
    assert parts["start"].dt.timestamp("ms").to_list() == [NOON, NOON + 2 * HOUR, NOON + 4 * HOUR]
    days = cold.days()
    assert days.select("day", "parts", "samples").rows() == [("2026-05-27", 3, 6)]
    assert cold.parts(refresh=True).equals(parts)
    assert repr(cold) == f"Cold('file://{tmp_path}')"
    assert cold.compact() == 0


def test_late_samples_after_the_export_stay_in_memory(db: mdb.Database) -> None:
    memory = NativeMemory(lambda: db._native)
    export = memory.export([Rule("m", None)], 0, NOON, NOON + DAY)
    db.append({"__name__": "m", "value": "label", "handle": "h"}, stamps(0.5), [7.0])
    assert memory.drop(export.series, NOON, NOON + DAY) == 0
    assert len(db.raw("m", stamps(0)[0], stamps(9)[0])[0].values) == 7


def test_the_queries_of_the_page_work(db: mdb.Database, tmp_path: Path) -> None:
    """Those of `docs/formats/cold.md`, whose texts stand here in the same words."""
    page = (Path(__file__).parents[3] / "docs" / "formats" / "cold.md").read_text()
    for i in range(3):
        db.append({"__name__": "load", "host": f"h{i}"}, stamps(0, 1, 25), [0.25, 17.0, 1 / 3])
    cold_of(db, tmp_path / "cold").move("", "2026-12-01T00:00Z")
    sql = page.split("```sql\n")[1].split("```")[0].replace("/backup/metrics", str(tmp_path / "cold"))
    *setup, query = [statement for statement in sql.split(";") if statement.strip()]
    with duckdb.connect() as connection:
        for statement in setup:
            connection.execute(statement)
        found = connection.execute(query).fetchall()
    expected = [("h1", stamps(h)[0].astype("datetime64[ms]").astype(np.int64), v) for h, v in ((0, 0.25), (1, 17.0))]
    assert [(host, round(at.timestamp() * 1000), value) for host, at, value in found] == expected
    code = page.split("```python\n")[1].split("```")[0].replace("/backup/metrics", str(tmp_path / "cold"))
    space: dict[str, pl.DataFrame] = {}
    exec(code, space)
    rows = space["load"].sort("timestamp").select("host", pl.col("timestamp").dt.timestamp("ms"), "value").rows()
    assert rows == expected
