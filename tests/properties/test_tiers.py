"""Queries over samples in memory, on disk and in cold storage: the answers of one memory, to the bit.

`METRICSDB_TIER_QUERIES=20000` asks more of them, `METRICSDB_TIER_SEED=7` others.
"""

from __future__ import annotations

import os
import warnings
from random import Random

import polars as pl
import pytest

import metricsdb as mdb
from metricsdb.frames import TIME
from metricsdb.lifecycle.cold.memory import StoreMemory
from metricsdb.lifecycle.cold.move import Rule
from tests.conformance import test_compliance as compliance
from tests.tiers import ALL, move, mover_of
from tests.twins import promql as twin
from tests.twins.answers import filled
from tests.twins.queries import Dialect, Queries
from tests.twins.stores import store

QUERIES = int(os.environ.get("METRICSDB_TIER_QUERIES", "1500"))
SEED = int(os.environ.get("METRICSDB_TIER_SEED", "1"))
PER_STORE, PARTS = 50, 5


def said(db: mdb.Database, text: str, steps: tuple[int, int, int]) -> tuple[pl.DataFrame, list[str]]:
    """The frame, rows and labels in an order of their own, and the remarks."""
    start, end = (pl.Series([t]).cast(TIME)[0] for t in steps[:2])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if steps[0] == steps[1]:
            frame = db.query(text, start)
        else:
            frame = db.query_range(text, start, end, f"{steps[2]}ms")
    labels = sorted(c for c in frame.columns if c not in ("timestamp", "value", "histogram"))
    ordered = frame.select(*labels, pl.exclude(labels)).sort(*labels, "timestamp", nulls_last=True)
    return ordered, sorted(str(w.message) for w in told)


def difference(a: mdb.Database, b: mdb.Database, text: str, steps: tuple[int, int, int]) -> str | None:
    """Where two databases differ on a query."""
    try:
        wanted, told = said(a, text, steps)
    except mdb.QueryError as error:
        try:
            said(b, text, steps)
        except mdb.QueryError:
            return None
        return f"{text} {steps}: fails in one memory alone: {error}"
    found, heard = said(b, text, steps)
    if not wanted.equals(found) or bits(wanted) != bits(found):
        return f"{text} {steps}\nmemory: {wanted.rows()}\ntiers:  {found.rows()}"
    return None if told == heard else f"{text} {steps}: remarks {told} and {heard}"


def bits(frame: pl.DataFrame) -> list[int]:
    return frame["value"].cast(pl.Float64).fill_null(0.0).to_numpy().view("uint64").tolist() if frame.height else []


# What is the same up to the order in which series stand: the last bit of a sum of squares, and which of equal rows.
UNORDERED = ("std", "topk", "bottomk", "limitk", "limit_ratio", "outliers", "any(")


@pytest.mark.parametrize("part", range(PARTS))
def test_answers_over_mixed_tiers_are_those_of_one_memory(part: int) -> None:
    pytest.importorskip("obstore")
    asked = 0
    for i in range(QUERIES // PARTS // PER_STORE):
        rng = Random(SEED * 1_000_000 + part * 1_000 + i)
        dialect = Dialect()
        data: twin.Data = store(rng, dialect.stored)
        whole, mixed = filled(data), filled(data)
        cold, disk = mover_of(mixed), mover_of(mixed)
        end = max((column[-1][0] for column in data.values() if column), default=0)
        cut = rng.randint(0, end)
        for first, last in ((0, cut // 2), (cut // 2 + 1, cut), (cut + 200_000, cut + 400_000)):
            if rng.random() < 0.8:
                move(mixed, rng.choice([cold, disk]), first, last)
                # Some of it goes on, and some of that is not hidden yet.
                middle = rng.randint(first, last)
                if rng.random() < 0.6:
                    move(mixed, cold, first, middle, of=disk)
                elif rng.random() < 0.5:
                    cold.add(StoreMemory(disk).export([Rule(ALL, None)], 0, middle, last))
        for _ in range(PER_STORE):
            text = Queries(rng, dialect).query().text()
            if any(word in text for word in UNORDERED):
                continue
            start, step = rng.choice([60_000, 180_000, 301_000, 420_123]), rng.choice([7_000, 60_000])
            steps = (start, start + rng.choice([0, 0, 1, 2, 5]) * step, step)
            found = difference(whole, mixed, text, steps)
            if found is not None:
                pytest.fail(f"part {part}, store {i}: {found}", pytrace=False)
            asked += 1
    assert asked > QUERIES / PARTS / 3


@pytest.mark.skipif(not compliance.QUERIES, reason="no shared/conformance beside the repository")
def test_compliance_queries_over_mixed_tiers_answer_as_one_memory_does() -> None:
    pytest.importorskip("obstore")
    whole, mixed = compliance.stored(), compliance.stored()
    mover = mover_of(mixed)
    stats = whole._native.stats()
    first, last = stats["first_ms"], stats["last_ms"]
    third = (last - first) // 3
    for start, end in ((first, first + third), (first + third + 1, first + 2 * third), (last - 60_000, last)):
        assert move(mixed, mover, start, end) > 0
    for query in compliance.QUERIES:
        if not any(word in query for word in UNORDERED):
            said = compliance.answers()
            steps = (said["start_ms"], said["end_ms"], said["step_ms"])
            assert difference(whole, mixed, query, steps) is None
