"""Streams: all polls together are the range query over the same steps, whenever one polls."""

from __future__ import annotations

import asyncio
import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metricsdb as mdb
from metricsdb.testing import FakeClock

T0 = 1_700_000_000
STEP = 15

EXPRESSIONS = [
    "m",
    "m offset 1m",
    "m offset -1m",
    "1 + 2",
    "time() - m",
    "sum by (job) (m)",
    "sum by (job) (rate(c[2m]))",
    "topk(2, m)",
    "count_values('v', round(m))",
    "quantile(0.9, m) or vector(0)",
    "m{job='a'} / on (host) m{job='b'}",
    "m > bool 5",
    "avg_over_time(m[3m])",
    "stddev_over_time(m[2m])",
    "increase(c[1m])",
    "absent(m{job='a'})",
    f"m @ {T0 + 200}",
    "max_over_time(sum by (job) (m)[3m:30s])",
    "max_over_time(rate(c[1m])[4m:20s])",
    "sum(sum_over_time(m[5m:1m]))",
    "avg_over_time(max_over_time(m[1m:10s])[3m:20s])",
    "min_over_time(m[2m:30s] offset -30s)",
    f"max_over_time(m[2m:30s] @ {T0 + 150})",
    "sum_over_time((m > 5)[3m:15s]) + count_over_time(c[2m])",
    "rate(c[1m] smoothed)",
    "delta(m[1m] anchored)",
    "last_over_time(vector(time())[1m:10s])",
]


def database(clock: FakeClock) -> mdb.Database:
    return mdb.Database(clock=clock, lookback="1m")


def batch(db: mdb.Database, expr: str, first: int, last: int) -> pl.DataFrame:
    if last < first:
        return pl.DataFrame({"timestamp": [], "value": []})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return db.query_range(expr, first, last, STEP)


def rows(*parts: pl.DataFrame) -> dict[tuple[object, ...], float]:
    """Values by time and labels."""
    found: dict[tuple[object, ...], float] = {}
    for frame in parts:
        labels = [c for c in frame.columns if c not in ("timestamp", "value")]
        for row in frame.iter_rows(named=True):
            key = (row["timestamp"], *((c, row[c]) for c in sorted(labels) if row[c] is not None))
            assert key not in found, f"{key} came twice"
            found[key] = row["value"]
    return found


samples = st.lists(
    st.tuples(
        st.sampled_from(["m", "c"]), st.sampled_from(["a", "b"]), st.sampled_from(["x", "y", "z"]),
        st.integers(0, 400), st.integers(0, 20), st.integers(0, 60),
    ),
    min_size=1, max_size=120,
)  # fmt: skip


