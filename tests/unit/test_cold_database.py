"""A database and its cold store: what a tick moves, what a store that is away costs, and deletions that reach both."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest

import metricsdb as mdb
from metricsdb.cold import RETRY_MS, RUN_EVERY_MS
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.testing import FakeClock

pytest.importorskip("obstore")

HOUR, DAY = 3600, 86_400
T0 = 1_767_225_600  # a midnight
NAMES = ("a", "b")
GRACE_S = 120


def filled(where: object = "memory:///", path: Path | None = None, days: int = 3) -> tuple[mdb.Database, FakeClock]:
    """Two series with a sample every ten minutes up to now; what is older than a day is to go cold."""
    clock = FakeClock((T0 + days * DAY) * 1000)
    db = mdb.Database(path, clock=clock, cold=where, retention="memory 1d -> cold", idle_cpu=0.0)
    times = np.arange(T0, T0 + days * DAY, 600)
    for at, name in enumerate(NAMES):
        db.append({"__name__": "m", "i": name}, times, np.arange(len(times), dtype=float) + 1000 * at)
    return db, clock


def answer(db: mdb.Database) -> dict[str, dict[int, float]]:
    """All samples as a query finds them: seconds since T0, by series."""
    return {
        one.labels["i"]: dict(zip((one.timestamps // 1000 - T0).tolist(), one.values.tolist(), strict=True))
        for one in db.raw("m", 0, T0 * 2)
    }


def in_memory(db: mdb.Database) -> int:
    return int(db._native.stats()["samples"])


def carried(db: mdb.Database, clock: FakeClock) -> None:
    """A run, and the grace after it."""
    db.cold.hurry()
    db.tick()
    clock.move(GRACE_S + 1)
    db.tick()


class Away:
    """Puts a store away, after ``free`` requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *verbs: str, free: int = 0) -> None:
        self.asked, self.away, self.free = 0, True, free
        for verb in verbs:
            inner = getattr(Objects, verb)
            monkeypatch.setattr(Objects, verb, self._verb(inner))

    def _verb(self, inner):
        def ask(objects, *args):
            self.free -= 1
            if self.away and self.free < 0:
                self.asked += 1
                raise objects.error("cannot be reached", "wait")
            return inner(objects, *args)

        return ask


def counts(db: mdb.Database) -> dict[str, float]:
    return dict(db.cold.counts)


# --- moving ---------------------------------------------------------------------------------------


def test_a_tick_moves_and_memory_lets_go_once_queries_are_through() -> None:
    db, clock = filled()
    before, held = answer(db), in_memory(db)
    moved = db.cold.step(db.now_ms())
    assert moved.samples == 2 * 2 * DAY // 600
    # Whoever looked for parts before this run has to find the samples where they were.
    assert in_memory(db) == held
    assert answer(db) == before
    clock.move(GRACE_S - 1)
    db.tick()
    assert in_memory(db) == held
    clock.move(1)
    db.tick()
    assert in_memory(db) == held - moved.samples
    assert answer(db) == before
    assert counts(db) == {
        "cold_moved_samples": moved.samples,
        "cold_moved_bytes": moved.bytes,
        "cold_runs": 2,  # the second deleted what compaction had replaced
        "cold_failures": 0,
    }


def test_a_query_that_looked_before_a_publication_finds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    db, _ = filled()
    before = answer(db)
    seen = db.cold.catalog.state
    db.tick()
    assert db.cold.catalog.state.parts
    with monkeypatch.context() as patch:  # as one that read the manifest, and then was slow
        patch.setattr(db.cold.catalog, "_state", seen)
        assert answer(db) == before


def test_what_comes_late_while_memory_waits_stays_and_goes_next_time() -> None:
    db, clock = filled()
    db.tick()
    db.append({"__name__": "m", "i": "a"}, T0 + 30, 7.0)
    wanted = answer(db)
    clock.move(GRACE_S)
    assert db.cold.step(db.now_ms()).stayed == 1
    assert answer(db) == wanted
    carried(db, clock)
    assert answer(db) == wanted
    assert in_memory(db) <= 2 * (DAY + 2 * HOUR) // 600


