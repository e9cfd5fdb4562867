"""What `metricsdb.testing` gives to other people's tests."""

from __future__ import annotations

import asyncio
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metricsdb import testing
from metricsdb.testing import FakeClock, parse_labels, parse_series, parse_values, strategies


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2 3", [1, 2, 3]),
        ("0x5", [0, 0, 0, 0, 0, 0]),
        ("0+10x3", [0, 10, 20, 30]),
        ("1-0.5x2", [1, 0.5, 0]),
        ("-2+1x2", [-2, -1, 0]),
        ("1e3 -1.5 .5 1e-3+1e1x1", [1000, -1.5, 0.5, 0.001, 10.001]),
        ("1 _ 3 _x4 7x2", [1, None, 3, None, None, None, None, 7, 7, 7]),
        ("Inf -Inf +Inf", [float("inf"), float("-inf"), float("inf")]),
        ("-Infx1", [float("-inf")] * 2),
        ("", []),
    ],
)
def test_values_expand_as_the_notation_says(text, expected):
    assert parse_values(text) == expected


def test_stale_is_the_marker_and_nan_is_not():
    stale, nan = parse_values("stale NaN")
    assert struct.pack("<d", stale) == struct.pack("<Q", 0x7FF0000000000002)
    assert nan != nan
    assert struct.pack("<d", nan) != struct.pack("<d", stale)


@pytest.mark.parametrize("text", ["abc", "1+2", "1x", "_x", "1,2", "{{schema:0}}", "1x-3", "0x5z"])
def test_a_faulty_value_is_named(text):
    with pytest.raises(ValueError):
        parse_values(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("up", {"__name__": "up"}),
        ("up{}", {"__name__": "up"}),
        ('up{a="b", c="d",}', {"__name__": "up", "a": "b", "c": "d"}),
        ("""{"my.metric", "odd label"='x'}""", {"__name__": "my.metric", "odd label": "x"}),
        (r'm{a="q\"}, {\n\u00e9\x41"}', {"__name__": "m", "a": 'q"}, {\né' + "A"}),
        (r"m{a=`raw\n`}", {"__name__": "m", "a": r"raw\n"}),
        ('{__name__="m"}', {"__name__": "m"}),
    ],
)
def test_label_sets_are_read(text, expected):
    assert parse_labels(text) == expected
    assert parse_series(f"{text} 1 2").labels == expected
    assert parse_series(f"{text} 1 2").values == [1, 2]


@pytest.mark.parametrize(
    "text", ['m{a="b" 1', "m{a}", 'm{a="b" c="d"}', 'm{a="1", a="2"}', 'm{a="b}', "m{1=2}", "m@st 1"]
)
def test_a_faulty_series_is_named(text):
    with pytest.raises(ValueError):
        parse_series(text)


def test_samples_leave_the_gaps_out():
    times, values = parse_series("m 1 _ 3").samples(1000, start_ms=5)
    assert times.tolist() == [5, 2005]
    assert values.tolist() == [1, 3]


def test_sleepers_wake_in_order_each_at_its_time():
    async def story() -> list[tuple[str, int]]:
        clock, seen = FakeClock(1_000), []

        async def nap(name: str, seconds: float) -> None:
            for _ in range(2):
                await clock.sleep(seconds)
                seen.append((name, clock.now_ms()))

        tasks = [asyncio.create_task(nap("slow", 3)), asyncio.create_task(nap("quick", 1))]
        await clock.advance(2.5)
        assert clock.now_ms() == 3_500
        assert clock.monotonic() == 2.5
        await clock.advance(10)
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(story()) == [("quick", 2_000), ("quick", 3_000), ("slow", 4_000), ("slow", 7_000)]


@settings(max_examples=50)
@given(st.one_of(strategies.gauges(), strategies.counters(), strategies.sparse(), strategies.bursty()))
def test_ordered_streams_ascend_and_their_columns_are_as_long(stream):
    assert stream.timestamps.dtype == np.int64
    assert stream.values.dtype == np.float64
    assert len(stream.timestamps) == len(stream.values) > 0
    assert (np.diff(stream.timestamps) > 0).all()
    assert stream.labels["__name__"]


@settings(max_examples=30)
@given(strategies.disordered())
def test_disordered_streams_keep_their_columns_together(stream):
    assert len(stream.timestamps) == len(stream.values)


@settings(max_examples=30)
@given(strategies.counters())
def test_counters_never_fall_below_zero(stream):
    assert (stream.values >= 0).all()


@settings(max_examples=30)
@given(strategies.classic_histograms())
def test_histogram_buckets_are_cumulative_and_end_in_the_count(series):
    *buckets, total, count = [s.values for s in series]
    assert (np.diff(np.array(buckets), axis=0) >= 0).all()
    assert (buckets[-1] == count).all()
    assert (np.diff(total) >= 0).all()
    assert series[-3].labels["le"] == "+Inf"


@settings(max_examples=20)
@given(strategies.many_label_sets())
def test_many_label_sets_are_all_different(sets):
    assert len({tuple(sorted(s.items())) for s in sets}) == len(sets)


def test_everything_that_is_promised_is_there():
    assert all(hasattr(testing, name) for name in testing.__all__)
