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
Labels = dict[str, str]
Histograms = list[tuple[Labels, list[int], list[mdb.Histogram]]]


def histogram(first: int, buckets: list[int], schema: int) -> mdb.Histogram:
    side = {"positive_spans": [(first, len(buckets))], "positive_buckets": buckets} if buckets else {}
    return mdb.Histogram(schema=schema, count=sum(buckets), sum=float(sum(buckets)), **side)


@st.composite
def histograms(draw: st.DrawFn) -> Histograms:
    """Of series of their own, and of some that may hold numbers too."""
    one = st.builds(histogram, st.integers(-3, 3), st.lists(st.integers(0, 9), max_size=6), st.sampled_from([0, 1]))
    found = []
    for name in ["latency", "gauge", "counter"]:
        for job, instance in draw(st.lists(st.tuples(*[st.sampled_from("ab")] * 2), max_size=2, unique=True)):
            gaps = draw(st.lists(st.sampled_from([7_000, 15_000, 15_000, 200_000]), min_size=1, max_size=70))
            pool = draw(st.lists(one, min_size=1, max_size=4))
            times = np.cumsum(gaps).tolist()
            rows = [pool[i % len(pool)] for i in range(len(times))]
            found.append(({"__name__": name, "job": job, "instance": "01"["ab".index(instance)]}, times, rows))
    return found


def start_counter(db: mdb.Database) -> None:
    """A counter whose samples have start timestamps."""
    for t in range(0, 900, 45):
        lines = ["# TYPE counter counter", f'counter_total{{job="a"}} {t % 300}']
        lines += [f'counter_created{{job="a"}} {t // 300 * 300}', "# EOF", ""]
        assert db.ingest("\n".join(lines).encode(), "openmetrics", time=t).accepted == 1


SELECTORS = ["latency", "gauge", "counter", "counter_total", '{job="a"}', "latency offset 1m", "gauge @ 300"]
WINDOWS = [
    "rate", "increase", "delta", "irate", "sum_over_time", "avg_over_time", "last_over_time", "count_over_time",
    "min_over_time", "resets", "absent_over_time", "present_over_time", "rollup", "rollup_rate", "rollup_candlestick",
    "rollup_increase",
]  # fmt: skip
UNARY = [
    "histogram_quantile(0.9, {})", "histogram_sum({})", "histogram_avg({})", "histogram_fraction(0, 2, {})",
    'histogram_quantiles({}, "q", 0.5, 0.9)', "range_sum({})", "range_trim_zscore(1, {})", "sum by (job) ({})",
    "avg({})", "count by (instance) ({})", "max({})", "topk(1, {})", "limitk(2, {})", "limit_ratio(0.5, {})",
    "outliers_iqr({})", "outliers_mad(1, {})", "outliersk(1, {})", 'count_values("v", {})', "quantile(0.5, {})",
    "-({})",
    "({}) * 2", "({}) > 1", "abs({})", "timestamp({})", "start_timestamp({})", "sort({})", "vector(scalar({}))",
    "absent({})", 'label_replace({}, "new", "$1", "job", "(.*)")', "stddev({})", "({}) if 1", "({}) default 2",
    "1 ifnot ({})", "3 default ({})", "({}) + 0",
]  # fmt: skip
BINARY = [
    "({}) + ({})", "({}) - on (job, instance) ({})", "({}) == ({})", "({}) and ({})", "({}) or ({})",
    "({}) unless ({})",
    "({}) * on (job) group_left sum by (job) ({})", "({}) default ({})", "({}) if ({})", "({}) ifnot ({})",
    "({}) default on (job) ({})", "range_normalize({}, {})", "({}) + fill(0) ({})",
]  # fmt: skip
spans = st.sampled_from(["20s", "1m", "5m"])
selectors = st.sampled_from(SELECTORS)
windows = st.builds("{}({}[{}])".format, st.sampled_from(WINDOWS), st.sampled_from(SELECTORS[:5]), spans)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds(str.format, st.sampled_from(UNARY), inner),
        st.builds(str.format, st.sampled_from(BINARY), inner, inner),
        st.builds("{}(({})[{}:30s])".format, st.sampled_from(WINDOWS), inner, spans),
    )


texts = st.recursive(selectors | windows, larger, max_leaves=4)
seeds = st.integers(0, 2**32)
starts = st.sampled_from([0, 301_000, 600_123])
steps_taken = st.sampled_from([None, 7_000, 60_000])


def times(start: int, steps: int, step: Step) -> tuple[object, ...]:
    first = np.datetime64(start, "ms")
    return (first,) if step is None else (first, np.datetime64(start + steps * step, "ms"), step / 1000)


def check(db: mdb.Database, query: str, when: tuple[object, ...]) -> None:
    bound = db.estimate(query, *when)
    try:
        plan = db.explain(query, *when, analyze=True)
    except mdb.QueryError:
        return  # the query has no answer on these data
    assert plan.totals["samples"] <= bound.samples, query
    assert plan.totals["values"] <= bound.values, query
    assert bound.samples_min <= plan.totals["samples"], query
    assert plan.totals["samples"] <= plan.frame["samples"].sum() or "info" in query, query
    for row in plan.frame.iter_rows(named=True):
        over = [name for name in ACTUAL if row[name] > row[f"estimated_{name}"]]
        assert not over, (query, row)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seeds, starts, st.integers(0, 12), steps_taken)
def test_what_is_measured_is_never_above_the_bound(seed: int, start: int, steps: int, step: Step) -> None:
    rng = Random(seed)
    db = filled(store(rng, NUMBERS))
    check(db, Queries(rng, Dialect(tuple(NUMBERS))).query().text(), times(start, steps, step))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seeds, histograms(), st.booleans(), texts, starts, st.integers(0, 12), steps_taken)
def test_histograms_starts_and_metricsql_stay_within_the_bound(
    seed: int, rows: Histograms, starts: bool, query: str, start: int, steps: int, step: Step
) -> None:
    db = filled(store(Random(seed), NUMBERS))
    for labels, when, column in rows:
        db.append_histograms(labels, np.array(when, dtype=np.int64).view("datetime64[ms]"), column)
    if starts:
        start_counter(db)
    check(db, query, times(start, steps, step))


def test_reads_of_histograms_are_counted_a_sample_a_bucket() -> None:
    with mdb.Database() as db:
        h = histogram(0, [1, 2, 3], 0)
        for i in range(3):
            db.append_histograms({"__name__": "h", "i": str(i)}, [t * 15 for t in range(100)], [h] * 100)
        when = times(600_000, 10, 60_000)
        plan = db.explain("sum(rate(h[5m]))", *when, analyze=True)
        node = plan.frame.row(2, named=True)
        # Every 15 s in (300 s, 1200 s], a histogram and its three buckets each.
        assert (
            node["samples"] == node["estimated_samples"] == 3 * 60 * 4 == db.estimate("rate(h[5m])", *when).samples_min
        )
        assert (node["series"], node["codec"]) == (3, "histogram")
        assert 0 < node["bytes"] <= node["estimated_bytes"]
        assert plan.frame["series"].to_list() == [1, 3, 3]


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