def test_between_runs_nothing_is_asked_of_the_store() -> None:
    db, clock = filled()
    carried(db, clock)
    clock.move(60)
    db.tick()  # what compaction left for readers goes
    runs = counts(db)["cold_runs"]
    for _ in range(RUN_EVERY_MS // 60_000 - 2):
        clock.move(60)
        db.tick()
    assert counts(db)["cold_runs"] == runs
    clock.move(60)
    db.tick()
    assert counts(db)["cold_runs"] == runs + 1
    db.cold.hurry()
    db.tick()
    assert counts(db)["cold_runs"] == runs + 2


def test_a_store_that_is_away_is_counted_and_asked_again_a_minute_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    db, clock = filled()
    before = answer(db)
    away = Away(monkeypatch, "put", "create")
    with caplog.at_level(logging.WARNING, "metricsdb.cold"):
        db.tick()
    assert (counts(db)["cold_failures"], counts(db)["cold_runs"]) == (1, 0)
    assert "cannot be reached" in caplog.text
    assert answer(db) == before
    asked = away.asked
    clock.move(RETRY_MS / 1000 - 1)
    db.tick()
    assert away.asked == asked
    clock.move(1)
    db.tick()
    assert counts(db)["cold_failures"] == 2
    assert away.asked > asked
    away.away = False
    clock.move(RETRY_MS / 1000)
    db.tick()
    assert counts(db)["cold_runs"] == 1
    assert counts(db)["cold_moved_samples"] == 2 * 2 * DAY // 600
    clock.move(GRACE_S)
    db.tick()
    assert answer(db) == before


def test_memory_lets_go_of_what_was_published_although_the_store_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    db, clock = filled()
    held = in_memory(db)
    db.tick()
    away = Away(monkeypatch, "put", "create", "list")
    clock.move(GRACE_S)
    db.tick()
    assert in_memory(db) < held
    assert away.asked == 0 or counts(db)["cold_failures"] == 1


def test_a_store_that_goes_away_amid_a_query_is_an_error_or_told_never_a_short_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, clock = filled(tmp_path / "cold")
    carried(db, clock)
    whole = 2 * 2 * DAY // 600
    ask = "sum(count_over_time(m[3d]))", T0 + 2 * DAY - 1
    refused, told = 0, 0
    for free in range(40):
        outcomes = set()
        for partial in (False, True):
            fresh = mdb.Database(clock=clock, cold=tmp_path / "cold")
            with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                away = Away(patch, "get", "ranges", free=free)
                try:
                    found = fresh.query(*ask, partial=partial)["value"].to_list()
                except mdb.ColdStoreError:
                    assert not partial
                    refused += 1
                    continue
            is_told = any("answer is partial" in str(w.message) for w in said)
            assert found == [whole] or (partial and is_told)
            assert not is_told or partial
            told += is_told
            outcomes.add(away.asked)
        if outcomes == {0}:
            break
    else:
        pytest.fail("it never came so far that nothing was missing")
    assert refused == told > 2


def test_a_range_that_begins_behind_a_part_of_histograms_takes_nothing_of_it(tmp_path: Path) -> None:
    db, clock = filled()
    times = np.arange(T0, T0 + 2 * DAY, 600.0).tolist()
    one = mdb.Histogram(3, 10, 2.0, positive_spans=[(0, 2)], positive_buckets=[4, 6])
    db.append_histograms({"__name__": "h"}, times, [one] * len(times))
    carried(db, clock)
    # A query that begins here looks for the histogram before, which is in the part of the day before.
    db.export_incident(tmp_path / "day", "h", T0 + DAY - 540, T0 + 2 * DAY - 1)
    found = mdb.Database.open_incident(tmp_path / "day").query("count_over_time(h[3d])", T0 + 2 * DAY - 1)
    assert found["value"].to_list() == [DAY // 600]


def test_a_tick_does_nothing_cold_while_threads_run() -> None:
    db, clock = filled()
    db.start(every="1h")
    try:
        db.tick()
        assert counts(db)["cold_runs"] == 0
        db._carry()
        assert counts(db)["cold_runs"] == 1
    finally:
        db.stop()
    clock.move(RUN_EVERY_MS / 1000)
    db.tick()
    assert counts(db)["cold_runs"] == 2


def test_a_database_that_ends_before_memory_let_go_publishes_nothing_twice(tmp_path: Path) -> None:
    db, clock = filled(tmp_path / "cold", tmp_path / "data")
    before = answer(db)
    db.tick()
    db.close()
    again = mdb.Database(tmp_path / "data", clock=clock, cold=tmp_path / "cold", retention="memory 1d -> cold")
    carried(again, clock)
    assert again.cold.parts(refresh=True)["samples"].sum() == 2 * 2 * DAY // 600
    assert answer(again) == before
    again.close()


# --- deletions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["memory", "directory"])
@pytest.mark.parametrize("when", ["before", "in grace", "after"])
def test_a_deletion_over_memory_and_cold_store_comes_back_exactly(tmp_path: Path, kept: str, when: str) -> None:
    db, clock = filled(path=tmp_path / "data" if kept == "directory" else None)
    before = answer(db)
    if when != "before":
        db.tick()
    if when == "after":
        clock.move(GRACE_S)
        db.tick()
    first, last = DAY // 2, int(2.5 * DAY)
    done = db.delete('m{i="a"}', T0 + first, T0 + last, undo="1d")
    assert (done.cold_parts > 0) == (when != "before")
    left = {t: v for t, v in before["a"].items() if not first <= t <= last}
    assert answer(db) == {**before, "a": left}
    carried(db, clock)
    carried(db, clock)
    assert answer(db) == {**before, "a": left}
    assert done.id is not None
    assert db.undelete(done.id) >= len(before["a"]) - len(left)
    assert answer(db) == before
    for _ in range(3):
        carried(db, clock)
        assert answer(db) == before
    assert in_memory(db) <= 2 * (DAY + 2 * HOUR) // 600
    db.close()


@pytest.mark.parametrize("pause", [0, GRACE_S + 1])
@pytest.mark.parametrize("waits", [True, False])
def test_what_comes_back_before_the_next_run_is_not_lost_with_the_part_it_came_from(waits: bool, pause: int) -> None:
    """Samples that are in memory again are as they were published; the part of that time hides them."""
    db, clock = filled()
    before = answer(db)
    db.tick()
    if not waits:
        clock.move(GRACE_S)
        db.tick()
    done = db.delete('m{i="a"}', T0 + HOUR, T0 + 2 * DAY, undo="1d")
    assert done.id is not None
    db.undelete(done.id)
    assert answer(db) == before
    clock.move(pause)
    for _ in range(4):
        db.cold.step(db.now_ms())
        assert answer(db) == before
        clock.move(GRACE_S)
    carried(db, clock)
    assert answer(db) == before


def test_what_is_written_again_after_a_deletion_is_kept_by_a_move() -> None:
    db, clock = filled()
    carried(db, clock)
    before = answer(db)
    assert db.delete("m", T0, T0 + 2 * HOUR - 1).cold_parts == 1
    for at, name in enumerate(NAMES):
        db.append({"__name__": "m", "i": name}, np.arange(T0, T0 + 2 * HOUR, 600), np.arange(12.0) + 1000 * at)
    assert answer(db) == before
    for _ in range(3):
        carried(db, clock)
        assert answer(db) == before


def test_selectors_that_share_series_count_them_once() -> None:
    db, clock = filled()
    carried(db, clock)
    before = answer(db)
    done = db.delete(["m", '{i="a"}'], T0, T0 + DAY, undo="1d")
    assert answer(db)["a"].keys().isdisjoint(range(DAY + 1))
    row = db.deletions().row(0, named=True)
    assert row["samples"] == 2 * (DAY // 600 + 1)
    assert done.id is not None
    assert db.undelete(done.id) == row["samples"]
    assert answer(db) == before


def test_a_deletion_hurries_the_run_that_rewrites_parts() -> None:
    db, clock = filled()
    carried(db, clock)
    clock.move(60)
    db.tick()
    samples = db.cold.parts()["samples"].sum()
    runs = counts(db)["cold_runs"]
    done = db.delete('m{i="b"}', T0, T0 + DAY - 1)
    assert done.samples == 0
    assert done.cold_parts > 0
    assert db.cold.parts()["deletions"].sum() == done.cold_parts
    db.tick()
    assert counts(db)["cold_runs"] == runs + 1
    assert db.cold.parts()["deletions"].sum() == 0
    assert db.cold.parts()["samples"].sum() == samples - DAY // 600
    # Where no part has such series there is nothing to hurry for.
    assert db.delete("unknown").cold_parts == 0
    clock.move(16)
    db.tick()
    runs = counts(db)["cold_runs"]
    db.tick()
    assert counts(db)["cold_runs"] == runs


@pytest.mark.parametrize("free", [0, 3, 4])
@pytest.mark.parametrize("kept", ["memory", "directory"])
def test_a_deletion_that_cannot_read_what_is_cold_deletes_nothing(
    tmp_path: Path, kept: str, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, clock = filled(path=tmp_path / "data" if kept == "directory" else None)
    carried(db, clock)
    before = answer(db)
    # The second part is the one that does not come.
    away = Away(monkeypatch, "ranges", "get", free=free)
    db.cold.catalog._cache._items.clear()
    with pytest.raises(mdb.ColdStoreError):
        db.delete("m", undo="1d")
    away.away = False
    assert answer(db) == before
    assert db.deletions().is_empty()
    assert not list((tmp_path / "data" / "trash").glob("*"))
    db.close()


def test_a_deletion_that_cannot_be_published_says_so_and_can_be_finished_or_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    db, clock = filled()
    carried(db, clock)
    before = answer(db)
    away = Away(monkeypatch, "create")
    with pytest.raises(mdb.ColdStoreError):
        db.delete("m", undo="1d")
    away.away = False
    kept = db.deletions()["id"].to_list()
    assert len(kept) == 1
    db.undelete(kept[0])
    assert answer(db) == before
    assert db.delete("m").cold_parts > 0
    assert answer(db) == {}
