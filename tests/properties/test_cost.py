"""Random queries over random samples: no query costs more than it was said to cost at most."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.explain import ACTUAL
from tests.twins.answers import filled
from tests.twins.queries import Dialect, Queries
from tests.twins.stores import NUMBERS, store

Step = int | None


def times(start: int, steps: int, step: Step) -> tuple[object, ...]:
    first = np.datetime64(start, "ms")
    return (first,) if step is None else (first, np.datetime64(start + steps * step, "ms"), step / 1000)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 301_000, 600_123]),
    st.integers(0, 12),
    st.sampled_from([None, 7_000, 60_000]),
)
def test_what_is_measured_is_never_above_the_bound(seed: int, start: int, steps: int, step: Step) -> None:
    rng = Random(seed)
    dialect = Dialect(tuple(NUMBERS))
    db = filled(store(rng, NUMBERS))
    query = Queries(rng, dialect).query()
    when = times(start, steps, step)
    bound = db.estimate(query.text(), *when)
    try:
        plan = db.explain(query.text(), *when, analyze=True)
    except mdb.QueryError:
        return  # the query has no answer on these data
    assert plan.totals["samples"] <= bound.samples, query.text()
    assert plan.totals["values"] <= bound.values, query.text()
    assert bound.samples_min <= plan.totals["samples"], query.text()
    for row in plan.frame.iter_rows(named=True):
        over = [name for name in ACTUAL if row[name] > row[f"estimated_{name}"]]
        assert not over, (query.text(), row)


def test_a_limit_just_below_what_a_query_needs_refuses_it_and_one_at_it_does_not() -> None:
    samples = {(("__name__", "x_total"), ("i", str(i))): [(t * 15_000, float(t)) for t in range(400)] for i in range(9)}
    query, when = "sum(rate(x_total[5m])) + count(x_total{i='0'})", times(600_000, 50, 60_000)
    needed = filled(samples).explain(query, *when, analyze=True).totals["samples"]
    for limit in (needed - 1, needed):
        db = mdb.Database(max_samples=limit)
        for labels, rows in samples.items():
            db.append(dict(labels), [t / 1000 for t, _ in rows], [v for _, v in rows])
        if limit == needed:
            assert db.query_range(query, *when).height == 51
            continue
        with pytest.raises(
            mdb.QueryLimit, match=r"the costliest part is x_total\[5m\] at 1:10, up to .* samples of 9 series"
        ):
            db.query_range(query, *when)
        assert dict(db.stats().iter_rows())["decoded_samples"] == 0, "refused only after some work"
