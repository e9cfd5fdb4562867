"""From one store to the next: what is on disk moves to the cold store as what is in memory does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from twins.cold import ListMemory, Rows, cold_rows, labels, number, quarters

import metricsdb as mdb
from metricsdb.lifecycle.cold import move as moving
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.manifest import Draw, Manifest, Tombstone
from metricsdb.lifecycle.cold.memory import NativeMemory, StoreMemory
from metricsdb.lifecycle.cold.move import Export, Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.testing import FakeClock

HOUR, DAY = 3_600_000, 86_400_000
T0 = 20_600 * DAY
ALL = '{__name__!=""}'
EVERYTHING = [Rule(ALL, T0 + 40 * DAY)]
GRACE_S = 100


def some(hours: int, *jobs: str, start: int = T0) -> Rows:
    return quarters(start, hours, jobs or ("a", "b", "c"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(T0 + 30 * DAY)


def store(clock: FakeClock) -> Mover:
    return Mover(Catalog(Objects("memory:///")), "me", clock)


@pytest.fixture
def disk(clock: FakeClock) -> Mover:
    return store(clock)


@pytest.fixture
def cold(clock: FakeClock) -> Mover:
    mover = store(clock)
    mover.grace_ms = GRACE_S * 1000
    return mover


def put(mover: Mover, rows: Rows) -> None:
    """As memory's samples come."""
    memory = ListMemory(dict(rows))
    mover.move(memory, EVERYTHING)
    assert memory.rows == {}


def move(cold: Mover, disk: Mover, *rules: Rule) -> moving.Moved:
    return cold.move(StoreMemory(disk), rules or EVERYTHING, bucket_ms=DAY)


def parts_of(mover: Mover) -> int:
    return len(mover.catalog.state.parts)


