"""A move loses nothing, keeps nothing twice, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from twins import cold as cold_twin
from twins.cold import ListMemory, Rows, cold_rows, labels, number, quarters

from metricsdb.errors import ColdStoreError
from metricsdb.lifecycle.cold import layout
from metricsdb.lifecycle.cold import move as moving
from metricsdb.lifecycle.cold import parts as parting
from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.testing import FakeClock

HOUR, DAY = 3_600_000, 86_400_000
NOON = 20_600 * DAY + 12 * HOUR
ALL = '{__name__!=""}'


def some(hours: int, *jobs: str, start: int = NOON) -> Rows:
    return quarters(start, hours, jobs or ("a", "b", "c"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON + 30 * DAY)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(Objects("memory:///"))


@pytest.fixture
def mover(catalog: Catalog, clock: FakeClock) -> Mover:
    return Mover(catalog, "me", clock)


def objects_of(catalog: Catalog) -> set[str]:
    return {one.key for one in catalog.objects.list("") if not one.key.startswith("manifest/")}


def test_what_is_old_moves_and_what_is_not_stays(mover: Mover, catalog: Catalog) -> None:
    rows = some(9)
    memory = ListMemory(dict(rows))
    seen = []
    done = mover.move(memory, [Rule(ALL, NOON + 5 * HOUR)], progress=lambda share, moved: seen.append((share, moved)))
    # Whole buckets of two hours: from 12:00 to 16:00.
    assert memory.rows == {key: value for key, value in rows.items() if key[1] >= NOON + 4 * HOUR}
    assert cold_rows(catalog) == {key: value for key, value in rows.items() if key[1] < NOON + 4 * HOUR}
    assert (done.series, done.samples, done.parts, done.stayed) == (6, 48, 2, 0)
    assert [share for share, _ in seen] == [0.5, 1.0]
    assert seen[-1][1] == done
    assert objects_of(catalog) == catalog.state.keys()
    assert done.bytes == catalog.objects.bytes_written


def test_the_first_rule_that_takes_a_series_governs_it(mover: Mover, catalog: Catalog) -> None:
    memory = ListMemory(some(4))
    mover.move(memory, [Rule('{job="a"}', None), Rule('{job=~"a|b"}', NOON + 2 * HOUR), Rule(ALL, NOON + 4 * HOUR)])
    moved = {(dict(series)["job"], (at - NOON) // (2 * HOUR)) for series, at in cold_rows(catalog)}
    assert moved == {("b", 0), ("c", 0), ("c", 1)}


def test_nothing_to_move_publishes_nothing(mover: Mover, catalog: Catalog) -> None:
    assert mover.move(ListMemory({}), [Rule(ALL, NOON)]).parts == 0
    assert mover.move(ListMemory(some(2)), [Rule(ALL, None)]).parts == 0
    assert mover.move(ListMemory(some(2)), [Rule(ALL, NOON)]).parts == 0
    assert mover.move(ListMemory(some(2)), [Rule("nothing", NOON + DAY)]).parts == 0
    assert catalog.state.number == 0


def test_years_without_samples_are_skipped_in_few_steps(mover: Mover, catalog: Catalog) -> None:
    rows = some(2, start=-(2**50)) | some(2)
    memory = ListMemory(dict(rows))
    asked = []
    has = memory.has
    memory.has = lambda *between: asked.append(between) or has(*between)  # type: ignore[method-assign, func-returns-value]
    mover.move(memory, [Rule(ALL, NOON + DAY)])
    assert memory.rows == {}
    assert cold_rows(catalog) == rows
    assert len(asked) < 2000


def test_what_is_empty_up_to_the_end_ends(mover: Mover, catalog: Catalog) -> None:
    rows = some(2) | some(2, start=NOON + 40 * DAY)
    memory = ListMemory(dict(rows))
    assert mover.move(memory, [Rule(ALL, NOON + 20 * DAY)]).parts == 1
    assert memory.rows == some(2, start=NOON + 40 * DAY)


def test_a_write_while_a_bucket_is_copied_is_not_lost(mover: Mover, catalog: Catalog) -> None:
    rows = some(2)
    memory = ListMemory(dict(rows))
    changed = (labels(__name__="m", job="a"), NOON)
    memory.late = {changed: number(99.0), (labels(__name__="m", job="a"), NOON + 1): number(7.0)}
    late = dict(memory.late)
    done = mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    assert (done.series, done.stayed) == (2, 1)
    assert cold_rows(catalog) | memory.rows == rows | late
    mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    assert memory.rows == {}
    assert cold_rows(catalog) == rows | late


def test_a_run_after_a_crash_before_the_drop_publishes_nothing_twice(mover: Mover, catalog: Catalog, clock) -> None:
    rows = some(2)
    memory = ListMemory(dict(rows))
    memory.drop = lambda *_: 0  # type: ignore[method-assign]
    mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    before = objects_of(catalog)
    again = Mover(Catalog(catalog.objects), "me", clock)
    memory = ListMemory(dict(rows))
    assert again.move(memory, [Rule(ALL, NOON + 2 * HOUR)]).parts == 0
    assert memory.rows == {}
    assert objects_of(catalog) == before
    assert again.catalog.state.number == 1


def test_a_bucket_that_is_large_becomes_several_parts(
    mover: Mover, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PART_SAMPLES", 10)
    rows = some(2, *"abcdefgh")
    memory, export, seen = ListMemory(dict(rows)), ListMemory.export, []
    monkeypatch.setattr(memory, "export", lambda *given: seen.append(export(memory, *given)) or seen[-1])
    assert mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)]).parts == 8
    assert max(one.samples.height for one in seen) == 8
    assert cold_rows(catalog) == rows
    assert memory.rows == {}


def test_a_shard_that_is_large_becomes_several_parts(
    mover: Mover, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PART_SAMPLES", 10)
    monkeypatch.setattr(cold_twin, "shard_of", lambda _: 77)
    rows = some(2, *"abcdefgh")
    assert mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 2 * HOUR)]).parts == 4
    assert cold_rows(catalog) == rows


@pytest.mark.parametrize("seed", range(6))
def test_slices_of_any_size_move_the_same_as_whole_buckets(
    seed: int, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    rows = {
        (labels(__name__="m", job=str(random.randrange(40))), NOON + random.randrange(8 * HOUR)): number(i)
        for i in range(400)
    }
    late = {key: number(-1) for key in random.sample(sorted(rows), 10)}
    rules = [Rule('{job=~"1.*"}', NOON + 4 * HOUR), Rule('{job="2"}', None), Rule(ALL, NOON + 7 * HOUR)]
    outcomes = []
    for most in (10**6, random.randrange(1, 60)):
        monkeypatch.setattr(moving, "PART_SAMPLES", most)
        catalog = Catalog(Objects("memory:///"))
        mover, memory, noted = Mover(catalog, "me", clock), ListMemory(dict(rows)), list[int]()
        mover.grace_ms = 1000

        def note(_: Rule, one: moving.Moved, noted: list[int] = noted) -> None:
            noted.append(one.samples)

        for again in (False, True):
            shares: list[float] = []
            done = mover.move(memory, rules, progress=lambda share, _, into=shares: into.append(share), note=note)
            # In both places until the grace is over: what is published is not published again.
            assert (done.samples > 0, memory.rows) == (not again, rows)
            assert shares == sorted(set(shares))
            assert shares[-1] == 1.0
        memory.rows |= late
        clock.move(2)
        dropped = mover.drop(memory)
        assert dropped.stayed > 0
        cold = cold_rows(catalog)
        mover.grace_ms = 0
        mover.move(memory, rules)
        outcomes.append((cold, cold_rows(catalog), memory.rows, dropped, sum(noted)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("at", range(1, 8))
def test_slices_that_were_published_before_a_crash_are_not_uploaded_again(
    at: int, mover: Mover, catalog: Catalog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PART_SAMPLES", 20)
    rows = some(2, *"abcdefghijkl")
    memory, drop, dropped = ListMemory(dict(rows)), ListMemory.drop, []

    def dies(*given: Any) -> int:
        if len(dropped) == at:
            raise RuntimeError
        dropped.append(drop(memory, *given))
        return dropped[-1]

    monkeypatch.setattr(memory, "drop", dies)
    with contextlib.suppress(RuntimeError):
        mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    before = {part.key for part in catalog.state.parts}
    left = ListMemory(dict(memory.rows))
    again = Mover(Catalog(catalog.objects), "me", clock)
    again.move(left, [Rule(ALL, NOON + 2 * HOUR)])
    assert left.rows == {}
    assert cold_rows(again.catalog) == rows
    parts = again.catalog.state.parts
    assert before <= {part.key for part in parts}
    assert sum(part.samples for part in parts) == len(rows)


def test_after_a_slice_that_failed_the_others_go_on(
    mover: Mover, catalog: Catalog, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PART_SAMPLES", 20)
    mover.grace_ms = 1000
    rows = some(2, *"abcdefghijkl")
    memory, add, calls = ListMemory(dict(rows)), mover.add, []

    def breaks(export: moving.Export) -> moving.Moved:
        calls.append(export)
        if len(calls) == 3:
            raise catalog.objects.error("away", "wait")
        return add(export)

    monkeypatch.setattr(mover, "add", breaks)
    with pytest.raises(ColdStoreError, match="away"):
        mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    begun = sum(part.samples for part in catalog.state.parts)
    done = mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    assert 0 < begun < begun + done.samples == len(rows)
    clock.move(2)
    mover.drop(memory)
    assert memory.rows == {}
    assert cold_rows(catalog) == rows


def test_a_move_is_no_faster_than_asked(mover: Mover, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(mover, "_pause", type("Pause", (), {"wait": staticmethod(waits.append)}))
    mover.move(ListMemory(some(4)), [Rule(ALL, NOON + 4 * HOUR)], samples_per_second=12)
    assert waits == [2.0, 2.0]


def test_parts_of_a_day_that_is_over_become_one(mover: Mover, catalog: Catalog) -> None:
    rows = some(36)
    mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 36 * HOUR)])
    today = [part for part in catalog.state.parts if part.day == catalog.state.parts[-1].day]
    shares = []
    assert mover.compact(lambda share, done: shares.append((share, done))) == 18
    assert shares == [(0.5, 6), (1.0, 18)]
    assert len(catalog.state.parts) == 2
    assert len(today) == 12
    assert cold_rows(catalog) == rows
    assert mover.compact() == 0


@pytest.mark.parametrize("samples", [1, 150, 200])
def test_parts_become_one_a_slice_at_a_time(
    mover: Mover, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    # A row group of 96 begins in one slice and ends in the next; one part has whole ones alone, the other doesn't.
    monkeypatch.setattr(parting, "SLICE_SAMPLES", samples)
    monkeypatch.setattr(layout, "ROWS_MAX", 96)
    rows = some(36)
    late = {(labels(__name__="m", job="b"), NOON + HOUR): number(-1.0), (labels(__name__="a"), NOON): number(5.0)}
    rule = [Rule(ALL, NOON + 36 * HOUR)]
    mover.move(ListMemory(dict(rows)), rule)
    mover.move(ListMemory(dict(late)), rule)
    assert mover.compact() == 19
    assert [part.samples for part in catalog.state.parts] == [145, 288]
    assert cold_rows(catalog) == rows | late
    assert cold_rows(Catalog(catalog.objects)) == rows | late
    # Single series are found by the row groups that they begin in.
    for part in catalog.state.parts:
        everything, table = catalog.samples(part), catalog.series(part)
        for one in table["series"]:
            alone = catalog.samples(part, pl.Series([one], dtype=pl.UInt64))
            assert alone.equals(everything.filter(pl.col("series") == one))
            assert alone.height


def test_selectors_of_many_sets_of_rules_are_counted_anew(
    mover: Mover, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "RULE_SETS_MAX", 1)
    rows = some(4)
    mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 4 * HOUR)])
    before = Rule(ALL, NOON + 2 * HOUR)
    mover.expire([Rule('{job="a"}', None), before])
    young = {(series, at): value for (series, at), value in rows.items() if at >= NOON + 2 * HOUR}
    kept = {(series, at): value for (series, at), value in rows.items() if dict(series)["job"] == "a"}
    assert cold_rows(catalog) == young | kept
    mover.expire([before])
    assert cold_rows(catalog) == young
    mover.expire([Rule('{job="a"}', None), before])
    assert cold_rows(catalog) == young


def test_replaced_objects_stay_for_readers_and_then_go(mover: Mover, catalog: Catalog, clock: FakeClock) -> None:
    rows = some(36)
    mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 36 * HOUR)])
    old = catalog.parts(0, 2**62)
    mover.compact()
    mover.sweep()
    assert catalog.samples(old[0]).height == 24
    clock.move(16)
    # Eighteen of samples and one table that all but a part shared, which their successors have, too.
    assert mover.sweep() == 18
    assert objects_of(catalog) == catalog.state.keys()
    assert catalog.state.gone == ()
    assert cold_rows(Catalog(catalog.objects)) == rows


def test_late_samples_of_a_moved_bucket_win(mover: Mover, catalog: Catalog) -> None:
    rows = some(48)
    rule = [Rule(ALL, NOON + 48 * HOUR)]
    mover.move(ListMemory(dict(rows)), rule)
    late = {(labels(__name__="m", job="b"), NOON): number(-1.0), (labels(__name__="m", job="new"), NOON): number(5.0)}
    mover.move(ListMemory(dict(late)), rule)
    assert cold_rows(catalog) == rows | late
    mover.compact()
    assert cold_rows(catalog) == rows | late


def test_a_sample_that_changes_and_changes_back_is_published_again(mover: Mover, catalog: Catalog) -> None:
    key = (labels(__name__="m"), NOON)
    for value in (1.0, 2.0, 1.0, 2.0):
        mover.move(ListMemory({key: number(value)}), [Rule(ALL, NOON + 2 * HOUR)])
        assert cold_rows(catalog) == {key: number(value)}
    # Others of the same bucket change nothing for it.
    mover.move(ListMemory({(labels(__name__="n"), NOON): number(7.0)}), [Rule(ALL, NOON + 2 * HOUR)])
    number_of = catalog.state.number
    mover.move(ListMemory({key: number(2.0)}), [Rule(ALL, NOON + 2 * HOUR)])
    assert catalog.state.number == number_of


def test_few_late_samples_do_not_rewrite_a_day(mover: Mover, catalog: Catalog) -> None:
    mover.move(ListMemory(some(48)), [Rule(ALL, NOON + 48 * HOUR)])
    mover.compact()
    for late in range(5):
        mover.move(ListMemory({(labels(__name__="m"), NOON + late): number(1.0)}), [Rule(ALL, NOON + 2 * HOUR)])
        assert mover.compact() == (6 if late == 4 else 0)


def test_what_was_deleted_is_hidden_at_once_and_rewritten_later(mover: Mover, catalog: Catalog, clock) -> None:
    rows = some(24)
    mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 24 * HOUR)])
    left = {
        (series, at): value
        for (series, at), value in rows.items()
        if dict(series)["job"] != "b" or not NOON + HOUR <= at <= NOON + 6 * HOUR
    }
    assert mover.delete(['m{job="b"}'], NOON + HOUR, NOON + 6 * HOUR) == 4
    assert mover.delete(['m{job="b"}'], NOON + HOUR, NOON + 6 * HOUR) == 4
    assert mover.delete(["nothing"], 0, 2**62) == 0
    assert catalog.state.number == 13
    assert cold_rows(catalog) == left
    mover.compact()
    assert not any(part.tombstones for part in catalog.state.parts)
    assert cold_rows(catalog) == left
    clock.move(16)
    mover.sweep()
    assert objects_of(catalog) == catalog.state.keys()


def test_a_part_without_a_sample_left_goes(mover: Mover, catalog: Catalog) -> None:
    mover.move(ListMemory(some(2)), [Rule(ALL, NOON + 2 * HOUR)])
    mover.delete([ALL], 0, 2**62)
    assert cold_rows(catalog) == {}
    assert mover.compact() == 1
    assert catalog.state.parts == ()


def test_a_delete_does_not_reach_what_comes_later(mover: Mover, catalog: Catalog) -> None:
    mover.move(ListMemory(some(2)), [Rule(ALL, NOON + 2 * HOUR)])
    mover.delete([ALL], 0, 2**62)
    new = some(2, "b")
    mover.move(ListMemory(dict(new)), [Rule(ALL, NOON + 2 * HOUR)])
    assert cold_rows(catalog) == new


def test_samples_leave_at_the_time_that_their_rule_says(mover: Mover, catalog: Catalog) -> None:
    rows = some(36)
    mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 36 * HOUR)])
    mover.compact()

    def left(*, hours: int) -> Rows:
        old = NOON + hours * HOUR
        return {(s, at): v for (s, at), v in rows.items() if dict(s)["job"] == "a" or at >= old}

    for hours in (3, 5, 12, 30):
        rules = [Rule('{job="a"}', None), Rule(ALL, NOON + hours * HOUR)]
        mover.expire(rules)
        assert cold_rows(catalog) == left(hours=hours), hours
        number = catalog.state.number
        mover.expire(rules)
        assert catalog.state.number == number
        assert all(len(part.tombstones) <= 1 for part in catalog.state.parts)
    mover.compact()
    assert cold_rows(catalog) == left(hours=30)
    # The first day has only job a now.
    assert [len(part.tombstones) for part in sorted(catalog.state.parts, key=lambda p: p.start_ms)] == [0, 1]
    assert mover.expire([Rule(ALL, NOON + 40 * HOUR)]) == 2
    assert catalog.state.parts == ()


def test_a_pin_holds_against_rules_and_not_against_a_delete(mover: Mover, catalog: Catalog) -> None:
    rows = some(2)
    mover.add(ListMemory(dict(rows)).export([Rule(ALL, None)], 0, 0, 2**62), pinned="incident")
    assert mover.expire([Rule(ALL, NOON + DAY)]) == 0
    assert cold_rows(catalog) == rows
    assert mover.compact() == 0
    mover.delete(['{job="a"}'], 0, 2**62)
    mover.compact()
    assert {dict(series)["job"] for series, _ in cold_rows(catalog)} == {"b", "c"}
    assert [part.pinned for part in catalog.state.parts] == ["incident"]
    assert mover.unpin("another") == 0
    assert mover.unpin("incident") == 1
    assert cold_rows(catalog) == {}


def test_what_another_process_left_is_swept_once_it_is_old(mover: Mover, catalog: Catalog, clock: FakeClock) -> None:
    import time

    clock._now_ms = time.time() * 1000
    catalog.objects.put("samples/day=2026-01-01/you-1.parquet", b"x")
    catalog.objects.put("samples/day=2026-01-01/me-1.parquet", b"x")
    catalog.objects.put("tmp/me-1", b"x")
    assert mover.sweep() == 2
    clock.move(3700)
    assert mover.sweep() == 1
    assert objects_of(catalog) == set()


def test_two_that_publish_at_once_both_count(catalog: Catalog, clock: FakeClock) -> None:
    mover, other = (Mover(Catalog(catalog.objects), name, clock) for name in ("me", "you"))
    mine, theirs = some(2), some(2, "x", "y")
    publish = mover.catalog.publish

    def beaten(change):  # type: ignore[no-untyped-def]
        mover.catalog.publish = publish  # type: ignore[method-assign]
        tried = []

        def slow(state):  # type: ignore[no-untyped-def]
            if not tried:
                tried.append(1)
                other.move(ListMemory(dict(theirs)), [Rule(ALL, NOON + 2 * HOUR)])
            return change(state)

        return publish(slow)

    mover.catalog.publish = beaten  # type: ignore[method-assign]
    mover.move(ListMemory(dict(mine)), [Rule(ALL, NOON + 2 * HOUR)])
    assert cold_rows(catalog) == mine | theirs
    assert catalog.state.number == 2
    assert {part.order for part in catalog.state.parts} == {1, 2}


def test_a_table_that_another_replaced_meanwhile_is_written_again(catalog: Catalog, clock: FakeClock) -> None:
    mover, other = (Mover(Catalog(catalog.objects), name, clock) for name in ("me", "you"))
    first, second = some(2), some(2, start=NOON + 2 * HOUR)
    mover.move(ListMemory(dict(first)), [Rule(ALL, NOON + 2 * HOUR)])
    # The other lets all go; this one does not know, and would share the table of series.
    assert other.expire([Rule(ALL, NOON + 2 * HOUR)]) == 1
    clock.move(16)
    assert other.sweep() == 2
    mover.move(ListMemory(dict(second)), [Rule(ALL, NOON + 4 * HOUR)])
    catalog.refresh()
    assert cold_rows(catalog) == second
    assert objects_of(catalog) == catalog.state.keys()


def test_a_compaction_that_another_was_faster_with_does_nothing(catalog: Catalog, clock: FakeClock) -> None:
    mover, other = (Mover(Catalog(catalog.objects), name, clock) for name in ("me", "you"))
    rows = some(36)
    mover.move(ListMemory(dict(rows)), [Rule(ALL, NOON + 36 * HOUR)])
    assert other.compact() == 18
    assert mover.compact() == 0
    assert cold_rows(mover.catalog) == rows
    mover.sweep()
    clock.move(16)
    other.sweep()
    mover = Mover(Catalog(catalog.objects), "me", clock)
    assert {one.key for one in catalog.objects.list("samples/")} == {p.key for p in mover.catalog.state.parts}


def test_who_is_always_beaten_gives_up(mover: Mover, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def beaten(*_: object) -> None:
        raise moving.Changed

    monkeypatch.setattr(mover, "publish", beaten)
    memory = ListMemory(some(2))
    with pytest.raises(ColdStoreError, match="others replace what is built on"):
        mover.move(memory, [Rule(ALL, NOON + 2 * HOUR)])
    assert memory.rows == some(2)
