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
STEPS = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.integers(-2, 2),
        st.lists(st.integers(0, 9), min_size=1, max_size=4),
        st.sampled_from([False] * 12 + [True]),
        st.sampled_from([1] * 30 + [0]),
    ),
    min_size=4,
    max_size=150,
)
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