def test_whole_days_move_and_the_disk_lets_go_after_the_grace(disk: Mover, cold: Mover, clock: FakeClock) -> None:
    rows = some(72)
    put(disk, rows)
    disk.compact()
    stored = StoreMemory(disk)
    assert stored.span_ms() == (T0, T0 + 3 * DAY - HOUR // 4)
    done = cold.move(stored, [Rule(ALL, T0 + 2 * DAY + 20 * HOUR)], bucket_ms=DAY)
    assert (done.samples, done.parts, done.series) == (2 * 3 * 96, 2, 0)
    old = {key: value for key, value in rows.items() if key[1] < T0 + 2 * DAY}
    assert (cold_rows(disk.catalog), cold_rows(cold.catalog)) == (rows, old)
    clock.move(GRACE_S)
    assert cold.drop(stored).series == 6
    assert cold_rows(disk.catalog) == {key: value for key, value in rows.items() if key not in old}
    # Parts with nothing else went at once, none was written anew.
    assert {part.day for part in disk.catalog.state.parts} == {"2026-05-29"}
    assert not any(part.tombstones for part in disk.catalog.state.parts)
    clock.move(16)
    assert disk.sweep() > 0
    assert {one.key for one in disk.catalog.objects.list("") if "manifest" not in one.key} == disk.catalog.state.keys()


def test_only_what_a_rule_governs_moves_and_the_rest_is_written_anew(
    disk: Mover, cold: Mover, clock: FakeClock
) -> None:
    rows, stored = some(24), StoreMemory(disk)
    put(disk, rows)
    rules = [Rule('{job="a"}', None), Rule('{job=~"a|b"}', T0 + DAY), Rule(ALL, T0 + 20 * HOUR)]
    cold.move(stored, rules, bucket_ms=DAY)
    clock.move(GRACE_S)
    assert cold.drop(stored).series == 1
    mine = {key: value for key, value in rows.items() if dict(key[0])["job"] == "b"}
    assert cold_rows(cold.catalog) == mine
    assert cold_rows(disk.catalog) == {key: value for key, value in rows.items() if key not in mine}
    assert len({part.tombstones for part in disk.catalog.state.parts}) == 1
    assert disk.compact() == 12
    assert cold_rows(disk.catalog) == {key: value for key, value in rows.items() if key not in mine}
    # What is hidden is not handed out again.
    assert cold.move(stored, rules, bucket_ms=DAY).parts == 0


def test_late_samples_stay_on_disk_and_win(disk: Mover, cold: Mover, clock: FakeClock) -> None:
    rows, stored = some(24), StoreMemory(disk)
    put(disk, rows)
    cold.move(stored, EVERYTHING, bucket_ms=DAY)
    late = {(labels(__name__="m", job="a"), T0): number(99.0), (labels(__name__="m", job="new"), T0 + 5): number(7.0)}
    put(disk, late)
    clock.move(GRACE_S)
    assert cold.drop(stored).stayed == 0
    assert cold_rows(disk.catalog) == late
    assert cold_rows(cold.catalog) | cold_rows(disk.catalog) == rows | late
    cold.move(stored, EVERYTHING, bucket_ms=DAY)
    clock.move(GRACE_S)
    cold.drop(stored)
    assert cold_rows(disk.catalog) == {}
    assert cold_rows(cold.catalog) == rows | late
    cold.compact()
    assert cold_rows(cold.catalog) == rows | late


def test_of_parts_that_were_replaced_meanwhile_nothing_is_hidden(disk: Mover, cold: Mover, clock: FakeClock) -> None:
    """Else an older value that another part has would come to light, and shadow what is cold."""
    key = (labels(__name__="m", job="a"), T0)
    rows, stored = some(24), StoreMemory(disk)
    put(disk, rows)
    put(disk, {key: number(5.0)})
    cold.move(stored, EVERYTHING, bucket_ms=DAY)
    names = [part.key for part in disk.catalog.parts(T0, T0 + DAY)]
    newest = names[-1]
    # The part of the change alone is rewritten; the one with the value before is as it was.
    disk.publish([], [part for part in disk.catalog.state.parts if part.key == newest])
    disk.add(ListMemory({key: number(5.0), (key[0], T0 + 1): number(6.0)}).export(EVERYTHING, 0, T0, T0 + DAY))
    clock.move(GRACE_S)
    assert cold.drop(stored).stayed == 3
    rows |= {key: number(5.0), (key[0], T0 + 1): number(6.0)}
    assert cold_rows(disk.catalog) == rows
    cold.move(stored, EVERYTHING, bucket_ms=DAY)
    clock.move(GRACE_S)
    cold.drop(stored)
    assert (cold_rows(disk.catalog), cold_rows(cold.catalog)) == ({}, rows)


def test_a_run_after_a_crash_before_the_drop_publishes_nothing_twice(
    disk: Mover, cold: Mover, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PART_SAMPLES", 500)
    rows = some(24, *"abcdefghijkl")
    put(disk, rows)
    done = move(cold, disk)
    assert done.parts > 2
    again, there = Mover(Catalog(cold.catalog.objects), "me", clock), cold.catalog.state
    stored = StoreMemory(Mover(Catalog(disk.catalog.objects), "me", clock))
    assert again.move(stored, EVERYTHING, bucket_ms=DAY).parts == 0
    assert again.catalog.state == there
    assert cold_rows(Catalog(disk.catalog.objects)) == {}
    assert cold_rows(again.catalog) == rows


def test_days_that_are_large_move_in_slices(
    disk: Mover, cold: Mover, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, stored = some(24, *"abcdefghijkl"), StoreMemory(disk)
    put(disk, rows)
    disk.compact()
    monkeypatch.setattr(moving, "PART_SAMPLES", 300)
    seen: list[int] = []

    def breaks(export: Export) -> moving.Moved:
        seen.append(export.samples.height)
        if len(seen) == 3:
            raise cold.catalog.objects.error("away", "wait")
        return add(export)

    add = cold.add
    monkeypatch.setattr(cold, "add", breaks)
    with pytest.raises(mdb.ColdStoreError, match="away"):
        cold.move(stored, EVERYTHING, bucket_ms=DAY)
    assert max(seen) <= 300
    clock.move(GRACE_S)
    cold.drop(stored)
    # Of the one part some shards have moved, and others not.
    (part,) = disk.catalog.state.parts
    assert len(part.tombstones) == 2
    assert {dead.moved for dead in part.tombstones} != {(0, 256)}
    left = cold_rows(disk.catalog)
    assert cold_rows(cold.catalog) == {key: value for key, value in rows.items() if key not in left}
    cold.move(stored, EVERYTHING, bucket_ms=DAY)
    clock.move(GRACE_S)
    cold.drop(stored)
    assert parts_of(disk) == 0
    assert cold_rows(cold.catalog) == rows


def test_what_waits_behind_older_samples_on_disk_goes_after_them(disk: Mover, cold: Mover, clock: FakeClock) -> None:
    """A rule by which samples went to disk, and now go past it: the newer ones must not become the older ones."""
    key = (labels(__name__="m", job="a"), T0 + 3 * HOUR)
    stored, memory = StoreMemory(disk), ListMemory({key: number(2.0), (key[0], T0 + 9 * HOUR): number(3.0)})
    put(disk, {key: number(1.0)})
    past = [Rule(ALL, T0 + 12 * HOUR)]  # not a whole day
    for _ in range(2):
        cold.move(stored, past, bucket_ms=DAY)
        cold.move(memory, past, behind=stored)
        clock.move(GRACE_S)
        cold.drop(memory)
    assert memory.rows == {key: number(2.0)}
    assert cold_rows(cold.catalog) == {(key[0], T0 + 9 * HOUR): number(3.0)}
    for _ in range(2):
        cold.move(stored, EVERYTHING, bucket_ms=DAY)
        cold.move(memory, EVERYTHING, behind=stored)
        clock.move(GRACE_S)
        cold.drop(stored)
        cold.drop(memory)
    assert memory.rows == cold_rows(disk.catalog) == {}
    assert cold_rows(cold.catalog) == {key: number(2.0), (key[0], T0 + 9 * HOUR): number(3.0)}


def test_pins_and_days_of_which_a_sample_is_left_stay(disk: Mover, cold: Mover) -> None:
    rows = some(2)
    disk.add(ListMemory(dict(rows)).export(EVERYTHING, 0, T0, T0 + DAY), pinned="incident")
    stored = StoreMemory(disk)
    assert stored.span_ms() is None
    assert not stored.has(T0, T0 + DAY)
    assert move(cold, disk).parts == 0
    assert parts_of(disk) == 1
    put(disk, rows)
    assert stored.has(T0, T0 + DAY)

    def drawn(state: Manifest) -> Manifest:
        parts = tuple(replace(part, sampled=(Draw("m", "1 in 3 hours"),)) for part in state.parts)
        return replace(state, parts=parts)

    disk.catalog.publish(drawn)
    assert not stored.has(T0, T0 + DAY)


def test_an_export_of_nothing_is_empty(disk: Mover) -> None:
    put(disk, some(2))
    stored = StoreMemory(disk)
    empty = stored.export([Rule('{job="nobody"}', None)], 0, T0, T0 + DAY)
    assert (empty.height, empty.series.height, empty.labels.height) == (0, 0, 0)
    assert sum(stored.samples([Rule('{job="nobody"}', None)], 0, T0, T0 + DAY)) == 0
    assert sum(stored.samples([Rule('{job="a"}', None), Rule(ALL, None)], 1, T0, T0 + DAY)) >= 16


def test_a_deletion_while_samples_are_in_both_places_reaches_both(disk: Mover, cold: Mover, clock: FakeClock) -> None:
    rows, stored = some(24), StoreMemory(disk)
    put(disk, rows)
    cold.move(stored, EVERYTHING, bucket_ms=DAY)
    for mover in (cold, disk):
        mover.delete(['{job="b"}'], T0 + HOUR, T0 + 5 * HOUR)
    put(disk, {(labels(__name__="m", job="b"), T0 + 2 * HOUR): number(8.0)})
    left = {k: v for k, v in rows.items() if dict(k[0])["job"] != "b" or not T0 + HOUR <= k[1] <= T0 + 5 * HOUR}
    left[labels(__name__="m", job="b"), T0 + 2 * HOUR] = number(8.0)
    for _ in range(3):
        assert cold_rows(cold.catalog) | cold_rows(disk.catalog) == left
        cold.drop(stored)
        cold.move(stored, EVERYTHING, bucket_ms=DAY)
        clock.move(GRACE_S)
        disk.compact()
        cold.compact()
    assert cold_rows(cold.catalog) == left
    assert cold_rows(disk.catalog) == {}


def test_all_kinds_of_values_go_through_to_the_bit(disk: Mover, cold: Mover, clock: FakeClock) -> None:
    db = mdb.Database(clock=clock)
    times = (T0 + np.arange(3) * HOUR).astype("datetime64[ms]")
    db.append({"__name__": "m", "value": "label", "series": "s"}, times, [-0.0, 0.1, float("nan")])
    db.append({"__name__": "both"}, times, [2**63 - 1, -(2**63), 5])
    whole = mdb.Histogram(3, 10, 2.0, positive_spans=[(0, 2)], positive_buckets=[4, 6])
    db.append_histograms({"__name__": "both"}, times + 7, [whole] * 3)
    direct = store(clock)
    exported = NativeMemory(lambda: db._native).export([Rule("", None)], 0, T0, T0 + DAY)
    direct.add(exported)
    disk.add(exported)
    cold.move(StoreMemory(disk), [Rule("", T0 + DAY)], bucket_ms=DAY)
    assert len(cold.catalog.state.parts) == 2
    for kind in ("samples", "histograms"):
        parts = [(one.catalog, part) for one in (cold, direct) for part in one.catalog.state.parts if part.kind == kind]
        there, same = (catalog.samples(part) for catalog, part in parts)
        tables = [catalog.series(part) for catalog, part in parts]
        assert tables[0].equals(tables[1])
        assert there.equals(same)
        floats = [name for name, of in there.schema.items() if of == pl.Float64]
        assert all(there[name].to_numpy().tobytes() == same[name].to_numpy().tobytes() for name in floats)


def test_tombstones_of_what_moved_are_read_back(disk: Mover, clock: FakeClock) -> None:
    put(disk, some(2))
    (part,) = disk.catalog.state.parts
    moved = Tombstone((ALL,), T0, T0 + HOUR, (), (0, 256))
    assert disk.hide([part.key], moved)
    assert not disk.hide(["gone", part.key], moved)
    assert Catalog(disk.catalog.objects).state.parts[0].tombstones == (moved,)
    assert cold_rows(disk.catalog) == {key: value for key, value in some(2).items() if key[1] > T0 + HOUR}
