"""A day becomes a sample of itself in one step, by the first rule that takes a series, and once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from twins.cold import ListMemory, Rows, cold_rows, labels, number

from metricsdb.lifecycle.cold.catalog import Catalog
from metricsdb.lifecycle.cold.move import Mover, Rule
from metricsdb.lifecycle.cold.objects import Objects
from metricsdb.lifecycle.cold.thin import Thinned, thin, unused
from metricsdb.lifecycle.sampling import Keep, SampleRule
from metricsdb.testing import FakeClock

HOUR, DAY = 3_600_000, 86_400_000
MIDNIGHT = 20_600 * DAY
ALL = '{__name__!=""}'
OLD = MIDNIGHT + 10 * DAY


def some(*jobs: str, day: int = 0, count: int = 4) -> Rows:
    """Series of jobs, a sample every half hour of a day."""
    return {
        (labels(__name__="m", job=job, i=str(i)), MIDNIGHT + day * DAY + at * HOUR // 2): number(i + at / 8)
        for job in jobs
        for i in range(count)
        for at in range(48)
    }


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(MIDNIGHT + 30 * DAY)


@pytest.fixture
def objects() -> Objects:
    return Objects("memory:///")


@pytest.fixture
def mover(objects: Objects, clock: FakeClock) -> Mover:
    return Mover(Catalog(objects), "me", clock)


def cold(mover: Mover, clock: FakeClock, *batches: Rows) -> Rows:
    """Each batch goes cold by itself, so that a day has several parts."""
    rows: Rows = {}
    for batch in batches:
        memory = ListMemory(dict(batch))
        mover.move(memory, [Rule(ALL, MIDNIGHT + 20 * DAY)])
        clock.move(130)
        mover.drop(memory)
        rows |= batch
    assert cold_rows(mover.catalog) == rows
    return rows


def hours(rows: Rows, n: int, *jobs: str) -> Rows:
    """What is left of some jobs of one hour in ``n``, and of the others whole."""
    return {
        (series, at): value
        for (series, at), value in rows.items()
        if dict(series)["job"] not in jobs or (at // HOUR + at // DAY) % n == 0
    }


def rule(selector: str, line: str | None, before: int | None = OLD) -> SampleRule:
    return SampleRule(selector, before, None if line is None else Keep.parse(line))


def test_the_first_rule_that_takes_a_series_governs_it(mover: Mover, clock: FakeClock) -> None:
    rows = cold(mover, clock, some("a", "b"), some("b", "c"), some("c", "d"))
    rules = [
        rule('m{job="d"}', None, None),
        rule('m{job="zz"}', "1 in 2"),
        rule('m{job="a"}', "1 in 2 hours", None),
        rule('m{job="b"}', "1 in 3 hours"),
        rule('m{job=~"a|c|d"}', "1 in 4 hours"),
    ]
    noted: list[tuple[str, Thinned]] = []
    assert thin(mover, rules, unused, lambda one, taken: noted.append((one.selector, taken))) == 1
    # Of a the third rule says nothing yet, d is whole by the first.
    wanted = hours(hours(rows, 3, "b"), 4, "c")
    assert cold_rows(mover.catalog) == wanted
    lost = {job: 4 * 48 - sum(dict(series)["job"] == job for series, _ in wanted) for job in "bc"}
    assert [(one, taken.series) for one, taken in noted] == [('m{job="b"}', 0), ('m{job=~"a|c|d"}', 0)]
    # Of each of the two parts that b and c stand in.
    assert [taken.samples for _, taken in noted] == [lost["b"] * 2, lost["c"] * 2]
    assert thin(mover, rules, unused) == 0


@pytest.mark.parametrize(("line", "of", "kept"), [("1 in 3 by job", 6, 2), ("top 1 in 3 by job", None, None)])
def test_what_was_sampled_stays_as_it_is_whatever_rules_say_later(
    mover: Mover, clock: FakeClock, line: str, of: int | None, kept: int | None
) -> None:
    rows = cold(mover, clock, some("a", "b", count=6))
    assert thin(mover, [rule('m{job="a"}', line)], unused) == 1
    first = cold_rows(mover.catalog)
    stay = {series for series, _ in first if dict(series)["job"] == "a"}
    assert len(stay) == 2
    assert first == {key: v for key, v in rows.items() if dict(key[0])["job"] != "a" or key[0] in stay}
    assert thin(mover, [rule(ALL, "1 in 2 hours")], unused) == 1
    assert cold_rows(mover.catalog) == hours(first, 2, "b")
    table = mover.catalog.table(mover.catalog.state.parts[0])
    told = {(row["job"], row["sampled_by"], row["sampled_of"], row["sampled_kept"]) for row in table.to_dicts()}
    assert told == {("a", line, of, kept), ("b", "1 in 2 hours", None, None)}


def test_days_that_are_too_young_or_have_nothing_to_take_are_left(mover: Mover, clock: FakeClock) -> None:
    rows = cold(mover, clock, some("a"), some("b", day=1))
    keys = mover.catalog.state.keys()
    assert thin(mover, [rule('m{job="b"}', "1 in 2 hours", MIDNIGHT + DAY)], unused) == 0
    assert thin(mover, [rule(ALL, "1 in 2 hours", MIDNIGHT + DAY - 1)], unused) == 0
    assert mover.catalog.state.keys() == keys
    rules = [rule('m{job="zz"}', "1 in 2", MIDNIGHT + 2 * DAY), rule(ALL, "1 in 2 hours", MIDNIGHT + DAY)]
    assert thin(mover, rules, unused) == 1
    assert cold_rows(mover.catalog) == hours(rows, 2, "a")


def test_a_day_that_another_process_changed_meanwhile_waits_for_the_next_run(
    mover: Mover, objects: Objects, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = cold(mover, clock, some("a", "b"))
    other = Mover(Catalog(objects), "you", clock)
    publish = mover.publish

    def late(*args: Any) -> object:
        monkeypatch.setattr(mover, "publish", publish)
        assert thin(other, [rule('m{job="b"}', "1 in 2 hours")], unused) == 1
        return publish(*args)

    monkeypatch.setattr(mover, "publish", late)
    assert thin(mover, [rule('m{job="a"}', "1 in 2 hours")], unused) == 0
    assert cold_rows(mover.catalog) == hours(rows, 2, "b")
    assert thin(mover, [rule('m{job="a"}', "1 in 2 hours")], unused) == 1
    assert cold_rows(mover.catalog) == hours(rows, 2, "a", "b")
    clock.move(16)
    mover.sweep()
    there = {one.key for folder in ("samples/", "series/") for one in objects.list(folder)}
    assert there == mover.catalog.state.keys()
