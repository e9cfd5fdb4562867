"""Native histograms in rollups: functions over windows of whole buckets answer as they do of all histograms."""

from __future__ import annotations

import math
import warnings

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.testing import FakeClock

WIDTHS = [60, 300]


# Seconds since the one before, the first bucket, what each gains, whether the counter begins anew, the schema.
def _steps(least: int, second: int, first: int, gains: int, schemas: list[int]) -> st.SearchStrategy:
    one = st.tuples(
        st.integers(second, 40),
        st.integers(-first, first),
        st.lists(st.integers(0, 9), min_size=1, max_size=gains),
        st.sampled_from([False] * 12 + [True]),
        st.sampled_from(schemas),
    )
    return st.lists(one, min_size=least, max_size=150)


STEPS = _steps(4, 1, 2, 4, [1] * 30 + [0])
FUNCTIONS = [
    "rate({}[{}s])",
    "increase({}[{}s])",
    "delta({}[{}s])",
    "histogram_quantile(0.9, rate({}[{}s]))",
    "histogram_count(increase({}[{}s]))",
    "sum_over_time({}[{}s])",
    "avg_over_time({}[{}s])",
    "count_over_time({}[{}s])",
    "present_over_time({}[{}s])",
    "resets({}[{}s])",
    "last_over_time({}[{}s])",
    "histogram_sum(first_over_time({}[{}s]))",
    "ts_of_last_over_time({}[{}s])",
    "sum(rate({}[{}s]))",
]
# Records of gauges don't tell where a counter would have been reset.
OF_COUNTERS = ["rate", "increase", "resets"]


def histograms(steps, gauge: bool) -> list[tuple[float, mdb.Histogram]]:
    made, time, known = [], 0, {}
    for gap, first, gains, anew, schema in steps:
        time += gap
        known = {} if anew or gauge else known
        for i, gain in enumerate(gains):
            known[first + i] = known.get(first + i, 0) + gain
        indices = range(min(known), max(known) + 1)
        counts = [known.get(i, 0) for i in indices]
        made.append(
            (
                float(time),
                mdb.Histogram(
                    schema,
                    sum(counts),
                    sum(counts) / 4,
                    positive_spans=[(indices[0], len(counts))],
                    positive_buckets=counts,
                    reset_hint="gauge" if gauge else "unknown",
                ),
            )
        )
    return made


def flat(frame: pl.DataFrame) -> list[tuple[object, ...]]:
    """Rows of numbers, nested ones too; buckets that hold nothing are left out."""

    def numbers(value: object) -> tuple[object, ...]:
        if isinstance(value, dict):
            items = {k: v for k, v in value.items() if k not in ("reset_hint",)}
            return tuple(x for key in sorted(items) for x in numbers(items[key]))
        if isinstance(value, list):
            return tuple(x for item in value for x in numbers(item))
        return (value,)

    return [tuple(x for value in row for x in numbers(value)) for row in frame.iter_rows()]


def near(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(a) and math.isnan(b))
    return a == b


