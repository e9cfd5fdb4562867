"""Random queries over random stores: the evaluator against the slow twin.

`METRICSDB_TWIN_QUERIES=200000` asks more of them, `METRICSDB_TWIN_SEED=7` others.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

import metricsdb as mdb
from tests.twins import promql as twin
from tests.twins import remarks
from tests.twins.answers import Steps, answer, difference, filled, misheard
from tests.twins.histograms import Histogram
from tests.twins.numbers import Open, Refused
from tests.twins.queries import Dialect, Queries
from tests.twins.stores import store

QUERIES = int(os.environ.get("METRICSDB_TWIN_QUERIES", "21000"))
SEED = int(os.environ.get("METRICSDB_TWIN_SEED", "1"))
PER_STORE = 70
PARTS = 10

Case = tuple[twin.Data, twin.Node, Steps]


def disagreement(db: mdb.Database, data: twin.Data, query: twin.Node, steps: Steps, seen: Counter[str]) -> str | None:
    """Where the two differ. `seen` counts what became of the queries."""
    remarks.take()
    try:
        expected = twin.evaluate(query, data, *steps)
    except Open:
        seen["open"] += 1
        return None
    except Refused:
        seen["refused"] += 1
        try:
            found, _ = answer(db, query.text(), steps)
        except mdb.QueryError:
            return None
        return f"refused by the twin alone; evaluator: {found}"
    seen["answered" if expected else "empty"] += 1
    seen["with histograms"] += any(isinstance(v, Histogram) for row in expected.values() for _, v in row)
    try:
        found, said = answer(db, query.text(), steps)
        seen["remarked"] += bool(said)
        told = misheard(said, *remarks.take(), of_all_steps=":" not in query.text())
        return difference(found, expected) or told
    except mdb.MetricsDBError as error:
        return f"refused by the evaluator alone: {error}\ntwin: {expected}"


# --- the smallest case ----------------------------------------------------------------------------------------------


def smaller(data: twin.Data, query: twin.Node, steps: Steps) -> Iterator[Case]:
    """Cases one cut smaller: a part of the query, one step, without a series, without some of its samples."""
    for field in dataclasses.fields(query):
        part = getattr(query, field.name)
        if isinstance(part, twin.Subquery):
            part = part.expr
        if isinstance(part, twin.Node):
            yield data, part, steps
            for _, less, _ in smaller({}, part, (0, 0, 1)):
                yield data, dataclasses.replace(query, **{field.name: less}), steps
    start, end, step = steps
    if end > start:
        yield data, query, (start, start + (end - start) // step // 2 * step, step)
        yield data, query, (start + step, end, step)
    for labels, column in data.items():
        yield {k: v for k, v in data.items() if k != labels}, query, steps
        for size in (8, 4, 2, 1):
            for at in range(0, len(column), size):
                yield data | {labels: column[:at] + column[at + size :]}, query, steps


def shrunk(data: twin.Data, query: twin.Node, steps: Steps) -> str:
    def differs(case: Case) -> bool:
        return disagreement(filled(case[0]), *case, Counter()) is not None

    case, again = (data, query, steps), True
    while again:
        better = next((c for c in smaller(*case) if differs(c)), None)
        case, again = better or case, better is not None
    data, query, steps = case
    said = disagreement(filled(data), *case, Counter())
    series = "\n".join(f"  {dict(labels)}: {column}" for labels, column in data.items())
    return f"{query.text()}\nfrom, to, step: {steps}\n{said}\nstore:\n{series}"


# --- the test -------------------------------------------------------------------------------------------------------


def ask(seed: int, count: int, seen: Counter[str]) -> None:
    """A store, and queries of it."""
    rng = Random(seed)
    dialect = Dialect()
    data = store(rng, dialect.stored)
    db = filled(data)
    for _ in range(count):
        query = Queries(rng, dialect).query()
        start, step = rng.choice([60_000, 180_000, 301_000, 420_123]), rng.choice([7_000, 60_000])
        steps = (start, start + rng.choice([0, 0, 1, 2, 5]) * step, step)
        if disagreement(db, data, query, steps, seen) is not None:
            pytest.fail(f"seed {seed}: {query.text()}\n\nsmallest: {shrunk(data, query, steps)}", pytrace=False)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_queries_answer_as_the_twin_does(part: int) -> None:
    seen: Counter[str] = Counter()
    stores = math.ceil(QUERIES / PARTS / PER_STORE)
    for i in range(stores):
        ask(SEED * 1_000_000 + part * stores + i, PER_STORE, seen)
    print(dict(seen))
    assert seen["answered"] > stores * PER_STORE / 2
    assert seen["with histograms"] > stores * PER_STORE / 20
    assert seen["remarked"] > stores * PER_STORE / 20