@given(
    expr=st.sampled_from(EXPRESSIONS),
    samples=samples,
    pauses=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    delay=st.sampled_from([0, 20, 60]),
    backlog=st.sampled_from([1, 3, 1_000]),
    ticks=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_all_polls_together_are_the_range_query(expr, samples, pauses, delay, backlog, ticks):
    clock = FakeClock((T0 + 7) * 1000)
    db = database(clock)
    stream = db.subscribe(expr, step=STEP, delay=delay, backlog=backlog)
    # Each sample arrives up to `delay` after its time, and history is there from the start.
    arriving = sorted(
        (T0 + t + min(late, delay), name, job, host, T0 + t, v) for name, job, host, t, v, late in samples
    )
    first, parts = stream.next_ms // 1000, []
    for pause in pauses:
        clock.move(pause)
        now = clock.now_ms() // 1000
        while arriving and arriving[0][0] <= now:
            _, name, job, host, t, v = arriving.pop(0)
            db.append({"__name__": name, "job": job, "host": host}, [t], [v / 7])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts.append(stream.poll())
            while stream.behind:
                parts.append(stream.poll())
        if ticks:
            db.tick()
            db.reencode()
    for _, name, job, host, t, v in arriving:
        db.append({"__name__": name, "job": job, "host": host}, [t], [v / 7])
    expected = rows(batch(db, expr, first, stream.next_ms // 1000 - STEP))
    assert rows(*parts) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_a_step_is_given_once_when_its_delay_has_passed():
    clock = FakeClock(T0 * 1000)
    db = database(clock)
    db.append({"__name__": "m"}, [T0 - 5], [1.0])
    stream = db.subscribe("m", step="15s", delay="10s")
    assert stream.next_ms == (T0 + 10) * 1000  # 1,700,000,010 is a multiple of 15
    assert stream.poll(T0 + 19).is_empty()
    assert stream.poll(T0 + 19).columns == ["timestamp", "value"]
    db.append({"__name__": "m"}, [T0 + 9], [2.0])  # late, within the delay
    assert stream.poll(T0 + 20)["value"].to_list() == [2.0]
    assert stream.poll(T0 + 20).is_empty()
    assert stream.ready_at_ms() == (T0 + 35) * 1000


@pytest.mark.parametrize(
    ("expr", "final"), [("m offset -1m", T0 + 70), (f"m @ {T0 + 200}", T0 + 200), ("m smoothed", T0 + 70)]
)
def test_a_step_waits_for_what_it_looks_ahead_to(expr, final):
    db = database(FakeClock(T0 * 1000))
    db.append({"__name__": "m"}, [T0 - 5], [1.0])
    stream = db.subscribe(expr, step=15)
    assert stream.ready_at_ms() == final * 1000
    assert stream.poll(final - 1).is_empty()
    db.append({"__name__": "m"}, [final - 1], [5.0])
    expected = batch(db, expr, T0 + 10, T0 + 10)["value"].to_list()
    assert stream.poll(final)["value"].to_list()[:1] == expected
    assert expected[0] > 1.0


def test_a_long_pause_is_made_up_for_in_parts():
    clock = FakeClock(T0 * 1000)
    db = database(clock)
    stream = db.subscribe("time()", step=10, backlog=4)
    clock.move(95)
    assert stream.poll().height == 4
    assert stream.behind
    assert stream.poll().height == 4
    assert stream.poll().height == 2
    assert not stream.behind


def test_what_is_kept_is_bounded_by_the_window():
    clock = FakeClock(T0 * 1000)
    db = database(clock)
    for host in ("x", "y", "z"):
        times = np.arange(T0 - 600, T0 + 6_000, 10)
        db.append({"__name__": "m", "host": host}, times, np.arange(len(times), dtype=float))
    stream = db.subscribe("max_over_time(m[5m:30s])", step=30)
    for _ in range(50):
        clock.move(30)
        assert stream.poll().height == 3
        assert stream.held() <= 3 * 11
    assert db.subscribe("rate(m[5m])").held() == 0


def test_kept_steps_are_not_evaluated_again():
    clock = FakeClock(T0 * 1000)
    db = database(clock)
    times = np.arange(T0 - 7_200, T0 + 600, 10)
    db.append({"__name__": "m"}, times, np.arange(len(times), dtype=float))

    def decoded() -> int:
        return dict(db.stats().iter_rows())["decoded_samples"]

    stream = db.subscribe("max_over_time(sum_over_time(m[1m])[1h:10s])", step=10)
    clock.move(10)
    before = decoded()
    stream.poll()
    whole, before = decoded() - before, decoded()
    clock.move(10)
    stream.poll()
    assert 0 < decoded() - before < whole / 2


def test_a_closed_database_is_not_remembered():
    clock = FakeClock(T0 * 1000)
    db = database(clock)
    db.append({"__name__": "m"}, [T0], [9.0])
    stream = db.subscribe("max_over_time(m[5m:15s])", step=15)
    clock.move(30)
    assert stream.poll()["value"].to_list()[-1] == 9.0
    db.close()
    clock.move(15)
    assert stream.poll().is_empty()


def test_a_failed_poll_is_made_up_for():
    clock = FakeClock(T0 * 1000)
    db = mdb.Database(clock=clock, max_samples=10)
    stream = db.subscribe("sum_over_time(m[10m])", step=15)
    db.append({"__name__": "m"}, np.arange(T0 - 100, T0), np.ones(100))
    clock.move(15)
    with pytest.raises(mdb.QueryLimit):
        stream.poll()
    db.close()
    db.append({"__name__": "m"}, [T0], [1.0])
    assert stream.poll()["value"].to_list() == [1.0]


def test_frames_stream_by_the_clock():
    clock = FakeClock(T0 * 1000)
    db = database(clock)

    async def three() -> list[float]:
        found = []
        async for frame in db.subscribe("time()", step=20).stream():
            found += frame["value"].to_list()
            if len(found) == 3:
                break
        return found

    async def slept(seconds: float) -> None:
        clock.move(seconds)

    clock.sleep = slept  # type: ignore[method-assign]
    assert asyncio.run(three()) == [T0 + 0.0, T0 + 20.0, T0 + 40.0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"expr": "m @ end()"}, mdb.ParseError, "has no end"),
        ({"expr": "sum(rat(m))"}, mdb.ParseError, "unknown function"),
        ({"expr": "m[5m]"}, mdb.ExecutionError, "range vector"),
        ({"step": 0}, mdb.ConfigError, "longer than zero"),
        ({"delay": -1}, mdb.ConfigError, "must not be negative"),
        ({"backlog": 0}, mdb.ConfigError, "1 step or more"),
    ],
)
def test_what_has_no_steps_is_refused(options, error, message):
    clock = FakeClock(T0 * 1000)
    with pytest.raises(error, match=message):
        database(clock).subscribe(**{"expr": "m", **options}).poll(T0 + 100)