@settings(max_examples=100, deadline=None)
@given(
    STEPS,
    st.booleans(),
    st.sampled_from(WIDTHS),
    st.integers(1, 4),
    st.sampled_from(FUNCTIONS),
    st.randoms(use_true_random=False),
)
def test_windows_of_whole_buckets_are_as_of_all_histograms(steps, gauge, width, wide, function, random):
    gauge = gauge and not any(name in function for name in OF_COUNTERS)
    made = histograms(steps, gauge)
    clock = FakeClock(0)
    plain, db = mdb.Database(), mdb.Database(clock=clock)
    db.rollups.set("h", "raw 10m -> 1m 20m -> 5m")
    end = made[-1][0]
    # Some come late, others behind a pass.
    cut = random.randrange(len(made))
    late = [i for i in range(cut) if random.random() < 0.1 and made[i][0] > end - 400]
    on_time = [made[i] for i in range(cut) if i not in late]
    for part in (on_time, [made[i] for i in late] + made[cut:]):
        if part:
            times, rows = zip(*part, strict=True)
            assert db.append_histograms({"__name__": "h"}, list(times), list(rows)).accepted == len(part)
        clock.move(max(0.0, (part[-1][0] if part else 0) - clock.now_ms() / 1000))
        if part is on_time and on_time:
            db.rollups.run()
    clock.move(end - clock.now_ms() / 1000 + 60)
    db.rollups.run()
    times, rows = zip(*made, strict=True)
    plain.append_histograms({"__name__": "h"}, list(times), list(rows))
    expr = function.format("h", width * wide)
    last = (int(end) // 300 + 1) * 300
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, wanted = (d.query_range(expr, 300, last, 300, cache=False) for d in (db, plain))
    assert found.columns == wanted.columns
    for a, b in zip(flat(found), flat(wanted), strict=True):
        assert len(a) == len(b), (a, b)
        assert all(near(x, y) for x, y in zip(a, b, strict=True)), (a, b)
    db._native.check()


def rolled() -> mdb.Database:
    clock = FakeClock(0)
    db = mdb.Database(clock=clock)
    db.rollups.set("h", "raw 10m -> 5m")
    made = histograms([(15, 0, [1, 2, 3], False, 1)] * 400, gauge=False)
    times, rows = zip(*made, strict=True)
    db.append_histograms({"__name__": "h"}, list(times), list(rows))
    clock.move(6000.0)
    db.rollups.run()
    return db


def test_windows_of_whole_buckets_are_silent_and_others_say_so():
    db = rolled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = db.query("histogram_count(increase(h[10m]))", time=3000.0)
    assert whole["value"].to_list() == [pytest.approx(40 * 6, rel=0.01)]
    for expr in ("increase(h[7m])", "irate(h[10m])", "h"):
        with pytest.warns(mdb.QueryInfo, match="only rollups of 5m are left here"):
            assert db.query(expr, time=3000.0).height == 1


def test_gauges_that_are_taken_for_counters_say_that_records_answer():
    clock = FakeClock(0)
    db = mdb.Database(clock=clock)
    db.rollups.set("h", "raw 10m -> 5m")
    made = histograms([(15, 0, [i % 7, 3], False, 1) for i in range(400)], gauge=True)
    times, rows = zip(*made, strict=True)
    db.append_histograms({"__name__": "h"}, list(times), list(rows))
    clock.move(6000.0)
    db.rollups.run()
    for function in OF_COUNTERS:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert db.query(f"{function}(h[10m])", time=3000.0).height == 1
        assert any("only rollups of 5m are left here" in str(w.message) for w in told)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert db.query("histogram_count(delta(h[10m]))", time=3000.0).height == 1
        assert db.query("histogram_count(sum_over_time(h[10m]))", time=3000.0).height == 1


def test_histograms_whose_records_stand_for_them_leave():
    db = rolled()
    held = {row["part"]: row["items"] for row in db.memory().iter_rows(named=True)}
    # Chunks leave as a whole: of 400, a quarter is young.
    assert held["histograms: sealed"] + held["histograms: open"] < 150
    level = db.rollups.levels().row(0, named=True)
    assert (level["level"], level["series"], level["records"]) == ("5m", 1, 20)
    report = db.append_histograms({"__name__": "h"}, [100.0], [histograms([(1, 0, [1], False, 1)], False)[0][1]])
    assert report.accepted == 0
    assert "out_of_retention" in report.rejected


def lower(h: mdb.Histogram, schema: int) -> mdb.Histogram:
    """In wider buckets: a bucket lies in that of the lower schema whose end is the next at or behind its own."""
    if h.schema <= schema:
        return h
    counts = {}
    (first, length), *_ = h.positive_spans
    for index, count in zip(range(first, first + length), h.positive_buckets, strict=True):
        end = math.ceil(index / 2 ** (h.schema - schema))
        counts[end] = counts.get(end, 0) + count
    ends = sorted(counts)
    return mdb.Histogram(
        schema,
        h.count,
        h.sum,
        positive_spans=[(ends[0], len(ends))],
        positive_buckets=[counts[end] for end in ends],
        reset_hint=h.reset_hint,
    )


def fitted(rows: list[mdb.Histogram], most: int) -> int | None:
    """The highest schema at which all of these have so many buckets together; None: they need none."""
    finest = max(h.schema for h in rows)
    for schema in range(finest, -5, -1):
        low = [lower(h, schema) for h in rows]
        if len({(h.schema, h.positive_spans[0][0] + i) for h in low for i in range(h.positive_spans[0][1])}) <= most:
            return None if schema == finest else schema
    return -4


@settings(max_examples=60, deadline=None)
@given(
    _steps(60, 5, 8, 6, [3] * 30 + [2]),
    st.booleans(),
    st.integers(1, 25),
    st.sampled_from(FUNCTIONS),
)
def test_records_above_a_cap_answer_as_histograms_of_the_schema_at_which_they_fit(steps, gauge, most, function):
    gauge = gauge and not any(name in function for name in OF_COUNTERS)
    made = histograms(steps, gauge)
    end = made[-1][0]
    now = (int(end) // 300 + 5) * 300
    clock = FakeClock(now * 1000)
    plain, db = mdb.Database(), mdb.Database(clock=clock)
    db.rollups.set("h", f"raw 4m -> 1m 10m -> 5m with {most} buckets")
    times, rows = zip(*made, strict=True)
    db.append_histograms({"__name__": "h"}, list(times), list(rows))
    db.rollups.run()
    last = now - 1200
    worst, wanted = None, []
    for bucket in range(300, last + 1, 300):
        own = [(t, h) for t, h in made if bucket - 300 < t <= bucket]
        schema = fitted([h for _, h in own], most) if own else None
        worst = schema if worst is None or (schema is not None and schema < worst) else worst
        wanted += [(t, h if schema is None else lower(h, schema)) for t, h in own]
    times, rows = zip(*wanted, strict=True)
    plain.append_histograms({"__name__": "h"}, list(times), list(rows))
    expr = function.format("h", 300)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = db.query_range(expr, 300, last, 300, cache=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = plain.query_range(expr, 300, last, 300, cache=False)
    for a, b in zip(flat(found), flat(model), strict=True):
        assert len(a) == len(b), (a, b)
        assert all(near(x, y) for x, y in zip(a, b, strict=True)), (a, b)
    error = None if worst is None else 2 ** (2**-worst) - 1
    assert sum("may be off by" in str(w.message) for w in told) == (error is not None)
    if error is not None:
        assert any(f"{float(f'{100 * error:.2e}'):g}%" in str(w.message) for w in told)
    records = db.rollups.records("h", "5m", 0, last)
    assert records["quantile_error"].max() == (None if error is None else pytest.approx(error))
    db._native.check()


def test_finer_buckets_behind_merged_ones_are_no_reset():
    clock = FakeClock(0)
    db, plain = mdb.Database(clock=clock), mdb.Database()
    db.rollups.set("h", "raw 10m -> 5m with 4 buckets")
    # Wide at first, and then in one bucket alone.
    steps = [(15, i % 20 if i < 80 else 3, [1], False, 2) for i in range(200)]
    times, rows = zip(*histograms(steps, gauge=False), strict=True)
    for each in (db, plain):
        each.append_histograms({"__name__": "h"}, list(times), list(rows))
    clock.move(3000.0)
    db.rollups.run()
    expr = "histogram_count(increase(h[20m]))"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, wanted = (d.query_range(expr, 1200, 3000, 300, cache=False) for d in (db, plain))
        resets = db.query("resets(h[45m])", time=3000.0)["value"].to_list()
    assert found["value"].to_list() == pytest.approx(wanted["value"].to_list())
    assert resets == [0.0]
