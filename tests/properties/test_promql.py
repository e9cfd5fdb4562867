"""Random queries over random samples: the evaluator against the slow twin."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import metricsdb as mdb

sys.path.insert(0, str(Path(__file__).parents[1]))
from twins import promql as twin

STALE = np.uint64(0x7FF0000000000002)
LABELS = {"job": ["a", "b"], "instance": ["0", "1", "2"], "zone": ["", "x"]}
NAMES = ["gauge", "counter"]

durations = st.sampled_from([10_000, 15_000, 45_000, 60_000, 100_000, 300_000])
offsets = st.just(0) | st.sampled_from([-60_000, 7_000, 30_000, 120_000])
# Quarters: sums of them are exact, so nothing hangs on the order of additions.
quarters = st.integers(-400, 400).map(lambda n: n / 4)
odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0])


@st.composite
def data(draw: st.DrawFn) -> twin.Data:
    found: twin.Data = {}
    for name in NAMES:
        series = draw(st.lists(st.tuples(*map(st.sampled_from, LABELS.values())), max_size=6, unique=True))
        for values in series:
            labels = [("__name__", name), *((n, v) for n, v in zip(LABELS, values, strict=True) if v)]
            gaps = draw(st.lists(st.sampled_from([5_000, 10_000, 10_000, 15_000, 11_003, 200_000]), max_size=40))
            times = np.cumsum([draw(st.sampled_from([0, 3_000, 250_000])), *gaps]).tolist()
            if name == "gauge":
                samples = draw(st.lists(st.none() | odd | quarters, min_size=len(times), max_size=len(times)))
            else:
                steps = draw(st.lists(st.integers(-1, 12), min_size=len(times), max_size=len(times)))
                samples, value = [], 0.0
                for step in steps:
                    value = 0.0 if step < 0 else value + step
                    samples.append(value)
            found[tuple(sorted(labels))] = list(zip(times, samples, strict=True))
    return found


matchers = st.tuples(
    st.sampled_from(sorted(LABELS)), st.sampled_from(["=", "!="]), st.sampled_from(["", "a", "0", "x"])
)
selectors = st.builds(
    twin.Selector,
    st.sampled_from(NAMES),
    st.lists(matchers, max_size=1).map(tuple),
    offsets,
    st.none() | st.sampled_from([0, 300_000, 420_500]),
)
label_sets = st.lists(st.sampled_from(sorted(LABELS)), max_size=2, unique=True).map(tuple)


ranges = st.builds(twin.Range, selectors, durations)
exact_functions = st.sampled_from([name for name, (_, exact) in twin.WINDOW_FUNCTIONS.items() if exact])
# Values that may meet a threshold: right to the last bit.
exact = selectors | st.builds(twin.Over, exact_functions, ranges)
exact = exact | st.builds(twin.Aggregate, st.sampled_from(["sum", "min", "max"]), st.booleans(), label_sets, exact)
subqueries = st.builds(twin.Subquery, exact, durations, st.sampled_from([10_000, 30_000]), offsets)
functions = st.sampled_from(sorted(twin.WINDOW_FUNCTIONS))
windows = st.builds(twin.Over, functions, ranges | subqueries)
numbers = st.sampled_from([0, 2, -0.5, 3.25])


def match(op: str, sides: tuple[twin.Node, twin.Node], on: bool, labels: tuple[str, ...]) -> twin.Node:
    return twin.Match(op, *sides, on, labels)


def larger(nodes: st.SearchStrategy[twin.Node]) -> st.SearchStrategy[twin.Node]:
    both = st.tuples(nodes, nodes) | nodes.map(lambda n: (n, n))
    number_first = st.booleans()
    return st.one_of(
        st.builds(twin.Aggregate, st.sampled_from(sorted(twin.AGGREGATES)), st.booleans(), label_sets, nodes),
        st.builds(twin.WithNumber, st.sampled_from("+-*/"), nodes, numbers, st.just(False), number_first),
        st.builds(match, st.sampled_from(["+", "-", "and", "or", "unless"]), both, st.booleans(), label_sets),
    )


filters = st.one_of(
    st.builds(twin.Map, st.sampled_from(sorted(twin.MAPS)), exact),
    st.builds(twin.WithNumber, st.sampled_from("%^"), exact, numbers, st.just(False), st.booleans()),
    st.builds(twin.WithNumber, st.sampled_from(sorted(twin.COMPARISONS)), exact, numbers, st.booleans()),
    st.builds(match, st.sampled_from([">", "<=", "=="]), st.tuples(exact, exact), st.booleans(), label_sets),
)
rollups = st.builds(
    twin.Rollup, st.sampled_from(sorted(twin.ROLLUPS)), ranges | subqueries, st.sampled_from(["", "min", "avg"])
)
gaps = st.builds(twin.Gap, st.sampled_from(["default", "if", "ifnot"]), exact, exact | numbers, label_sets)
# Whole ranges stand outermost: the twin steps through all that is inside them.
whole = st.recursive(
    exact | gaps, lambda nodes: st.builds(twin.WholeRange, st.sampled_from(sorted(twin.WHOLE)), nodes), max_leaves=1
)
queries = st.recursive(selectors | windows | filters, larger, max_leaves=4)


queries = queries | rollups | gaps | whole


def filled(samples: twin.Data) -> mdb.Database:
    db = mdb.Database()
    for labels, column in samples.items():
        values = np.array([0.0 if v is None else v for _, v in column])
        values.view(np.uint64)[[v is None for _, v in column]] = STALE
        times = np.array([t for t, _ in column], dtype=np.int64).view("datetime64[ms]")
        db.append(dict(labels), times, values)
    return db


def answer(db: mdb.Database, query: str, start: int, end: int, step: int) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mdb.QueryWarning)
        frame = db.query_range(query, np.datetime64(start, "ms"), np.datetime64(end, "ms"), step / 1000)
    names = [c for c in frame.columns if c not in ("timestamp", "value")]
    found: dict = {}
    for row in frame.with_columns(frame["timestamp"].dt.epoch("ms")).iter_rows(named=True):
        labels = tuple(sorted((n, row[n]) for n in names if row[n] is not None))
        found.setdefault(labels, []).append((row["timestamp"], row["value"]))
    return found


def close(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data(), queries, st.sampled_from([0, 301_000, 600_123]), st.integers(0, 12), st.sampled_from([7_000, 60_000]))
def test_random_queries_answer_as_the_twin_does(
    samples: twin.Data, query: twin.Node, start: int, steps: int, step: int
) -> None:
    db, end = filled(samples), start + steps * step
    try:
        expected = twin.evaluate(query, samples, start, end, step)
    except twin.Refused:
        with pytest.raises(mdb.QueryError):
            answer(db, query.text(), start, end, step)
        return
    found = answer(db, query.text(), start, end, step)
    assert sorted(found) == sorted(expected), query.text()
    for labels, row in expected.items():
        assert [t for t, _ in found[labels]] == [t for t, _ in row], (query.text(), labels)
        apart = [(t, a, b) for (t, a), (_, b) in zip(found[labels], row, strict=True) if not close(a, b)]
        assert not apart, (query.text(), labels)
